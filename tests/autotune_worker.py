"""Processes that the store's tests start: `python -m tests.autotune_worker MODE DIRECTORY ...`.

They import no torch, and fail on any warning.
"""

import resource
import sys
import warnings
from pathlib import Path

from autotune.layers import RecordWarning
from autotune.store import Store

from .autotune_cases import SMALL, key_of, record_of

SHARED = 20


def race(directory, worker, writes):
    """Write keys of one's own and keys that all write; read both."""
    store = Store(directory, environ={})
    for i in range(writes):
        own = record_of(key_of(n=i, c=worker))
        assert store.put(own) is not None
        common = key_of(n=i % SHARED, c=1000)
        assert store.put(record_of(common, samples=worker)) is not None
        store.refresh()
        mine, shared = store.get(own.key.key()), store.get(common)
        assert mine is not None and mine.record == own
        # Whoever wrote it, it is whole.
        assert shared is not None and shared.candidate == SMALL


def better(directory, worker, writes):
    """Offer ever other speed-ups of one key; the best of all must be left."""
    store = Store(directory, environ={})
    for i in range(writes):
        time = 1 + (7 * i + worker) % 50
        store.put(record_of(best_us=time, default_us=100.0), keep_better=True, must=True)


def endless(directory):
    """Write until killed, and say when it begins."""
    store = Store(directory, environ={})
    print("begun", flush=True)
    n = 0
    while True:
        n += 1
        store.put(record_of(key_of(n=n % 50), environment={"filler": "x" * 2000}))


def limited(directory, size):
    """Files may grow to `size` bytes, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    store = Store(directory, environ={})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        paths = [store.put(record_of(key_of(n=n))) for n in range(3)]
    assert paths == [None] * 3, paths
    assert [w.category for w in caught] == [RecordWarning], caught
    assert "File too large" in str(caught[0].message), caught[0].message
    found = store.get(key_of(n=2))
    assert found is not None and found.path is None
    assert not [path for path in Path(directory).rglob("*") if path.is_file()]


if __name__ == "__main__":
    warnings.simplefilter("error")
    mode, directory, *numbers = sys.argv[1:]
    globals()[mode](directory, *map(int, numbers))
