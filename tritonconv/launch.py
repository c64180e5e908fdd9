"""Launch and Plan: what a call will run, decided without any tensor; and running it."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from triton import knobs

from autotune import Config

from .compiled import Handle, handle_of, hooked

MOST_REGISTERS = 255


class Slot(str, Enum):
    """A tensor argument of a launch: filled in when the plan runs."""

    INPUT = "input"
    WEIGHT = "weight"
    BIAS = "bias"
    RESIDUAL = "residual"
    PRE = "pre"
    OUTPUT = "output"
    SAVED = "saved"
    TAPS = "taps"
    PARAMETERS = "parameters"
    GRAD_OUTPUT = "grad_output"
    GRAD_INPUT = "grad_input"
    WORKSPACE = "workspace"


@dataclass(frozen=True)
class Launch:
    """One kernel launch. Its grid has one axis: the others stop at 65,535 programs."""

    kernel: Any
    programs: int
    arguments: Mapping[str, Any]
    config: Config

    def run(self, tensors: Mapping[Slot, torch.Tensor]) -> Any:
        """Launch on the current stream, through Triton; returns what Triton returns."""
        arguments = {
            name: tensors.get(value) if isinstance(value, Slot) else value
            for name, value in self.arguments.items()
        }
        options = self.options("hip" if torch.version.hip else "cuda")
        return self.kernel[(self.programs,)](**arguments, **options)

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


class BoundLaunch:
    """A launch of a plan that is run again and again: its tensors come in the order of `slots`.

    The first run goes through Triton, which compiles; the others take what it compiled.
    """

    __slots__ = ("_handle", "_places", "_template", "launch", "slots")

    def __init__(self, launch: Launch, slots: tuple[Slot, ...]) -> None:
        self.launch, self.slots = launch, slots
        values = [launch.arguments[name] for name in launch.kernel.arg_names]
        # Where a tensor goes; a slot that the call does not fill stays None.
        self._places = [
            (at, slots.index(value))
            for at, value in enumerate(values)
            if isinstance(value, Slot) and value in slots
        ]
        self._template = [None if isinstance(value, Slot) else value for value in values]
        self._handle: Handle | None = None

    def __call__(self, tensors: tuple[torch.Tensor, ...], stream: int) -> None:
        """Launch on a stream of the current device, which is the tensors'."""
        handle = self._handle
        if handle is not None and not hooked():
            self.directly(handle, tensors, stream)
        else:
            self._handle = handle_of(self.by_triton(tensors), tensors[0].get_device())

    def directly(self, handle: Handle, tensors: tuple[torch.Tensor, ...], stream: int) -> None:
        """Launch what Triton compiled."""
        arguments = self._template.copy()
        for at, index in self._places:
            arguments[at] = tensors[index]
        handle.launch(self.launch.programs, stream, arguments)

    def by_triton(self, tensors: tuple[torch.Tensor, ...]) -> Any:
        """Launch on the current stream through Triton."""
        return self.launch.run(dict(zip(self.slots, tensors, strict=True)))


@dataclass(frozen=True)
class Plan:
    """What one pass of one problem runs, and why. `workspace` counts accumulator elements."""

    problem: Any  # a ConvProblem, or a PoolProblem
    which: Any  # its pass
    backend: str
    variant: str
    launches: tuple[Launch, ...] = ()
    workspace: int = 0
    config: Config | None = None
    source: str = ""
    note: str = ""
    aligned: bool = True
    # Whether its problem has a tuning key, so that a record could choose the candidate.
    tunable: bool = False
    rejected: tuple[tuple[str, str], ...] = ()
    _bound: dict[tuple[Slot, ...], Callable[..., None]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def bind(self, *slots: Slot) -> Callable[..., None]:
        """A function of the tensors in these slots, in this order, that runs the launches on the
        tensors' device and current stream. It takes the workspace from torch's allocator."""
        order = (*slots, Slot.WORKSPACE) if self.workspace else slots
        launches = tuple(BoundLaunch(launch, order) for launch in self.launches if launch.programs)
        double = self.workspace and self.problem.dtype == torch.float64
        dtype, size = torch.float64 if double else torch.float32, self.workspace

        def interpret(*tensors: torch.Tensor) -> None:
            if size:
                tensors = (*tensors, torch.empty(size, dtype=dtype, device=tensors[0].device))
            # Triton's interpreter rewrites the module `triton.language` while a kernel runs.
            with _interpreter_lock:
                for launch in launches:
                    launch.by_triton(tensors)

        def run(*tensors: torch.Tensor) -> None:
            index = tensors[0].get_device()
            if index != _current_device():
                with torch.cuda.device(index):
                    return run(*tensors)
            if size:
                tensors = (*tensors, torch.empty(size, dtype=dtype, device=tensors[0].device))
            stream = _stream_of(index)
            for launch in launches:
                launch(tensors, stream)

        return interpret if self.backend == "interpreter" else run

    def run(self, tensors: Mapping[Slot, torch.Tensor]) -> None:
        """Run the launches; `bind`, looked up."""
        slots = tuple(tensors)
        bound = self._bound.get(slots)
        if bound is None:
            bound = self._bound[slots] = self.bind(*slots)
        bound(*tensors.values())


_interpreter_lock = threading.RLock()


def interpreting() -> bool:
    """Whether Triton kernels run in Triton's interpreter (`TRITON_INTERPRET=1`)."""
    return bool(knobs.runtime.interpret)


def _current_device() -> int:
    return torch._C._cuda_getDevice()


def _stream_of(index: int) -> int:
    return torch._C._cuda_getCurrentRawStream(index)
