"""Running the command line in this process, on records of its own."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from autotune.cli import cli
from autotune.store import Store
from tests.autotune_cases import A100, LARGE, OTHER, SMALL, key_of, record_of
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
    monkeypatch.setattr("autotune.policies._process", [None])
    return tmp_path / "cache"


@pytest.fixture
def store(cache):
    return Store(cache)


def run(*args, rc=0, **more):
    result = CliRunner().invoke(cli, list(args), **more)
    assert result.exit_code == rc, result.output + str(result.exception)
    return result


def json_of(*args, rc=0, **more):
    return json.loads(run(*args, "--json", rc=rc, **more).stdout)


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
