"""Makes a small, damaged picture out of a photograph: blur, resizing, noise and JPEG."""
