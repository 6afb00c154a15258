"""The engine process, which runs the network, and its client."""
