"""Ways to run GDSR: on one machine, from the command line, in containers."""
