"""Several ranks of torch.distributed tune together, and check that they choose the same.

Every rank of the group makes the same call. What ranks tell each other is JSON; nothing is pickled.
Without torch.distributed, or with one rank, the same functions are a plain loop.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, NamedTuple

import msgspec

from .config import Candidate
from .guard import Guard
from .key import Gpu, Key, digest
from .merge import Current, merge_all
from .parts import CandidateRecord, KeyRecord, Strict
from .records import Record, decode, encode
from .store import USER, Store
from .wire import candidate_to_json

# Characters of what is told of an exception.
_MOST_REASON = 500


class Missed(NamedTuple):
    """Why a problem has no new record: `rank` is whose share it was, None where it was nobody's."""

    rank: int | None
    reason: str


@dataclass(frozen=True)
class Together:
    """What came of it, the same on every rank; problems go by their keys' digests.

    `records` are the best that any rank has now, `missed` the problems that were not tuned,
    `stopped` the ranks, by number in the group, that ended the work early.
    """

    records: dict[str, Record] = field(default_factory=dict)
    missed: dict[str, Missed] = field(default_factory=dict)
    stopped: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """A problem for which ranks choose differently: each rank's candidate, None for no record."""

    key: Key
    candidates: tuple[Candidate | None, ...]

    def __str__(self) -> str:
        each = (f"rank {rank}: {c or 'no record'}" for rank, c in enumerate(self.candidates))
        return f"{self.key}: {'; '.join(each)}"


def tune_together(
    keys: Iterable[Key],
    tune_one: Callable[[Key], Record],
    *,
    gpu: Gpu,
    store: Store,
    group: Any = None,
    current: Current = frozenset(),
) -> Together:
    """Tune every rank's problems, each once, and keep the winners in every rank's store.

    `keys` may differ between ranks: their union is tuned. A problem goes to one of the ranks whose
    `gpu` is the key's, as many to each as to the others. All meet after each round of one problem
    a rank, so that nobody waits longer than one problem takes, and what is done is kept. Records of
    the problems that a rank's user has already take part, and `merge` decides; the kernels of what
    `tune_one` returns are current, besides `current`. An exception of `tune_one` costs its problem
    alone. Each rank says in `tune_one` which GPU its workers measure on (`Isolation.environment`).

    Raises KeyboardInterrupt after Ctrl-C, and whatever else ends a rank's work, on that rank alone
    and after the round: the others return, and name it in `stopped`. Raises ValueError where this
    rank is not in `group`, RuntimeError (torch's) where another rank is gone.
    """
    ranks = _Ranks(group)
    work = _Work(store, current)
    with Guard() as guard:
        lines = []
        with guard.holding():
            lines = [msgspec.json.encode(KeyRecord.of(key)) for key in keys]
        heard, lines = ranks.meet(_Said(gpu=_named(gpu)).and_stopped(guard), lines)
        problems = _by_digest(lines)
        mine, rounds = work.share(problems, [other.gpu for other in heard], ranks.rank)

        lines = []
        with guard.holding():
            lines = [encode(r) for key in problems.values() if (r := _own(store, key))]
        heard, lines = ranks.meet(_Said().and_stopped(guard), lines)
        with guard.holding():
            work.keep(lines)

        for turn in range(rounds):
            if work.stopped(heard):
                break
            said, lines = _Said(), []
            if turn < len(mine) and guard.error is None:
                said, lines = work.tune(mine[turn], tune_one, guard)
            heard, lines = ranks.meet(said.and_stopped(guard), lines)
            for rank, other in enumerate(heard):
                work.result.missed.update({n: Missed(rank, w) for n, w in other.missed.items()})
            with guard.holding():
                work.keep(lines, new=True)
        work.stopped(heard)
        return work.finished()


