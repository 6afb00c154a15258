"""The page for people and the API documentation."""
