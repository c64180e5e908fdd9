"""Turns, medians, failures by name, the lock, the wire."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import pytest

from autotune import Candidate, Config, Gpu, Key
from autotune.measure import (
    BenchError,
    DeviceBusyError,
    Isolation,
    LocalBench,
    WorkerBench,
    exclusive,
    medians,
    rotated,
)
from autotune.measure.failures import failure_of, poisons
from autotune.measure.timing import Rounds
from autotune.task import Artefacts, Failure, FailureKind
from autotune.wire import (
    artefacts_to_json,
    candidate_from_json,
    candidate_to_json,
    key_from_json,
    key_to_json,
)

from . import autotune_fakes as fakes

A, B, C = (fakes.candidate(name) for name in "ABC")
ERROR = Failure(FailureKind.ERROR, "broke")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_rotated():
    turns = ["".join(rotated("abc", turn)) for turn in range(4)]
    assert turns == ["abc", "bca", "cab", "abc"]
    assert rotated([], 5) == []


def test_medians_leave_out_what_failed():
    times = {A: [9.0, 1.0, 2.0], B: ERROR, C: [1.0, 2.0], fakes.candidate("D"): []}
    assert medians(times) == {A: 2.0, C: 1.5}


class Script:
    """A bench that writes down what it is asked, and fails where it is told to."""

    def __init__(self, *fails, slips=None):
        self.said, self.policy = [], "graph"
        self._fails, self._slips = set(fails), slips

    def _do(self, what, candidate):
        self.said.append(f"{what} {candidate.variant}")
        count = sum(line == self.said[-1] for line in self.said)
        if (what, candidate.variant) == self._slips:
            self.policy = "events"
        return ERROR if (what, candidate.variant, count) in self._fails else None

    def check(self, candidate):
        return self._do("check", candidate)

    def ready(self, candidate):
        return self._do("ready", candidate)

    def time(self, candidate):
        return self._do("time", candidate) or (100.0 if self.policy == "graph" else 200.0)

    def order(self, what="time"):
        return [line[-1] for line in self.said if line.startswith(what)]


def test_rounds_take_turns_and_check_once():
    script = Script()
    rounds = Rounds(script)
    assert rounds.measure([A, B, C, A], 4) == {c: [100.0] * 4 for c in (A, B, C)}
    assert "".join(script.order()) == "ABCBCACABABC"
    assert rounds.measure([A], 2) == {A: [100.0] * 2}
    assert "".join(script.order("check")) == "ABC"
    assert script.said.index("check C") < script.said.index("time A")


def test_rounds_go_on_without_what_fails():
    script = Script(("time", "B", 2), ("ready", "C", 1))
    rounds = Rounds(script)
    found = rounds.measure([A, B, C], 3)
    assert found == {A: [100.0] * 3, B: ERROR, C: ERROR}
    assert "C" not in script.order() and script.order().count("B") == 2
    # Whoever was warm in a process that died is made warm again before anybody is timed.
    assert script.said[3:8] == ["ready A", "ready B", "ready C", "ready A", "ready B"]
    spent = len(script.said)
    assert rounds.measure([B, C], 3) == {B: ERROR, C: ERROR}
    assert len(script.said) == spent
    assert Rounds(Script(("check", "A", 1))).measure([A, B], 1) == {A: ERROR, B: [100.0]}


def test_rounds_compare_by_one_policy_only():
    script = Script(slips=("time", "B"))
    # A was timed once by graph before B fell back to events: that sample is not kept.
    assert Rounds(script).measure([A, B], 2) == {A: [200.0] * 2, B: [200.0] * 2}


class OutOfMemoryError(RuntimeError):
    pass


class OutOfResources(Exception):
    pass


class Wrapped(OutOfResources):
    pass


def caused(error, cause):
    error.__cause__ = cause
    return error


def test_failures_by_name_and_text():
    kinds = {
        FailureKind.MEMORY: [
            OutOfMemoryError("tried to allocate"),
            MemoryError(),
            RuntimeError("CUDA error: out of memory"),
            caused(RuntimeError("launch failed"), OutOfMemoryError("tried")),
        ],
        FailureKind.RESOURCES: [
            Wrapped("shared memory"),
            caused(RuntimeError("launch failed"), OutOfResources("registers")),
        ],
    }
    for kind, errors in kinds.items():
        for error in errors:
            assert failure_of(error, compiling=True).kind is kind, error
            assert failure_of(error, compiling=False).kind is kind, error
    assert failure_of(KeyError("K"), True) == Failure(FailureKind.COMPILE, "KeyError: 'K'")
    assert failure_of(KeyError("K"), False) == Failure(FailureKind.ERROR, "KeyError: 'K'")
    assert len(failure_of(ValueError("x" * 9999), False).detail) == 1000


def test_which_errors_leave_the_device_unusable():
    for text in (
        "an illegal memory access was",
        "device-side assert",
        "Unspecified launch failure",
    ):
        assert poisons(RuntimeError(f"CUDA error: {text} encountered"))
        assert poisons(caused(ValueError("no"), RuntimeError(text)))
    assert not poisons(RuntimeError("CUDA error: out of memory"))
    assert not poisons(OutOfResources("shared memory"))


def test_local_bench(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_FAKE_LOG", str(tmp_path / "log"))
    fine = [fakes.candidate("fine", 3), fakes.candidate("fine", 5)]
    odd, wrong = fakes.candidate("launch:odd"), fakes.candidate("wrong")
    bench = LocalBench(fakes.FakeTask(fakes.key()), fakes.FakeTimer())
    found = bench.compile([*fine, fakes.candidate("compile:odd")])
    assert list(found.values()) == [
        Artefacts(3, 32, 0),
        Artefacts(5, 32, 0),
        Failure(FailureKind.COMPILE, "KeyError: 'BLOCK_M'"),
    ]
    found = bench.measure([*fine, odd, wrong], 2)
    assert [found[c] for c in fine] == [[3.0] * 2, [5.0] * 2]
    assert found[odd] == Failure(FailureKind.ERROR, "KeyError: 'BLOCK_M'")
    assert found[wrong] == Failure(FailureKind.WRONG, "element 3 is 1.0, not 2.0")
    assert bench.policy == "fake"
    assert (tmp_path / "log").read_text().count(" prepare ") == 1
    with pytest.raises(BenchError, match="measure in a worker"):
        bench.measure([fakes.candidate("check:poison")], 1)
    bench = LocalBench(fakes.FakeTask(fakes.key(prepare="odd")), fakes.FakeTimer())
    with pytest.raises(BenchError, match="prepare: KeyError"):
        bench.measure(fine, 1)


@pytest.mark.parametrize("isolated", [False, True])
def test_a_disturbance_is_told_once(isolated, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_FAKE_DISTURBANCE", "somebody is there")
    if isolated:
        bench = WorkerBench(fakes.PROVIDER, fakes.key(), isolation=Isolation(timer=fakes.TIMER))
    else:
        bench = LocalBench(fakes.FakeTask(fakes.key()), fakes.FakeTimer())
    with bench, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bench.measure([A], 1)
        bench.measure([B], 1)
    assert [str(w.message) for w in caught] == ["autotune: somebody is there"]


def test_the_lock_names_its_holder_and_ends_with_it(tmp_path):
    script = (
        "import sys, time; from autotune.measure import exclusive\n"
        "with exclusive('GPU-1/x', 5): print('held', flush=True); time.sleep(60)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    holder = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=env
    )
    try:
        assert holder.stdout.readline() == "held\n"
        text = rf"GPU-1/x: expected it to be free .* within 0.1 s, got process {holder.pid} \(-c\)"
        with pytest.raises(DeviceBusyError, match=text), exclusive("GPU-1/x", 0.1):
            pytest.fail("two held the lock")
        with exclusive("GPU-2", 0.1):  # another device is another lock
            pass
        with pytest.raises(DeviceBusyError), exclusive("GPU-1/x", 0.1):
            pytest.fail("two held the lock")
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    us = pytest.raises(DeviceBusyError, match=f"process {os.getpid()} ")
    with exclusive("GPU-1/x", 0.5), us, exclusive("GPU-1/x", 0):
        pytest.fail("held twice")
    with exclusive("GPU-1/x", 0):
        pass


def test_without_a_home_the_lock_lies_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with exclusive("GPU-1", 0):
        assert list(tmp_path.glob("autotune-locks-*/GPU-1.lock"))


def _measure(isolated):
    if isolated:
        bench = WorkerBench(fakes.PROVIDER, fakes.key(), isolation=Isolation(timer=fakes.TIMER))
    else:
        bench = LocalBench(fakes.FakeTask(fakes.key()), fakes.FakeTimer())
    with bench:
        for _ in range(3):
            bench.measure([A, B], 2)


def test_nobody_measures_while_another_does(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_FAKE_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("AUTOTUNE_FAKE_PAUSE", "0.02")
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_measure, args=(i,)) for i in (False, True, True)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    lines = [line.split() for line in (tmp_path / "log").read_text().split("\n") if line]
    spans = sorted(
        (float(begin[3]), float(end[3]), begin[0])
        for pid in {line[0] for line in lines}
        for begin, end in zip(
            *([x for x in lines if x[:2] == [pid, event]] for event in ("begin", "end")),
            strict=True,
        )
    )
    assert len(spans) == 3 * 3 * 2 * 2
    assert len({pid for _, _, pid in spans}) == 3
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


def test_wire_gives_back_what_it_was_given():
    fields = {
        "dtypes": ("float16", "float32"),
        "stride": [[1, 2], 3],
        "flag": True,
        "one": 1,
        "float": 1.5,
        "none": None,
    }
    key = Key.of("lib", "conv", fields, {"N": 2, "C": 1 << 40}, Gpu("hip", "gfx942", "MI", 304))
    again = key_from_json(json.loads(json.dumps(key_to_json(key))))
    assert again == key and again.digest == key.digest and again.family == key.family
    assert type(dict(again.fields)["flag"]) is bool and type(dict(again.fields)["one"]) is int
    candidate = Candidate("gemm", Config.of(8, 3, BLOCK_N=64, BLOCK_M=128))
    said = json.loads(json.dumps(candidate_to_json(candidate)))
    assert candidate_from_json(said) == candidate
    said["constants"] = dict(reversed(said["constants"].items()))  # as another writer may
    assert candidate_from_json(said) == candidate
    assert artefacts_to_json(Artefacts(1, 2, 3)) == {"shared": 1, "registers": 2, "spills": 3}
    for broken in ({}, None, {**key_to_json(key), "gpu": {"vendor": "hip"}}, [1]):
        with pytest.raises(ValueError, match="key: expected"):
            key_from_json(broken)
    for broken in ({}, None, {**said, "constants": 3}, [1]):
        with pytest.raises(ValueError, match="candidate: expected"):
            candidate_from_json(broken)


def test_importing_the_package_imports_no_torch():
    code = (
        "import sys, autotune.measure, autotune.wire, autotune.worker\n"
        "assert not {'torch', 'triton', 'tritonconv', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
