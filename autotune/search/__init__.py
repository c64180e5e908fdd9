"""Find a fast candidate in few measurements, and never one that is slower than the default."""

from .budget import Budget, Exhausted
from .prune import prune
from .run import search
from .strategies import STRATEGIES
from .trials import Progress, Trials

__all__ = ["STRATEGIES", "Budget", "Exhausted", "Progress", "Trials", "prune", "search"]
