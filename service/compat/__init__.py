"""Routes of other programs, for their clients: a thin layer over the same jobs, keys and limits."""
