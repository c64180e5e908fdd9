"""Without a GPU: the pooling kernels compile for four targets, fit, and spill nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tritonconv.device import TARGETS

from .pool_compile_worker import REDUCTIONS

ROOT = Path(__file__).parent.parent


def compiled(target: str) -> list[dict]:
    """The figures that the worker prints."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    path = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    environment["PYTHONPATH"] = os.pathsep.join([*path, str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.pool_compile_worker", target],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("target", TARGETS)
def test_every_default_config_compiles_fits_and_does_not_spill(target):
    figures = compiled(target)
    assert {f["reduction"] for f in figures} == set(REDUCTIONS)
    assert {f["pass"] for f in figures} == {"forward", "log", "backward"}
    spilling = [f for f in figures if f["spills"]]
    assert not spilling, spilling
    too_large = [f for f in figures if f["shared"] > f["shared_limit"]]
    assert not too_large, too_large
    # A sum in memory would depend on the order in which programs come to it.
    atomic = [f for f in figures if f["atomics"]]
    assert not atomic, atomic
    last = [f for f in figures if f["layout"] == "channels_last"]
    narrow = [f for f in last if not f["wide_loads"]]
    assert last and not narrow, narrow
    # Every tap of a window is one wide load: of a window written out there are nine.
    forward = [f for f in last if f["windows"] == "3x3" and f["pass"] == "forward"]
    few = [f for f in forward if f["wide_loads"] < (1 if f["reduction"] == "lp" else 9)]
    assert not few, few
