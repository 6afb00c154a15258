"""`gdsr-upscale`: upscales pictures and folders in its own process, or through a service."""
