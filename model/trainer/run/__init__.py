"""The folder of a run: its state, log, plots and published checkpoint."""
