"""One process at a time measures on a device."""

import getpass
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from .errors import DeviceBusyError


@contextmanager
def exclusive(device: str, timeout: float, folder: Path | None = None) -> Iterator[None]:
    """Hold the lock of `device`, a file in the user's cache; users do not see each other's.

    The operating system drops it when the holder ends, however it ends: no lock is ever stale.

    Raises DeviceBusyError after `timeout` seconds, naming the holder where it is known.
    """
    folder = folder or lock_folder()
    name = re.sub(r"[^\w.-]", "_", device)
    # A file of its own: waiting for a lock may truncate the lock's.
    holder = folder / f"{name}.holder"
    lock = FileLock(folder / f"{name}.lock", thread_local=False)
    try:
        lock.acquire(timeout=timeout, poll_interval=0.02)
    except Timeout:
        raise DeviceBusyError(
            f"{device}: expected it to be free for measuring within {timeout:g} s, "
            f"{_described(holder)}; wait for it, or allow more time"
        ) from None
    try:
        with suppress(OSError):
            said = {"pid": os.getpid(), "command": sys.argv[:1], "since": time.time()}
            holder.write_text(json.dumps(said))
        yield
    finally:
        with suppress(OSError):
            holder.unlink()
        lock.release()


def lock_folder() -> Path:
    """Where the locks lie; made if need be. Without a writable home it is the temporary folder."""
    folder = user_cache_path("autotune", appauthor=False) / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"autotune-locks-{getpass.getuser()}"
        folder.mkdir(exist_ok=True)
    return folder


def _described(holder: Path) -> str:
    try:
        said = json.loads(holder.read_text())
        since = time.strftime("%H:%M:%S", time.localtime(said["since"]))
        command = " ".join(said["command"]) or "python"
        return f"got process {said['pid']} ({command}) measuring there since {since}"
    except (OSError, ValueError, KeyError, TypeError):
        return "got another process measuring there"
