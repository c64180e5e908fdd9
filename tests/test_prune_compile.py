"""Real compilations for GPUs that are not there: what cannot run there is out, the default never.

Each target is compiled in a process of its own (`prune_worker`), which does not interpret.
"""

import json
import os
import subprocess
import sys

import pytest

from tritonconv.device import TARGETS

SPILLS = {"sm_80": True, "sm_90": True, "sm_100": True, "gfx942": False}


@pytest.fixture(scope="module", params=list(TARGETS))
def verdicts(request):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.prune_worker", request.param]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return request.param, json.loads(done.stdout.splitlines()[-1])


def test_pruning_rejects_what_cannot_run(verdicts):
    target, found = verdicts
    limit = TARGETS[target].shared_memory
    assert found["deep"]["shared"] > limit
    assert found["deep"]["reason"] == (
        f"shared memory: {found['deep']['shared']} bytes, the device has {limit}"
    )
    # A tile of 128 x 64 numbers in one warp: more than the registers of an NVIDIA thread.
    assert (found["crowded"]["spills"] > 0) == SPILLS[target]
    if SPILLS[target]:
        assert found["crowded"]["reason"] == f"spills: {found['crowded']['spills']} registers"
    assert found["small"]["reason"] is None


def test_pruning_never_rejects_the_default(verdicts):
    _, found = verdicts
    assert found["default"]["legal"] and found["default"]["reason"] is None
    assert found["default"]["spills"] == 0
