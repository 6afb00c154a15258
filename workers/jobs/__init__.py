"""Runs jobs, recovers lost ones, and removes expired pictures."""
