"""The command line of autotune: what writes files and deletes them."""

import json
import os
import pty
import subprocess
import sys

from autotune.exchange import export_file
from autotune.misses import MissLog
from autotune.parts import CandidateRecord
from autotune.trials import Trial
from tests.autotune_cases import LARGE, OLD, SMALL, key_of, record_of
from tests.autotune_cli_run import OURS, ROOT, cache, digits, json_of, rows, run, store, three

__all__ = ["cache", "store"]  # fixtures


def test_diff(store, tmp_path):
    keys = three(store)
    before = tmp_path / "before.jsonl"
    run("export", str(before))
    assert run("diff", str(before), str(store.directory)).stdout == ""
    assert json_of("diff", str(before), "-") == {"added": [], "removed": [], "changed": {}}
    store.remove(keys[0])
    store.put(record_of(keys[1], SMALL, best_us=3.0, default_us=6.0))
    store.put(record_of(key_of(99)))
    # What lies beside the records is no record.
    MissLog.of(store.directory).add(keys[0])
    store.put_trials(keys[1], [Trial(candidate=CandidateRecord.of(SMALL), times=(1.0,))])
    said = json_of("diff", str(before), str(store.directory), rc=1)
    assert said["added"] == [key_of(99).digest] and said["removed"] == [keys[0].digest]
    assert list(said["changed"]) == [keys[1].digest]
    assert said["changed"][keys[1].digest]["best_us"] == [4.0, 3.0]
    result = run("diff", str(before), "-", rc=1)
    assert [line[0] for line in result.stdout.splitlines()] == ["-", "+", "~", " ", " "]
    assert result.stderr == "1 added, 1 removed, 1 changed\n"
    assert run("diff", str(before), "-", "--op", "pool").stdout == ""
    assert "nowhere" in run("diff", "nowhere", "-", rc=2).stderr


def test_export_import_merge(store, tmp_path, cache):
    keys = three(store)
    out = tmp_path / "out.jsonl"
    assert json_of("export", str(out), "--dry-run")["records"] == 3 and not out.exists()
    run("export", str(out))
    assert run("export", "-").stdout.encode() == out.read_bytes()
    assert run("export", "-", "--dtype", "float32").stdout.count("\n") == 1
    run("export", "--packs", str(tmp_path / "packs"))
    names = sorted(p.name for p in (tmp_path / "packs").iterdir())
    assert names[0] == "cuda-sm_80-nvidia-a100-108.conv.jsonl" and len(names) == 3

    better, worse = tmp_path / "better.jsonl", tmp_path / "worse.jsonl"
    export_file(better, [record_of(keys[0], LARGE, best_us=1.0)])
    export_file(worse, [record_of(keys[1], SMALL, best_us=5.9, default_us=6.0)])
    with worse.open("ab") as file:
        file.write(b"nonsense\n")
    other = ["--cache-dir", str(tmp_path / "other")]
    said = json_of("import", str(out), "--op", "conv", "--dry-run", *other)
    assert sorted(said["added"]) == sorted(k.digest for k in keys[:2])
    assert not (tmp_path / "other").exists()
    assert len(json_of("import", str(out), *other)["added"]) == 3
    result = run("import", str(better), str(worse), *other, rc=1)
    assert result.stdout == f"~ {keys[0].digest[:12]}\n"
    assert "0 added, 1 replaced, 1 kept as they were, 1 refused" in result.stderr
    assert "line 2 is not used" in result.stderr

    merged, turned = tmp_path / "merged.jsonl", tmp_path / "turned.jsonl"
    run("merge", str(out), str(better), str(worse), "-o", str(merged), rc=1)
    run("merge", str(worse), str(better), str(out), "-o", str(turned), rc=1)
    assert merged.read_bytes() == turned.read_bytes()
    assert run("diff", str(merged), str(tmp_path / "other")).stdout == ""
    assert json_of("merge", str(out), "-o", str(tmp_path / "no"), "--dry-run")["records"] == 3
    assert not (tmp_path / "no").exists()


def test_merge_prefers_the_installed_kernels_if_asked(tmp_path, cache):
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    aged = type(OLD)(OLD.kernels, "3.9")
    export_file(old, [record_of(best=LARGE, best_us=1.0, build=aged)])
    export_file(new, [record_of(best=SMALL, best_us=5.0)])
    places = [str(old), str(new), "-o", "-"]
    assert json.loads(run("merge", *places).stdout)["best_us"] == 1.0
    said = run("merge", *places, "--prefer-current", *OURS).stdout
    assert json.loads(said)["best_us"] == 5.0


