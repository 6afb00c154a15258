"""Training: from photographs to a checkpoint with its model card."""
