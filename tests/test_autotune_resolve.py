"""The policies, the choice that each of them makes, and the log of what had no record."""

import json
import os
import subprocess
import sys
import threading

import pytest

import autotune
from autotune import Policy, policies, set_policy
from autotune.lookup import NoRecord
from autotune.misses import LIMIT_BYTES, MissLog
from autotune.resolve import Query, Resolver
from autotune.store import Store

from .autotune_cases import H100, LARGE, NOW, OLD, OTHER, key_of, record_of

KEY = key_of()


@pytest.fixture(autouse=True)
def _own_policy(monkeypatch):
    """Each test starts as a new process would."""
    monkeypatch.delenv(policies.VARIABLE, raising=False)
    before = policies._process[0]
    set_policy(None)
    yield
    policies._process[0] = before


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache", environ={})


def resolver(store, reason=None):
    return Resolver("nobody:NOTHING", lambda: store, lambda: reason)


def query(key=KEY, legal=lambda candidate: True):
    return Query(key, OTHER, legal, lambda candidate: NOW)


def chosen(store, name, key=KEY, **more):
    with autotune.policy(name):
        found = resolver(store).choose(query(key, **more))
    return found.candidate, found.source


def test_the_innermost_policy_counts():
    assert policies.current() == "heuristic"
    set_policy("cached")
    with autotune.policy(Policy.OFF):
        assert policies.current() == "off"
        with autotune.policy("strict"):
            assert policies.current() == "strict"
        assert policies.current() == "off"
    assert policies.current() == "cached"

    @autotune.policy("tune")
    def inside():
        return policies.current()

    assert [inside(), inside(), policies.current()] == ["tune", "tune", "cached"]
    set_policy(None)
    assert policies.current() == "heuristic"


def test_a_policy_ends_with_an_error():
    with pytest.raises(KeyError), autotune.policy("off"):
        raise KeyError
    assert policies.current() == "heuristic"


def test_the_environments_policy(monkeypatch):
    monkeypatch.setenv(policies.VARIABLE, "strict")
    set_policy(None)
    assert policies.current() == "strict"
    monkeypatch.setenv(policies.VARIABLE, "quick")
    set_policy(None)
    with pytest.raises(
        ValueError, match=r"AUTOTUNE_POLICY: expected one of off, cached, .* 'quick'"
    ):
        policies.current()


@pytest.mark.parametrize("set_it", [set_policy, lambda name: autotune.policy(name).__enter__()])
def test_an_unknown_policy_is_refused(set_it):
    with pytest.raises(ValueError, match=r"policy: expected one of off, .*, got 'fast'"):
        set_it("fast")


def test_a_thread_has_the_processs_policy_and_its_own():
    set_policy("cached")
    seen = []
    with autotune.policy("off"):
        thread = threading.Thread(target=lambda: seen.append(policies.current()))
        thread.start()
        thread.join()
    assert seen == ["cached"]


@pytest.mark.parametrize("name", [p.value for p in Policy if p is not Policy.OFF])
def test_every_policy_takes_an_exact_record(store, name):
    store.put(record_of(best=LARGE))
    assert chosen(store, name) == (LARGE, "exact")


def test_off_reads_nothing(store):
    store.put(record_of(best=LARGE))
    assert chosen(store, "off") == (OTHER, "analytic")


TIERS = {
    "stale": (record_of(best=LARGE, build=OLD), ("cached", "heuristic", "tune")),
    "nearest": (record_of(key_of(n=16), best=LARGE), ("heuristic", "tune")),
    "sibling": (record_of(key_of(gpu=H100), best=LARGE), ("heuristic", "tune")),
}


@pytest.mark.parametrize("name", ["cached", "heuristic", "tune"])
@pytest.mark.parametrize("tier", TIERS)
def test_what_each_policy_takes_instead(store, tier, name):
    record, takers = TIERS[tier]
    store.put(record)
    with autotune.policy(name):
        found = resolver(store, "there is no GPU").choose(query())
    expected = (LARGE, tier) if name in takers else (OTHER, "analytic")
    assert (found.candidate, found.source) == expected
    assert ("not tuned now: there is no GPU" in found.note) == (name == "tune")


@pytest.mark.parametrize("tier", TIERS)
def test_strict_takes_nothing_less(store, tier):
    store.put(TIERS[tier][0])
    with pytest.raises(NoRecord) as error:
        chosen(store, "strict")
    assert {"stale": "kernels", "nearest": "N", "sibling": "H100"}[tier] in str(error.value)


