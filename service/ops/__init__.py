"""Endpoints about the service itself: health, limits, models, reload."""
