"""The process that runs the network, and the client that sends tiles to it."""
