"""What `autotune` is told of this library: its problems, its kernels, its benchmark suite."""

from .library import PROVIDER

__all__ = ["PROVIDER"]
