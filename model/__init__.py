"""The GDSR network, its checkpoints and its training."""
