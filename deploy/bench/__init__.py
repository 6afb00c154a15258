"""gdsr-bench: what is fast, measured in one run and reported with its noise."""
