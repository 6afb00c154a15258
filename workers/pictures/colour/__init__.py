"""Colour profiles, transparency, and conversion to sRGB."""