def agreement(keys: Iterable[Key], store: Store, group: Any = None) -> tuple[Difference, ...]:
    """The problems, of any rank, for which the ranks' stores name different candidates.

    Empty where all agree, which costs one exchange of 32 bytes where all ask for the same. Raises
    ValueError where this rank is not in `group`.
    """
    ranks = _Ranks(group)
    keys = list(keys)
    if len(set(ranks.gather(fingerprint(keys, store).encode()))) == 1:
        return ()
    _, lines = ranks.meet(_Said(), [msgspec.json.encode(KeyRecord.of(key)) for key in keys])
    problems = _by_digest(lines)
    choices = {name: CandidateRecord.of(c) for name, c in _choices(problems.values(), store) if c}
    answers = [_CHOICES.decode(data) for data in ranks.gather(msgspec.json.encode(choices))]
    found = []
    for name, key in problems.items():
        named = [answer.get(name) for answer in answers]
        candidates = tuple(c.candidate() if c else None for c in named)
        if len(set(candidates)) > 1:
            found.append(Difference(key, candidates))
    return tuple(found)


def fingerprint(keys: Iterable[Key], store: Store) -> str:
    """32 hexadecimal digits that depend on the problems and on what the store chooses for each."""
    return digest({name: c and candidate_to_json(c) for name, c in _choices(keys, store)})


class _Said(Strict, frozen=True, kw_only=True):
    """What a rank tells all others at a meeting, and the names of the lines that it brings."""

    gpu: str = ""
    lines: tuple[str, ...] = ()
    missed: dict[str, str] = msgspec.field(default_factory=dict)
    stopped: str = ""

    def and_stopped(self, guard: Guard) -> "_Said":
        """Also what ends this rank's work."""
        stopped = _described(guard.error) if guard.error is not None else ""
        return msgspec.structs.replace(self, stopped=stopped)


_SAID = msgspec.json.Decoder(_Said)
_CHOICES = msgspec.json.Decoder(dict[str, CandidateRecord])


class _Ranks:
    """The ranks of a group; one alone where torch.distributed is not in use."""

    def __init__(self, group: Any) -> None:
        self.group, self.rank, self.size = group, 0, 1
        # Who has not imported it has not started it either.
        dist = sys.modules.get("torch.distributed")
        if dist is not None and dist.is_available() and dist.is_initialized():
            self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError("group: expected one that this rank is in, got another; leave it out")

    def meet(self, said: _Said, lines: Iterable[bytes]) -> tuple[list[_Said], list[bytes]]:
        """What each rank says, and the lines of all, sorted, each once.

        What several ranks have one of them sends: most of it is the same everywhere.
        """
        named = {digest(line.decode()): line for line in lines}
        said = msgspec.structs.replace(said, lines=tuple(named))
        heard = [_SAID.decode(data) for data in self.gather(msgspec.json.encode(said))]
        holders: dict[str, list[int]] = {}
        for rank, other in enumerate(heard):
            for name in other.lines:
                holders.setdefault(name, []).append(rank)
        if not holders:
            return heard, []
        sender = _spread(holders)
        mine = [line for name, line in named.items() if sender[name] == self.rank]
        found = b"\n".join(self.gather(b"\n".join(mine)))
        return heard, sorted(filter(None, found.split(b"\n")))

    def gather(self, data: bytes) -> list[bytes]:
        """Every rank's bytes, by rank."""
        if self.size == 1:
            return [data]
        import torch
        import torch.distributed as dist

        # A group may have one backend for each kind of device ("cpu:gloo,cuda:nccl").
        pairs = dist.get_backend_config(self.group).split(",")
        kinds = [pair.partition(":")[0] for pair in pairs]
        device = "cpu" if "cpu" in kinds else kinds[0]
        length = torch.tensor([len(data)], dtype=torch.int64, device=device)
        lengths = [torch.empty_like(length) for _ in range(self.size)]
        dist.all_gather(lengths, length, group=self.group)
        sizes = [int(n.item()) for n in lengths]
        # all_gather wants one size of all.
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        if data:
            padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        padded = padded.to(device)
        found = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(found, padded, group=self.group)
        return [f[:n].cpu().numpy().tobytes() for f, n in zip(found, sizes, strict=True)]


