"""Candidates that exit, hang, crash or lie are named so, and everybody else is measured."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from autotune.measure import BenchError, Crew, Deadlines, Isolation, WorkerBench
from autotune.task import Artefacts, Failure, FailureKind

from . import autotune_fakes as fakes

ROOT = Path(__file__).parent.parent
FINE = [fakes.candidate("fine", 3), fakes.candidate("fine", 5)]
# Of every test here, what hangs takes this long, and nothing else should.
SHORT = Deadlines(start=60, compile=2, prepare=2, run=2)


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Lines that the workers write, split; locks lie in a folder of their own."""
    path = tmp_path / "log"
    monkeypatch.setenv("AUTOTUNE_FAKE_LOG", str(path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def read(*events):
        lines = path.read_text().split("\n") if path.exists() else []
        found = [line.split() for line in lines if line]
        return [line for line in found if not events or line[1] in events]

    return read


def isolation(**options) -> Isolation:
    return Isolation(**{"timer": fakes.TIMER, "processes": 2, "deadlines": SHORT, **options})


def bench(key=None, **options) -> WorkerBench:
    return WorkerBench(fakes.PROVIDER, key or fakes.key(), isolation=isolation(**options))


def ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that is not ours to reap, within two seconds."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def wait_for(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)
    return condition()


# What a candidate does, what it is called, a piece of what is said of it.
FATAL = [
    ("exit", FailureKind.CRASH, "exited with code 7"),
    ("sys.exit", FailureKind.CRASH, "exited with code 9"),
    ("hang", FailureKind.HANG, "within 2 s"),
    ("crash", FailureKind.CRASH, "killed by SIGSEGV; stderr: about to crash"),
    ("close", FailureKind.CRASH, ""),
]
RAISED = [
    ("exhaust", FailureKind.MEMORY, "1 EiB"),
    ("memory", FailureKind.MEMORY, "MemoryError"),
    ("resources", FailureKind.RESOURCES, "Required: 262144"),
]


def expect(found, candidate, kind, detail):
    failure = found[candidate]
    assert isinstance(failure, Failure), candidate
    assert failure.kind is kind, failure
    assert detail in failure.detail, failure


def test_compile_names_each_failure_and_goes_on(log):
    cases = [*FATAL, *RAISED, ("odd", FailureKind.COMPILE, "KeyError: 'BLOCK_M'")]
    bad = {fakes.candidate(f"compile:{deed}"): (kind, text) for deed, kind, text in cases}
    with bench() as b:
        found = b.compile([FINE[0], *bad, FINE[1], FINE[0]])
        assert list(found) == [FINE[0], *bad, FINE[1]]
        for c, (kind, text) in bad.items():
            expect(found, c, kind, text)
        assert [found[c] for c in FINE] == [Artefacts(3, 32, 0), Artefacts(5, 32, 0)]
    pids = {line[0] for line in log("compile")}
    assert str(os.getpid()) not in pids
    assert len(pids) <= 2 + len(FATAL)  # two workers; each that is lost is replaced once


@pytest.mark.parametrize("when", ["check", "launch"])
def test_measure_names_each_failure_and_goes_on(log, when):
    cases = [
        *FATAL,
        *RAISED,
        ("odd", FailureKind.ERROR, "KeyError: 'BLOCK_M'"),
        ("poison", FailureKind.ERROR, "illegal memory access"),
    ]
    bad = {fakes.candidate(f"{when}:{deed}"): (kind, text) for deed, kind, text in cases}
    with bench() as b:
        found = b.measure([FINE[0], *bad, fakes.candidate("wrong"), FINE[1]], 3)
        for c, (kind, text) in bad.items():
            expect(found, c, kind, text)
        expect(found, fakes.candidate("wrong"), FailureKind.WRONG, "element 3 is 1.0, not 2.0")
        assert [found[c] for c in FINE] == [[3.0] * 3, [5.0] * 3]
        again = b.measure([*FINE, *bad], 1)
        assert {c: again[c] for c in bad} == {c: found[c] for c in bad}
        assert [again[c] for c in FINE] == [[3.0], [5.0]]
        assert b.policy == "fake"
    # One worker; it is replaced once for each that ended it, and for the one that poisoned it.
    assert len({line[0] for line in log("prepare")}) == 1 + len(FATAL) + 1
    # Nobody is tried again, and each is checked once.
    checks = [line[2] for line in log("check")]
    assert sorted(checks) == sorted([*(c.variant for c in bad), "wrong", "fine", "fine"])


def test_what_a_candidate_prints_is_no_answer(log):
    loud = [fakes.candidate(f"{when}:babble", 4) for when in ("compile", "check", "launch")]
    with bench() as b:
        assert all(isinstance(v, Artefacts) for v in b.compile(loud).values())
        assert list(b.measure(loud, 2).values()) == [[4.0, 4.0]] * 3
    assert len({line[0] for line in log("prepare")}) == 1


def test_a_failure_quotes_its_own_job(log):
    crash = fakes.candidate("check:crash")
    with bench() as b:
        found = b.measure([fakes.candidate("check:babble"), crash], 1)
    expect(found, crash, FailureKind.CRASH, "about to crash")
    assert "garbage" not in found[crash].detail


def test_compiling_is_parallel(log):
    with bench(deadlines=Deadlines(start=60, compile=20)) as b:
        found = b.compile([fakes.candidate("compile:meet", n) for n in range(2)])
        assert all(isinstance(v, Artefacts) for v in found.values()), found
    assert len({line[0] for line in log("meet")}) == 2


def test_compiling_sees_no_gpu_and_measuring_the_one_that_is_chosen(log):
    with bench(environment={"CUDA_VISIBLE_DEVICES": "3"}) as b:
        b.compile([fakes.candidate("compile:gpu")])
        b.measure([fakes.candidate("check:gpu")], 1)
    assert [line[2] for line in log("gpu")] == ["''", "'3'"]


def test_a_crew_keeps_its_worker_for_the_next_key(log):
    with Crew(fakes.PROVIDER, isolation()) as crew:
        keys = [fakes.key(name="a"), fakes.key(name="b"), fakes.key(name="b")]
        for key in keys:
            with WorkerBench(fakes.PROVIDER, key, crew=crew) as b:
                assert b.measure(FINE, 1)[FINE[0]] == [3.0]
                assert b.environment["python"].startswith("3.")
    assert [line[2] for line in log("prepare")] == ["a", "b"]
    assert len({line[0] for line in log("prepare")}) == 1


def test_what_was_made_ready_is_let_go(log):
    with bench() as b:
        b.measure(FINE, 1)
        b.measure(FINE[:1], 1)
    # One launch to warm up and one that is timed, for each, both times.
    assert len(log("launch")) == 2 * 2 + 2


def test_restarts_are_bounded(log):
    bad = [fakes.candidate("check:exit", n) for n in range(9)]
    with bench(restarts=2) as b, pytest.raises(BenchError, match=r"at most 2 restarts.*code 7"):
        b.measure(bad, 1)
    assert len({line[0] for line in log("prepare")}) == 3
    with bench(restarts=2, processes=1) as b, pytest.raises(BenchError, match="at most 2 restarts"):
        b.compile([fakes.candidate("compile:exit", n) for n in range(9)])
    assert len({line[0] for line in log("compile")}) == 3


def test_restarts_are_counted_by_key(log):
    with Crew(fakes.PROVIDER, isolation(restarts=1)) as crew:
        for name in ("a", "b", "c"):
            b = WorkerBench(fakes.PROVIDER, fakes.key(name=name), crew=crew)
            assert b.measure([fakes.candidate("check:exit"), FINE[0]], 1)[FINE[0]] == [3.0]


def test_what_no_candidate_is_to_blame_for(log):
    for key, text in [
        (fakes.key(prepare="exit"), "prepare: crash: exited with code 7"),
        (fakes.key(prepare="hang"), "prepare: hang"),
        (fakes.key(prepare="exhaust"), "prepare: .*1 EiB"),
        (fakes.key(unknown=True), "task: ValueError: unknown"),
    ]:
        with bench(key) as b, pytest.raises(BenchError, match=text):
            b.measure(FINE, 1)
        if text.startswith("task"):
            with bench(key) as b, pytest.raises(BenchError, match=text):
                b.compile(FINE)
    with Crew(fakes.PROVIDER, isolation()) as crew:
        for name, prepare in (("poisoned", "poison"), ("after", None)):
            b = WorkerBench(fakes.PROVIDER, fakes.key(name=name, prepare=prepare), crew=crew)
            if prepare:
                with pytest.raises(BenchError, match="illegal memory access"):
                    b.measure(FINE, 1)
        assert b.measure(FINE, 1)[FINE[0]] == [3.0]
        (poisoned, after) = log("prepare")[-2:]
        assert (poisoned[2], after[2]) == ("poisoned", "after") and poisoned[0] != after[0]
    for name in ("tests.nowhere:FAKE", "tests.autotune_fakes:NOTHING"):
        missing = pytest.raises(BenchError, match=name.split(":")[0])
        with WorkerBench(name, fakes.key(), isolation=isolation()) as b, missing:
            b.measure(FINE, 1)
    for name in ("__main__:FAKE", "tests.autotune_fakes", ":FAKE", ""):
        with pytest.raises(ValueError, match='provider: expected "module:attribute"'):
            WorkerBench(name, fakes.key(), isolation=isolation())
    with pytest.raises(ValueError, match="timer: expected"):
        bench(timer="FakeTimer")
    b = bench()
    b.close()
    with pytest.raises(BenchError, match="closed"):
        b.measure(FINE, 1)


def test_a_worker_killed_from_outside(log):
    victim = fakes.candidate("check:hang")
    slow = Deadlines(start=60, run=30)
    with bench(deadlines=slow) as b:
        found = {}
        thread = threading.Thread(target=lambda: found.update(b.measure([victim, *FINE], 2)))
        thread.start()
        os.kill(int(wait_for(lambda: log("check"))[0][0]), signal.SIGKILL)
        thread.join(20)
        expect(found, victim, FailureKind.CRASH, "killed by SIGKILL")
        assert [found[c] for c in FINE] == [[3.0] * 2, [5.0] * 2]
        # Between jobs nobody is to blame.
        idle = int(log("prepare")[-1][0])
        os.kill(idle, signal.SIGKILL)
        assert ended(idle)
        other = fakes.candidate("other", 8)
        assert b.measure([other, FINE[0]], 1) == {other: [8.0], FINE[0]: [3.0]}
        b.compile(FINE[:1])
        idle = int(log("compile")[-1][0])
        os.kill(idle, signal.SIGKILL)
        assert ended(idle)
        time.sleep(0.05)  # a zombie's other threads may be about to end
        assert b.compile(FINE[:1]) == {FINE[0]: Artefacts(3, 32, 0)}
    assert len({line[0] for line in log("prepare")}) == 3


def test_nothing_is_left_running(log):
    brood = fakes.candidate("check:brood")
    b = bench()
    expect(b.measure([brood, *FINE], 1), brood, FailureKind.HANG, "no answer to check")
    assert ended(int(log("child")[0][2])), "the child of a worker that hung"
    b.compile(FINE)
    pids = {int(line[0]) for line in log()}
    assert len(pids) >= 3
    b.close()
    for pid in pids:
        assert ended(pid)
        with pytest.raises(ChildProcessError):  # no zombie
            os.waitpid(pid, os.WNOHANG)


SCRIPT = """
import os
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
sys.path[:0] = [{root!r}, "modules"]
with open({ran!r}, "a") as file:
    file.write("ran\\n")
from autotune.measure import Deadlines, Isolation, WorkerBench
from tests import autotune_fakes as fakes
isolation = Isolation(timer=fakes.TIMER, deadlines=Deadlines(run=60), processes=2)
bench = WorkerBench("mine:FAKE", fakes.key(), isolation=isolation)
try:
    {body}
except KeyboardInterrupt:
    print("interrupted")
    fine = [fakes.candidate("fine", 3)]
    print(list(bench.measure(fine, 1).values()), len(bench.compile(fine)))
"""


@pytest.fixture
def script(tmp_path, log):
    """Starts a script without a guard on its __main__, from a folder of its own."""
    running = []
    # Found by a relative entry of the script's own path alone.
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "mine.py").write_text("from tests.autotune_fakes import FAKE\n")

    def start(body: str) -> "subprocess.Popen[str]":
        path = tmp_path / "script.py"
        path.write_text(SCRIPT.format(root=str(ROOT), ran=str(tmp_path / "ran"), body=body))
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        running.append(
            subprocess.Popen(
                [sys.executable, path],
                cwd=tmp_path,
                env=env,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_the_callers_script_runs_once(script, tmp_path, log):
    # The worker starts in a folder of the library's, so that nothing here is taken for it.
    (tmp_path / "autotune.py").write_text("raise RuntimeError('not this one')")
    body = "c = [fakes.candidate('fine', 3)]; print(len(bench.compile(c)), bench.measure(c, 2))"
    said, _ = script(body).communicate(timeout=30)
    assert "1 {Candidate(" in said and "[3.0, 3.0]" in said, said
    assert (tmp_path / "ran").read_text() == "ran\n"
    # It ended without closing its bench.
    assert all(ended(int(line[0])) for line in log())


@pytest.mark.parametrize("job", ["compile([hang])", "measure([hang], 1)"])
def test_ctrl_c_reaches_the_parent_alone(script, log, job):
    when = "compile" if "compile" in job else "check"
    process = script(f"hang = fakes.candidate('{when}:hang'); bench.{job}")
    worker = int(wait_for(lambda: log(when))[0][0])
    assert os.getpgid(worker) == worker != os.getpgid(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=20)
    assert said == "interrupted\n[[3.0]] 1\n"
    assert ended(worker)


def test_a_fork_of_the_parent_leaves_the_worker_alone(script, log):
    body = (
        "c = [fakes.candidate('fine', 3)]; bench.measure(c, 1); child = os.fork();"
        " child or sys.exit(0); os.waitpid(child, 0); print(list(bench.measure(c, 1).values()))"
    )
    said, _ = script(body).communicate(timeout=30)
    assert said == "[[3.0]]\n"
    assert len(log("prepare")) == 1


def test_a_worker_does_not_outlive_its_parent(script, log):
    process = script("bench.measure([fakes.candidate('check:brood')], 1)")
    child = wait_for(lambda: log("child"))[0]
    process.kill()
    assert ended(int(child[0])), "the worker"
    assert ended(int(child[2])), "the worker's child"
