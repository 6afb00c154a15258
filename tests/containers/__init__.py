"""The checks of deploy/check-containers: the images and the compose file, in a real engine."""
