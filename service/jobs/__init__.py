"""The endpoints of jobs: upscale, state, event stream, result and removal."""
