"""Property tests for convolutions, also for people with kernels of their own."""
