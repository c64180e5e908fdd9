"""The one place that asks `autotune` which algorithm and config to run."""

from .builds import build_of
from .choose import PROVIDER, Chosen, choose, pin, records, resolver
from .keys import conv_key, gpu_of, pool_key, problem_of

__all__ = [
    "PROVIDER",
    "Chosen",
    "build_of",
    "choose",
    "conv_key",
    "gpu_of",
    "pin",
    "pool_key",
    "problem_of",
    "records",
    "resolver",
]
