"""Webhook delivery: signed, retried, taken from an outbox in Redis."""
