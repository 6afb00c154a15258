"""Shared by service and workers: settings, errors, job records, queue, blobs."""
