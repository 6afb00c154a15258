"""The HTTP side: checks uploads, queues jobs, streams results back. Never touches a pixel."""
