"""Formats, headers and options of pictures, without decoding."""
