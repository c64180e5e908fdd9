"""One pass of a convolution on random tensors, checked against ATen."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from autotune import Candidate

from ..epilogue import Extras
from ..launch import Plan, Slot
from ..ops._run import OPERANDS
from ..problem import ConvArguments, ConvProblem, Pass
from ..reference import aten
from ..reference.epilogue import finish
from ..testing.tolerances import (
    ACTIVATION_ROUNDINGS,
    ROUNDOFF,
    SPREAD,
    STEEPEST,
    TF32_ROUNDOFF,
    reduction_length,
)
from .trial import Launches, placed, values, worst

# Beyond so many products the expected result is computed in float32: its error is allowed for.
MOST_IN_FLOAT64 = 1 << 36


class ConvTrial(Launches):
    """A problem with its tensors on a device, and the result to expect."""

    def __init__(
        self,
        problem: ConvProblem,
        which: Pass,
        plan_of: Callable[[Candidate], Plan],
        device: torch.device,
        aligned: bool,
    ) -> None:
        super().__init__(plan_of)
        self._problem, self._which = problem, which
        like = torch.empty(0, dtype=problem.dtype, device=device)
        shapes = {
            Slot.INPUT: (problem.result_shape(Pass.DGRAD), problem.result_strides(Pass.DGRAD)),
            Slot.WEIGHT: (problem.result_shape(Pass.WGRAD), problem.result_strides(Pass.WGRAD)),
            Slot.OUTPUT: (problem.result_shape(Pass.FPROP), problem.result_strides(Pass.FPROP)),
        }
        first, second, written = OPERANDS[which]
        self._tensors = {
            slot: values(*shapes[slot], like, aligned, seed)
            for seed, slot in enumerate((first, second))
        }
        self._written = written
        self._tensors[written] = placed(*shapes[written], like, aligned)
        self._add_epilogue(like, aligned)
        self._exact, self._allowed = self._expect()

    def check(self, candidate: Candidate) -> str | None:
        """Run it once into NaN, and compare."""
        result = self._tensors[self._written].fill_(float("nan"))
        self.launch(candidate)
        return worst(result, self._exact, self._allowed)

    def _add_epilogue(self, like: Tensor, aligned: bool) -> None:
        """The operands of the epilogue, in the strides that the problem says."""
        epilogue, result = self._problem.epilogue, self._tensors[self._written]
        rank = self._problem.rank
        if epilogue.bias_strides is not None:
            axes = rank if epilogue.bias_period != (1, 1, 1) else 0
            period = epilogue.bias_period[3 - axes :] if axes else ()
            shape = (*period, result.shape[1])
            strides = epilogue.bias_strides[len(epilogue.bias_strides) - len(shape) :]
            self._tensors[Slot.BIAS] = values(shape, strides, like, aligned, 2)
        if epilogue.residual_strides is not None:
            lifted = epilogue.residual_strides
            strides = (*lifted[:2], *lifted[5 - rank :])
            self._tensors[Slot.RESIDUAL] = values(result.shape, strides, like, aligned, 3)
        if epilogue.keep_pre:
            self._tensors[Slot.PRE] = torch.empty_like(result)

    def _expect(self) -> tuple[Tensor, Tensor]:
        """`(exact result, allowed error)`; see `testing/tolerances.py`."""
        problem, which = self._problem, self._which
        wide = problem.dtype == torch.float64 or problem.useful_flops() <= 2 * MOST_IN_FLOAT64
        dtype = torch.float64 if wide else torch.float32
        length = max(reduction_length(problem, which), 1)
        double = problem.dtype == torch.float64
        relative = SPREAD * length**0.5 * ROUNDOFF[torch.float64 if double else torch.float32]
        if not wide:
            relative *= 2
        if problem.precision == "tf32":
            relative += 2 * TF32_ROUNDOFF
        exact = self._compute(lambda t: t.to(dtype), problem.epilogue.activation)
        size = self._compute(lambda t: t.to(dtype).abs(), "none") + exact.abs()
        allowed = ROUNDOFF[problem.dtype] * exact.abs() + STEEPEST * relative * size
        if problem.epilogue.activation != "none":
            own = ROUNDOFF[torch.float64 if double else torch.float32]
            allowed += ACTIVATION_ROUNDINGS * own * size
        return exact, allowed + torch.finfo(problem.dtype).smallest_normal

    def _compute(self, of: Callable[[Tensor], Tensor], activation: str) -> Tensor:
        problem, which, rank = self._problem, self._which, self._problem.rank
        first, second, _ = OPERANDS[which]
        a, b = of(self._tensors[first]), of(self._tensors[second])
        kept = slice(3 - rank, 3)
        pairs: list[Any] = [side for pair in problem.padding[kept] for side in pair]
        arguments = ConvArguments(
            list(problem.stride[kept]),
            pairs,
            list(problem.dilation[kept]),
            problem.groups,
            problem.flip,
            problem.padding_mode,
        )
        shape, tiled = problem.result_shape(which), problem.period_axes
        with torch.no_grad(), _without_tf32():
            if which is Pass.FPROP:
                result = aten.conv_call(arguments, tiled)(a, b, None)
            elif which is Pass.DGRAD:
                result = aten.dgrad_call(shape, arguments, tiled)(a, b)
            else:
                return aten.wgrad_call(shape, arguments, tiled)(a, b)
            bias, residual = (self._tensors.get(s) for s in (Slot.BIAS, Slot.RESIDUAL))
            extras = Extras(
                None if bias is None else of(bias),
                None if residual is None else of(residual),
                activation,
            )
            return finish(result, extras, False)[0]


@contextmanager
def _without_tf32() -> Iterator[None]:
    settings = getattr(torch.backends.cudnn, "conv")  # noqa: B009 (made as torch starts)
    before = settings.fp32_precision
    settings.fp32_precision = "ieee"
    try:
        yield
    finally:
        settings.fp32_precision = before
