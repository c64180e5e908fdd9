"""What the analytic choice of a config needs to know of a GPU."""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from autotune import Gpu


@dataclass(frozen=True)
class Device:
    """A GPU, or a stand-in for one that is not there.

    `multiprocessors` and `shared_memory` (bytes a block may take) decide configs;
    `matrix_advantage` is how many times faster than plain multiply-adds the matrix units are, for
    16-bit operands and for tf32, by the vendor's data sheet.
    """

    name: str
    vendor: str
    arch: int | str
    multiprocessors: int
    shared_memory: int
    matrix_advantage: tuple[int, int] = (14, 7)

    @property
    def warp_size(self) -> int:
        """Threads a warp (a wavefront on AMD)."""
        return 64 if self.vendor == "hip" else 32


# The targets that every kernel is compiled for, GPU or no GPU. Counts: A100, H200, B200, MI300X.
TARGETS = {
    "sm_80": Device("sm_80", "cuda", 80, 108, 166_912, (16, 8)),
    "sm_90": Device("sm_90", "cuda", 90, 132, 232_448),
    "sm_100": Device("sm_100", "cuda", 100, 148, 232_448, (30, 15)),
    "gfx942": Device("gfx942", "hip", "gfx942", 304, 65_536, (8, 4)),
}
# One program at a time: the fewest programs is the best tiling.
INTERPRETER = Device("interpreter", "interpreter", 0, 1, 1 << 31)


@lru_cache(maxsize=64)
def cuda_device(index: int) -> Device:
    """The GPU with this index, as torch reports it."""
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip:
        arch: int | str = properties.gcnArchName.split(":")[0]
        shared = properties.shared_memory_per_block
        return Device(
            properties.name, "hip", arch, properties.multi_processor_count, shared, (8, 4)
        )
    return Device(
        properties.name,
        "cuda",
        properties.major * 10 + properties.minor,
        properties.multi_processor_count,
        properties.shared_memory_per_block_optin,
    )


def device_like(gpu: Gpu) -> Device:
    """The device that a tuning key names: this machine's, if it is one of that model, else the
    stand-in of its architecture. Raises ValueError for an architecture that has none."""
    if gpu.vendor == INTERPRETER.vendor:
        return INTERPRETER
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found = cuda_device(index)
            if (found.name, found.multiprocessors) == (gpu.model, gpu.multiprocessors):
                return found
    if gpu.arch not in TARGETS:
        raise ValueError(f"arch: expected one of {', '.join(TARGETS)}, got {gpu.arch!r}")
    return replace(TARGETS[gpu.arch], name=gpu.model, multiprocessors=gpu.multiprocessors)
