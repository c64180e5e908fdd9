"""The command line of autotune: what is shown, usage, exit codes, hostile files."""

import os
import subprocess
import sys

from autotune import Gpu
from autotune.cli import cli
from autotune.cli.listing import COLUMNS
from autotune.misses import MissLog
from autotune.parts import CandidateRecord
from autotune.trials import Trial
from tests.autotune_cases import SMALL, key_of, record_of
from tests.autotune_cli_run import OURS, ROOT, cache, digits, json_of, rows, run, store, three

__all__ = ["cache", "store"]  # fixtures


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
    MissLog.of(store.directory).add(keys[1])
    said = json_of("info")
    assert said["records"] == {"override": 0, "user": 3, "extra": 0, "shipped": 0}
    assert said["ops"] == {"conv": 2, "pool": 1}
    assert said["gpus"] == {"NVIDIA A100 (sm_80)": 1, "NVIDIA H200 (sm_90)": 2}
    assert said["policy"] == "heuristic" and said["misses"] == 1 and said["unreadable"] == []
    sizes = {p: p.stat().st_size for p in store.directory.rglob("*") if p.is_file()}
    trials = sum(n for p, n in sizes.items() if p.name.endswith(".trials.jsonl"))
    records = sum(n for p, n in sizes.items() if p.suffix == ".json")
    assert said["bytes"]["records"] == records > 1000 and said["bytes"]["trials"] == trials > 50
    assert said["bytes"]["misses"] == MissLog.of(store.directory).path.stat().st_size
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
    # Read twice, said once.
    assert run("diff", "-", "-").stderr.count(str(bad)) == 1
    said = json_of("info")
    assert len(said["unreadable"]) == 3 and sum(said["records"].values()) == 3
    findings = json_of("verify", *OURS, "--op", "conv", rc=1)["findings"]
    assert [f["kind"] for f in findings] == ["unreadable"] * 3


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
