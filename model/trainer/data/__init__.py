"""Training data: photographs, patches, patterns and the teacher's outputs."""
