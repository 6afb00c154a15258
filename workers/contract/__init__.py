"""What the service and the workers share: settings, errors, job records, queue, blobs."""
