"""The endpoints of batches."""
