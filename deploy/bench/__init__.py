"""`gdsr-bench`: benchmarks, reported with their noise."""
