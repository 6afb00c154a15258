"""Decides which requests are served: hosts and origins, API keys, rate limits."""
