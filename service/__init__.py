"""The HTTP service: checks uploads, queues jobs and streams results, without decoding pictures."""
