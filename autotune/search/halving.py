"""Successive halving: many candidates timed a little, few of them timed well."""

from collections.abc import Sequence

from ..config import Candidate
from .trials import Trials

# Rounds of each race: the median of three survives one outlier.
ROUNDS = 2
# A race keeps one in so many, rounded up.
KEEP_ONE_IN = 2


def halve(trials: Trials, pool: Sequence[Candidate], survivors: int) -> list[Candidate]:
    """Race the pool, drop its slower half, and again, until a race leaves `survivors` or fewer.

    All samples of a candidate count, so the later races decide with more. Fastest first.
    """
    while True:
        ranked = trials.ranked(trials.measure(pool, ROUNDS))
        pool = ranked[: _next(len(ranked), survivors)]
        if len(pool) <= survivors:
            return pool


def cost(size: int, survivors: int) -> int:
    """Trials that `halve` takes for a pool of that size, if none fails."""
    total = ROUNDS * size
    while (size := _next(size, survivors)) > survivors:
        total += ROUNDS * size
    return total


def _next(size: int, survivors: int) -> int:
    return max(survivors, -(-size // KEEP_ONE_IN))
