"""Inference: a checkpoint prepared for one device, and its fast kernels."""
