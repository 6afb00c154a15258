"""Access control: allowed hosts and origins, API keys, rate limits."""
