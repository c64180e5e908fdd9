"""Which candidate a call runs: the policy, the records, and the analytic choice below them."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from .config import Candidate
from .key import Key
from .lookup import Found, NoRecord, Tier, look_up
from .misses import MissLog
from .policies import Policy, current
from .store import Store
from .task import Build
from .tuner import Tuning, tune

log = logging.getLogger("autotune")
ANALYTIC = "analytic"
# Seconds that a call may spend on tuning its problem under the policy "tune".
SECONDS = 20.0


class Query(NamedTuple):
    """What a library asks: `default` is its analytic choice, `legal` re-validates whatever a record
    says, `build_of` says what a measurement of a candidate would be true of."""

    key: Key
    default: Candidate
    legal: Callable[[Candidate], bool]
    build_of: Callable[[Candidate], Build]


@dataclass(frozen=True)
class Choice:
    """A candidate and where it came from: "analytic", or a record's tier, "exact",
    "stale", "nearest" or "sibling"; `note` says more, for people."""

    candidate: Candidate
    source: str
    note: str = ""


class Resolver:
    """The choices of one library in this process; safe to use from several threads.

    `provider` is its "module:attribute". `may_tune` returns None, or why nothing can be measured
    now: a graph is being captured, say. `open_store` is called once, when a record is first needed.
    """

    def __init__(
        self,
        provider: str,
        open_store: Callable[[], Store],
        may_tune: Callable[[], str | None],
    ) -> None:
        self._provider, self._open_store, self._may_tune = provider, open_store, may_tune
        self._store: Store | None = None
        self._misses: MissLog | None = None
        self._lock = threading.RLock()
        self._tuning = threading.Lock()

    @property
    def store(self) -> Store:
        """The records."""
        with self._lock:
            if self._store is None:
                self._store = self._open_store()
                self._misses = MissLog.of(self._store.directory)
            return self._store

    def use_store(self, store: Store) -> None:
        """Take these records from now on."""
        with self._lock:
            self._store, self._misses = store, MissLog.of(store.directory)

    def choose(self, query: Query) -> Choice:
        """The candidate to run. Raises NoRecord under the policy "strict"."""
        name = current()
        if name == Policy.OFF.value:
            return Choice(query.default, ANALYTIC, "the policy is off")
        if name == Policy.STRICT.value:
            try:
                return _of(self._look_up(query, strict=True))
            except NoRecord:
                self._missed(query.key)
                raise
        found = self._look_up(query)
        if found is not None and found.tier is Tier.EXACT:
            return _of(found)
        note = ""
        if name == Policy.TUNE.value:
            tuned, note = self._tune(query)
            if tuned is not None:
                return tuned
        self._missed(query.key)
        if found is not None and (name != Policy.CACHED.value or found.tier is Tier.STALE):
            return replace(_of(found), note=_joined(note, _of(found).note))
        log.info("%s: no record, %s", query.key, query.default)
        return Choice(query.default, ANALYTIC, _joined(note, "no record"))

    def _look_up(self, query: Query, strict: bool = False) -> Found | None:
        return look_up(self.store, query.key, query.build_of, query.legal, strict=strict)

    def _missed(self, key: Key) -> None:
        if self._misses is not None:
            self._misses.add(key)

    def _tune(self, query: Query) -> tuple[Choice | None, str]:
        """Tune the problem, unless another thread just did; or why that is not possible."""
        reason = self._may_tune()
        if reason is not None:
            return None, f"not tuned now: {reason}"
        with self._tuning:
            found = self._look_up(query)
            if found is None or found.tier is not Tier.EXACT:
                try:
                    tune(query.key, Tuning(self._provider, self.store, seconds=SECONDS))
                except (ValueError, RuntimeError) as error:
                    return None, f"tuning failed: {error}"
                found = self._look_up(query)
        if found is None or found.tier is not Tier.EXACT:
            return None, "tuning found nothing that works"
        return _of(found), ""


def _of(found: Found | None) -> Choice:
    assert found is not None
    tier = found.tier.name.lower()
    differences = ", ".join(
        f"{name} {theirs} for {mine}" for name, (mine, theirs) in found.differences.items()
    )
    where = found.layer if found.path is None else f"{found.layer}, {found.path}"
    log.info("%s: %s record (%s), %s", found.record.key.key(), tier, where, found.candidate)
    return Choice(found.candidate, tier, _joined(where, differences))


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
