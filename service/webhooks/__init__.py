"""Delivery of webhooks: due calls out of the outbox, signed and retried."""
