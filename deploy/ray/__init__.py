"""`gdsr-bulk`: a folder or bucket of pictures, on a Ray cluster or this machine."""
