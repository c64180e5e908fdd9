"""The command line of autotune: explain and verify."""

import json
from importlib.metadata import EntryPoint

import pytest

from autotune import providers
from autotune.exchange import export_packs
from autotune.parts import CandidateRecord
from tests.autotune_cases import H100, LARGE, OLD, SMALL, key_of, record_of
from tests.autotune_cli_fakes import PROVIDER
from tests.autotune_cli_run import OURS, cache, json_of, rows, run, store

__all__ = ["cache", "store"]  # fixtures


def test_verify_finds_what_no_longer_holds(store):
    store.put(record_of(key_of(1, 64), SMALL))
    assert json_of("verify", *OURS) == {"records": 1, "measured": 0, "findings": []}
    store.put(record_of(key_of(2, 64), LARGE))
    store.put(record_of(key_of(3, 64), SMALL, build=OLD))
    store.put(record_of(key_of(4, 64), SMALL, build=None))
    store.put(record_of(key_of(5, 64, op="pool"), SMALL))
    found = json_of("verify", *OURS, rc=1)["findings"]
    assert {f["digest"]: f["kind"] for f in found} == {
        key_of(2, 64).digest: "illegal",
        key_of(3, 64).digest: "stale",
        key_of(4, 64).digest: "stale",
        key_of(5, 64, op="pool").digest: "unknown",
    }
    table = rows(run("verify", *OURS, rc=1).stdout)
    assert [row[0] for row in table].count("stale") == 2
    assert "installed: none" in run("verify", rc=1).stdout


def test_explain_tiers_and_reasons(store, monkeypatch):
    store.put(record_of(key_of(8, 128), LARGE, ties=(CandidateRecord.of(SMALL),)))
    store.put(record_of(key_of(8, 64), SMALL))
    store.put(record_of(key_of(8, 64, H100), SMALL, build=OLD))
    exact = json_of("explain", key_of(8, 128).digest[:10], *OURS)[0]
    assert exact["tier"] == "exact" and exact["config"]["constants"]["BLOCK_M"] == 128
    assert exact["considered"][0]["near_ties"][0]["constants"]["BLOCK_M"] == 64
    near = json_of("explain", "--shape", '{"N": 8, "C": 96}', *OURS)[0]
    assert near["tier"] == "nearest" and near["config"]["constants"]["BLOCK_M"] == 64
    reasons = [c["passed_over"] for c in near["considered"]]
    assert "is not legal" in reasons[0] and reasons[1] is None
    assert reasons[2] == "comes after the one that is used"
    assert near["considered"][2]["differs"]["kernels"] == ["k2", "k1"]
    far = json_of("explain", "--shape", "N=4096 C=64", *OURS)[0]
    assert far["config"]["variant"] == "direct" and far["tier"] is None
    assert "doublings" in far["considered"][0]["passed_over"]
    # A key as --json prints it, for the same answer.
    again = json_of("explain", json.dumps(near["key"]), *OURS)[0]
    assert again == near
    text = run("explain", "--shape", "C=96", *OURS).stdout
    assert "tier     nearest" in text and "no: used" in text and "C 128" in text


@pytest.mark.parametrize(
    ("policy", "exact", "near"),
    [
        ("off", "direct", "direct"),
        ("cached", "gemm", "direct"),
        ("heuristic", "gemm", "gemm"),
        ("strict", "gemm", None),
    ],
)
def test_explain_follows_the_policy(store, monkeypatch, policy, exact, near):
    store.put(record_of(key_of(8, 64), SMALL))
    monkeypatch.setenv("AUTOTUNE_POLICY", policy)
    for shape, variant in (("C=64", exact), ("C=65", near)):
        said = json_of("explain", "--shape", shape, *OURS)[0]
        assert said["policy"] == policy
        assert (said["config"] and said["config"]["variant"]) == variant


def announce(monkeypatch, **named):
    points = [EntryPoint(name, value, providers.GROUP) for name, value in named.items()]
    monkeypatch.setattr("autotune.providers.entry_points", lambda group: points)


def test_an_installed_library_is_found_by_its_name(store, monkeypatch):
    store.put(record_of(key_of(1, 64), SMALL))
    announce(monkeypatch, lab=PROVIDER)
    assert json_of("verify")["findings"] == []
    assert json_of("explain", "--shape", "C=64", "--provider", "lab")[0]["tier"] == "nearest"
    assert "(lab)" in run("list", "--provider", "lap", rc=2).stderr
    announce(monkeypatch, lab=PROVIDER, other="absent:X")
    assert json_of("verify")["findings"] == []
    assert "got 2 installed (lab, other)" in run("tune", "--suite", rc=2).stderr


def test_shipped_records_are_read_without_importing_the_library(tmp_path, cache, monkeypatch):
    (tmp_path / "aproduct" / "tuned").mkdir(parents=True)
    (tmp_path / "aproduct" / "__init__.py").write_text("raise SystemExit('imported')")
    export_packs(tmp_path / "aproduct" / "tuned", [record_of(key_of(1, 64), SMALL)])
    monkeypatch.syspath_prepend(str(tmp_path))
    announce(monkeypatch, product="aproduct.provider:PROVIDER")
    assert [e["layer"] for e in json_of("list")] == ["shipped"]
    assert [e["digest"] for e in json_of("list")] == [key_of(1, 64).digest]
    assert providers.shipped("no_such_package:X") is None and providers.shipped(PROVIDER) is None
