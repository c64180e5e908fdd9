"""Compile every default config of one variant for one target, and print the figures as JSON.

Run in a process of its own, because a process either interprets kernels or compiles them:

    python -m tests.compile_worker VARIANT TARGET
"""

import json
import sys
import warnings

import torch

from tritonconv.device import TARGETS
from tritonconv.problem import ConvArguments, ConvProblem, Pass, fprop_problem
from tritonconv.testing.compilation import compile_launch
from tritonconv.variants import VARIANTS
from tritonconv.variants.base import Flags

# Storage formats with kernels of their own; float16 differs from bfloat16 in one opcode.
DTYPES = {
    "implicit_gemm": (torch.bfloat16, torch.float32),
    "direct": (torch.float16, torch.float64),
}


def problems(dtype: torch.dtype) -> dict[str, ConvProblem]:
    """A 3x3 convolution of 128 channels in both memory formats, with a bias."""
    found = {}
    for name, memory_format in (
        ("channels_last", torch.channels_last),
        ("contiguous", torch.contiguous_format),
    ):
        x = torch.empty(32, 128, 56, 56, dtype=dtype, device="meta")
        w = torch.empty(128, 128, 3, 3, dtype=dtype, device="meta")
        bias = torch.empty(128, dtype=dtype, device="meta")
        x, w = (t.contiguous(memory_format=memory_format) for t in (x, w))
        arguments = ConvArguments([1, 1], [1, 1, 1, 1], [1, 1], 1)
        found[name] = fprop_problem(x, w, bias, arguments)
    return found


def main(variant_name: str, target: str) -> None:
    """Print one JSON object a line: what was compiled, and what came of it."""
    warnings.simplefilter("ignore")
    device = TARGETS[target]
    flags = Flags(aligned=True, interpreting=False, multiprocessors=device.multiprocessors)
    variant = next(v for v in VARIANTS if v.name == variant_name)
    for dtype in DTYPES[variant_name]:
        for layout, problem in problems(dtype).items():
            for which in Pass:
                for config in variant.default_configs(problem, which):
                    for launch in variant.launches(problem, which, config, flags):
                        code = compile_launch(launch, dtype, device)
                        figures = {
                            "kernel": launch.kernel.__name__,
                            "dtype": str(dtype),
                            "layout": layout,
                            "pass": which.value,
                            "config": str(config),
                            "tile": {k: v for k, v in config.constants},
                            "warps": config.num_warps,
                            "shared": code.shared,
                            "shared_limit": device.shared_memory,
                            "registers": code.registers,
                            "spills": code.spills,
                            "matrix": sum(
                                count
                                for name, count in code.opcodes.items()
                                if name in ("HGMMA", "HMMA", "UTCHMMA") or "mfma" in name
                            ),
                            "wgmma": code.opcodes.get("HGMMA", 0),
                            "wide_loads": code.wide_loads,
                        }
                        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