class _Work:
    """One rank's view of the work, alike on all ranks but for their stores."""

    def __init__(self, store: Store, current: Current) -> None:
        self.result = Together()
        self._store, self._current = store, current
        self._all: dict[str, list[Record]] = {}
        self._new: dict[str, Current] = {}
        self._owner: dict[str, int] = {}
        self._tuned: set[str] = set()

    def share(
        self, problems: Mapping[str, Key], gpus: Sequence[str], rank: int
    ) -> tuple[list[Key], int]:
        """This rank's problems, and the number of rounds that the longest share takes."""
        holders: dict[str, list[int]] = {}
        for name, key in problems.items():
            able = [r for r, gpu in enumerate(gpus) if gpu == _named(key.gpu)]
            if able:
                holders[name] = able
            else:
                reason = f"no rank has this device: {key.gpu.model} ({key.gpu.arch})"
                self.result.missed[name] = Missed(None, reason)
        self._owner = _spread(holders)
        mine = [problems[name] for name, owner in self._owner.items() if owner == rank]
        return mine, max(Counter(self._owner.values()).values(), default=0)

    def tune(
        self, key: Key, tune_one: Callable[[Key], Record], guard: Guard
    ) -> tuple[_Said, list[bytes]]:
        """Tune one problem: its record, or why there is none."""
        name, reason = key.digest, ""
        lines: list[bytes] = []
        with guard.holding():
            try:
                with guard.interruptible():
                    record = tune_one(key)
                if record.key.key().digest != name:
                    raise ValueError(f"expected a record of {key}, got one of {record.key.key()}")
                lines = [encode(record)]
            except Exception as error:
                reason = _described(error)
        if not lines and not reason:
            reason = _described(guard.error)
            with guard.holding():
                # What a search had found until Ctrl-C it has kept.
                found = _own(self._store, key)
                if found is not None and found != self.result.records.get(name):
                    lines = [encode(found)]
        return _Said(missed={name: reason} if reason else {}), lines

    def keep(self, lines: Iterable[bytes], new: bool = False) -> None:
        """Merge records into what is known, and what is best into the store."""
        changed: dict[str, Key] = {}
        for line in lines:
            record = decode(line)
            key = record.key.key()
            changed[key.digest] = key
            if new:
                self._tuned.add(key.digest)
            self._all.setdefault(key.digest, []).append(record)
            if new and record.build is not None:
                self._new[key.digest] = frozenset({record.build.kernels})
        for name, key in changed.items():
            current = self._current | self._new.get(name, frozenset())
            best = merge_all(self._all[name], current)[name]
            self.result.records[name] = best
            if _own(self._store, key) != best:
                # Ranks may share the directory, also with programs that know nothing of them.
                self._store.put(best, keep_better=True, current=current)

    def stopped(self, heard: Iterable[_Said]) -> bool:
        """Note the ranks that end the work; whether there is one."""
        why = {rank: other.stopped for rank, other in enumerate(heard) if other.stopped}
        self.result.stopped.update(why)
        return bool(why)

    def finished(self) -> Together:
        """The result; what nobody came to is missed too."""
        stopped = sorted(self.result.stopped.items())
        reason = ", ".join(f"rank {rank} stopped ({why})" for rank, why in stopped)
        for name, owner in self._owner.items():
            if name not in self._tuned:
                self.result.missed.setdefault(name, Missed(owner, f"not reached: {reason}"))
        return self.result


def _spread(holders: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Each name to one of its ranks, as many to each as to the others, the same on every rank."""
    load: Counter[int] = Counter()
    chosen = {}
    for name in sorted(holders):
        chosen[name] = min(holders[name], key=lambda rank: (load[rank], rank))
        load[chosen[name]] += 1
    return chosen


def _by_digest(lines: Iterable[bytes]) -> dict[str, Key]:
    keys = [msgspec.json.decode(line, type=KeyRecord).key() for line in lines]
    return {key.digest: key for key in sorted(keys, key=lambda key: key.digest)}


def _choices(keys: Iterable[Key], store: Store) -> list[tuple[str, Candidate | None]]:
    found = {key.digest: store.get(key) for key in keys}
    return [(name, entry.candidate if entry else None) for name, entry in found.items()]


def _own(store: Store, key: Key) -> Record | None:
    return next((entry.record for entry in store.exact(key) if entry.layer == USER), None)


def _named(gpu: Gpu) -> str:
    return digest(astuple(gpu))


def _described(error: BaseException | None) -> str:
    text = str(error).encode("utf-8", "replace").decode()[:_MOST_REASON]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