def test_misses(store):
    keys = three(store)
    log = MissLog.of(store.directory)
    log.add(keys[0])
    log.add(keys[2])
    MissLog.of(store.directory).add(keys[2])
    assert [(m["digest"], m["processes"]) for m in json_of("misses")] == [
        (keys[2].digest, 2),
        (keys[0].digest, 1),
    ]
    assert [row[0] for row in rows(run("misses", "--op", "conv").stdout)] == digits(keys[:1])
    run("misses", "--clear", "--dry-run")
    run("misses", "--clear", "--yes", "--op", "conv", rc=2)
    assert len(json_of("misses")) == 2
    run("misses", "--clear", "--yes")
    assert json_of("misses") == []


def test_remove(store):
    keys = three(store)
    a, b, c = (key.digest for key in keys)
    assert "--yes" in run("remove", a, rc=2).stderr
    assert json_of("remove", a, "--dry-run")["removed"] == [a]
    run("remove", rc=2)
    run("remove", a, "--op", "conv", "--yes", rc=2)
    assert len(json_of("list")) == 3
    run("remove", a[:12], a, "--yes")
    assert {e["digest"] for e in json_of("list")} == {b, c}
    run("remove", "--op", "pool", "--yes")
    assert [e["digest"] for e in json_of("list")] == [b]


def test_remove_leaves_other_layers_alone(store, tmp_path, monkeypatch):
    (tmp_path / "extra").mkdir()
    export_file(tmp_path / "extra" / "x.jsonl", [record_of()])
    monkeypatch.setenv("AUTOTUNE_EXTRA", str(tmp_path / "extra"))
    assert "read only" in run("remove", key_of().digest[:9], "--yes", rc=2).stderr
    run("clean", "--yes")
    assert json_of("export", "no", "--dry-run")["records"] == 0
    assert json_of("export", "no", "--dry-run", "--layer", "extra")["records"] == 1
    assert [e["layer"] for e in json_of("list")] == ["extra"]
    store.put(record_of(best=LARGE))
    assert [h["layer"] for h in json_of("show", key_of().digest)["hidden"]] == ["extra"]


def test_prune(store):
    keys = three(store)
    store.put_trials(keys[0], [Trial(candidate=CandidateRecord.of(SMALL), times=(1.0,))])
    entry = store.get(keys[0])
    assert entry is not None and entry.path is not None
    left = entry.path.with_name(".x.json.1.00000000.tmp")
    left.write_bytes(b"x")
    os.utime(left, (0, 0))
    assert json_of("prune", "--dry-run")["files"] == [str(left)] and left.exists()
    assert run("prune").stdout == f"{left}\n" and not left.exists()
    trials = entry.path.with_suffix(".trials.jsonl")
    assert json_of("prune", "--trials")["files"] == [str(trials)] and not trials.exists()

    store.put(record_of(keys[0], SMALL, build=OLD))
    store.put(record_of(key_of(1), created="2020-01-01T00:00:00Z"))
    store.put(record_of(key_of(2), created="1970-01-01T00:00:00Z"))
    said = json_of("prune", "--older-than", "1000", "--dry-run")
    assert list(said["records"]) == [key_of(1).digest]
    run("prune", "--older-than", "1000", rc=2)
    # Of "pool" the library knows nothing, so nobody can say whether it is stale.
    said = json_of("prune", "--stale", *OURS, "--yes", rc=1)
    assert list(said["records"]) == [keys[0].digest] and len(said["unknown"]) == 1
    assert "of kernels k1, installed are k2" in said["records"][keys[0].digest]
    assert keys[0].digest not in {e["digest"] for e in json_of("list")}
    run("prune", "--older-than", "1000", "--yes")
    assert {e["digest"] for e in json_of("list")} == {
        k.digest for k in (keys[1], keys[2], key_of(2))
    }


def test_clean(store):
    three(store)
    MissLog.of(store.directory).add(key_of())
    assert json_of("clean", "--dry-run")["records"] == 3
    run("clean", rc=2)
    assert len(json_of("list")) == 3
    assert _answered("n") == 1
    assert len(json_of("list")) == 3
    assert _answered("y") == 0
    assert json_of("list") == [] and json_of("misses") == []
    store.put(record_of())
    run("clean", "--yes")
    assert json_of("list") == []


def _answered(answer):
    """The exit code of `clean` on a terminal where someone types."""
    main, other = pty.openpty()
    asked = subprocess.Popen(
        [sys.executable, "-m", "autotune", "clean"], cwd=ROOT, stdin=other, stderr=subprocess.PIPE
    )
    os.write(main, f"{answer}\n".encode())
    _, said = asked.communicate(timeout=60)
    os.close(main)
    os.close(other)
    assert b"Delete all 3 records in " in said
    return asked.returncode
