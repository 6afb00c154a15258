"""Bodies of requests and responses: uploads, forms, downloads and digests."""
