"""Checks of the images and the compose file in a real engine, run by deploy/check-containers."""
