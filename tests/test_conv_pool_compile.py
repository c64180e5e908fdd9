"""Without a GPU: the kernel of convolution, activation and pooling in machine code."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton

from tritonconv.conv_pool import WITH_TAPS, PoolStage, conv_pool_problem
from tritonconv.device import TARGETS

from .test_conv_pool import conv_of

ROOT = Path(__file__).parent.parent
COMPILED = """
import json, sys, warnings
import torch
from tests.test_conv_pool_compile import compiled_problems
from tritonconv.conv_pool_planning import (
    direct_configs, direct_launch, gemm_configs, gemm_launch, gemm_refuses,
)
from tritonconv.device import TARGETS
from tritonconv.problem import Pass
from tritonconv.testing.compilation import compile_launch
from tritonconv.variants.base import Flags
from tritonconv.variants.implicit_gemm import ImplicitGemm

warnings.simplefilter("ignore")
device = TARGETS[sys.argv[1]]
flags = Flags(aligned=True, interpreting=False, multiprocessors=device.multiprocessors)
for name, problem in compiled_problems(sys.argv[2]):
    dtype = problem.conv.dtype
    table, launch_of = gemm_configs, gemm_launch
    if gemm_refuses(problem, device):
        table, launch_of = direct_configs, direct_launch
    for config in table(problem):
        launches = [launch_of(problem, config, flags)]
        if sys.argv[2] == "against":
            launches += ImplicitGemm().launches(problem.conv, Pass.FPROP, config, flags)
        for launch in launches:
            code = compile_launch(launch, dtype, device)
            figures = {"name": name, "kernel": launch.kernel.__name__, "config": str(config)}
            figures |= {"vector": launch.arguments.get("VECTOR", 1)}
            figures |= {"tile": [config["BLOCK_M"], config["BLOCK_N"]], "opcodes": code.opcodes}
            figures |= {"spills": code.spills, "shared": code.shared, "wide": code.wide_loads}
            print(json.dumps(figures | {"loop": code.loop_length}))
