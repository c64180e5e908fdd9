"""Compile the default configs of one variant for one target, and print the figures as JSON.

Run in a process of its own, because a process either interprets kernels or compiles them:

    python -m tests.compile_worker VARIANT TARGET [all]

`all` adds the other dtypes and the rarer forms (borders that fold, a full epilogue).
"""

import json
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from tritonconv.device import TARGETS
from tritonconv.epilogue import Extras
from tritonconv.problem import (
    ConvArguments,
    ConvProblem,
    Pass,
    dgrad_problem,
    fprop_problem,
    wgrad_problem,
)
from tritonconv.testing.compilation import compile_launch
from tritonconv.variants import VARIANTS
from tritonconv.variants.base import Flags

# Formats with code of their own, the commonest first; float16 differs from bfloat16 in one opcode.
DTYPES = {"direct": (torch.float16, torch.float64)}
USUAL = (torch.bfloat16, torch.float32)
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
FORMS = ("plain", "reflect", "epilogue")

# A representative of each kind: input, weight, output, stride, padding, groups.
SHAPES: dict[str, tuple[Any, ...]] = {
    "shared": ((32, 128, 56, 56), (128, 128, 3, 3), (32, 128, 56, 56), 1, 1, 1),
    "unshared": ((32, 32, 16, 16), (14, 14, 32, 32, 3, 3), (32, 32, 14, 14), 1, 0, 1),
    "depthwise": ((32, 96, 56, 56), (96, 1, 3, 3), (32, 96, 56, 56), 1, 1, 96),
    "depthwise, 7x7": ((32, 96, 56, 56), (96, 1, 7, 7), (32, 96, 56, 56), 1, 3, 96),
    "pointwise": ((32, 128, 56, 56), (128, 128, 1, 1), (32, 128, 56, 56), 1, 0, 1),
    "stem": ((32, 3, 224, 224), (64, 3, 7, 7), (32, 64, 112, 112), 2, 3, 1),
}


def problem_of(
    kind: str, which: Pass, dtype: torch.dtype, layout: str, form: str = "plain"
) -> ConvProblem:
    """One pass of a kind's representative, over tensors without memory."""
    x_shape, w_shape, y_shape, stride, padding, groups = SHAPES[kind]

    def empty(shape: tuple[int, ...]) -> torch.Tensor:
        tensor = torch.empty(shape, dtype=dtype, device="meta")
        images = len(shape) == 4
        return tensor.contiguous(memory_format=LAYOUTS[layout]) if images else tensor

    x, w, y = empty(x_shape), empty(w_shape), empty(y_shape)
    mode = "reflect" if form == "reflect" else "zeros"
    arguments = ConvArguments([stride] * 2, [padding] * 4, [1, 1], groups, False, mode)
    if which is Pass.WGRAD:
        return wgrad_problem(y, x, w_shape, arguments)
    result = y if which is Pass.FPROP else x
    extras = Extras(bias=empty((result.shape[1],)))
    if form == "epilogue":
        bias = empty((*result.shape[2:], result.shape[1]))
        extras = Extras(bias, result, "tanh", keep_pre=True)
    if which is Pass.FPROP:
        return fprop_problem(x, w, None, arguments, extras)
    return dgrad_problem(y, w, x_shape, arguments, extras)


def jobs(variant: Any, everything: bool) -> Iterator[tuple[str, Pass, torch.dtype, str, str]]:
    """(kind, pass, dtype, layout, form) of what the variant supports."""
    core = "shared" in variant.kinds
    # The commonest dtype alone, and for the core two: the other variants' kernels differ less.
    usual = DTYPES.get(variant.name, USUAL)
    dtypes = usual if everything or variant.name in ("implicit_gemm", "direct") else usual[:1]
    kinds = [k for k in SHAPES if (k == "shared" if core else k.split(",")[0] in variant.kinds)]
    for dtype in dtypes:
        for form in FORMS if everything else FORMS[:1]:
            for kind in kinds:
                for layout in LAYOUTS:
                    for which in Pass:
                        if form == "epilogue" and which is Pass.WGRAD:
                            continue
                        if variant.supports(problem_of(kind, which, dtype, layout, form), which):
                            continue
                        yield kind, which, dtype, layout, form


def main(variant_name: str, target: str, everything: bool) -> None:
    """Print one JSON object a line: what was compiled, and what came of it."""
    warnings.simplefilter("ignore")
    device = TARGETS[target]
    flags = Flags(aligned=True, interpreting=False, multiprocessors=device.multiprocessors)
    variant = next(v for v in VARIANTS if v.name == variant_name)
    for kind, which, dtype, layout, form in jobs(variant, everything):
        problem = problem_of(kind, which, dtype, layout, form)
        for config in variant.default_configs(problem, which):
            for launch in variant.launches(problem, which, config, flags):
                code = compile_launch(launch, dtype, device)
                figures = {
                    "kernel": launch.kernel.__name__,
                    "kind": kind,
                    "dtype": str(dtype),
                    "layout": layout,
                    "form": form,
                    "pass": which.value,
                    "config": str(config),
                    "tile": dict(config.constants),
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
    main(sys.argv[1], sys.argv[2], "all" in sys.argv[3:])
