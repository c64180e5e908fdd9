"""Tuning one problem: search, in workers, and keep the record."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .config import Candidate
from .key import Key
from .measure import Isolation, WorkerBench
from .measure.workers import Crew
from .parts import CandidateRecord
from .providers import load
from .records import Record
from .search import Budget, search
from .search.trials import Progress
from .store import Store
from .task import Outcome
from .trials import Trial

# A problem is worth this much unless somebody says otherwise.
SECONDS = 60.0


@dataclass(frozen=True)
class Tuning:
    """How to tune: `provider` is "module:attribute", `store` takes the records, `seconds` and
    `trials` limit each problem, `isolation` says how its workers are kept."""

    provider: str
    store: Store
    strategy: str = "guided"
    seconds: float | None = SECONDS
    trials: int | None = None
    seed: int = 0
    isolation: Isolation = field(default_factory=Isolation)
    on_progress: Callable[[Progress], None] | None = None


def tune(key: Key, tuning: Tuning, crew: Crew | None = None) -> Record:
    """Search for the best candidate of a problem, keep what was found, and return it.

    `crew`: workers to share between problems. Raises ValueError where the provider knows no such
    problem, BenchError where nothing can be measured, KeyboardInterrupt after Ctrl-C, with what was
    found until then kept.
    """
    provider = load(tuning.provider)
    task, store = provider.task(key), tuning.store
    known = store.get(key)
    before = known.record if known is not None else None
    environment = dict(provider.environment())
    with WorkerBench(tuning.provider, key, isolation=tuning.isolation, crew=crew) as bench:
        failures = before.remembered(task.build, environment) if before is not None else {}
        outcome = search(
            task,
            bench,
            Budget(tuning.seconds, tuning.trials),
            strategy=tuning.strategy,
            on_progress=tuning.on_progress,
            seed=tuning.seed,
            neighbours=_winners_nearby(store, key),
            known_failures=failures,
        )
        # What failed before and was not tried again is still known to fail.
        outcome.failures = {**failures, **outcome.failures}
        record = Record.of(key, outcome, task.build, bench.policy, environment)
    interrupted = outcome.stopped == "interrupted"
    if outcome.times:
        # Half a search must not take the place of a whole one that found something better.
        installed = frozenset({task.build(outcome.best).kernels})
        store.put(record, keep_better=interrupted, current=installed)
        store.put_trials(key, _trials(outcome))
    if interrupted:
        raise KeyboardInterrupt
    return record


def _winners_nearby(store: Store, key: Key) -> list[Candidate]:
    return [entry.candidate for entry in store.family(key) if entry.key.digest != key.digest]


def _trials(outcome: Outcome) -> Iterator[Trial]:
    for candidate, time in outcome.times.items():
        yield Trial(candidate=CandidateRecord.of(candidate), times=(time,))
    for candidate, failure in outcome.failures.items():
        yield Trial(
            candidate=CandidateRecord.of(candidate), failure=failure.kind, detail=failure.detail
        )
