"""One step of training: the networks, their update and its losses."""
