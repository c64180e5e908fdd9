"""What networks are built from, in the manner of torch.nn: so far `init`, which fills weights."""

from . import init

__all__ = ["init"]
