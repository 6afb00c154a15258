"""Where pictures are stored between the service and the workers."""
