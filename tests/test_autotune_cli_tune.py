"""The command line of autotune: what compiles, measures and draws, through real workers."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from autotune import files
from autotune.misses import MissLog
from autotune.search import Budget, Progress
from autotune.search.run import _outcome
from autotune.store import Store
from tests.autotune_cases import A100, H200, LARGE, NOW, OLD, OTHER, SMALL, key_of, record_of
from tests.autotune_cli_fakes import FLAT, NO_GPU, SLOW, TIMER, WIDE, WRONG
from tests.autotune_cli_run import OURS, ROOT, cache, json_of, rows, run, store

__all__ = ["cache", "store"]  # fixtures

TIMED = [*OURS, "--timer", TIMER]


def records(store):
    store.refresh()
    return {entry.key: entry.record for entry in Store(store.directory).entries()}


def test_tune_finds_the_fastest_that_is_right(store):
    result = run("tune", "--suite", *TIMED)
    found = records(store)
    assert set(found) == {key_of(8, 64), key_of(8, 128)}
    small, large = found[key_of(8, 64)], found[key_of(8, 128)]
    assert (small.best.candidate(), small.best_us, small.speedup) == (SMALL, 10.0, 2.0)
    assert (large.best.candidate(), large.best_us, large.speedup) == (LARGE, 8.0, 2.5)
    failed = {f.candidate.candidate(): f.kind.value for f in small.failures}
    assert failed == {WRONG: "wrong", WIDE: "resources"}
    assert small.timing == "lab" and small.environment == {"driver": "1"}
    table = rows(result.stdout)
    assert [row[0] for row in table] == [key_of(8, c).digest[:12] for c in (64, 128)]
    assert " 2.00x " in result.stdout and " 2.50x " in result.stdout
    lines = result.stderr.splitlines()
    assert len(lines) == 2 and lines[0].startswith("[1/2] ")
    assert "10 us, 2.00x over the default, " in lines[0]
    assert len(store.trials(key_of(8, 64))) == 4
    said = json_of("explain", key_of(8, 64).digest, *OURS)[0]["trials"]
    assert {t["candidate"]["variant"]: t["us"] for t in said if t["us"]} == {
        "direct": [20.0],
        "gemm": [10.0],
    }
    lines = run("explain", key_of(8, 128).digest, "--top", "1", *OURS).stdout.splitlines()
    assert lines[-4] == "its last search timed 3 candidates and saw 2 fail"
    assert lines[-2].startswith("1 ") and lines[-2].endswith("best")
    assert lines[-1].startswith("3 ") and lines[-1].endswith("default")


def test_tune_keeps_to_its_trials_and_says_so_in_json(store):
    said = json_of("tune", "--shapes", "-", "--trials", "7", "--strategy", "random", *TIMED,
                   input="C=64\n")  # fmt: skip
    assert len(said) == 1 and 0 < said[0]["timed"] <= 7 and said[0]["error"] is None
    assert said[0]["found"]["digest"] == key_of(8, 64).digest


def test_sources_of_problems(store, tmp_path):
    file = tmp_path / "shapes"
    file.write_text('# mine\n{"C": 64, "N": 2}\n\nC=64 N=3\nC=64 N=2\n')

    def listed(*args, rc=0):
        return [p["digest"] for p in json_of("tune", "--dry-run", *args, *OURS, rc=rc)]

    assert listed("--shapes", str(file)) == [key_of(n, 64).digest for n in (2, 3)]
    file.write_text("C=64\nN=3\n")
    assert f"{file}, line 2: C: " in run("tune", "--shapes", str(file), *OURS, rc=2).stderr
    file.write_text("[1]\n")
    assert "line 1: " in run("tune", "--shapes", str(file), *OURS, rc=2).stderr
    model = ["--model", "tests.autotune_cli_fakes:build_model", "--input", "4x96x7x7"]
    wanted = key_of(4, 96, dtype="float16", model="made")
    assert listed(*model, "--input-dtype", "float16") == [wanted.digest]
    assert listed(*model, "--dtype", "float16") == []
    assert listed("--suite", "--target", "sm_80") == [key_of(8, c, A100).digest for c in (64, 128)]
    assert not records(store)


def test_misses_that_are_still_missing(store):
    log = MissLog.of(store.directory)
    for key in (key_of(1), key_of(2), key_of(3), key_of(4, gpu=A100)):
        log.add(key)
    store.put(record_of(key_of(2)))
    store.put(record_of(key_of(3), build=OLD))
    result = run("tune", "--misses", "--dry-run", *OURS)
    digests = {row[0] for row in rows(result.stdout)}
    assert digests == {key_of(n).digest[:12] for n in (1, 3)}
    assert "1 misses are of other GPUs" in result.stderr
    assert "1 misses have a record by now" in result.stderr


def test_a_record_of_another_gpu_names_the_problem(store):
    store.put(record_of(key_of(gpu=A100)))
    result = run("tune", key_of(gpu=A100).digest[:8], "--dry-run", *OURS)
    assert rows(result.stdout)[0][0] == key_of(gpu=H200).digest[:12]
    assert "taken for NVIDIA H200" in result.stderr


def test_a_machine_without_a_gpu_is_told_what_it_can_do(store, monkeypatch):
    monkeypatch.setenv(NO_GPU, "1")
    error = run("tune", "--suite", *TIMED, rc=1).stderr
    assert "expected one, got none" in error and "precompile --target" in error
    assert len(json_of("tune", "--suite", "--dry-run", "--target", "sm_90", *OURS)) == 2
    run("tune", "--suite", "--target", "sm_90", *TIMED, rc=1)
    monkeypatch.delenv(NO_GPU)
    error = run("tune", "--suite", "--target", "sm_80", *TIMED, rc=1).stderr
    assert "expected sm_90" in error and "got sm_80" in error


def test_a_problem_that_cannot_be_tuned_leaves_the_others_alone(store):
    store.put(record_of(key_of(op="pool")))
    store.put(record_of(key_of(8, 64), OTHER))
    digests = [key_of(op="pool").digest, key_of(8, 64).digest]
    result = run("tune", *digests, *TIMED, rc=1)
    assert "failed: op: expected conv, got pool" in result.stdout
    assert records(store)[key_of(8, 64)].best.candidate() == SMALL


def test_a_record_that_cannot_be_kept_is_a_failure(tmp_path, cache):
    (tmp_path / "file").write_text("")
    place = ["--cache-dir", str(tmp_path / "file")]
    result = run("tune", "--shapes", "-", *place, *TIMED, rc=1, input="C=64")
    assert "cannot be written" in result.stdout and "cannot be written" in result.stderr


def test_one_record_that_cannot_be_kept_says_nothing_of_the_next(store, monkeypatch):
    replace = files.replace

    def refuse(path, data):
        if path.name.startswith(key_of(8, 64).digest):
            raise OSError(28, "No space left on device")
        replace(path, data)

    monkeypatch.setattr("autotune.files.replace", refuse)
    said = json_of("tune", "--suite", *TIMED, rc=1)
    assert ["No space left" in (each["error"] or "") for each in said] == [True, False]
    assert list(records(store)) == [key_of(8, 128)]


# Tests that a shell runs in the background are deaf to Ctrl-C, and so would be their children.
HEARING = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from autotune.cli import main
main()
"""


