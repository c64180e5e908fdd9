"""Two real ranks tune together: nothing twice, nothing lost, and nobody waits for ever."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from autotune.distributed import agreement, tune_together
from autotune.guard import Guard
from autotune.store import Store
from autotune.testing.study import surface

from .autotune_cases import A100, H100, H200, LARGE, OTHER, SMALL, key_of, record_of
from .autotune_ranks import KEYS, SCENES, SEEDS, dying

ROOT = Path(__file__).parent.parent
ALL = {key.digest for key in KEYS}
# Above what all scenes take on a busy machine, below what waiting for gloo's timeouts would.
DEADLINE = 60


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Every scene as both ranks saw it: `played[name][rank]`."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.autotune_ranks", str(rank), str(folder)],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=DEADLINE)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert [rank.returncode for rank in ranks] == [0, 7], said
    names = [scene.__name__ for scene in SCENES]
    files = {name: [folder / f"{name}.{rank}.json" for rank in range(2)] for name in names}
    return {
        name: [SimpleNamespace(**json.loads(path.read_text())) for path in pair if path.exists()]
        for name, pair in files.items()
    }


def shares(pair):
    """What both tuned, if nothing was tuned twice."""
    both = pair[0].tuned + pair[1].tuned
    assert len(both) == len(set(both))
    return set(both)


def test_each_problem_is_tuned_once_and_every_rank_has_all(played):
    first, second = pair = played["different_lists"]
    assert shares(pair) == ALL
    assert len(first.tuned) == len(second.tuned) == 4
    expected = {n: str(SMALL) for n in first.tuned} | {n: str(LARGE) for n in second.tuned}
    for seen in pair:
        assert seen.records == seen.store == expected
        assert not seen.missed and not seen.stopped and not seen.raised
        assert seen.differences == 0
    assert first.fingerprint == second.fingerprint


def test_one_folder_for_both(played):
    pair = played["shared_folder"]
    assert shares(pair) == ALL
    for seen in pair:
        assert set(seen.store) == ALL and seen.store == seen.records


def test_who_has_the_gpu_tunes(played):
    first, second = pair = played["models"]
    assert set(first.tuned) == {key_of(n=n, gpu=H200).digest for n in (1, 2)}
    assert set(second.tuned) == {key_of(n=n, gpu=H100).digest for n in (1, 2)}
    for seen in pair:
        assert set(seen.store) == {*first.tuned, *second.tuned}
        reason = "no rank has this device: NVIDIA A100 (sm_80)"
        assert seen.missed == {key_of(n=n, gpu=A100).digest: [None, reason] for n in (1, 2)}


def test_an_exception_costs_its_problem_alone(played):
    first, second = pair = played["raising"]
    assert shares(pair) == ALL
    failed, foreign, *fine = second.tuned
    for seen in pair:
        assert seen.raised == "" and seen.stopped == {}
        assert set(seen.store) == {*first.tuned, *fine}
        assert set(seen.missed) == {failed, foreign}
        rank, reason = seen.missed[failed]
        assert rank == 1 and reason.startswith("RuntimeError: no GPU ?xxx") and len(reason) < 600
        assert "got one of conv C=64 N=99" in seen.missed[foreign][1]


def test_ctrl_c_ends_one_rank_after_the_others_know(played):
    first, second = played["interrupted"]
    assert second.raised == "KeyboardInterrupt" and first.raised == ""
    assert first.stopped == {"1": "KeyboardInterrupt"}
    assert len(first.tuned) == len(second.tuned) == 2
    # The problem that was interrupted has what was found until then.
    assert first.store == second.store == first.records
    assert set(first.store) == {*first.tuned, *second.tuned}
    assert first.store[second.tuned[1]] == str(LARGE)
    unreached = ALL - set(first.store)
    assert first.missed[second.tuned[1]] == [1, "KeyboardInterrupt"]
    assert set(first.missed) == unreached | {second.tuned[1]}
    reason = "not reached: rank 1 stopped (KeyboardInterrupt)"
    assert {first.missed[name][1] for name in unreached} == {reason}
    assert sorted(first.missed[name][0] for name in unreached) == [0, 0, 1, 1]
    assert max(first.seconds, second.seconds) < 10


def test_ctrl_c_in_the_last_round(played):
    first, second = played["interrupted_in_the_last_round"]
    assert second.raised == "KeyboardInterrupt" and not second.tuned
    assert first.stopped == {"1": "KeyboardInterrupt"}
    assert [missed for missed in first.missed.values()] == [[1, "KeyboardInterrupt"]]
    assert set(first.store) == set(second.store) == set(first.tuned)


def test_ctrl_c_while_waiting(played):
    first, second = played["interrupted_while_waiting"]
    assert first.raised == "KeyboardInterrupt" and second.raised == ""
    assert second.stopped == {"0": "KeyboardInterrupt"}
    assert len(first.tuned) == 1 and len(second.tuned) in (1, 2)
    assert first.store == second.store and len(first.store) == len(first.tuned + second.tuned)
    assert first.restored and second.restored


def test_records_from_before_take_part(played):
    fine, stale, failing = (key.digest for key in KEYS[:3])
    for seen in played["known_before"]:
        # As fast kernels as ever; kernels of before; nothing new.
        expected = {fine: str(OTHER), stale: str(SMALL), failing: str(OTHER)}
        assert seen.records == seen.store == expected
        assert {name: reason for name, (_, reason) in seen.missed.items()} == {
            failing: "RuntimeError"
        }


def test_a_rank_that_cannot_begin_stops_all(played):
    first, second = played["impossible_key"]
    assert second.raised == "ValueError" and first.raised == ""
    assert list(first.stopped) == ["1"] and "expected no object" in first.stopped["1"]
    assert not first.tuned and set(first.missed) == ALL


def test_a_rank_that_cannot_keep_stops_all(played):
    first, second = played["not_written"]
    assert second.raised == "ZeroDivisionError" and first.raised == ""
    assert first.stopped == {"1": "ZeroDivisionError: division by zero"}
    assert len(first.tuned) == 2 and len(second.tuned) == 1
    assert set(first.store) == {*first.tuned, *second.tuned}


def test_ranks_that_disagree_are_named(played):
    first, second = played["differing"]
    _, other, lacking = KEYS[:3]
    expected = {
        other.digest: f"{other}: rank 0: {SMALL}; rank 1: {LARGE}",
        lacking.digest: f"{lacking}: rank 0: {SMALL}; rank 1: no record",
    }
    assert first.found == second.found == expected
    assert first.same == second.same == 0
    assert first.overridden == second.overridden == 0
    assert first.fingerprint != second.fingerprint
    assert first.fingerprint == first.turned


def test_searches(played):
    first, second = pair = played["searching"]
    keys = {surface(seed).key.digest for seed in SEEDS}
    assert shares(pair) == set(first.store) == keys and len(keys) == 3
    assert first.store == second.store == first.records
    assert first.differences == second.differences == 0


def test_a_group_of_one_and_one_outside(played):
    first, second = played["group_of_one"]
    assert set(first.tuned) == {key.digest for key in KEYS[:2]} == set(first.store)
    assert second.raised == "ValueError" and "group: expected one that" in second.detail


def test_a_rank_that_dies_is_noticed(played):
    (first,) = played[dying.__name__]
    assert first.raised in ("RuntimeError", "DistBackendError")
    assert first.seconds < 10
    # The first round's records are kept.
    assert len(first.tuned) == 2 and len(first.store) == 2


def test_alone(tmp_path):
    store = Store(tmp_path, environ={})

    def tune_one(key):
        if key == KEYS[0]:
            raise OSError("gone")
        return record_of(key)

    done = tune_together(iter([*KEYS, KEYS[2]]), tune_one, gpu=H200, store=store)
    assert done.missed == {KEYS[0].digest: (0, "OSError: gone")}
    assert set(done.records) == ALL - {KEYS[0].digest}
    assert all(store.get(key) is not None for key in KEYS[1:])
    assert agreement(KEYS, store) == ()
    assert not tune_together([], tune_one, gpu=H200, store=store).records


def test_alone_and_interrupted(tmp_path):
    store, tuned = Store(tmp_path, environ={}), []

    def tune_one(key):
        tuned.append(key)
        if len(tuned) == 2:
            signal.raise_signal(signal.SIGINT)
        return record_of(key)

    with pytest.raises(KeyboardInterrupt):
        tune_together(KEYS, tune_one, gpu=H200, store=store)
    assert len(tuned) == 2 and [e.key for e in store.entries()] == tuned[:1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_alone_without_torch():
    code = (
        "import sys; from autotune.distributed import agreement; from autotune.store import Store;"
        "print(agreement([], Store(environ={})), 'torch' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert said.stdout == "() False\n", said.stderr


def test_a_guard_keeps_the_first_error():
    # Of any kind: Ctrl-C would end the tests.
    with pytest.raises(BaseException) as caught, Guard() as guard:
        for text in ("first", "second"):
            with guard.holding():
                raise OSError(text)
        signal.raise_signal(signal.SIGINT)
    assert isinstance(caught.value, OSError) and str(caught.value) == "first"


def test_a_guard_lets_pass_what_it_does_not_hold():
    with pytest.raises(ValueError, match="now"), Guard() as guard:
        with guard.holding():
            raise OSError("before")
        raise ValueError("now")


def test_a_guard_raises_an_earlier_ctrl_c_at_once():
    reached = []
    with pytest.raises(KeyboardInterrupt), Guard() as guard:
        signal.raise_signal(signal.SIGINT)
        with guard.holding(), guard.interruptible():
            reached.append(1)
        reached.append(2)
    assert reached == [2]


def test_a_guard_leaves_signals_alone_where_it_must():
    # Ignored, as in a background process, it stays ignored.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        found = []
        with Guard() as guard:
            found.append(signal.getsignal(signal.SIGINT))
            with guard.holding(), guard.interruptible():
                found.append(signal.getsignal(signal.SIGINT))
        assert found == [signal.SIG_IGN] * 2
    finally:
        signal.signal(signal.SIGINT, before)
    caught = []

    def elsewhere():
        with Guard() as guard, guard.holding(), guard.interruptible():
            caught.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert caught == [before]
