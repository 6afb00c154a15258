"""Cuts pictures into tiles and stitches them; slider arithmetic."""
