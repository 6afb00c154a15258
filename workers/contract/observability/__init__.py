"""Logs, spans and the port for metrics, the same for all processes."""
