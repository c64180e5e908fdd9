"""What trials share: random tensors of a problem's strides, launches on them, and the verdict."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from autotune import Candidate

from ..launch import Plan, Slot

SEED = 20_261_121


class Launches:
    """The launches of candidates on the tensors of a trial, bound once each."""

    def __init__(self, plan_of: Callable[[Candidate], Plan]) -> None:
        self._plan_of = plan_of
        self._tensors: dict[Slot, Tensor] = {}
        self._bound: dict[Candidate, Callable[[], None]] = {}

    def launch(self, candidate: Candidate) -> None:
        """Run it once on the current stream."""
        run = self._bound.get(candidate)
        if run is None:
            bound, tensors = self._plan_of(candidate).bind(*self._tensors), self._tensors.values()
            run = self._bound[candidate] = partial(bound, *tensors)
        run()


def values(
    shape: Sequence[int], strides: Sequence[int], like: Tensor, aligned: bool, seed: int
) -> Tensor:
    """Normal numbers (small integers for integer dtypes) with these strides; not aligned to 16
    bytes if `aligned` is False. `like` gives dtype and device."""
    generator = torch.Generator(device=like.device).manual_seed(SEED + seed)
    if like.dtype.is_floating_point:
        dense = torch.randn(shape, generator=generator, device=like.device)
    else:
        dense = torch.randint(0, 100, tuple(shape), generator=generator, device=like.device)
    return placed(shape, strides, like, aligned).copy_(dense)


def placed(shape: Sequence[int], strides: Sequence[int], like: Tensor, aligned: bool) -> Tensor:
    """Uninitialised memory with these strides. One that repeats elements (stride 0) is written
    several times, so that its values are those of the last write."""
    reach = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if n > 0)
    offset = 0 if aligned else 1
    size = 0 if math.prod(shape) == 0 else reach
    flat = torch.empty(size + offset, dtype=like.dtype, device=like.device)
    return flat.as_strided(tuple(shape), tuple(strides), offset)


def worst(got: Tensor, exact: Tensor, allowed: Tensor) -> str | None:
    """None if |got - exact| <= allowed everywhere, else where it is not."""
    error = (got.to(exact.dtype) - exact).abs()
    # NaN compares false: an element that was never written is found.
    bad = ~((error <= allowed) | (got.to(exact.dtype) == exact))
    count = int(bad.sum())
    if not count:
        return None
    at = tuple(int(i) for i in bad.nonzero()[0])
    return (
        f"{count} of {bad.numel()} elements are off; at {at} it is {got[at].item()!r}, expected "
        f"{exact[at].item()!r} +- {allowed[at].item():.3g}"
    )