def test_an_illegal_record_is_passed_over(store):
    store.put(record_of(best=LARGE))
    assert chosen(store, "heuristic", legal=lambda c: c != LARGE) == (OTHER, "analytic")


def test_tune_tunes_once(store, monkeypatch):
    tuned = []

    def tune(key, tuning):
        tuned.append((key, tuning.provider))
        tuning.store.put(record_of(key, best=LARGE))

    monkeypatch.setattr("autotune.resolve.tune", tune)
    one = resolver(store)
    with autotune.policy("tune"):
        threads = [threading.Thread(target=_within, args=("tune", one.choose)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.choose(query()).candidate == LARGE
    assert tuned == [(KEY, "nobody:NOTHING")]


def _within(name, choose):
    with autotune.policy(name):
        assert choose(query()).candidate == LARGE


@pytest.mark.parametrize("error", [ValueError("no such problem"), RuntimeError("no worker")])
def test_a_failed_tuning_leaves_the_call_working(store, monkeypatch, error):
    def tune(key, tuning):
        raise error

    monkeypatch.setattr("autotune.resolve.tune", tune)
    with autotune.policy("tune"):
        found = resolver(store).choose(query())
    assert found.candidate == OTHER and f"tuning failed: {error}" in found.note


def test_misses_are_noted_and_hits_are_not(store):
    store.put(record_of(key_of(n=1), best=LARGE))
    one = resolver(store)
    for n in (1, 2, 3, 2):
        one.choose(query(key_of(n=n)))
    found = [dict(key.sizes)["N"] for key, _ in MissLog.of(store.directory).problems()]
    assert sorted(found) == [2, 3]


# -- the log ---------------------------------------------------------------------------------


def test_a_log_keeps_keys_and_counts_processes(tmp_path):
    for _process in range(2):
        log = MissLog.of(tmp_path)
        log.add(KEY)
        log.add(KEY)
    MissLog.of(tmp_path).add(key_of(n=3))
    found = list(MissLog.of(tmp_path).problems())
    assert found == [(KEY, 2), (key_of(n=3), 1)]
    assert found[0][0].digest == KEY.digest


def test_a_log_is_bounded(tmp_path):
    log = MissLog.of(tmp_path)
    log.path.write_bytes(b"x" * (LIMIT_BYTES + 1))
    log.add(KEY)
    assert log.path.stat().st_size < 1000
    older = [p for p in tmp_path.iterdir() if p != log.path]
    assert len(older) == 1 and older[0].stat().st_size == LIMIT_BYTES + 1
    assert [key for key, _ in log.problems()] == [KEY]
    log.clear()
    assert list(tmp_path.iterdir()) == []


def test_a_process_stops_noting(tmp_path, monkeypatch):
    monkeypatch.setattr("autotune.misses.LIMIT_KEYS", 3)
    log = MissLog.of(tmp_path)
    for n in range(1, 9):
        log.add(key_of(n=n))
    assert len(log.path.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "junk", [b"\xff\xfe", b"{", b"[1]", b'{"provider": 1}', b"[" * 9999, b"{}"]
)
def test_junk_in_the_log_is_passed_over(tmp_path, junk):
    log = MissLog.of(tmp_path)
    log.add(KEY)
    with open(log.path, "ab") as file:
        file.write(junk + b"\n")
    other = MissLog.of(tmp_path)
    other.add(key_of(n=3))
    assert {key for key, _ in other.problems()} == {KEY, key_of(n=3)}


def test_a_log_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    log = MissLog.of(tmp_path / "file" / "below")
    log.add(KEY)
    assert list(log.problems()) == []


def test_processes_do_not_mix_lines(tmp_path):
    code = (
        "import sys; from pathlib import Path; from autotune.misses import MissLog\n"
        "from tests.autotune_cases import key_of\n"
        "log = MissLog.of(Path(sys.argv[1]))\n"
        "for n in range(1, 101): log.add(key_of(n=n, who=sys.argv[2] * 50))\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path, name], env=os.environ | {"PYTHONPATH": "."}
        )
        for name in "abcd"
    ]
    assert [process.wait(30) for process in running] == [0] * 4
    log = MissLog.of(tmp_path)
    assert len(log.path.read_text().splitlines()) == 400
    assert all(json.loads(line)["provider"] == "lab" for line in log.path.read_text().splitlines())
    assert len(list(log.problems())) == 400
