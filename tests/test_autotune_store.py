"""The store: nothing is lost, nothing hurts a call, whatever lies on the disk."""

import json
import os
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings

from autotune import Gpu, Key, files, names
from autotune.layers import RecordWarning
from autotune.parts import CandidateRecord
from autotune.records import LIMIT, encode
from autotune.store import Store
from autotune.task import FailureKind
from autotune.trials import Trial
from benchmarks import records as records_benchmark

from .autotune_cases import H100, LARGE, OTHER, SMALL, key_of, record_of
from .autotune_strategies import keys

ROOT = Path(__file__).parent.parent


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


def test_put_and_get(store):
    assert store.get(key_of()) is None and store.family(key_of()) == ()
    path = store.put(record_of())
    assert path is not None and path.read_bytes() == encode(record_of())
    found = store.get(key_of())
    assert found is not None
    assert (found.record, found.layer, found.path) == (record_of(), "user", path)
    assert found.key == key_of() and found.candidate == SMALL
    assert store.put(record_of(best=LARGE)) == path
    assert candidate_in(store, key_of()) == LARGE
    assert store.write_error is None


def test_layout(store):
    key = key_of()
    path = store.put(record_of())
    expected = f"records/v1/cuda-sm_90/conv/{key.family}/{key.digest}.json"
    assert path == store.directory / expected
    # A family is one folder: all sizes, and all devices of the architecture.
    assert store.put(record_of(key_of(n=9, gpu=H100))).parent == path.parent
    assert store.put(record_of(key_of(dtype="float32"))).parent.parent == path.parent.parent


@settings(max_examples=30)
@given(keys)
def test_any_key_stays_inside(tmp_path_factory, key):
    store = Store(tmp_path_factory.mktemp("store"), environ={})
    path = store.put(record_of(key))
    assert path is not None and path.resolve().is_relative_to(store.directory.resolve())
    assert len(path.relative_to(store.directory).parts) == 6
    store.refresh()
    assert candidate_in(store, key) == SMALL


@pytest.mark.parametrize("text", ["../../etc", "/etc/passwd", "..", "C:\\x", "a/b", "~", "x" * 500])
def test_hostile_names(store, text):
    key = Key.of(text, text, {text: text}, {"N": 1}, Gpu(text, text, text, 1))
    path = store.put(record_of(Key.of("p", text, {}, {"N": 1}, Gpu(text, text, text, 1))))
    assert path.resolve().is_relative_to(store.directory.resolve() / "records" / "v1")
    assert "/" not in names.pack_name(key.gpu, key.op) and ".." not in str(path)


def test_layers_come_in_order(tmp_path):
    places = {name: tmp_path / name for name in ("override", "user", "first", "second", "shipped")}
    options = {
        "override": places["override"],
        "extra": [places["first"], places["second"]],
        "shipped": places["shipped"],
    }
    for n, (name, place) in enumerate(reversed(places.items())):
        record = record_of(samples=n)
        if name == "shipped":
            place.mkdir()
            pack = place / names.pack_name(key_of().gpu, "conv")
            pack.write_bytes(encode(record) + b"\n")
        else:
            Store(place, environ={}).put(record)
        missing = [p for p in places.values() if not p.exists()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if missing else "error")
            store = Store(places["user"], environ={}, **options)
        found = store.get(key_of())
        layer = "extra" if name in ("first", "second") else name
        assert found is not None and (found.layer, found.record.samples) == (layer, n)
    assert [e.record.samples for e in store.exact(key_of())] == [4, 3, 2, 1, 0]
    assert [e.record.samples for e in store.family(key_of())] == [4, 3, 2, 1, 0]
    assert [e.layer for e in store.entries("extra", "user")] == ["user", "extra", "extra"]


def test_environment_variables(tmp_path):
    override = tmp_path / "mine.json"
    # By hand: over several lines.
    override.write_bytes(encode(record_of(best=LARGE)).replace(b",", b",\n  "))
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "any.jsonl").write_bytes(encode(record_of(key_of(n=9))) + b"\n\n")
    environ = {
        "AUTOTUNE_CACHE_DIR": str(tmp_path / "cache"),
        "AUTOTUNE_OVERRIDE": str(override),
        "AUTOTUNE_EXTRA": os.pathsep.join([str(tmp_path / "extra"), ""]),
    }
    store = Store(environ=environ)
    store.put(record_of())
    assert store.directory == tmp_path / "cache" and (tmp_path / "cache" / "records").is_dir()
    found, extra = store.get(key_of()), store.get(key_of(n=9))
    assert found is not None and (found.layer, found.path) == ("override", override)
    assert extra is not None and extra.layer == "extra"
    # An argument goes before its variable.
    assert Store(tmp_path / "b", extra=(), environ=environ).get(key_of(n=9)) is None
    assert Store(app="lab", environ={}).directory.name == "lab"


def test_missing_places_are_named(tmp_path):
    with pytest.warns(RecordWarning, match=r"gone.*does not exist; expected the records of over"):
        store = Store(tmp_path, override=tmp_path / "gone", environ={})
    assert store.get(key_of()) is None


