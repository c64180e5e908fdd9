"""Which record to use for a problem: the one that was made for it, else the nearest.

The tiers, best first: made for this problem, device, kernels and Triton; the same, but for older
kernels or another Triton; made for other sizes; made for another device model of the architecture.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from .config import Candidate
from .key import Gpu, Key
from .layers import Entry
from .records import Record
from .store import LAYERS, OVERRIDE
from .task import Build

# The farthest record that is still of use, in doublings of sizes.
FURTHEST = 4.0

Differences: TypeAlias = dict[str, tuple[Any, Any]]
BuildOf: TypeAlias = Callable[[Candidate], Build]
Legal: TypeAlias = Callable[[Candidate], bool]


class Records(Protocol):
    """What a look-up reads: a `Store`."""

    def exact(self, key: Key) -> Iterable[Entry]:
        """The records of a key, those of earlier layers first."""
        ...

    def family(self, key: Key) -> Iterable[Entry]:
        """Records that differ from a key in sizes and device model at most."""
        ...

    def entries(self) -> Iterable[Entry]:
        """Every record."""
        ...


class Tier(IntEnum):
    """How near a record is; the smaller the better."""

    EXACT = 0
    STALE = 1
    NEAREST = 2
    SIBLING = 3


@dataclass(frozen=True)
class Found:
    """A record, and how it was come by.

    `differences` has both values, wanted and recorded, of whatever differs: of the key, "kernels"
    and "triton". `distance` is in doublings of sizes.
    """

    record: Record
    candidate: Candidate
    tier: Tier
    layer: str
    path: Path | None
    distance: float
    differences: Differences


@dataclass(frozen=True)
class Considered:
    """A record and why it was passed over; no reason for the one that is used."""

    found: Found
    reason: str = ""


class NoRecord(LookupError):
    """There is no exact record, and nothing less was allowed; the message names the closest."""


def look_up(
    store: Records,
    key: Key,
    build_of: BuildOf,
    legal: Legal,
    *,
    strict: bool = False,
    weights: Mapping[str, float] | None = None,
    furthest: float = FURTHEST,
) -> Found | None:
    """The best record for a key whose candidate is legal; None if there is none.

    `legal` is asked before `build_of`, of every candidate that comes into question. Distance is the
    sum over sizes of `weights` (1 unless named) times |log2| of their ratio. What an override says
    is taken as made for these kernels. Raises NoRecord if `strict` and there is no exact one.
    """
    for considered in _considered(store, key, build_of, legal, weights or {}, furthest):
        found = considered.found
        if strict and found.tier > Tier.EXACT:
            break
        if not considered.reason:
            return found
    if strict:
        raise NoRecord(_missing(store, key, build_of, legal))
    return None


def explain(
    store: Records,
    key: Key,
    build_of: BuildOf,
    legal: Legal,
    *,
    weights: Mapping[str, float] | None = None,
    furthest: float = FURTHEST,
) -> list[Considered]:
    """Every record that a look-up may consider, in its order, and why it was passed over."""
    listed = []
    used = False
    for considered in _considered(store, key, build_of, legal, weights or {}, furthest):
        if considered.reason or not used:
            listed.append(considered)
            used = used or not considered.reason
        else:
            listed.append(Considered(considered.found, "comes after the one that is used"))
    return listed


def distance(a: Key, b: Key, weights: Mapping[str, float]) -> float:
    """Doublings between the sizes of two keys of one family; 0 counts as a half."""
    others = dict(b.sizes)
    return math.fsum(
        weights.get(name, 1.0) * abs(math.log2(max(size, 0.5)) - math.log2(max(others[name], 0.5)))
        for name, size in a.sizes
    )


def _considered(
    store: Records,
    key: Key,
    build_of: BuildOf,
    legal: Legal,
    weights: Mapping[str, float],
    furthest: float,
) -> Iterator[Considered]:
    """Records in the order of preference; none is judged before it is reached."""
    judged = [_judge(entry, key, Tier.EXACT, 0.0, build_of, legal) for entry in store.exact(key)]
    yield from sorted(judged, key=lambda considered: considered.found.tier)

    for tier, away, entry in _neighbours(store, key, weights):
        if away <= furthest:
            yield _judge(entry, key, tier, away, build_of, legal)
        else:
            found = _found(entry, tier, away, key.differences(entry.key))
            yield Considered(found, f"{away:.1f} doublings of sizes away, more than {furthest:g}")


def _neighbours(
    store: Records, key: Key, weights: Mapping[str, float]
) -> list[tuple[Tier, float, Entry]]:
    """The rest of a family, nearest first; ties go by layer and digest, the same everywhere."""
    ranked = []
    for entry in store.family(key):
        other = entry.key
        if other.digest == key.digest:
            continue
        tier = Tier.NEAREST if other.gpu == key.gpu else Tier.SIBLING
        away = distance(key, other, weights)
        order = (
            tier,
            away,
            _device_distance(key.gpu, other.gpu),
            LAYERS.index(entry.layer),
            other.digest,
        )
        ranked.append((order, (tier, away, entry)))
    ranked.sort(key=lambda pair: pair[0])
    return [ranking for _, ranking in ranked]


def _judge(
    entry: Entry, key: Key, tier: Tier, away: float, build_of: BuildOf, legal: Legal
) -> Considered:
    """A record with its tier, and a reason if its candidate is illegal."""
    differences = {} if tier == Tier.EXACT else key.differences(entry.key)
    allowed = legal(entry.candidate)
    if allowed and entry.layer != OVERRIDE:
        builds = _build_differences(entry.record, build_of(entry.candidate))
        differences |= builds
        if builds and tier == Tier.EXACT:
            tier = Tier.STALE
    found = _found(entry, tier, away, differences)
    return Considered(found, "" if allowed else f"{entry.candidate} is not legal for this problem")


def _found(entry: Entry, tier: Tier, away: float, differences: Differences) -> Found:
    return Found(entry.record, entry.candidate, tier, entry.layer, entry.path, away, differences)


def _build_differences(record: Record, build: Build) -> Differences:
    kernels = record.build.kernels if record.build else None
    triton = record.build.triton if record.build else None
    pairs = {"kernels": (build.kernels, kernels), "triton": (build.triton, triton)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _device_distance(a: Gpu, b: Gpu) -> float:
    return abs(math.log2(max(a.multiprocessors, 0.5)) - math.log2(max(b.multiprocessors, 0.5)))


def _missing(store: Records, key: Key, build_of: BuildOf, legal: Legal) -> str:
    """What a strict look-up says: the closest record, and all that keeps it from being exact."""
    start = f"record: expected one for {key}, got none"
    listed = explain(store, key, build_of, legal, furthest=math.inf)
    chosen = next((c for c in listed if not c.reason), listed[0] if listed else None)
    if chosen is not None:
        found, differences = chosen.found, dict(chosen.found.differences)
        illegal = f"; {chosen.reason}" if chosen.reason else ""
        where = found.path or found.layer
    else:
        others = [e for e in store.entries() if e.key.op == key.op]
        if not others:
            return f"{start}, nor any of {key.op}; tune it, or allow the heuristic"
        # The fewest differences; which of many is of no matter, but always the same.
        entry = min(others, key=lambda e: (len(key.differences(e.key)), e.key.digest))
        differences, illegal = key.differences(entry.key), ""
        where = entry.path or entry.layer
    said = ", ".join(f"{name} ({want}, not {has})" for name, (want, has) in differences.items())
    apart = f" differs in {said}" if said else " is for the same problem"
    return f"{start}; the closest, {where},{apart}{illegal}; tune it, or allow the fallbacks"
