"""Ways to spend a budget. Each times candidates and leaves the finalists to the ledger."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..config import Candidate
from .descent import descend
from .halving import cost, halve
from .pool import fill, predicted, seeds, shuffled
from .prune import without
from .trials import CALL, Trials

# Of the candidates that the model likes, so many at most and at least are compiled and raced.
MOST, LEAST = 32, 8
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
    _race(trials, start, 0.5, MOST)
    trials.stage = "descent"
    descend(trials)


def _halving(trials: Trials, start: Start) -> None:
    _race(trials, start, 1.0, 4 * MOST)


def _race(trials: Trials, start: Start, share: float, most: int) -> None:
    """Race the default, neighbours' winners and the model's best, as many as the budget allows."""
    trials.stage = "compile"
    first = seeds(trials, start.neighbours)
    size = most
    left = None if trials.left is None else int(trials.left * share)
    while left is not None and size > LEAST and cost(size + len(first), SURVIVORS) > left:
        size -= 1
    source = without(predicted(trials.task), {*trials.failures, *first})
    pool = [*first, *fill(trials, source, size)]
    trials.stage = "race"
    halve(trials, pool, SURVIVORS)


def _descent(trials: Trials, start: Start) -> None:
    trials.stage = "descent"
    first = seeds(trials, start.neighbours)
    source = without(predicted(trials.task), {*trials.failures, *first})
    trials.measure([*first, *fill(trials, source, LEAST)], EACH)
    descend(trials)


def _exhaustive(trials: Trials, start: Start) -> None:
    _each(trials, predicted(trials.task), start)


def _random(trials: Trials, start: Start) -> None:
    source = shuffled(trials.task, start.seed)
    size = MOST if trials.left is None else max(1, trials.left // EACH)
    _each(trials, source[:size], start)


def _each(trials: Trials, source: Sequence[Candidate], start: Start) -> None:
    """Time every candidate alike, in turns over all of them."""
    trials.stage = "compile"
    pool = seeds(trials, start.neighbours)
    for i in range(0, len(source), CALL):
        pool += [c for c in trials.compile(source[i : i + CALL]) if c not in pool]
    trials.stage = "measure"
    trials.measure(pool, EACH)


STRATEGIES: dict[str, Strategy] = {
    "guided": Strategy(_guided, 0.65),
    "halving": Strategy(_halving, 0.65),
    "descent": Strategy(_descent, 0.65),
    "exhaustive": Strategy(_exhaustive, 0.9),
    "random": Strategy(_random, 0.65),
}
