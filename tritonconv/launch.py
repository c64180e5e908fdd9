"""Launch and Plan: what a call will run, decided without any tensor; and running it."""

import threading
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from triton import knobs

from autotune import Config

from .problem import ConvProblem, Pass

MOST_REGISTERS = 255


class Slot(str, Enum):
    """A tensor argument of a launch: filled in when the plan runs."""

    INPUT = "input"
    WEIGHT = "weight"
    BIAS = "bias"
    RESIDUAL = "residual"
    PRE = "pre"
    OUTPUT = "output"
    TAPS = "taps"
    WORKSPACE = "workspace"


@dataclass(frozen=True)
class Launch:
    """One kernel launch. Its grid has one axis: the others stop at 65,535 programs."""

    kernel: Any
    programs: int
    arguments: Mapping[str, Any]
    config: Config

    def run(self, tensors: Mapping[Slot, torch.Tensor]) -> None:
        """Launch on the current stream."""
        if self.programs == 0:
            return
        arguments = {
            name: tensors.get(value) if isinstance(value, Slot) else value
            for name, value in self.arguments.items()
        }
        self.kernel[(self.programs,)](
            **arguments, **self.options("hip" if torch.version.hip else "cuda")
        )

    def options(self, vendor: str) -> dict[str, Any]:
        """What Triton compiles the kernel with, beside its constants."""
        options = {
            "num_warps": self.config.num_warps,
            "num_stages": self.config.num_stages,
            # Triton 3.10 changes the default; one multiply-add rounds once, as cuDNN's does.
            "enable_fp_fusion": True,
        }
        if vendor == "cuda":
            # Left alone, ptxas spills a register or two to fit one more block on a multiprocessor.
            options["maxnreg"] = MOST_REGISTERS
        return options


@dataclass(frozen=True)
class Plan:
    """What one pass of one problem runs, and why. `workspace` counts accumulator elements."""

    problem: ConvProblem
    which: Pass
    backend: str
    variant: str
    launches: tuple[Launch, ...] = ()
    workspace: int = 0
    config: Config | None = None
    source: str = ""
    rejected: tuple[tuple[str, str], ...] = ()

    def run(self, tensors: dict[Slot, torch.Tensor]) -> None:
        """Run the launches in order; takes the workspace from torch's allocator."""
        device = next(iter(tensors.values())).device
        if self.workspace:
            double = self.problem.dtype == torch.float64
            tensors[Slot.WORKSPACE] = torch.empty(
                self.workspace, dtype=torch.float64 if double else torch.float32, device=device
            )
        with _launching(device):
            for launch in self.launches:
                launch.run(tensors)


# Triton's interpreter rewrites the module `triton.language` while a kernel runs.
_interpreter_lock = threading.RLock()


def interpreting() -> bool:
    """Whether Triton kernels run in Triton's interpreter (`TRITON_INTERPRET=1`)."""
    return bool(knobs.runtime.interpret)


def _launching(device: torch.device) -> Any:
    if interpreting():
        return _interpreter_lock
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
