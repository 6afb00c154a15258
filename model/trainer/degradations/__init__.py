"""Degrades photographs to small pictures: blur, resizing, noise and JPEG."""
