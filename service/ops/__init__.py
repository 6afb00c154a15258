"""Endpoints for operators and clients about the service itself: health, limits, models, reload."""
