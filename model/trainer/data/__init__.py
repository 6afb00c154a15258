"""Batches to train on: photographs, patches, patterns and the teacher's pictures."""
