"""Metrics and tracing of the service."""
