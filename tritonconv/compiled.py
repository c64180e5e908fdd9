"""Launching a compiled kernel again, without Triton's look-up of which one it is.

Triton binds and hashes every argument of every launch to find the kernel that it compiled for
them. Our kernels specialise on nothing but the types of their pointers and their constants
(`kernels/_jit.py`), which a plan fixes: alignment and index width are among the constants, and a
plan is of one device. So what the first launch found is right for every later one.

Triton's own path stays in use where it can do what this one cannot: launch hooks, an
interpreter, versions that are not known, and devices on which the first launch fails its test.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
import triton
from triton import knobs

from .kernels.probe import probe

# Versions whose source was read for the interface of a compiled kernel.
KNOWN = ("3.6", "3.9")


class Handle(NamedTuple):
    """What a launch needs of a compiled kernel. `launcher` takes the grid, the stream, the
    function, metadata, three hooks that may be None, and every argument in order."""

    launcher: Any
    function: Any
    metadata: Any

    def launch(self, programs: int, stream: int, arguments: list[Any]) -> None:
        """Launch on a stream of the current device."""
        self.launcher(
            programs, 1, 1, stream, self.function, self.metadata, None, None, None, *arguments
        )


def handle_of(kernel: Any, index: int) -> Handle | None:
    """The handle of what a launch through Triton returned, or None if it cannot be used."""
    # The trial launch waits for its result, which no capture of a graph allows.
    if torch.cuda.is_current_stream_capturing() or refusal(index) is not None:
        return None
    kernel = kernel.result() if hasattr(kernel, "result") else kernel
    return Handle(kernel.run, kernel.function, kernel.packed_metadata)


def hooked() -> bool:
    """Whether somebody watches launches, a profiler for example."""
    runtime = knobs.runtime
    return bool(runtime.launch_enter_hook.calls or runtime.launch_exit_hook.calls)


@cache
def refusal(index: int) -> str | None:
    """None if kernels may be launched directly on this GPU, else why not."""
    version = ".".join(triton.__version__.split(".")[:2])
    if version not in KNOWN:
        return f"Triton {version} is none of {', '.join(KNOWN)}, whose compiled kernels are known"
    try:
        return _probe(index)
    except Exception as error:
        return f"the trial launch raised {type(error).__name__}: {error}"


def _probe(index: int) -> str | None:
    """Launch a kernel through Triton, then directly with other values; compare."""
    device = torch.device("cuda", index)
    src, first, second = (torch.zeros(128, device=device) for _ in range(3))
    with torch.cuda.device(device):
        launcher: Any = probe
        kernel = launcher[(1,)](src, None, first, 1, SIZE=128, SHAPE=(2, 2))
        kernel = kernel.result() if hasattr(kernel, "result") else kernel
        handle = Handle(kernel.run, kernel.function, kernel.packed_metadata)
        stream = torch._C._cuda_getCurrentRawStream(index)
        handle.launch(1, stream, [first, None, second, 2, 128, (2, 2)])
        found = (first.sum().item(), second.sum().item())
    if found != (128.0, 384.0):
        return f"the trial launch computed {found} instead of (128.0, 384.0)"
    return None
