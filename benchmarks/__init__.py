"""Timings: what each measures is in its first lines; none is a test of correctness."""
