"""Without a GPU: every default config compiles for four targets, fits, and spills nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tritonconv.device import TARGETS
from tritonconv.problem import Pass
from tritonconv.variants import VARIANTS

from .compile_worker import jobs

ROOT = Path(__file__).parent.parent
# Kernels that are nothing without matrix units; those of `unshared` use them for many images only.
MATRIX = (
    "gather_gemm",
    "wgrad_gemm",
    "pointwise_gemm",
    "pointwise_wgrad",
    "stem_gemm",
    "stem_wgrad",
)


def compiled(variant: str, target: str, *options: str) -> list[dict]:
    """The figures that the worker prints."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([*_python_path(), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.compile_worker", variant, target, *options],
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


def check(figures: list[dict], target: str) -> None:
    """Everything fits and nothing spills; GEMMs use matrix units and wide loads."""
    spilling = [f for f in figures if f["spills"]]
    assert not spilling, spilling
    too_large = [f for f in figures if f["shared"] > f["shared_limit"]]
    assert not too_large, too_large
    half = [f for f in figures if f["kernel"] in MATRIX and f["dtype"] == "torch.bfloat16"]
    assert all(f["matrix"] for f in half), [f for f in half if not f["matrix"]]
    if target == "sm_90":
        eligible = [
            f
            for f in half
            if f["tile"]["BLOCK_M"] >= 64 and f["tile"]["BLOCK_N"] >= 16 and f["warps"] >= 4
        ]
        assert all(f["wgmma"] for f in eligible), [f for f in eligible if not f["wgmma"]]
    # float32 is left out: tf32 matrix units want wgrad's operands transposed, value by value. So is
    # the stem, whose three channels make no vector.
    narrow = [
        f
        for f in half
        if f["layout"] == "channels_last" and f["kind"] != "stem" and not f["wide_loads"]
    ]
    assert not narrow, narrow


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_every_default_config_compiles_fits_and_does_not_spill(variant, target):
    figures = compiled(variant.name, target)
    passes = {which for _, which, *_ in jobs(variant, False)}
    assert {f["pass"] for f in figures} == {which.value for which in passes}
    assert passes
    check(figures, target)


@pytest.mark.deep
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_rarer_forms_compile_fit_and_do_not_spill(variant, target):
    """The other dtypes, borders that fold, and a full epilogue."""
    figures = compiled(variant.name, target, "all")
    assert {f["form"] for f in figures} >= {"plain"}
    check(figures, target)


def test_every_pass_is_compiled_for_some_variant():
    compiled_passes = {which for v in VARIANTS for _, which, *_ in jobs(v, False)}
    assert compiled_passes == set(Pass)
