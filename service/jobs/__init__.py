"""The job endpoints: upscale, state, event stream, result and deletion."""
