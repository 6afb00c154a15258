"""Commands and configuration to run GDSR: locally, from the command line, in containers."""
