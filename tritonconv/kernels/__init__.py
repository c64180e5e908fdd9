"""The Triton kernels, one a file, and the device helpers (`_*.py`) that they are built from."""
