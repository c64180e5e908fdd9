"""Records of searches: read from several places, written to one, and never in the way of a call."""

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import platformdirs

from . import files, names
from .key import Key
from .layers import Entry, Layer, Packs, RecordWarning, Tree, Warner
from .merge import Current, merge
from .records import Record, RecordError
from .trials import Trial, read_trials, write_trials

OVERRIDE, USER, EXTRA, SHIPPED = LAYERS = ("override", "user", "extra", "shipped")

CACHE_DIR = "AUTOTUNE_CACHE_DIR"
OVERRIDE_PATH = "AUTOTUNE_OVERRIDE"
EXTRA_PATHS = "AUTOTUNE_EXTRA"

# What was read is believed this long; then the file is asked whether it has changed.
FRESH_SECONDS = 1.0
# A merge that waits for another process this long goes ahead.
_LOCK_SECONDS = 10.0


class Store:
    """Records in layers: an explicit override, the user's, further directories, what is shipped.

    Of one key the first layer's record counts. Nothing here raises because of a file: one that
    cannot be used is a miss, one that cannot be written leaves the record in memory, and either
    warns once (`RecordWarning`).
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        app: str = "autotune",
        override: str | os.PathLike[str] | None = None,
        extra: Iterable[str | os.PathLike[str]] | None = None,
        shipped: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """A store of `directory`: else $AUTOTUNE_CACHE_DIR, else the user's cache of `app`.

        `override` is a file or a directory (else $AUTOTUNE_OVERRIDE), `extra` are read-only
        directories (else $AUTOTUNE_EXTRA, separated as $PATH is), `shipped` is a directory of
        packs. Each directory may hold packs, and a tree such as this store's own.
        """
        environ = os.environ if environ is None else environ
        override = override or environ.get(OVERRIDE_PATH) or None
        if extra is None:
            extra = filter(None, environ.get(EXTRA_PATHS, "").split(os.pathsep))
        self.directory = _absolute(
            directory or environ.get(CACHE_DIR) or platformdirs.user_cache_dir(app, appauthor=False)
        )
        self.write_error: OSError | RecordError | None = None
        self._warn = Warner()
        self._user = Tree(USER, _records(self.directory), self._warn)
        self._layers: list[Layer] = [
            *(self._outside(OVERRIDE, override) if override else ()),
            self._user,
            *(layer for path in extra for layer in self._outside(EXTRA, path)),
        ]
        if shipped:
            self._layers.append(Packs(SHIPPED, _absolute(shipped), self._warn, by_name=True))
        self._exact: dict[str, tuple[float, tuple[Entry, ...]]] = {}
        self._families: dict[str, tuple[float, tuple[Entry, ...]]] = {}
        self._swept: set[Path] = set()

    def get(self, key: Key) -> Entry | None:
        """The record of a key in the first layer that has one."""
        found = self.exact(key)
        return found[0] if found else None

    def exact(self, key: Key) -> tuple[Entry, ...]:
        """The records of a key, one a layer that has one, in their order."""
        kept = self._exact.get(key.digest)
        if kept is not None and kept[0] > time.monotonic():
            return kept[1]
        found = tuple(e for e in (layer.exact(key) for layer in self._layers) if e is not None)
        self._exact[key.digest] = (time.monotonic() + FRESH_SECONDS, found)
        return found

    def family(self, key: Key) -> tuple[Entry, ...]:
        """The records, in every layer, that differ in sizes and device model at most."""
        kept = self._families.get(key.family)
        if kept is not None and kept[0] > time.monotonic():
            return kept[1]
        found = tuple(entry for layer in self._layers for entry in layer.family(key))
        self._families[key.family] = (time.monotonic() + FRESH_SECONDS, found)
        return found

    def entries(self, *layers: str) -> Iterator[Entry]:
        """Every record of these layers (of all, if none is named), layer by layer."""
        for layer in self._layers:
            if not layers or layer.name in layers:
                yield from layer.entries()

    def put(
        self,
        record: Record,
        *,
        keep_better: bool = False,
        current: Current = frozenset(),
        must: bool = False,
    ) -> Path | None:
        """Keep a record, in place of the user's one of its key, and return its file.

        With `keep_better` the two are merged (`merge.merge`, to which `current` goes), under a
        lock, so that no better one is lost. Where it cannot be written, this process keeps the
        record in memory, `write_error` says why, one warning is given, and None returned; with
        `must`, OSError or RecordError is raised instead.
        """
        key = record.key.key()
        try:
            with self._lock() if keep_better else contextlib.nullcontext():
                if keep_better and (mine := self._user.exact(key)):
                    record = merge(mine.record, record, current)
                path = self._user.write(record)
        except (OSError, RecordError) as error:
            if must:
                raise
            return self._not_written(error)
        finally:
            self._changed(key)
        if path.parent not in self._swept:
            self._swept.add(path.parent)
            files.sweep(path.parent)
        return path

    def put_trials(self, key: Key, trials: Iterable[Trial]) -> Path | None:
        """Keep what a search measured, beside the record; None where it cannot be written."""
        path = self._trials(key)
        try:
            write_trials(path, trials)
        except (OSError, RecordError) as error:
            return self._not_written(error)
        return path

    def trials(self, key: Key) -> list[Trial]:
        """What the last search of a key measured, if it is still there."""
        return read_trials(self._trials(key), self._warn)

    def remove(self, key: Key) -> bool:
        """Delete the user's record of a key, and its trials. Raises OSError if that is refused."""
        there = self._user.drop(key.digest)
        for path in (self._trials(key), self._user.path(key)):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
                there = there or path.suffix == ".json"
        self._changed(key)
        return there

    def prune(
        self,
        *,
        trials: bool = False,
        seconds: float = files.STALE_SECONDS,
        dry_run: bool = False,
    ) -> list[Path]:
        """Delete what killed writers left behind, and trials if asked; returns what is gone, or
        with `dry_run` what would be."""
        gone = []
        for folder in self._user.folders():
            gone += files.sweep(folder, seconds, dry_run)
            for path in sorted(folder.iterdir()) if trials else ():
                if names.TRIALS.fullmatch(path.name):
                    if not dry_run:
                        path.unlink(missing_ok=True)
                    gone.append(path)
        return gone

    def clear(self) -> None:
        """Delete every record of the user's. Raises OSError if that is refused."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            shutil.rmtree(self._user.root / names.LAYOUT)
        self._user = Tree(USER, self._user.root, self._warn)
        self._layers = [self._user if e.name == USER else e for e in self._layers]
        self.refresh()

    def refresh(self) -> None:
        """Read every file again when it is next asked for."""
        self._exact.clear()
        self._families.clear()
        for layer in self._layers:
            layer.forget()

    def _not_written(self, error: OSError | RecordError) -> None:
        self.write_error = error
        reason = getattr(error, "strerror", None) or error
        self._warn(self.directory, f"cannot be written ({reason}); records stay in memory")

    def _changed(self, key: Key) -> None:
        self._exact.pop(key.digest, None)
        self._families.pop(key.family, None)

    def _trials(self, key: Key) -> Path:
        return self._user.path(key).with_suffix(".trials.jsonl")

    def _outside(self, name: str, place: str | os.PathLike[str]) -> list[Layer]:
        """The layers of an override or an extra directory."""
        path = _absolute(place)
        if not os.path.exists(path):
            self._warn(path, f"does not exist; expected the records of {name}")
        packs = Packs(name, path, self._warn)
        return [Tree(name, _records(path), self._warn), packs] if os.path.isdir(path) else [packs]

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """One merging process at a time; without it where there is no locking, or for long."""
        # Here, because a process that only reads has no need of it.
        import filelock

        root = self._user.root / names.LAYOUT
        with contextlib.ExitStack() as stack:
            try:
                root.mkdir(parents=True, exist_ok=True)
                lock = filelock.FileLock(root / ".lock", timeout=_LOCK_SECONDS)
                stack.enter_context(lock)
            except (OSError, NotImplementedError):  # filelock.Timeout is an OSError
                pass
            yield


def _records(directory: Path) -> Path:
    return directory / "records"


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.expanduser(path)).absolute()


__all__ = ["LAYERS", "Entry", "RecordWarning", "Store"]
