"""The command line of autotune: what is printed and deleted, exit codes, hostile files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from autotune import Gpu
from autotune.cli import cli
from autotune.cli.listing import COLUMNS
from autotune.exchange import export_file
from autotune.misses import miss_log
from autotune.parts import CandidateRecord
from autotune.store import Store
from autotune.trials import Trial
from tests.autotune_cases import A100, H100, LARGE, OLD, OTHER, SMALL, key_of, record_of
from tests.autotune_cli_fakes import PROVIDER

ROOT = Path(__file__).parent.parent
OURS = ["--provider", PROVIDER]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("AUTOTUNE_OVERRIDE", "AUTOTUNE_EXTRA", "AUTOTUNE_POLICY"):
        monkeypatch.delenv(name, raising=False)
    # No library that happens to be installed.
    monkeypatch.setattr("autotune.providers.entry_points", lambda group: ())
    monkeypatch.setattr("autotune.policy._process", [None])
    return tmp_path / "cache"


@pytest.fixture
def store(cache):
    return Store(cache)


def run(*args, rc=0, **more):
    result = CliRunner().invoke(cli, list(args), **more)
    assert result.exit_code == rc, result.output + str(result.exception)
    return result


def json_of(*args, rc=0):
    return json.loads(run(*args, "--json", rc=rc).stdout)


def rows(text):
    """The cells of a plain table, below its head."""
    return [line.split("  ") for line in text.splitlines()[1:]]


def three(store):
    """Records of two ops, two GPUs, three dtypes."""
    keys = [
        key_of(8, 64),
        key_of(8, 128, A100, dtype="float32"),
        key_of(4, 64, op="pool", dtype="bfloat16"),
    ]
    store.put(record_of(keys[0], SMALL, best_us=5.0, default_us=10.0))
    store.put(record_of(keys[1], LARGE, best_us=4.0, default_us=6.0))
    store.put(record_of(keys[2], OTHER, best_us=7.0, default_us=7.0))
    return keys


def digits(keys):
    return [key.digest[:12] for key in keys]


def test_dir(cache):
    assert run("dir").stdout == f"{cache}\n"
    assert run("dir", "--cache-dir", "/elsewhere").stdout == "/elsewhere\n"
    assert json_of("dir") == str(cache)


def test_empty_store_is_no_error(cache):
    assert run("list").stdout.split() == list(COLUMNS)
    assert json_of("list") == [] and json_of("misses") == []
    assert json_of("verify", *OURS)["records"] == 0
    assert "no records" in run("list").stderr
    assert not cache.exists()


def test_info_counts(store):
    keys = three(store)
    store.put_trials(keys[0], [Trial(candidate=CandidateRecord.of(SMALL), times=(1.0,))])
    miss_log(store).add(keys[1])
    said = json_of("info")
    assert said["records"] == {"override": 0, "user": 3, "extra": 0, "shipped": 0}
    assert said["ops"] == {"conv": 2, "pool": 1}
    assert said["gpus"] == {"NVIDIA A100 (sm_80)": 1, "NVIDIA H200 (sm_90)": 2}
    assert said["policy"] == "heuristic" and said["misses"] == 1 and said["unreadable"] == []
    sizes = {p: p.stat().st_size for p in store.directory.rglob("*") if p.is_file()}
    trials = sum(n for p, n in sizes.items() if p.name.endswith(".trials.jsonl"))
    records = sum(n for p, n in sizes.items() if p.suffix == ".json")
    assert said["bytes"]["records"] == records > 1000 and said["bytes"]["trials"] == trials > 50
    assert said["bytes"]["misses"] == miss_log(store).path.stat().st_size
    assert "user 3" in run("info").stdout


def test_list_filters_and_sorts(store):
    keys = three(store)
    a, b, c = digits(keys)

    def listed(*args):
        return [row[0] for row in rows(run("list", *args).stdout)]

    assert listed("--op", "CONV") == listed("--op", "c*") == [b, a]
    assert listed("--gpu", "*h200*", "--op", "pool") == listed("--dtype", "bfloat*") == [c]
    assert listed("--gpu", "sm_80") == listed("--dtype", "float32") == [b]
    assert listed("--variant", "direct") == [c]
    assert listed("--sort", "us") == [b, a, c]
    assert listed("--sort", "us", "--reverse") == [c, a, b]
    assert listed("--sort", "speed-up") == [a, b, c]
    row = next(line for line in run("list").stdout.splitlines() if line.startswith(a))
    assert "C=64 N=8" in row and "NVIDIA H200" in row and " 2.00x " in row
    assert "gemm BLOCK_M=64 BLOCK_N=64 4w 2s" in row and row.endswith("  user")
    found = json_of("list", "--op", "pool")
    assert [e["digest"] for e in found] == [keys[2].digest]
    assert found[0]["record"]["best_us"] == 7.0 and found[0]["layer"] == "user"


def test_show_by_prefix(store):
    keys = three(store)
    shown = run("show", keys[0].digest[:6].upper()).stdout
    assert keys[0].digest in shown and "speed-up    2.00x" in shown and "stride  (1, 1)" in shown
    said = json_of("show", keys[0].digest)
    assert said["record"]["best"]["constants"] == {"BLOCK_M": 64, "BLOCK_N": 64}
    assert said["hidden"] == []


def test_prefix_unknown_or_ambiguous(store):
    keys = three(store)
    first = sorted(digits(keys))[0]
    unknown = first[:5] + ("0" if first[5] != "0" else "1")
    error = run("show", unknown, rc=2).stderr
    assert f"got '{unknown}'; the nearest: {first}, " in error
    others = [key_of(n) for n in range(100, 140)]
    for key in others:
        store.put(record_of(key))
    starts = [key.digest[0] for key in (*keys, *others)]
    digit = max(set(starts), key=starts.count)
    error = run("show", digit, rc=2).stderr
    assert f"got '{digit}', which {starts.count(digit)} begin with" in error
    error = run("show", "", rc=2).stderr
    assert "the nearest" in error


def test_control_characters_do_not_reach_the_terminal(store):
    key = key_of(dtype="\x1b[31mred\nline")
    store.put(record_of(key))
    for verb in (["list"], ["show", key.digest]):
        out = run(*verb).stdout
        assert "\x1b" not in out and "\\x1b[31mred\\nline" in out


def test_hostile_files_are_named_once_and_stop_nothing(store):
    keys = three(store)
    good = store.get(keys[0])
    assert good is not None and good.path is not None
    store.refresh()
    bad = good.path.with_name("0" * 32 + ".json")
    bad.write_bytes(b"\xff{")
    os.mkfifo(good.path.with_name("1" * 32 + ".json"))
    good.path.with_name("2" * 32 + ".json").mkdir()
    result = run("list")
    assert len(rows(result.stdout)) == 3
    assert result.stderr.count(str(bad)) == 1 and result.stderr.count("warning: ") == 3
    said = json_of("info")
    assert len(said["unreadable"]) == 3 and sum(said["records"].values()) == 3
    findings = json_of("verify", *OURS, "--op", "conv", rc=1)["findings"]
    assert [f["kind"] for f in findings] == ["unreadable"] * 3


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
    miss_log(store).add(keys[0])
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
    log = miss_log(store)
    log.add(keys[0])
    log.add(keys[2])
    miss_log(store).add(keys[2])
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
    miss_log(store).add(key_of())
    assert json_of("clean", "--dry-run")["records"] == 3
    run("clean", rc=2)
    assert len(json_of("list")) == 3
    run("clean", "--yes")
    assert json_of("list") == [] and json_of("misses") == []


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


def test_usage_errors(cache):
    for args in (
        ["nonsense"],
        ["show"],
        ["list", "--sort", "luck"],
        ["explain", *OURS],
        ["explain", "{}", *OURS],
        ["explain", "--shape", "C", *OURS],
        ["explain", "--shape", "N=1", *OURS],
        ["explain", "--shape", "C=1", "--target", "sm_1", *OURS],
        ["tune", *OURS],
        ["tune", "--model", "m:b", *OURS],
        ["tune", "--model", "m:b", "--input", "8xtall", *OURS],
        ["tune", "--suite"],
        ["precompile", "--suite", "--all", "--only", "best", *OURS],
    ):
        result = run(*args, rc=2)
        assert result.stdout == "" and "Error: " in result.stderr
    assert "absent" in run("tune", "--suite", "--provider", "absent:X", rc=1).stderr


def test_every_verb_has_a_help_text_with_an_example():
    names = cli.list_commands(None)  # type: ignore[arg-type]
    assert " ".join(names) == (
        "dir info list show explain diff tune precompile misses export import merge verify prune "
        "remove clean plot"
    )
    whole = run("--help").stdout
    for name in names:
        text = run(name, "--help").stdout
        assert "Example" in text and f"tritonconv-autotune {name}" in text
        assert "--json" in text and "--cache-dir" in text
        first = text.split("\n\n")[1].strip()
        assert f"  {first}\n" in whole, "too long for the list of the verbs"


def command(*args, **more):
    more = {"capture_output": True, "text": True, "cwd": ROOT, "timeout": 60} | more
    return subprocess.run([sys.executable, "-m", "autotune", *args], check=False, **more)


def test_as_a_program(store):
    keys = three(store)
    done = command("list", "--op", "pool")
    assert done.returncode == 0 and done.stdout.isascii() and "\x1b" not in done.stdout
    assert done.stdout.splitlines()[1].startswith(keys[2].digest[:12])
    assert command("show", "zzz").returncode == 2
    environ = os.environ | {
        "_TRITONCONV_AUTOTUNE_COMPLETE": "bash_complete",
        "COMP_WORDS": f"tritonconv-autotune show {keys[0].digest[:3]}",
        "COMP_CWORD": "2",
    }
    program = (
        "import sys; sys.argv[0] = 'tritonconv-autotune'; from autotune.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False, capture_output=True, text=True, cwd=ROOT, env=environ,
    )  # fmt: skip
    assert done.stdout.strip() == f"plain,{keys[0].digest}"


def test_help_imports_nothing_heavy():
    program = (
        "import sys; from autotune.cli import cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        "print(sorted({'torch', 'triton', 'rich', 'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_closed_pipe_is_quiet(store):
    three(store)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = command("list", capture_output=False, stdout=closed, stderr=subprocess.PIPE)
    assert done.stderr == "" and done.returncode == 141


def test_a_name_that_the_terminal_cannot_show(store):
    store.put(record_of(key_of(gpu=Gpu("cuda", "sm_90", "Ω", 1))))
    done = command("list", env=os.environ | {"PYTHONIOENCODING": "latin-1"})
    assert done.returncode == 0 and "\\u03a9" in done.stdout
