"""Which candidates are worth a look: the model's best, or any."""

import random
from collections.abc import Iterable, Sequence

from ..config import Candidate
from ..task import Failure, FailureKind, Task
from .trials import Trials

# How much longer each further candidate of one prediction is taken to need.
PUT_BACK = 0.05
# How often a pool is filled up after pruning.
BATCHES = 4


def predicted(task: Task) -> list[Candidate]:
    """Every candidate, the model's best first, and those that it cannot tell apart spread out.

    A model that ignores warps and stages predicts one time for many candidates. Had they all their
    turn at once, a pool would hold few tiles in every dress. So the second of a group is put
    behind those that are 5 % slower, the third behind 10 %, and the middle of a group is its first.
    """
    groups: dict[tuple[str, float], list[Candidate]] = {}
    for candidate in sorted(task.candidates()):
        time = float(f"{task.predict(candidate):.6g}")
        groups.setdefault((candidate.variant, time), []).append(candidate)
    order: dict[Candidate, float] = {}
    for (_, time), group in groups.items():
        for place, index in enumerate(spread(len(group))):
            order[group[index]] = time * (1 + PUT_BACK * place)
    return sorted(order, key=lambda c: (order[c], c))


def shuffled(task: Task, seed: int) -> list[Candidate]:
    """Every candidate in an order that depends on the seed alone."""
    pool = sorted(task.candidates())
    random.Random(seed).shuffle(pool)
    return pool


def spread(length: int) -> list[int]:
    """0 … length−1 so that each is far from those before it: the middle, the quarters, ..."""
    order: list[int] = []
    runs = [(0, length)]
    while runs:
        runs, now = [], runs
        for start, stop in now:
            if start < stop:
                middle = (start + stop) // 2
                order.append(middle)
                runs += [(start, middle), (middle + 1, stop)]
    return order


def fill(trials: Trials, source: Sequence[Candidate], size: int) -> list[Candidate]:
    """The first `size` of the source that may be launched, compiled a batch at a time.

    What pruning takes out is replaced by what comes next, a few times: a source in which nothing
    compiles is not to be compiled to its end.
    """
    found: list[Candidate] = []
    position = 0
    for _ in range(BATCHES):
        batch = source[position : position + size - len(found)]
        position += len(batch)
        found += trials.compile(batch)
    return found


def seeds(trials: Trials, neighbours: Iterable[Candidate]) -> list[Candidate]:
    """The default and what won on similar problems, as far as they may be launched here.

    A neighbour that the problem's rules refuse is a failure; the default is not asked.
    """
    wanted = [trials.default]
    for candidate in sorted(set(neighbours) - {trials.default}):
        if trials.task.is_legal(candidate):
            wanted.append(candidate)
        else:
            trials.failures[candidate] = Failure(FailureKind.ILLEGAL, "not legal for this problem")
    return trials.compile(wanted)
