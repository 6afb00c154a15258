"""Codecs and checks of one file format each, where Pillow does not suffice."""
