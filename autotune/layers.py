"""Where records are read from: a tree of one file a record, and packs of many records a file."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from . import files, names
from .config import Candidate
from .key import Key
from .merge import merge
from .records import Record, RecordError, decode, encode

Warn = Callable[[Path, str], None]


class RecordWarning(UserWarning):
    """A file of records could not be used, or not be written. The work goes on without it."""


@dataclass(frozen=True)
class Entry:
    """A record, the layer that it was found in, and its file; None if it could not be written."""

    record: Record
    layer: str
    path: Path | None

    @cached_property
    def key(self) -> Key:
        """The record's key."""
        return self.record.key.key()

    @cached_property
    def candidate(self) -> Candidate:
        """What the record says to use."""
        return self.record.best.candidate()


class Layer(Protocol):
    """One place that records are read from."""

    name: str

    def exact(self, key: Key) -> Entry | None:
        """The record of a key."""
        ...

    def family(self, key: Key) -> list[Entry]:
        """Records that differ from a key in sizes and device model at most."""
        ...

    def entries(self) -> Iterator[Entry]:
        """Every record, in the order of their files' names."""
        ...

    def forget(self) -> None:
        """Read every file again when it is next asked for."""
        ...


class Warner:
    """Warns once a file, and remembers nothing else."""

    def __init__(self) -> None:
        self._said: set[Path] = set()

    def __call__(self, path: Path, reason: str) -> None:
        """Say that a file is of no use."""
        if path not in self._said:
            self._said.add(path)
            warnings.warn(f"autotune: {path}: {reason}", RecordWarning, stacklevel=2)


class Tree:
    """Records below `<root>/v1/<vendor>-<arch>/<op>/<family>/<digest>.json`."""

    def __init__(self, name: str, root: Path, warn: Warn) -> None:
        self.name, self.root, self._warn = name, root, warn
        self._read: dict[Path, tuple[files.Signature, Entry | None]] = {}
        # What could not be written is still of use to this process.
        self._unwritten: dict[str, Entry] = {}

    def path(self, key: Key) -> Path:
        """The file of a key."""
        return self.root / names.family_folder(key) / f"{key.digest}.json"

    def exact(self, key: Key) -> Entry | None:
        """The record of a key."""
        return self._unwritten.get(key.digest) or self._load(self.path(key))

    def family(self, key: Key) -> list[Entry]:
        """Records that differ from a key in sizes and device model at most."""
        found = {e.key.digest: e for e in self._folder(self.root / names.family_folder(key))}
        for digest, entry in list(self._unwritten.items()):
            if entry.key.family == key.family:
                found[digest] = entry
        return [found[digest] for digest in sorted(found)]

    def entries(self) -> Iterator[Entry]:
        """Every record; none is kept in memory."""
        for folder in self.folders():
            for entry in self._folder(folder, keep=False):
                if entry.key.digest not in self._unwritten:
                    yield entry
        yield from list(self._unwritten.values())

    def folders(self) -> Iterator[Path]:
        """The folder of every family."""
        level = [self.root / names.LAYOUT]
        for _ in range(3):
            level = [child for parent in level for child in _folders(parent)]
        yield from level

    def write(self, record: Record) -> Path:
        """Write a record. Raises OSError, RecordError; this process has the record then, too."""
        key = record.key.key()
        path = self.path(key)
        try:
            files.replace(path, encode(record))
        except (OSError, RecordError):
            self._unwritten[key.digest] = Entry(record, self.name, None)
            raise
        self._unwritten.pop(key.digest, None)
        return path

    def forget(self) -> None:
        """Read every file again when it is next asked for."""
        self._read.clear()

    def drop(self, digest: str) -> bool:
        """Forget a record that could not be written."""
        return self._unwritten.pop(digest, None) is not None

    def _folder(self, folder: Path, keep: bool = True) -> Iterator[Entry]:
        try:
            with os.scandir(folder) as found:
                paths = sorted(e.path for e in found if names.RECORD.fullmatch(e.name))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self._warn(folder, f"cannot be listed ({error.strerror}); passed over")
            return
        for path in paths:
            entry = self._load(Path(path), keep)
            if entry is not None:
                yield entry

    def _load(self, path: Path, keep: bool = True) -> Entry | None:
        """The record in a file, read again if the file is another one now."""
        entry = None
        try:
            seen = files.signature(os.stat(path))
            known = self._read.get(path)
            if known is not None and known[0] == seen:
                return known[1]
            data = files.read(path)
            entry = Entry(decode(data, path.stem, path.parent.name), self.name, path)
        except (FileNotFoundError, NotADirectoryError):
            self._read.pop(path, None)
            return None
        except OSError as error:
            self._warn(path, f"cannot be read ({error.strerror}); the record is passed over")
            return None
        except RecordError as error:
            self._warn(path, f"not used, {error}; delete it, or tune again")
        if keep:
            self._read[path] = (seen, entry)
        return entry


