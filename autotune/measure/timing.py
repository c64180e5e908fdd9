"""Samples in turns: what a timer is, and an order in which a drift of the clock meets all alike."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from ..config import Candidate
from ..task import Failure

T = TypeVar("T")


class Timer(Protocol):
    """Times launches on one device."""

    @property
    def policy(self) -> str:
        """How launches are timed, for the record, for example "l2-cold,cuda-graph"."""
        ...

    @property
    def device(self) -> str:
        """The device by a name that every process gives it: who measures holds its lock."""
        ...

    def ready(self, launch: Callable[[], None]) -> Callable[[], float]:
        """Warm a launch up. What is returned runs it once, to its end, and gives microseconds."""
        ...

    def disturbance(self) -> str | None:
        """A sentence on what else may be using the device, or that it is not known; else None."""
        ...


class Runner(Protocol):
    """One candidate at a time. A failure is returned, never raised."""

    @property
    def policy(self) -> str:
        """The timer's, as it is now: it may fall back to another."""
        ...

    def check(self, candidate: Candidate) -> Failure | None:
        """Compare its result with the reference's."""
        ...

    def ready(self, candidate: Candidate) -> Failure | None:
        """Warm it up, unless it is warm."""
        ...

    def time(self, candidate: Candidate) -> "float | Failure":
        """Microseconds of one launch."""
        ...


def rotated(items: Sequence[T], turn: int) -> list[T]:
    """`items` from another start each turn, so that nobody always follows the same pause."""
    start = turn % len(items) if items else 0
    return [*items[start:], *items[:start]]


def medians(times: Mapping[Candidate, "list[float] | Failure"]) -> dict[Candidate, float]:
    """The median of each candidate that was timed."""
    return {
        candidate: statistics.median(samples)
        for candidate, samples in times.items()
        if not isinstance(samples, Failure) and samples
    }


class Rounds:
    """Checks each candidate once, then samples all that pass, in turns."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._checked: dict[Candidate, Failure | None] = {}

    def measure(
        self, candidates: Iterable[Candidate], samples: int
    ) -> dict[Candidate, "list[float] | Failure"]:
        """Microseconds of `samples` launches each, all by one policy. A failure is final."""
        asked = list(dict.fromkeys(candidates))
        for candidate in asked:
            if candidate not in self._checked:
                self._checked[candidate] = self._runner.check(candidate)
        times: dict[Candidate, list[float]] = {}
        policy, turn, whole, live = None, 0, False, []
        while True:
            if not whole:
                live = self._warm(asked)
            if self._runner.policy != policy:  # what was timed by another does not compare
                policy = self._runner.policy
                times = {candidate: [] for candidate in live}
            left = [candidate for candidate in live if len(times[candidate]) < samples]
            if not left:
                break
            whole = self._round(rotated(left, turn), times)
            turn += 1
        return {candidate: self._checked[candidate] or times[candidate] for candidate in asked}

    def _warm(self, asked: Iterable[Candidate]) -> list[Candidate]:
        live = [candidate for candidate in asked if self._checked[candidate] is None]
        while True:
            for candidate in live:
                self._checked[candidate] = self._runner.ready(candidate)
            passed = [candidate for candidate in live if self._checked[candidate] is None]
            if len(passed) == len(live):
                return live
            live = passed  # and again: the others may have been warm in a process that died

    def _round(self, order: Iterable[Candidate], times: dict[Candidate, list[float]]) -> bool:
        """Sample each once. Stops, and says so, where one fails."""
        for candidate in order:
            found = self._runner.time(candidate)
            if isinstance(found, Failure):
                self._checked[candidate] = found
                return False
            times[candidate].append(found)
        return True
