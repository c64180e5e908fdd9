"""Files that other processes read and write at the same time, and that may be anything."""

import contextlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

from .records import LIMIT, RecordError

# Two versions of a file differ in one of these: a new version is a new file, renamed.
Signature: TypeAlias = tuple[int, int, int, int]

# A writer needs milliseconds. What is older has been left behind by a process that was killed.
STALE_SECONDS = 3600.0
TEMPORARY = ".tmp"
# A folder may be pruned away between its making and the writing into it.
_ATTEMPTS = 3


def signature(status: os.stat_result) -> Signature:
    """What tells versions of a file apart."""
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def read(path: Path) -> bytes:
    """A small regular file. Raises OSError, or RecordError if it is something else or too long."""
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LIMIT:
            raise RecordError(f"{size} bytes, more than the {LIMIT} that a record may have")
        return file.read(LIMIT + 1)


def lines(path: Path) -> Iterator[bytes]:
    """The lines of a regular file of any length, each cut beyond what a record may have.

    Raises OSError, or RecordError if it is something else.
    """
    with _opened(path) as file:
        while line := file.readline(LIMIT + 2):
            yield line
            while line and not line.endswith(b"\n"):
                line = file.readline(LIMIT)


def _opened(path: Path) -> BinaryIO:
    # Opening a pipe would wait for a writer.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise RecordError("not a regular file")
    return open(handle, "rb")


def replace(path: Path, data: bytes) -> None:
    """Make `path` hold `data`: whoever reads sees the old file or the new one, never a part.

    Not forced to the disk: after a power failure an entry of a cache may be missing or damaged,
    which readers stand, and waiting for the disk would cost more than the rest of a write.
    Raises OSError, and then leaves no temporary file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    for attempt in range(_ATTEMPTS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(temporary, flags, 0o666)
            break
        except FileNotFoundError:
            if attempt == _ATTEMPTS - 1:
                raise
    try:
        with open(handle, "wb", buffering=0) as file:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def sweep(folder: Path, seconds: float = STALE_SECONDS, dry_run: bool = False) -> list[Path]:
    """Delete temporary files that were left behind; what was, or would be, deleted."""
    gone = []
    oldest = time.time() - seconds
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for entry in found:
            if entry.name.startswith(".") and entry.name.endswith(TEMPORARY):
                with contextlib.suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime <= oldest:
                        if not dry_run:
                            os.unlink(entry.path)
                        gone.append(Path(entry.path))
    return gone
