"""What a tuner can be tested with where there is no GPU."""

from .surfaces import Surface, SurfaceBench

__all__ = ["Surface", "SurfaceBench"]
