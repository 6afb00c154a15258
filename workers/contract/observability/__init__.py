"""Logging, tracing and the metrics server, shared by all processes."""
