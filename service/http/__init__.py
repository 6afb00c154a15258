"""HTTP infrastructure: middleware, problems, the server and the OpenAPI document."""
