"""Jobs, batches and their runs in Redis, and the queues that carry their ids."""
