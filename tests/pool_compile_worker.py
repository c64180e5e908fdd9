"""Compile the default configs of the pooling kernels for one target; print the figures as JSON.

Run in a process of its own, because a process either interprets kernels or compiles them:

    python -m tests.pool_compile_worker TARGET
"""

import json
import sys
import warnings
from collections.abc import Iterator

import torch

from tritonconv.device import TARGETS
from tritonconv.pool_problem import (
    PoolArguments,
    PoolOperands,
    PoolPass,
    PoolProblem,
    Reduction,
    pool_problem,
    windows_of,
)
from tritonconv.pooling import default_configs, pool_launch
from tritonconv.testing.compilation import compile_launch
from tritonconv.variants.base import Flags

SHAPE = (32, 64, 56, 56)
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
USUAL = PoolArguments((3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
WINDOWS = {
    "3x3": USUAL,
    "adaptive": PoolArguments((0, 0), (0, 0), (0,) * 4, (0, 0), False, (5, 5)),
    "global": PoolArguments((0, 0), (0, 0), (0,) * 4, (0, 0), False, (1, 1)),
}
REDUCTIONS = {
    "max": Reduction("max"),
    "avg": Reduction("sum", "padded"),
    "weighted": Reduction("sum", "weights", True),
    "weighted sum": Reduction("sum", "none", True),
    "l2": Reduction("lp"),
    "lp": Reduction("lp", learned=True, by_channel=True),
}
# Sums in memory; REDUX, a maximum among the lanes of a warp, is none.
ATOMICS = ("ATOM", "RED", "global_atomic", "flat_atomic")
# The others are told apart from these by loads and conversions alone.
DTYPES = (torch.bfloat16, torch.float32)


def problem_of(
    name: str, which: PoolPass, dtype: torch.dtype, layout: str, windows: str
) -> PoolProblem:
    """One pass over tensors without memory."""
    reduction, arguments = REDUCTIONS[name], WINDOWS[windows]

    def empty(shape: tuple[int, ...]) -> torch.Tensor:
        tensor = torch.empty(shape, dtype=dtype, device="meta")
        return tensor.contiguous(memory_format=LAYOUTS[layout])

    x, y = empty(SHAPE), empty((*SHAPE[:2], *windows_of(SHAPE[2:], arguments)[1]))
    if which is PoolPass.FORWARD:
        operands = PoolOperands(x)
    elif which is PoolPass.LOG:
        operands = PoolOperands(x, None, y)
    else:
        saved = None if reduction.kind == "sum" else y
        x = x if reduction.kind == "lp" else None
        operands = PoolOperands(x, y, saved, SHAPE, layout == "channels_last")
    return pool_problem(operands, reduction, arguments)


def jobs() -> Iterator[tuple[str, PoolPass, torch.dtype, str, str]]:
    """(reduction, pass, dtype, layout, windows) of everything that is launched."""
    for name, reduction in REDUCTIONS.items():
        for which in PoolPass:
            if which is PoolPass.LOG and not reduction.learned:
                continue
            if which is PoolPass.BACKWARD and reduction.divisor == "weights":
                continue  # divided before
            for layout in LAYOUTS:
                yield name, which, DTYPES[0], layout, "3x3"
                if layout == "channels_last":
                    yield name, which, DTYPES[1], layout, "3x3"
                if name == "max":
                    yield name, which, DTYPES[0], layout, "adaptive"
                    yield name, which, DTYPES[0], layout, "global"


def main(target: str) -> None:
    """Print one JSON object a line: what was compiled, and what came of it."""
    warnings.simplefilter("ignore")
    device = TARGETS[target]
    flags = Flags(aligned=True, interpreting=False, multiprocessors=device.multiprocessors)
    for name, which, dtype, layout, windows in jobs():
        problem = problem_of(name, which, dtype, layout, windows)
        table = default_configs(problem, which, device)
        # All tiles of the commonest form, and the largest of the others.
        usual = dtype is DTYPES[0] and windows == "3x3" and name == "max"
        for config in table if usual else table[:1]:
            code = compile_launch(pool_launch(problem, which, config, flags), dtype, device)
            figures = {
                "reduction": name,
                "pass": which.value,
                "dtype": str(dtype),
                "layout": layout,
                "windows": windows,
                "config": str(config),
                "spills": code.spills,
                "shared": code.shared,
                "shared_limit": device.shared_memory,
                "wide_loads": code.wide_loads,
                "atomics": sum(
                    count
                    for opcode, count in code.opcodes.items()
                    if opcode.startswith(ATOMICS) and not opcode.startswith("REDUX")
                ),
            }
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
