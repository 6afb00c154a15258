"""Cuts pictures into tiles and joins them, and the slider's arithmetic."""