def test_packs_keep_the_good_lines(tmp_path):
    pack = tmp_path / "override.jsonl"
    long = b"x" * (2 * LIMIT + 5)
    lines = [b"{", encode(record_of(samples=1)), long, encode(record_of(samples=2)), b"7"]
    pack.write_bytes(b"\r\n".join(lines))
    store = Store(tmp_path / "user", override=pack, environ={})
    with pytest.warns(RecordWarning) as caught:
        found = store.get(key_of())
        store.get(key_of(n=9))
    # Of two records of a key the better one.
    assert found is not None and found.record.samples == 2
    assert [str(w.message) for w in caught] == [
        f"autotune: {pack}: line 1 is not used, Input data was truncated (and 2 more)"
    ]


def test_others_see_what_was_written(store, monkeypatch):
    reader = Store(store.directory, environ={})
    monkeypatch.setattr("autotune.store.FRESH_SECONDS", 0.0)
    assert reader.get(key_of()) is None
    for best in (SMALL, LARGE, OTHER):
        store.put(record_of(best=best))
        assert candidate_in(reader, key_of()) == best
        assert [e.candidate for e in reader.family(key_of())] == [best]
    store.remove(key_of())
    assert reader.get(key_of()) is None and reader.family(key_of()) == ()


def test_a_hit_in_memory_touches_no_file(store, monkeypatch):
    store.put(record_of())
    found = store.get(key_of())
    assert store.get(key_of(n=9)) is None
    family = store.family(key_of())

    def never(*_):
        raise RuntimeError("a file was touched")

    with monkeypatch.context() as patch:
        for name in ("stat", "open", "scandir"):
            patch.setattr(os, name, never)
        again = store.get(key_of()), store.get(key_of(n=9)), store.family(key_of())
    assert again[0] is found and again[1] is None and again[2] is family
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: float("inf"))
        patch.setattr(os, "stat", never)
        try:
            store.get(key_of())
            touched = ""
        except RuntimeError as error:
            touched = str(error)
    assert touched == "a file was touched"


def test_only_files_that_changed_are_read_again(store, monkeypatch):
    for n in range(5):
        store.put(record_of(key_of(n=n)))
    monkeypatch.setattr("autotune.store.FRESH_SECONDS", 0.0)
    store.family(key_of())
    read = []
    monkeypatch.setattr(
        files, "read", lambda path, read_=files.read: read.append(path) or read_(path)
    )
    assert len(store.family(key_of())) == 5 and read == []
    path = store.put(record_of(key_of(n=3), LARGE))
    assert len(store.family(key_of())) == 5 and read == [path]


def test_keep_better(store):
    store.put(record_of(best_us=5.0))
    store.put(record_of(best_us=6.0), keep_better=True)
    assert store.get(key_of()).record.best_us == 5.0
    store.put(record_of(best_us=4.0), keep_better=True)
    assert store.get(key_of()).record.best_us == 4.0
    store.put(record_of(best_us=6.0))
    assert store.get(key_of()).record.best_us == 6.0


def test_remove_prune_clear(store, monkeypatch):
    trials = [
        Trial(candidate=CandidateRecord.of(SMALL), times=(5.0, 5.25)),
        Trial(candidate=CandidateRecord.of(LARGE), failure=FailureKind.HANG, detail="120 s"),
    ]
    path = store.put(record_of())
    beside = store.put_trials(key_of(), trials)
    assert beside == path.with_name(f"{key_of().digest}.trials.jsonl")
    assert store.trials(key_of()) == trials and store.trials(key_of(n=9)) == []
    assert len(list(store.entries())) == 1
    assert store.prune() == [] and store.prune(trials=True) == [beside]
    assert store.trials(key_of()) == []

    store.put_trials(key_of(), trials)
    with beside.open("ab") as file:
        file.write(b"{")
    with pytest.warns(RecordWarning, match="cannot be read further"):
        assert store.trials(key_of()) == trials
    assert store.remove(key_of()) and not store.remove(key_of())
    assert not path.exists() and not beside.exists() and store.get(key_of()) is None

    store.put(record_of())
    store.put(record_of(key_of(dtype="float32")))
    assert store.get(key_of()) is not None and store.family(key_of()) != ()
    store.clear()
    assert list(store.entries()) == [] and store.get(key_of()) is None
    assert store.family(key_of()) == ()
    store.clear()


def test_what_was_left_behind_is_swept(store):
    path = store.put(record_of())
    left, fresh = (path.with_name(f".{path.name}.{n}.abc.tmp") for n in (1, 2))
    for file in (left, fresh):
        file.write_bytes(encode(record_of())[:100])
    os.utime(left, (time.time() - 7200,) * 2)
    store.refresh()
    assert candidate_in(store, key_of()) == SMALL and len(list(store.entries())) == 1
    # Another process's first record there sweeps; so does prune.
    Store(store.directory, environ={}).put(record_of(key_of(n=2)))
    assert not left.exists() and fresh.exists()
    assert store.prune(seconds=-60) == [fresh]


def test_the_benchmark_runs(tmp_path, capsys):
    assert (
        records_benchmark.main(
            ["--entries", "60", "--directory", str(tmp_path), "--json", str(tmp_path / "a.json")]
        )
        == 0
    )
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert len(rows) == 11 and all(row["seconds"] > 0 for row in rows)
    assert "nearest shape, files unchanged" in capsys.readouterr().out
    # It leaves nothing but its figures.
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
