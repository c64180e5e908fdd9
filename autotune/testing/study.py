"""How good a strategy is where the truth is known: regret, flips, cost."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

from ..search import Budget, search
from ..task import Outcome, Task
from .surfaces import Surface, SurfaceBench


@dataclass
class Study:
    """Of one strategy over many surfaces and seeds of the noise.

    A regret is the true time of a choice over that of the truly fastest, less 1. A run flips if its
    choice is truly slower than that of another run on the same surface, by more than the noise that
    the run itself reports.
    """

    regrets: list[float] = field(default_factory=list)
    flips: list[bool] = field(default_factory=list)
    trials: list[int] = field(default_factory=list)
    compiles: list[int] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Mean regret."""
        return statistics.mean(self.regrets)

    @property
    def high(self) -> float:
        """The 95th percentile of the regret: one in twenty is above."""
        return sorted(self.regrets)[-(-95 * len(self.regrets) // 100) - 1]

    @property
    def flip_rate(self) -> float:
        """Share of the runs that flip."""
        return statistics.mean(self.flips)


@cache
def surface(seed: int) -> Surface:
    """The surface of a seed, kept: its true times take longer than a search."""
    return Surface(seed)


@cache
def exhausted(seed: int) -> int:
    """Trials of the exhaustive search of a surface."""
    bench = SurfaceBench(surface(seed))
    search(surface(seed), bench, Budget(clock=bench.clock), strategy="exhaustive")
    return bench.trials


def study(
    strategy: str,
    seeds: Sequence[int],
    *,
    repeats: int = 1,
    share: float | None = 0.1,
    view: Callable[[Surface], Task] = lambda task: task,
) -> Study:
    """Run a strategy with a share of the trials that the exhaustive search takes; None: no limit.

    `view` is what the strategy is shown of a surface.
    """
    result = Study()
    for seed in seeds:
        truth = surface(seed)
        outcomes: list[Outcome] = []
        for repeat in range(repeats):
            bench = SurfaceBench(truth, seed=repeat)
            trials = None if share is None else int(share * exhausted(seed))
            budget = Budget(trials=trials, clock=bench.clock)
            found = search(view(truth), bench, budget, strategy=strategy, seed=repeat)
            outcomes.append(found)
            result.trials.append(bench.trials)
            result.compiles.append(bench.compiles)
        times = [truth.truth(o.best) for o in outcomes]
        result.regrets += [truth.regret(o.best) for o in outcomes]
        result.flips += [
            time > min(times) * (1 + o.noise) for time, o in zip(times, outcomes, strict=True)
        ]
    return result
