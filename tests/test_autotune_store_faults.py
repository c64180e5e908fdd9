"""The store where the disk is hostile, full or read-only, and where processes race and die."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import filelock
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.layers import RecordWarning, Tree
from autotune.records import LIMIT, encode
from autotune.store import Store

from .autotune_cases import LARGE, SMALL, key_of, record_of
from .autotune_worker import SHARED

ROOT = Path(__file__).parent.parent


def worker(*arguments, **options):
    command = [sys.executable, "-m", "tests.autotune_worker", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, **options)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "user", environ={})


@pytest.fixture(autouse=True)
def _no_surprises():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def candidate_in(store, key):
    found = store.get(key)
    return None if found is None else found.candidate


def hostile(path, kind):
    """Put something in the place of a record."""
    whole = encode(record_of())
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    else:
        contents = {
            "empty": b"",
            "truncated": whole[:-9],
            "pickle": b"\x80\x04K\x01.",
            "newer": whole.replace(b'"schema":1', b'"schema":9'),
            "another": encode(record_of(key_of(n=9))),
            "long": whole + b" " * LIMIT,
        }
        path.write_bytes(contents[kind])


KINDS = {
    "pipe": "not a regular file",
    "folder": "not a regular file",
    "loop": "cannot be read",
    "device": "not a regular file",
    "huge": "1099511627776 bytes, more than",
    "empty": "empty",
    "truncated": "truncated",
    "pickle": "malformed",
    "newer": r"written by a newer version \(schema 9, this reads 1\)",
    "another": "named for another key",
    "long": "more than the 1048576",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_file_is_a_miss_with_one_warning(store, kind):
    path = store.put(record_of())
    store.put(record_of(key_of(n=16)))
    path.unlink()
    hostile(path, kind)
    store.refresh()
    with pytest.warns(RecordWarning) as caught:
        assert store.get(key_of()) is None
        store.refresh()
        assert store.get(key_of()) is None
        assert [e.key for e in store.family(key_of())] == [key_of(n=16)]
        assert [e.key for e in store.entries()] == [key_of(n=16)]
    assert len(caught) == 1 and str(caught[0].message).startswith(f"autotune: {path}: ")
    with pytest.raises(RecordWarning, match=KINDS[kind]):
        Store(store.directory, environ={}).get(key_of())
    if kind != "folder":
        # Tuning again repairs it.
        store.put(record_of(best=LARGE))
        assert candidate_in(store, key_of()) == LARGE


@settings(max_examples=100)
@given(st.binary(max_size=100) | st.integers(0, 700).map(lambda n: encode(record_of())[:n]))
def test_any_bytes_are_a_miss(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("store")
    path = Store(folder, environ={}).put(record_of())
    path.write_bytes(data)
    pack = folder / "one.jsonl"
    pack.write_bytes(data)
    store = Store(folder, override=pack, environ={})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        store.get(key_of()), store.family(key_of())
        list(store.entries())
    if data != encode(record_of()):
        # Blank lines of a pack are no records, and nothing to warn of.
        said = [str(w.message) for w in caught]
        assert sum(str(path) in text for text in said) == 1
        assert sum(str(pack) in text for text in said) == bool(data.strip())


FAULTS = [
    ("open", errno.EROFS, "Read-only file system"),
    ("open", errno.EACCES, "Permission denied"),
    ("replace", errno.ENOSPC, "No space left on device"),
    ("mkdir", errno.EACCES, "Permission denied"),
]


@pytest.mark.parametrize("function, code, words", FAULTS, ids=[f"{f[0]} {f[2]}" for f in FAULTS])
@pytest.mark.parametrize("better", [False, True])
def test_what_cannot_be_written_stays_in_memory(store, monkeypatch, function, code, words, better):
    real = getattr(os, function)
    reading = (os.O_RDONLY | os.O_NONBLOCK,)

    def refuse(path, *rest, **named):
        if str(path).startswith(str(store.directory)) and rest[:1] != reading:
            raise OSError(code, os.strerror(code), path)
        return real(path, *rest, **named)

    monkeypatch.setattr(os, function, refuse)
    with pytest.warns(RecordWarning) as caught:
        assert store.put(record_of(), keep_better=better) is None
        assert store.put(record_of(key_of(n=9), LARGE), keep_better=better) is None
        assert store.put_trials(key_of(), []) is None
    expected = f"autotune: {store.directory}: cannot be written ({words}); records stay in memory"
    assert [str(w.message) for w in caught] == [expected]
    assert isinstance(store.write_error, OSError) and store.write_error.errno == code
    store.refresh()
    found = store.get(key_of())
    assert found is not None and found.path is None and found.candidate == SMALL
    assert {e.key for e in store.family(key_of())} == {key_of(), key_of(n=9)}
    assert len(list(store.entries())) == 2
    with pytest.raises(OSError, match=words):
        store.put(record_of(), must=True)
    # A disk that has room again takes it.
    monkeypatch.undo()
    path = store.put(record_of())
    assert path is not None and [e.path for e in store.exact(key_of())] == [path]
    assert store.remove(key_of(n=9)) and len(list(store.entries())) == 1
    assert not list(store.directory.rglob("*.tmp"))


def test_a_directory_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file", environ={})
    assert store.get(key_of()) is None and store.family(key_of()) == ()
    assert list(store.entries()) == [] and store.prune() == [] and store.trials(key_of()) == []
    with pytest.warns(RecordWarning, match="Not a directory"):
        assert store.put(record_of()) is None
    assert candidate_in(store, key_of()) == SMALL


def test_what_cannot_be_listed_is_passed_over(tmp_path, monkeypatch):
    Store(tmp_path / "user", environ={}).put(record_of())
    (tmp_path / "extra").mkdir()

    def refuse(path, *_):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)

    store = Store(tmp_path / "user", extra=[tmp_path / "extra"], environ={})
    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, refuse)
    with pytest.warns(RecordWarning) as caught:
        assert candidate_in(store, key_of()) == SMALL and store.family(key_of()) == ()
        assert list(store.entries()) == []
    said = [str(w.message).removeprefix(f"autotune: {tmp_path}/") for w in caught]
    assert said[0] == "extra: cannot be listed (Permission denied); passed over"
    folder = f"records/v1/cuda-sm_90/conv/{key_of().family}: cannot be listed"
    assert [text[: text.index(" (")] for text in said[1:]] == [f"user/{folder}", f"extra/{folder}"]


def test_too_long_a_record_stays_in_memory(store):
    record = record_of(environment={f"n{i}": "x" * 2000 for i in range(600)})
    with pytest.warns(RecordWarning, match="more than the 1048576"):
        assert store.put(record) is None
    assert candidate_in(store, key_of()) == SMALL


@pytest.mark.parametrize("size", [0, 100])
def test_a_full_disk(tmp_path, size):
    assert worker("limited", tmp_path, size).wait(60) == 0


def test_processes_race_and_lose_nothing(tmp_path):
    running = [worker("race", tmp_path, n, 100) for n in range(16)]
    assert [process.wait(120) for process in running] == [0] * 16
    found = list(Store(tmp_path, environ={}).entries())
    assert len(found) == 16 * 100 + SHARED
    assert not list(tmp_path.rglob("*.tmp"))


def test_merging_processes_keep_the_best(tmp_path):
    running = [worker("better", tmp_path, n, 25) for n in range(4)]
    assert [process.wait(120) for process in running] == [0] * 4
    assert Store(tmp_path, environ={}).get(key_of()).record.best_us == 1.0


@pytest.mark.parametrize("better", [False, True])
def test_only_merging_locks(store, monkeypatch, better):
    seen = []
    write = Tree.write

    def look_and_write(self, record):
        lock = filelock.FileLock(store.directory / "records" / "v1" / ".lock", timeout=0)
        try:
            with lock:
                seen.append("free")
        except (OSError, RuntimeError):
            seen.append("held")
        return write(self, record)

    store.put(record_of())
    monkeypatch.setattr(Tree, "write", look_and_write)
    assert store.put(record_of(best_us=1.0), keep_better=better) is not None
    assert seen == ["held" if better else "free"]


def test_a_killed_writer_leaves_a_readable_store(tmp_path):
    choose = random.Random(0)
    for _ in range(6):
        process = worker("endless", tmp_path, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"begun\n"
        time.sleep(choose.uniform(0.005, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        process.stdout.close()
        # Warnings are errors here: every file is whole.
        found = list(Store(tmp_path, environ={}).entries())
        assert all(e.record.environment["filler"] == "x" * 2000 for e in found)
    store = Store(tmp_path, environ={})
    assert list(store.entries())
    assert store.put(record_of(), keep_better=True) is not None
    store.prune(seconds=-60)
    assert not list(tmp_path.rglob("*.tmp"))
