"""What deploy/check-containers runs: the images and the compose file, in a real engine."""
