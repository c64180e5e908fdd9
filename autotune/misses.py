"""The problems that found no record of their own: a bounded log, which `tune` reads."""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .key import Key
from .wire import key_from_json, key_to_json

# The log is moved aside at this size, and what was moved aside before is dropped.
LIMIT_BYTES = 1 << 20
# A process that meets more problems than this stops noting them.
LIMIT_KEYS = 10_000


class MissLog:
    """One line a problem, each at most once a process. A log that cannot be written is no error:
    the call that missed has its analytic config all the same."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    @classmethod
    def of(cls, directory: Path) -> "MissLog":
        """The log of a store's directory. Not named .jsonl: a pack of records is."""
        return cls(directory / "misses.log")

    def add(self, key: Key) -> None:
        """Note a problem."""
        with self._lock:
            if key.digest in self._seen or len(self._seen) >= LIMIT_KEYS:
                return
            self._seen.add(key.digest)
        line = json.dumps(key_to_json(key), separators=(",", ":"), sort_keys=True) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and self.path.stat().st_size > LIMIT_BYTES:
                os.replace(self.path, self._older)
            # One write to a file opened for appending: lines of several processes do not mix.
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(file, line.encode())
            finally:
                os.close(file)
        except OSError:
            return

    def problems(self) -> Iterator[tuple[Key, int]]:
        """The problems noted, the most frequent first, with the number of processes that met
        them. A line that is none is passed over."""
        found: dict[str, tuple[Key, int]] = {}
        for line in self._lines():
            try:
                key = key_from_json(json.loads(line))
                digest = key.digest
            except (ValueError, TypeError, RecursionError):
                continue
            found[digest] = (key, found.get(digest, (key, 0))[1] + 1)
        yield from sorted(found.values(), key=lambda pair: (-pair[1], pair[0].digest))

    def clear(self) -> None:
        """Forget them all."""
        with self._lock:
            self._seen.clear()
        for path in (self.path, self._older):
            path.unlink(missing_ok=True)

    @property
    def _older(self) -> Path:
        return self.path.with_suffix(".older" + self.path.suffix)

    def _lines(self) -> Iterator[Any]:
        for path in (self._older, self.path):
            try:
                yield from path.read_bytes().splitlines()
            except OSError:
                continue
