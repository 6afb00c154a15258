"""A worker host: its programs, the supervisor that keeps them running, and its metrics."""
