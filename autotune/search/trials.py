"""The ledger of a search: what was compiled, what was timed, what failed, what is left to spend."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..config import Candidate
from ..task import Artefacts, Bench, Failure, FailureKind, Task
from .budget import Budget, Exhausted
from .prune import prune, without

# Medians this close are equal: no choice between them is worth a difference between two runs.
NEAR = 0.01
# The most samples asked of the bench at once: what Ctrl-C loses, and how often the clock is seen.
CALL = 64


@dataclass(frozen=True)
class Progress:
    """How far a search is, for whoever shows it."""

    stage: str
    trials: int
    compiles: int
    seconds: float
    budget: Budget
    best: Candidate | None
    microseconds: float | None
    failures: int


@dataclass
class Trials:
    """What is known of a task's candidates, and the only way of a strategy to the bench.

    `samples` are microseconds by round: samples of one round were taken next to each other.
    """

    task: Task
    bench: Bench
    budget: Budget
    failures: dict[Candidate, Failure] = field(default_factory=dict)
    on_progress: Callable[[Progress], None] | None = None
    stage: str = ""
    spent: int = 0
    compiled: dict[Candidate, Artefacts] = field(default_factory=dict)
    samples: dict[Candidate, dict[int, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.default = self.task.default()
        self.compiles = 0
        self.rounds = 0
        self._medians: dict[Candidate, float] = {}
        self._share = 1.0
        self._start = self.budget.clock()

    @property
    def seconds(self) -> float:
        """Since the search began."""
        return self.budget.clock() - self._start

    @property
    def left(self) -> int | None:
        """Trials that may still be spent in this share; None without a limit."""
        limit = self.budget.trials
        return None if limit is None else max(0, int(limit * self._share) - self.spent)

    @contextmanager
    def share(self, share: float) -> Iterator[None]:
        """Within it, only that share of the whole budget may have been spent."""
        before, self._share = self._share, share
        try:
            yield
        finally:
            self._share = before

    def working(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Those that have been timed and have not failed, in their order."""
        return [c for c in dict.fromkeys(candidates) if c in self.samples]

    def since(self, candidate: Candidate, round: int) -> dict[int, float]:
        """Its samples of that round and later ones."""
        return {r: time for r, time in self.samples[candidate].items() if r >= round}

    def median(self, candidate: Candidate, since: int = 0) -> float:
        """Of its samples, microseconds."""
        if since:
            return statistics.median(self.since(candidate, since).values())
        if candidate not in self._medians:
            self._medians[candidate] = statistics.median(self.samples[candidate].values())
        return self._medians[candidate]

    def ranked(
        self, candidates: Iterable[Candidate] | None = None, since: int = 0
    ) -> list[Candidate]:
        """Those that work, fastest first; near-ties in canonical order."""
        pool = self.samples if candidates is None else self.working(candidates)
        return in_order({c: self.median(c, since) for c in pool})

    def compile(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Compile what is not compiled yet. Those that may be launched, in their order."""
        wanted = without(candidates, self.failures)
        new = [c for c in wanted if c not in self.compiled]
        if new:
            self._see_the_clock()
            found = self.bench.compile(new)
            self.compiles += len(new)
            self.failures |= prune(found, self.task.limits, (self.default,))
            for candidate, artefacts in found.items():
                if candidate not in self.failures and isinstance(artefacts, Artefacts):
                    self.compiled[candidate] = artefacts
            self._report()
        return [c for c in wanted if c in self.compiled]

    def measure(self, candidates: Iterable[Candidate], rounds: int) -> list[Candidate]:
        """Time each `rounds` times, in turns. Those that work, in their order.

        Raises Exhausted when the budget's share is spent. Its last round may be a part of one.
        """
        pool = without(candidates, self.failures)
        while rounds > 0 and pool:
            block = max(1, min(rounds, CALL // len(pool)))
            left = self.left
            whole = left is None or left >= len(pool)
            if left is not None:
                pool = pool[:left]
                block = max(1, min(block, left // max(1, len(pool))))
            for start in range(0, len(pool), CALL):
                self._measure(pool[start : start + CALL], block)
            self.rounds += block
            rounds -= block
            pool = without(pool, self.failures)
            if not whole or self.left == 0:
                raise Exhausted("trials")
        return self.working(pool)

    def _measure(self, pool: Sequence[Candidate], rounds: int) -> None:
        self._see_the_clock()
        for candidate, found in self.bench.measure(pool, rounds).items():
            if isinstance(found, Failure):
                self._fail(candidate, found)
                continue
            self.spent += len(found)
            kept = self.samples.setdefault(candidate, {})
            kept |= {self.rounds + i: time for i, time in enumerate(found)}
            self._medians.pop(candidate, None)
            if not kept:
                self._fail(candidate, Failure(FailureKind.ERROR, "the bench gave no sample"))
        self._report()

    def _fail(self, candidate: Candidate, failure: Failure) -> None:
        # What failed once is not to be trusted, whatever it took before.
        self.failures[candidate] = failure
        self.samples.pop(candidate, None)
        self._medians.pop(candidate, None)

    def _see_the_clock(self) -> None:
        limit = self.budget.seconds
        if limit is not None and self.seconds >= limit * self._share:
            raise Exhausted("time")

    def _report(self) -> None:
        if self.on_progress is None:
            return
        best = min(self.samples, key=lambda c: (self.median(c), c), default=None)
        self.on_progress(
            Progress(
                self.stage,
                self.spent,
                self.compiles,
                self.seconds,
                self.budget,
                best,
                None if best is None else self.median(best),
                len(self.failures),
            )
        )


def in_order(times: Mapping[Candidate, float]) -> list[Candidate]:
    """Fastest first; those within `NEAR` of the fastest of their group in canonical order."""
    ordered: list[Candidate] = []
    group: list[Candidate] = []
    for candidate in sorted(times, key=lambda c: (times[c], c)):
        if group and times[candidate] > times[group[0]] * (1 + NEAR):
            ordered += sorted(group)
            group = []
        group.append(candidate)
    return ordered + sorted(group)