def program(*args, **more):
    return subprocess.Popen(
        [sys.executable, "-c", HEARING, *args], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
    )  # fmt: skip


def test_ctrl_c_keeps_what_was_found(store, tmp_path):
    slow = [*OURS, "--timer", SLOW, "--strategy", "exhaustive"]
    log = tmp_path / "log"
    log.write_text("")
    running = program("tune", "--suite", *slow, env=os.environ | {"AUTOTUNE_LAB_LOG": str(log)})
    # Then the default and another have each a sample that counts, and many are to come.
    while running.poll() is None and len(log.read_text()) < 8:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 130
    kept = records(store)
    assert len(kept) >= 1 and "Traceback" not in err
    assert f"interrupted: kept {len(kept)} of 2 problems" in err
    assert out.count("\n") == 1 + len(kept)


def test_ctrl_c_before_anything_was_found(store):
    running = program("tune", "--suite", *OURS, "--timer", SLOW)
    time.sleep(0.02)
    while running.poll() is None and not _workers(running.pid):
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130 and not records(store)
    assert "interrupted: nothing was kept" in err and "Traceback" not in err


def _workers(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


def test_half_a_search_does_not_replace_a_better_record(store, monkeypatch):
    before = record_of(key_of(8, 64), SMALL, best_us=5.0, default_us=50.0)
    store.put(before)
    monkeypatch.setattr("autotune.tuner.search", _interrupted)
    result = run("tune", key_of(8, 64).digest, *TIMED, rc=130)
    assert records(store)[key_of(8, 64)].speedup == 10.0
    assert "interrupted: nothing was kept" in result.stderr
    store.remove(key_of(8, 64))
    store.put(record_of(key_of(8, 64), OTHER, build=OLD))
    result = run("tune", key_of(8, 64).digest, *TIMED, rc=130)
    assert records(store)[key_of(8, 64)].build.build() == NOW
    assert "interrupted: kept 1 of 1 problems" in result.stderr


def _interrupted(task, bench, budget, **more):
    from autotune.search import Trials

    trials = Trials(task, bench, budget)
    trials.measure(trials.compile([OTHER, SMALL]), 5)
    return _outcome(trials, {}, 0, "interrupted")


def test_precompile(store, monkeypatch):
    monkeypatch.setenv(NO_GPU, "1")
    there = ["--suite", "--target", "sm_80", *OURS]

    def compiled(*args, rc=0):
        found = json_of("precompile", *there, *args, rc=rc)["compiled"]
        return [
            (c["role"], c["candidate"]["constants"].get("BLOCK_M"), c["failure"]) for c in found
        ]

    assert compiled() == [("default", None, None)] * 2
    store.put(record_of(key_of(8, 128, A100), LARGE))
    assert compiled("--only", "best") == [("best", 128, None)]
    assert compiled() == [("default", None, None)] * 2 + [("best", 128, None)]
    whole = compiled("--all")
    assert len(whole) == 9 and ("best", 128, None) in whole
    assert [role for role, block, why in whole if block == 256 and why] == ["", ""]
    result = run("precompile", *there)
    row = rows(result.stdout)[0]
    assert [cell.strip() for cell in row if cell.strip()][-3:] == ["64", "4096", "0"]
    assert "compiled 3 candidates, 0 of them unfit" in result.stderr
    # What a launch would use must fit.
    store.put(record_of(key_of(8, 128, A100), WIDE))
    assert ("best", 256, "shared memory: 300000 bytes, the device has 232448") in compiled(rc=1)


def test_verify_measures_again(store):
    store.put(record_of(key_of(8, 64), SMALL))
    store.put(record_of(key_of(8, 64, A100), SMALL))
    said = json_of("verify", "--measure", *TIMED)
    assert said == {"records": 2, "measured": 1, "findings": []}
    said = json_of("verify", "--measure", *OURS, "--timer", FLAT, rc=1)
    assert [f["kind"] for f in said["findings"]] == ["slower"]
    assert said["findings"][0]["detail"] == "1.00x now, 2.00x recorded"
    store.put(record_of(key_of(8, 64), WRONG))
    said = json_of("verify", "--measure", *TIMED, rc=1)
    assert [f["kind"] for f in said["findings"]] == ["fails"]
    assert "element 0 is 1.0" in said["findings"][0]["detail"]


def test_plot(store, tmp_path, monkeypatch):
    run("tune", "--suite", *TIMED)
    out = tmp_path / "pictures"
    digest = key_of(8, 64).digest
    plan = json_of("plot", digest, "--out", str(out), "--dry-run", *OURS)["files"]
    assert not out.exists()
    drawn = run("plot", digest, "--out", str(out), *OURS).stdout.splitlines()
    names = [f"configs-{digest[:12]}.png", "speedups.png", "roofline.png"]
    assert drawn == plan == [str(out / name) for name in names]
    for name in names:
        data = (out / name).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 5000
    monkeypatch.delattr("tests.autotune_cli_fakes.Lab.work")
    result = run("plot", "--out", str(out), *OURS)
    assert result.stdout.splitlines() == [str(out / "speedups.png")]
    assert "lab does not tell the work of a problem" in result.stderr
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "install it" in run("plot", "--out", str(out), *OURS, rc=1).stderr


def test_nothing_to_draw(store):
    assert "no measured records" in run("plot", rc=1).stderr


def test_a_terminal_gets_a_bar_and_a_drawn_table(store):
    main, other = pty.openpty()
    environ = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    running = subprocess.Popen(
        [sys.executable, "-m", "autotune", "tune", "--suite", *TIMED],
        cwd=ROOT, stdout=other, stderr=other, env=environ,
    )  # fmt: skip
    os.close(other)
    seen = b""
    try:
        while more := os.read(main, 65536):
            seen += more
    except OSError:  # the other end is closed
        pass
    os.close(main)
    assert running.wait() == 0
    text = seen.decode()
    assert "all problems" in text and "2/2" in text and "\x1b[" in text
    assert "─────" in text and "2.50x" in text
    # Narrow, and still in one piece.
    assert key_of(8, 128).digest[:12] in text.rpartition("─────")[2]


@pytest.mark.parametrize(
    ("budget", "share"),
    [
        (Budget(10, None), 0.5),
        (Budget(10, 8), 0.75),
        (Budget(10, 24), 0.5),
        (Budget(), 0.0),
    ],
)
def test_progress(budget, share):
    from autotune.cli.progress import said
    from autotune.cli.progress import share as shared

    progress = Progress("race", 6, 4, 5.0, budget, SMALL, 12.345, 1)
    assert shared(progress) == share
    assert said(progress) == (
        "race: 4 compiled, 6 timed, 1 failed; 12.35 us, gemm BLOCK_M=64 BLOCK_N=64 4w 2s"
    )
