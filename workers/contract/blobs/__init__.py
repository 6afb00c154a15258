"""Blob storage for pictures, shared by service and workers."""
