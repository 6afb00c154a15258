"""Metrics of the service, and a span for each request."""
