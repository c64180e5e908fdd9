"""Compile some configs of one problem for one target and prune them; print the verdicts as JSON.

Run in a process of its own, because a process either interprets kernels or compiles them:

    python -m tests.prune_worker TARGET
"""

import json
import sys
from typing import Any

from autotune import Candidate, Config
from autotune.search import prune
from autotune.task import Artefacts
from tritonconv.device import device_like
from tritonconv.problem import ConvProblem, Pass
from tritonconv.provider import PROVIDER
from tritonconv.testing.compilation import compile_launch
from tritonconv.tuning import problem_of
from tritonconv.variants.base import Flags
from tritonconv.variants.implicit_gemm import ImplicitGemm

ROW = {
    "op": "conv2d",
    "input": [32, 256, 28, 28],
    "weight": [256, 256, 3, 3],
    "padding": 1,
    "dtype": "bfloat16",
    "layout": "channels_last",
    "forward_only": True,
}
CONFIGS = {
    "deep": Config.of(4, 4, BLOCK_M=64, BLOCK_N=64, BLOCK_K=256),
    "small": Config.of(4, 2, BLOCK_M=64, BLOCK_N=32, BLOCK_K=32),
    "crowded": Config.of(1, 2, BLOCK_M=128, BLOCK_N=64, BLOCK_K=32),
}


def compiled(problem: ConvProblem, config: Config, device: Any) -> Artefacts:
    """One config, legal or not."""
    flags = Flags(True, False, device.multiprocessors)
    (launch,) = ImplicitGemm().launches(problem, Pass.FPROP, config, flags)
    code = compile_launch(launch, problem.dtype, device)
    return Artefacts(code.shared, code.registers, code.spills)


def main(target: str) -> None:
    """Print {name: reason or null}, and whether the rules call each legal."""
    (key,) = PROVIDER.from_shape(ROW, PROVIDER.gpu(target))
    task = PROVIDER.task(key)
    problem, _, _ = problem_of(key)
    assert isinstance(problem, ConvProblem)
    device = device_like(key.gpu)
    named = {name: Candidate("implicit_gemm", config) for name, config in CONFIGS.items()}
    found = {c: compiled(problem, c.config, device) for c in named.values()}
    found[task.default()] = task.compile(task.default())
    named["default"] = task.default()
    out = prune(found, task.limits)
    verdicts = {
        name: {
            "reason": out[c].detail if c in out else None,
            "legal": task.is_legal(c),
            "shared": found[c].shared,
            "spills": found[c].spills,
        }
        for name, c in named.items()
    }
    print(json.dumps(verdicts))


if __name__ == "__main__":
    main(sys.argv[1])
