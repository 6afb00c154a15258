"""The work of a job or a batch: one picture upscaled or blended, a batch unpacked or packed."""
