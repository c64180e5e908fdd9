"""A search from start to end."""

from collections.abc import Callable, Iterable, Mapping

from ..config import Candidate
from ..task import Bench, Failure, Outcome, Task
from .budget import Budget, Exhausted
from .shootout import STAGES, shoot_out
from .strategies import STRATEGIES, Start
from .trials import Progress, Trials
from .verdict import decide

# A verdict on the shoot-out alone needs so many of its rounds; with fewer, all samples count.
ENOUGH = 4


def search(
    task: Task,
    bench: Bench,
    budget: Budget,
    *,
    strategy: str = "guided",
    on_progress: Callable[[Progress], None] | None = None,
    seed: int = 0,
    neighbours: Iterable[Candidate] = (),
    known_failures: Mapping[Candidate, Failure] | None = None,
) -> Outcome:
    """Find a candidate that is faster than the default, if the budget allows.

    `strategy` is a name in STRATEGIES. `neighbours` won on similar problems and are raced early.
    `known_failures` are skipped. `seed` matters to "random" alone. What was found when the budget
    ends, or on Ctrl-C, is returned; `Outcome.stopped` says so. Raises ValueError for an unknown
    strategy.
    """
    if strategy not in STRATEGIES:
        names = ", ".join(STRATEGIES)
        raise ValueError(f"strategy: expected one of {names}, got {strategy!r}; use 'guided'")
    known = dict(known_failures or {})
    trials = Trials(task, bench, budget, dict(known), on_progress)
    stopped, start = "", 0
    try:
        way = STRATEGIES[strategy]
        try:
            with trials.share(way.share):
                way.explore(trials, Start(tuple(neighbours), seed))
        except Exhausted as end:
            stopped = end.reason
        trials.stage = "shoot-out"
        finalists = [c for c in trials.ranked() if c != trials.default][: STAGES[0][0]]
        start = trials.rounds
        shoot_out(trials, finalists)
    except Exhausted as end:
        stopped = end.reason
    except KeyboardInterrupt:
        stopped = "interrupted"
    return _outcome(trials, known, start, stopped)


def _outcome(
    trials: Trials, known: Mapping[Candidate, Failure], start: int, stopped: str
) -> Outcome:
    default = trials.default
    failures = {c: f for c, f in trials.failures.items() if c not in known or c == default}
    found = Outcome(default, default, failures=failures, stopped=stopped)
    found.trials, found.compiles, found.seconds = trials.spent, trials.compiles, trials.seconds
    if not trials.samples:
        found.stopped = stopped or "nothing works"
        return found
    last = {c: trials.since(c, start) for c in trials.samples}
    last = {c: s for c, s in last.items() if len(s) >= ENOUGH}
    if not last or (default in trials.samples and default not in last):
        last = trials.samples
    verdict = decide(last, default)
    found.best, found.ties, found.noise = verdict.best, verdict.ties, verdict.noise
    for candidate in trials.ranked():
        # Of the finalists the last rounds alone: they were not picked by them.
        start_of = start if candidate in last and last is not trials.samples else 0
        found.times[candidate] = trials.median(candidate, start_of)
        found.samples[candidate] = len(trials.since(candidate, start_of))
    return found
