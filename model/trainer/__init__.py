"""Training: photographs in, a checkpoint with its card out."""
