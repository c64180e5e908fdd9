"""Without a GPU: every default config compiles for four targets, fits, and spills nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tritonconv.device import TARGETS
from tritonconv.variants import VARIANTS

ROOT = Path(__file__).parent.parent


def compiled(variant: str, target: str) -> list[dict]:
    """The figures that the worker prints."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([*_python_path(), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.compile_worker", variant, target],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def _python_path() -> list[str]:
    return [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("variant", [v.name for v in VARIANTS])
def test_every_default_config_compiles_fits_and_does_not_spill(variant, target):
    figures = compiled(variant, target)
    assert {f["pass"] for f in figures} == {"fprop", "dgrad", "wgrad"}
    spilling = [f for f in figures if f["spills"]]
    assert not spilling, spilling
    too_large = [f for f in figures if f["shared"] > f["shared_limit"]]
    assert not too_large, too_large
    if variant != "implicit_gemm":
        return
    gemms = [f for f in figures if f["kernel"].endswith("_gemm")]
    half = [f for f in gemms if f["dtype"] == "torch.bfloat16"]
    assert all(f["matrix"] for f in half), [f for f in half if not f["matrix"]]
    if target == "sm_90":
        eligible = [
            f
            for f in half
            if f["tile"]["BLOCK_M"] >= 64 and f["tile"]["BLOCK_N"] >= 16 and f["warps"] >= 4
        ]
        assert eligible
        assert all(f["wgmma"] for f in eligible), [f for f in eligible if not f["wgmma"]]
    # float32 is left out: tf32 matrix units want wgrad's operands transposed, value by value.
    narrow = [f for f in half if f["layout"] == "channels_last" and not f["wide_loads"]]
    assert not narrow, narrow
