"""Measures of how good an upscaled picture is."""
