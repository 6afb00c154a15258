"""The batch endpoints."""
