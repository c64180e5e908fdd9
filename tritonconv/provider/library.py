"""The provider: where the tuner and its command line find this library's problems."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import triton

from autotune import Gpu, Key

from ..device import INTERPRETER, TARGETS, cuda_device, device_like
from ..launch import interpreting
from ..tuning import gpu_of
from .recording import keys_of_model, keys_of_shape
from .suite import ROWS
from .tasks import ProblemTask, task_of


class Library:
    """This library, as `autotune.task.Provider` asks."""

    name = "tritonconv"

    def task(self, key: Key) -> ProblemTask:
        """The task of a key. Raises ValueError if it is none of ours."""
        return task_of(key)

    def gpu(self, target: str | None = None) -> Gpu:
        """This machine's current GPU, or the stand-in that `target` names ("sm_90").

        Raises RuntimeError where there is none.
        """
        if target is not None:
            if target not in TARGETS:
                raise RuntimeError(f"target: expected one of {', '.join(TARGETS)}, got {target!r}")
            return gpu_of(TARGETS[target])
        if interpreting():
            return gpu_of(INTERPRETER)
        if not torch.cuda.is_available():
            raise RuntimeError(
                "this machine has no GPU that torch sees; name a target, for example sm_90, to "
                "compile for one that is not here"
            )
        return gpu_of(cuda_device(torch.cuda.current_device()))

    def environment(self) -> Mapping[str, str]:
        """Versions of what a measurement may depend on."""
        found = {
            "torch": torch.__version__,
            "triton": triton.__version__,
            "python": platform.python_version(),
        }
        if torch.cuda.is_available():
            found["cuda"] = str(torch.version.cuda or torch.version.hip)
            found["driver"] = str(getattr(torch.cuda, "driver_version", lambda: "unknown")())
        return found

    def suite(self, gpu: Gpu) -> Iterator[Key]:
        """The problems of the benchmark suite, in its order."""
        for row in ROWS:
            yield from self.from_shape(row, gpu)

    def from_model(self, model: Any, inputs: Sequence[Any], gpu: Gpu) -> Iterator[Key]:
        """The problems of a forward and a backward pass of a model."""
        yield from keys_of_model(model, inputs, device_like(gpu))

    def from_shape(self, description: Mapping[str, Any], gpu: Gpu) -> Iterator[Key]:
        """The problems of one call; `provider.recording.keys_of_shape` says how it is described.

        Raises ValueError.
        """
        yield from keys_of_shape(description, device_like(gpu))

    def work(self, key: Key) -> tuple[float, float]:
        """`(floating-point operations, bytes)` that no algorithm avoids."""
        return task_of(key).work()


PROVIDER = Library()
