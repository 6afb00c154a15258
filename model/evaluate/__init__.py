"""Scores checkpoints on folders of pictures: tables, JSON and plots."""
