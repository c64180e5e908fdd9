"""Records as JSON lines, in and out: sorted, and the same bytes for the same records."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from . import files, names
from .key import Key
from .layers import Warn, Warner, read_lines
from .merge import Current, merge, merge_all
from .records import Record, encode
from .store import USER, Store


@dataclass(frozen=True)
class Filter:
    """Shell patterns that ignore case: of the op, of the GPU's model or arch, of the variant, and
    of the key's field "dtype"."""

    op: str = "*"
    gpu: str = "*"
    variant: str = "*"
    dtype: str = "*"

    def __call__(self, record: Record) -> bool:
        """Whether a record is meant."""
        return self.problem(record.key.key()) and _like(record.best.variant, self.variant)

    def problem(self, key: Key) -> bool:
        """Whether a problem is meant, whatever solves it."""
        gpu = key.gpu
        return (
            _like(key.op, self.op)
            and (_like(gpu.model, self.gpu) or _like(gpu.arch, self.gpu))
            and _like(str(dict(key.fields).get("dtype", "")), self.dtype)
        )


@dataclass
class Imported:
    """Digests of keys by what became of them, and lines that are no records, with the reason."""

    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def export_lines(
    records: Iterable[Record], meant: Filter | None = None, current: Current = frozenset()
) -> Iterator[bytes]:
    """One line a key, sorted; records of one key are merged."""
    meant = meant or Filter()
    merged = merge_all(filter(meant, records), current)
    for record in in_order(merged):
        yield encode(record) + b"\n"


def in_order(merged: Mapping[str, Record]) -> list[Record]:
    """By device, op, family, sizes."""

    def place(digest: str) -> tuple[object, ...]:
        key = merged[digest].key.key()
        return (key.gpu, key.provider, key.op, key.family, key.sizes, digest)

    return [merged[digest] for digest in sorted(merged, key=place)]


def export_file(
    path: Path,
    records: Iterable[Record],
    meant: Filter | None = None,
    current: Current = frozenset(),
) -> int:
    """Write one file of JSON lines; the number of records. Raises OSError."""
    lines = list(export_lines(records, meant, current))
    files.replace(path, b"".join(lines))
    return len(lines)


def export_packs(
    directory: Path,
    records: Iterable[Record],
    meant: Filter | None = None,
    current: Current = frozenset(),
) -> list[Path]:
    """Write what can be shipped: a file a device and op, named as a store expects it."""
    groups: dict[str, list[Record]] = {}
    for record in filter(meant or Filter(), records):
        key = record.key.key()
        groups.setdefault(names.pack_name(key.gpu, key.op), []).append(record)
    for name, group in groups.items():
        export_file(directory / name, group, current=current)
    return [directory / name for name in sorted(groups)]


def read_records(path: Path, warn: Warn | None = None) -> Iterator[Record]:
    """The records of a file, or of every file of a directory and its own; one warning a bad file.

    Raises OSError if there is no such file.
    """
    warn = warn or Warner()
    if path.is_dir():
        # Packs, and a store's tree; its trials and temporary files have other names.
        for child in sorted(path.rglob("*")):
            if child.suffix in (".json", ".jsonl") and not child.name.endswith(".trials.jsonl"):
                yield from read_lines(child, warn)
        return
    path.stat()
    yield from read_lines(path, warn)


def import_records(
    store: Store,
    path: Path,
    meant: Filter | None = None,
    current: Current = frozenset(),
    dry_run: bool = False,
) -> Imported:
    """Merge a file or directory into the user's records; `dry_run` only says what would become
    of them. Raises OSError if that fails."""
    done = Imported()
    records = read_records(path, lambda file, reason: done.refused.append(f"{file}: {reason}"))
    for digest, record in merge_all(filter(meant or Filter(), records), current).items():
        key = record.key.key()
        there = _own(store, key)
        if there is not None and merge(there, record, current) == there:
            done.kept.append(digest)
            continue
        if not dry_run:
            store.put(record, keep_better=True, current=current, must=True)
        (done.added if there is None else done.replaced).append(digest)
    return done


def _own(store: Store, key: Key) -> Record | None:
    return next((entry.record for entry in store.exact(key) if entry.layer == USER), None)


def _like(text: str, pattern: str) -> bool:
    return fnmatchcase(text.lower(), pattern.lower())