class Packs:
    """Records in files of JSON lines: one file, or those of a folder, each parsed once.

    With `by_name` a file is parsed when a record is wanted that its name promises
    (`names.pack_name`); else all are, at the first look-up.
    """

    def __init__(self, name: str, place: Path, warn: Warn, by_name: bool = False) -> None:
        self.name, self.place, self._warn, self._by_name = name, place, warn, by_name
        self.forget()

    def exact(self, key: Key) -> Entry | None:
        """The record of a key."""
        self._need(key)
        return self._records.get(key.digest)

    def family(self, key: Key) -> list[Entry]:
        """Records that differ from a key in sizes and device model at most."""
        self._need(key)
        return self._families.get(key.family, [])

    def entries(self) -> Iterator[Entry]:
        """Every record."""
        self._parse(self._listed())
        yield from list(self._records.values())

    def forget(self) -> None:
        """Parse every file again when it is next asked for."""
        self._paths: list[Path] | None = None
        self._parsed: set[Path] = set()
        self._records: dict[str, Entry] = {}
        self._families: dict[str, list[Entry]] = {}

    def _listed(self) -> list[Path]:
        if self._paths is None:
            try:
                inside = sorted(self.place.iterdir())
                self._paths = [path for path in inside if path.suffix in (".json", ".jsonl")]
            except NotADirectoryError:
                self._paths = [self.place]
            except FileNotFoundError:
                self._paths = []
            except OSError as error:
                self._warn(self.place, f"cannot be listed ({error.strerror}); passed over")
                self._paths = []
        return self._paths

    def _need(self, key: Key) -> None:
        paths: Iterable[Path] = self._listed()
        if self._by_name:
            start, end = names.pack_prefix(key.gpu), names.pack_suffix(key.op)
            paths = [p for p in paths if p.name.startswith(start) and p.name.endswith(end)]
        self._parse(paths)

    def _parse(self, paths: Iterable[Path]) -> None:
        fresh = [path for path in paths if path not in self._parsed]
        if not fresh:
            return
        records = dict(self._records)
        for path in fresh:
            for record in read_lines(path, self._warn):
                entry = Entry(record, self.name, path)
                other = records.get(entry.key.digest)
                if other is None or merge(other.record, record) != other.record:
                    records[entry.key.digest] = entry
        families: dict[str, list[Entry]] = {}
        for digest in sorted(records):
            families.setdefault(records[digest].key.family, []).append(records[digest])
        # Other threads see the old tables or the new ones.
        self._records, self._families = records, families
        self._parsed.update(fresh)


def read_lines(path: Path, warn: Warn) -> Iterator[Record]:
    """The records of a file of JSON lines, or the one of a `.json` file, on as many lines as it
    likes. One warning for all that is none."""
    bad: list[str] = []
    whole = path.suffix == ".json"
    try:
        for number, line in enumerate([files.read(path)] if whole else files.lines(path), 1):
            if not line.strip() and not whole:
                continue
            try:
                yield decode(line if whole else line.rstrip(b"\r\n"))
            except RecordError as error:
                bad.append(f"{'' if whole else f'line {number} is '}not used, {error}")
    except FileNotFoundError:
        return
    except OSError as error:
        bad.append(f"cannot be read ({error.strerror}); its records are passed over")
    except RecordError as error:
        bad.append(f"not used, {error}")
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        warn(path, bad[0] + more)


def _folders(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as found:
            return sorted(Path(e.path) for e in found if e.is_dir(follow_symlinks=False))
    except OSError:
        return []
