"""One pass of a pooling on random tensors, checked against torch's functions."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from autotune import Candidate

from ..launch import Plan, Slot
from ..ops._pool_run import PoolCall
from ..pool_problem import INTEGERS, PoolArguments, PoolOperands, PoolPass, PoolProblem
from ..reference.pool_geometry import Windows
from ..testing.tolerances import ROUNDOFF, SPREAD
from .trial import Launches, placed, values, worst

# A power is an exponential of a logarithm, which is this many times less exact than a product.
POWER = 64.0


class PoolTrial(Launches):
    """A problem with its tensors on a device, and the result to expect."""

    def __init__(
        self,
        problem: PoolProblem,
        which: PoolPass,
        plan_of: Callable[[Candidate], Plan],
        device: torch.device,
        aligned: bool,
    ) -> None:
        super().__init__(plan_of)
        self._problem, self._which = problem, which
        self._like = torch.empty(0, dtype=problem.dtype, device=device)
        self._aligned = aligned
        rank, kind = problem.rank, problem.reduction.kind
        self._arguments = _arguments(problem)
        shape = (problem.batch, problem.channels, *problem.input_size[3 - rank :])
        self._windows = Windows(shape[2:], self._arguments)
        x = self._values(shape, problem.input_strides, 0)
        self._parameters = self._make_parameters()
        y, taps = self._call(PoolPass.FORWARD, PoolOperands(x=x))
        saved = self._as_saved(taps if kind == "max" else y)
        operands = PoolOperands(x=x)
        if which is PoolPass.BACKWARD:
            dy = self._values(y.shape, problem.output_strides, 1)
            needed = x if kind == "lp" else None
            operands = PoolOperands(needed, dy, saved, None if kind == "lp" else shape)
        elif which is PoolPass.LOG:
            operands = PoolOperands(x=x, saved=saved)
        self._exact, _ = self._call(which, _widened(operands))
        self._taps = taps if kind == "max" and which is PoolPass.FORWARD else None
        self._place(operands)

    def check(self, candidate: Candidate) -> str | None:
        """Run it once into a poisoned result, and compare."""
        result = next(iter(self._tensors.values()))
        integers = self._problem.dtype in INTEGERS
        result.fill_(torch.iinfo(result.dtype).max if integers else float("nan"))
        if self._taps is not None:
            self._tensors[Slot.TAPS].fill_(255)
        self.launch(candidate)
        if self._taps is not None and not torch.equal(
            self._tensors[Slot.TAPS].long(), self._taps.long()
        ):
            return "the winners' numbers differ"
        if integers:
            return None if torch.equal(result, self._exact) else "the integers differ"
        return worst(result, self._exact, self._allowed())

    def _allowed(self) -> Tensor:
        problem, exact = self._problem, self._exact
        if problem.reduction.kind == "max" and self._which is PoolPass.FORWARD:
            return torch.zeros_like(exact)
        double = problem.dtype == torch.float64
        own = ROUNDOFF[torch.float64 if double else torch.float32]
        # Numbers of this trial are of one size, so the largest bounds what a sum may lose.
        size = exact.abs() + exact.abs().amax().clamp(min=1) if exact.numel() else exact
        steps = SPREAD * problem.taps * (POWER if problem.reduction.kind == "lp" else 1.0)
        rounded = ROUNDOFF[problem.dtype] * exact.abs()
        if problem.reduction.kind == "lp" and self._which is not PoolPass.FORWARD:
            # What was saved was rounded, and is raised to a power.
            rounded = rounded + 8 * ROUNDOFF[problem.dtype] * size
        return rounded + steps * own * size + torch.finfo(problem.dtype).smallest_normal

    def _place(self, operands: PoolOperands) -> None:
        """The launch's tensors, the result first."""
        problem, which = self._problem, self._which
        shape, strides = problem.result_shape(which), problem.result_strides(which)
        written = Slot.GRAD_INPUT if which is PoolPass.BACKWARD else Slot.OUTPUT
        found: dict[Slot, Tensor | None] = {
            written: placed(shape, strides, self._like, self._aligned),
            Slot.INPUT: operands.x,
            Slot.GRAD_OUTPUT: operands.dy,
            Slot.PARAMETERS: self._parameters,
        }
        if self._taps is not None:
            like = self._like.to(problem.tap_dtype)
            found[Slot.TAPS] = placed(shape, strides, like, self._aligned)
        elif operands.saved is not None:
            max_pool = problem.reduction.kind == "max"
            found[Slot.TAPS if max_pool else Slot.SAVED] = operands.saved
        self._tensors = {slot: t for slot, t in found.items() if t is not None}

    def _call(self, which: PoolPass, operands: PoolOperands) -> tuple[Tensor, Any]:
        reduction = self._problem.reduction
        call = PoolCall(which, reduction, operands, self._parameters, self._arguments)
        with torch.no_grad():
            return call.composed(self._windows)

    def _as_saved(self, saved: Tensor) -> Tensor:
        lifted = self._problem.saved_strides
        strides = (*lifted[:2], *lifted[5 - self._problem.rank :])
        return placed(saved.shape, strides, saved, self._aligned).copy_(saved)

    def _values(self, shape: Any, lifted: tuple[int, ...], seed: int) -> Tensor:
        strides = (*lifted[:2], *lifted[5 - self._problem.rank :])
        return values(shape, strides, self._like, self._aligned, seed)

    def _make_parameters(self) -> Tensor | None:
        problem, reduction = self._problem, self._problem.reduction
        dtype = torch.float64 if problem.dtype == torch.float64 else torch.float32
        device = self._like.device
        if reduction.weighted:
            window = problem.kernel_size[3 - problem.rank :]
            return torch.rand(window, dtype=dtype, device=device) + 0.5
        if reduction.learned:
            count = problem.channels if reduction.by_channel else 1
            return torch.linspace(1.5, 3.5, count, dtype=dtype, device=device)
        return None


def _widened(operands: PoolOperands) -> PoolOperands:
    """Floating-point operands in float64; the numbers of taps as they are."""

    def wide(t: Tensor | None) -> Tensor | None:
        return t.double() if t is not None and t.dtype.is_floating_point else t

    x, dy, saved, size, _ = operands
    return PoolOperands(wide(x), wide(dy), wide(saved), size)


def _arguments(problem: PoolProblem) -> PoolArguments:
    kept = slice(3 - problem.rank, 3)
    pads = [side for pair in problem.padding[kept] for side in pair]
    geometry = (problem.kernel_size[kept], problem.stride[kept], pads, problem.dilation[kept])
    if problem.adaptive:
        return PoolArguments(*geometry, adaptive_size=problem.output_size[kept])
    sizes = zip(
        problem.input_size[kept],
        problem.output_size[kept],
        problem.padding[kept],
        *(getattr(problem, name)[kept] for name in ("kernel_size", "stride", "dilation")),
        strict=True,
    )
    # An output of more windows than fit whole was made with ceil_mode.
    ceil = any((i + lo + hi - d * (f - 1) - 1) // s + 1 != o for i, o, (lo, hi), f, s, d in sizes)
    return PoolArguments(*geometry, ceil_mode=ceil)
