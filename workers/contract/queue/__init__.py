"""Jobs, batches and leases in Redis, and the queues of their ids."""
