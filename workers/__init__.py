"""Processes jobs: from the queue to the stored result."""
