"""The process that runs jobs, recovery of lost ones, and removal of expired pictures."""
