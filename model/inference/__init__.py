"""One checkpoint made ready to run on one device, and the fast kernels for it."""
