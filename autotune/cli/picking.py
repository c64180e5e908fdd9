"""Records and problems by the first digits of their digests."""

import contextlib
import difflib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from .. import names
from ..exchange import Filter
from ..key import Key
from ..layers import Entry
from ..misses import MissLog
from ..store import LAYERS, Store
from .output import SHORT

T = TypeVar("T")
_NEAREST = 3
_LISTED = 8


def entries_of(store: Store, meant: Filter | None = None, *layers: str) -> Iterator[Entry]:
    """The records of these layers that are meant."""
    for entry in store.entries(*layers):
        if meant is None or meant(entry.record):
            yield entry


def first_of(entries: Iterable[Entry]) -> dict[str, Entry]:
    """By digest the entry that counts: the first layer's."""
    found: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda e: LAYERS.index(e.layer)):
        found.setdefault(entry.key.digest, entry)
    return found


def missed_keys(store: Store) -> list[tuple[Key, int]]:
    """What found no record, and how many processes met it; the most frequent first."""
    return list(MissLog.of(store.directory).problems())


def known_keys(store: Store) -> dict[str, Key]:
    """Every problem with a record, and every one that missed."""
    found = {key.digest: key for key, _ in missed_keys(store)}
    return found | {entry.key.digest: entry.key for entry in store.entries()}


def by_prefix(prefix: str, known: Mapping[str, T]) -> T:
    """The one whose digest begins so. Raises UsageError, which names the nearest ones."""
    wanted = prefix.lower()
    matching = sorted(digest for digest in known if wanted and digest.startswith(wanted))
    if len(matching) == 1:
        return known[matching[0]]
    if matching:
        said = ", ".join(_longer(digest, matching) for digest in matching[:_LISTED])
        more = f" and {len(matching) - _LISTED} more" if len(matching) > _LISTED else ""
        raise click.UsageError(
            f"digest: expected one, got {prefix!r}, which {len(matching)} begin with; "
            f"give more digits: {said}{more}"
        )
    if not known:
        raise click.UsageError(f"digest: there are no records, so none begins with {prefix!r}")
    said = ", ".join(digest[:SHORT] for digest in _nearest(wanted, known))
    raise click.UsageError(
        f"digest: expected the first digits of one, got {prefix!r}; the nearest: {said}"
    )


def digest_argument(name: str = "digests", **more: Any) -> Any:
    """A click argument of digests, which a shell can complete."""
    return click.argument(
        name, metavar=more.pop("metavar", "DIGEST"), shell_complete=_offer, **more
    )


def _nearest(wanted: str, known: Iterable[str]) -> list[str]:
    def away(digest: str) -> tuple[int, float, str]:
        common = _common(digest, wanted)
        alike = difflib.SequenceMatcher(None, digest[: len(wanted)], wanted).ratio()
        return (-common, -alike, digest)

    return sorted(known, key=away)[:_NEAREST]


def _common(a: str, b: str) -> int:
    """With how many equal digits both begin."""
    pairs = zip(a, b, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _longer(digest: str, others: Iterable[str]) -> str:
    """So many of its digits that no other begins with them."""
    common = max(_common(digest, other) for other in others if other != digest)
    return digest[: max(SHORT, common + 1)]


def _offer(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Digests from the names of files alone: a shell waits for this."""
    found = set()
    with contextlib.suppress(OSError):
        records = Store(ctx.params.get("cache_dir")).directory / "records" / names.LAYOUT
        for path in records.glob(f"*/*/*/{incomplete}*.json"):
            if names.RECORD.fullmatch(path.name):
                found.add(path.stem)
    return [CompletionItem(digest) for digest in sorted(found)]
