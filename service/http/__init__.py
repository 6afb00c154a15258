"""HTTP for the whole application: middleware, problems, the server and the OpenAPI document."""
