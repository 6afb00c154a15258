"""Formats and headers of pictures, without their pixels."""
