"""Ways to spend a budget. Each times candidates and leaves the finalists to the ledger."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..config import Candidate
from .descent import descend
from .halving import cost, halve
from .pool import fill, predicted, seeds, shuffled
from .prune import without
from .trials import CALL, Trials

# Of the candidates that the model likes best, so many are compiled and raced: at most, at least.
MOST, LEAST = 24, 12
SURVIVORS = 4
# Samples of each candidate where candidates are not dropped: what a median and an outlier need.
EACH = 5


@dataclass(frozen=True)
class Start:
    """What a strategy is given besides the ledger."""

    neighbours: Sequence[Candidate] = ()
    seed: int = 0


@dataclass(frozen=True)
class Strategy:
    """How it explores, and what share of the budget that may take: the shoot-out has the rest."""

    explore: Callable[[Trials, Start], None]
    share: float


def _guided(trials: Trials, start: Start) -> None:
    _race(trials, start)
    trials.stage = "descent"
    descend(trials)


def _race(trials: Trials, start: Start) -> None:
    """Halve a pool that takes at most half of the trials that are left."""
    trials.stage = "compile"
    size, left = MOST, trials.left
    while left is not None and size > LEAST and 2 * cost(size, SURVIVORS) > left:
        size -= 1
    pool = _promising(trials, start, size)
    trials.stage = "race"
    halve(trials, pool, SURVIVORS)


def _promising(trials: Trials, start: Start, size: int) -> list[Candidate]:
    """The default, the neighbours' winners, and so many that the model likes best."""
    first = seeds(trials, start.neighbours)
    source = without(predicted(trials.task), {*trials.failures, *first})
    return [*first, *fill(trials, source, size)]


def _exhaustive(trials: Trials, start: Start) -> None:
    _each(trials, predicted(trials.task), start)


def _random(trials: Trials, start: Start) -> None:
    source = shuffled(trials.task, start.seed)
    size = MOST if trials.left is None else max(1, trials.left // EACH)
    _each(trials, source[:size], start)


def _each(trials: Trials, source: Sequence[Candidate], start: Start) -> None:
    """Time every candidate alike: once as soon as it is compiled, then in turns over all."""
    trials.stage = "measure"
    pool = trials.measure(seeds(trials, start.neighbours), 1)
    source = without(source, {*trials.failures, *pool})
    for i in range(0, len(source), CALL):
        pool += trials.measure(trials.compile(source[i : i + CALL]), 1)
    trials.measure(pool, EACH - 1)


STRATEGIES: dict[str, Strategy] = {
    "guided": Strategy(_guided, 0.7),
    "exhaustive": Strategy(_exhaustive, 0.9),
    "random": Strategy(_random, 0.7),
}