"""
# Pool, its size, dtype, memory format, padding mode and activation.
HALF, WORD, LAST, FIRST = torch.bfloat16, torch.float32, "channels_last", "contiguous"
FORMS = {
    "usual": (
        ("max", [2, 2], HALF, LAST, "zeros", "relu"),
        ("maxout", [4], HALF, LAST, "zeros", "none"),
        ("l2", [2, 2], WORD, LAST, "zeros", "relu"),
        ("max", [2, 2], HALF, FIRST, "zeros", "relu"),
    ),
    "rare": (
        ("max", [4, 8], torch.float16, LAST, "zeros", "tanh"),
        ("l2", [4, 4], HALF, LAST, "reflect", "gelu"),
        ("avg", [3, 3], HALF, FIRST, "circular", "silu"),
        ("maxout", [32], WORD, LAST, "replicate", "sigmoid"),
        ("maxout", [2], WORD, FIRST, "zeros", "leaky_relu"),
    ),
    # float32 that is not rounded to tf32 has no matrix instructions.
    "exact": (
        ("max", [2, 2], WORD, LAST, "zeros", "relu"),
        ("maxout", [4], WORD, LAST, "zeros", "relu"),
    ),
    "against": (("max", [2, 2], HALF, LAST, "zeros", "relu"),),
    # By multiply-adds; the last words are what the GEMM does not take, beside pool and dtype.
    "direct": (
        ("max", [2, 2], torch.float64, LAST, "zeros", "relu"),
        ("max", [2, 2], HALF, LAST, "zeros", "relu", "depthwise"),
        ("l2", [2, 2], WORD, LAST, "zeros", "relu", "depthwise"),
        ("avg", [5, 7], HALF, LAST, "zeros", "none"),
        ("max", [2, 2], HALF, FIRST, "zeros", "relu", "depthwise"),
    ),
    "direct, rare": (
        ("l2", [2, 2], torch.float64, LAST, "reflect", "gelu", "untied"),
        ("maxout", [3], torch.float16, LAST, "zeros", "silu"),
        ("maxout", [32], torch.float64, FIRST, "circular", "tanh", "period"),
        ("max", [17, 17], WORD, LAST, "replicate", "sigmoid"),
        ("l2", [7, 7], torch.float16, LAST, "zeros", "tanh"),
        ("max", [2, 2], torch.float64, LAST, "zeros", "tanh", "depthwise"),
        ("l2", [2, 2], torch.float64, LAST, "circular", "gelu", "depthwise", "untied"),
        ("l2", [2, 2], WORD, LAST, "reflect", "tanh", "depthwise", "untied"),
    ),
}


def compiled_problems(form):
    """Problems as large as they come, over tensors without memory."""
    for name in FORMS[form]:
        pool, size, dtype, layout, mode, activation, *more = name
        k, c = 96 if pool == "maxout" and size == [3] else 128, 1 if "depthwise" in more else 128
        bias = (2, 2, k) if "untied" in more else (k,)
        banks = (2, 2) if "period" in more else ()
        x, w, bias = (
            torch.empty(s, dtype=dtype, device="meta")
            for s in ((32, 128, 56, 56), (*banks, k, c, 3, 3), bias)
        )
        if layout == LAST:
            x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
        arguments = PoolStage(pool, size, pool in WITH_TAPS)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=form != "exact"):
            convolution = conv_of(2, groups=128 // c, mode=mode)
            problem = conv_pool_problem(x, w, bias, activation, convolution, arguments)
        yield str(name), problem


def figures_of(target, form):
    """What came of compiling every default config of these problems."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    paths = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p]
    environment["PYTHONPATH"] = os.pathsep.join([*paths, str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, target, form],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_compiled(target, form):
    """Everything fits, nothing spills, all products are matrix instructions, and where channels
    are vectors they are read as such."""
    found = figures_of(target, form)
    assert {f["name"] for f in found} == {str(name) for name in FORMS[form]}
    for f in found:
        assert f["spills"] == 0, f
        assert f["shared"] <= TARGETS[target].shared_memory, f
        names = ("HGMMA", "HMMA", "UTCHMMA", "mfma")
        units = any(name in opcode for opcode in f["opcodes"] for name in names)
        assert units or (form == "exact" and target != "gfx942"), f
        # Once a stage of the pipeline: a small tile has less than a vector of w for each thread.
        assert f["wide"] >= 3 or FIRST in f["name"], f
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_compiles_fits_and_does_not_spill(target):
    check_compiled(target, "usual")


@pytest.mark.deep
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", ["rare", "exact"])
def test_rarer_forms_compile_fit_and_do_not_spill(form, target):
    check_compiled(target, form)


def check_direct(target, form):
    """Nothing spills, nothing is a matrix instruction, and what lies in vectors is read as such."""
    found = figures_of(target, form)
    assert {f["name"] for f in found} == {str(name) for name in FORMS[form]}
    for f in found:
        assert f["kernel"] == "conv_pool_direct", f
        assert f["spills"] == 0, f
        assert f["shared"] <= TARGETS[target].shared_memory, f
        vectors = LAST in f["name"]
        assert (f["vector"] > 1) == vectors, f
        # A tile of one column has no vector of columns, as the depthwise ones are.
        if vectors and not ("depthwise" in f["name"] and f["tile"][1] == 1):
            assert f["wide"] >= 1, f
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_the_direct_kernel_compiles_and_does_not_spill(target):
    check_direct(target, "direct")


@pytest.mark.deep
@pytest.mark.parametrize("target", TARGETS)
def test_rarer_forms_of_the_direct_kernel_do_not_spill(target):
    check_direct(target, "direct, rare")


def test_pooling_moves_nothing_and_the_loop_stays_as_it_is():
    """Against the convolution alone with the same tile: no shuffle, less through shared memory, for
    only what is pooled is turned to be stored, and a loop no longer than that of either form."""
    old = triton.__version__.startswith("3.6.")
    found = {}
    for f in figures_of("sm_90", "against"):
        found[(f["kernel"], *f["tile"])] = f
    for m, n in itertools.product((64, 128), (64, 128)):
        fused, alone = (found[(kernel, m, n)] for kernel in ("conv_pool_gemm", "gather_gemm"))
        stores = [sum(f["opcodes"].get(o, 0) for o in ("STS", "STSM")) for f in (fused, alone)]
        # Triton 3.6 tells a thread its warp by one; pooling by shuffles would take many.
        assert fused["opcodes"].get("SHFL", 0) <= old
        assert stores[0] < stores[1], (m, n, stores)
        assert sum(fused["opcodes"].values()) < sum(alone["opcodes"].values())
        # The product is transposed: its tile of (n x m) is another tile of the other kernel.
        turned = found[("gather_gemm", n, m)]
        # Under Triton 3.6 it is 140 instructions for 136 at 128 x 128.
        longest = max(alone["loop"], turned["loop"]) + 4 * old
        assert fused["loop"] <= longest, (m, n, fused["loop"])
