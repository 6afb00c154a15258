"""The tasks of job workers: upscale a picture, derive a result, unpack or pack a batch."""
