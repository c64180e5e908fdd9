"""The body of every pooling op: find the plan of the call, then run it on the call's tensors."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack  # type: ignore

from autotune.policies import current as current_policy

from ..checks import shape_of
from ..errors import ProblemError
from ..launch import Plan, Slot
from ..planning import BoundedCache, device_of, why_aten
from ..pool_problem import (
    PoolArguments,
    PoolOperands,
    PoolPass,
    PoolProblem,
    Reduction,
    pool_problem,
)
from ..pooling import pool_plan
from ..reference import pool_windows
from ..reference.pool_geometry import Windows
from ._run import in_strides


class PoolCall(NamedTuple):
    """The arguments of a pooling op, by what they are. `parameters` are the weights of a sum's
    taps, or the exponents of lp."""

    which: PoolPass
    reduction: Reduction
    operands: PoolOperands
    parameters: Tensor | None
    arguments: PoolArguments

    @property
    def first(self) -> Tensor:
        """The operand that decides device and dtype."""
        x, dy, *_ = self.operands
        found = dy if dy is not None else x
        assert found is not None
        return found

    def problem(self) -> PoolProblem:
        """Checked. Raises ProblemError."""
        problem = pool_problem(self.operands, self.reduction, self.arguments)
        _check_parameters(self, problem)
        return problem

    def windows(self) -> Windows:
        """For torch's own functions."""
        x, _, _, size, _ = self.operands
        return Windows((x.shape if x is not None else size or ())[2:], self.arguments)

    def number(self) -> Tensor | float:
        """The exponent, or the exponents."""
        return self.reduction.exponent if self.parameters is None else self.parameters

    def run(self) -> tuple[Tensor, Tensor | None]:
        """`(result, taps or None)`. A problem met before costs this look-up and the work."""
        x, dy, saved, size, channels_last = self.operands
        tensors = (x, dy, saved, self.parameters)
        key = (
            self.which,
            self.reduction,
            *(None if t is None else (t.shape, t.stride(), t.dtype, t.device) for t in tensors),
            None if size is None else tuple(size),
            channels_last,
            *(tuple(v) if isinstance(v, list) else v for v in self.arguments),
            current_policy(),
            tuple(t.data_ptr() % 16 == 0 for t in tensors if t is not None),
        )
        call = CALLS.get(key)
        if call is None:
            call = CALLS.add(key, self._prepare)
        return call(self)

    def plan(self) -> Plan:
        """What would run, decided without running it."""
        problem, first = self.problem(), self.first
        reason = why_aten(first)
        if reason is not None:
            rejected = (("triton kernels", reason),)
            return Plan(problem, self.which, "aten", "aten", rejected=rejected)
        tensors = (*self.operands[:3], self.parameters)
        aligned = all(t.data_ptr() % 16 == 0 for t in tensors if t is not None)
        device = device_of(first)
        return pool_plan(problem, self.which, device, aligned=aligned)

    def _prepare(self) -> Callable[["PoolCall"], tuple[Tensor, Tensor | None]]:
        plan = self.plan()
        problem, which = plan.problem, self.which
        shape, strides = problem.result_shape(which), problem.result_strides(which)
        saves = self.reduction.kind == "max" and which is PoolPass.FORWARD
        if plan.backend == "aten":
            windows = self.windows()

            def by_torch(call: PoolCall) -> tuple[Tensor, Tensor | None]:
                result, taps = call.composed(windows)
                return in_strides(result, strides), (
                    in_strides(taps, strides) if taps is not None else None
                )

            return by_torch

        written = Slot.GRAD_INPUT if which is PoolPass.BACKWARD else Slot.OUTPUT
        kept = Slot.TAPS if self.reduction.kind == "max" else Slot.SAVED
        x, dy, saved, *_ = self.operands
        given = {
            Slot.INPUT: x,
            Slot.GRAD_OUTPUT: dy,
            Slot.PARAMETERS: self.parameters,
            kept: True if saves else saved,
        }
        launch = plan.bind(written, *(slot for slot, t in given.items() if t is not None))

        def by_kernels(call: PoolCall) -> tuple[Tensor, Tensor | None]:
            first = call.first
            result = torch.empty_strided(shape, strides, dtype=first.dtype, device=first.device)
            taps = torch.empty_like(result, dtype=problem.tap_dtype) if saves else None
            x, dy, saved, *_ = call.operands
            tensors = (x, dy, call.parameters, taps if saves else saved)
            launch(result, *(t for t in tensors if t is not None))
            return result, taps

        return by_kernels

    def composed(self, windows: Windows) -> tuple[Tensor, Tensor | None]:
        """The same by torch's own functions, all differentiable but the choice of taps."""
        x, dy, saved, *_ = cast("tuple[Any, ...]", self.operands)  # there are those of its kind
        reduction = self.reduction
        kind, backward = reduction.kind, self.which is PoolPass.BACKWARD
        if kind == "max" and not backward:
            with torch.no_grad():
                y, taps = pool_windows.max_pool(x, windows)
            if torch.is_grad_enabled() and (
                x.requires_grad or peek_interpreter_stack() is not None
            ):
                # A window without elements has no tap to read.
                read = pool_windows.max_pool_at(x, taps, windows)
                empty = ~windows.inside(y.device).any(-1)
                y = torch.where(empty, y, read)
            return y, taps.to(tap_dtype(windows))
        if kind == "max":
            return pool_windows.max_pool_gradient(dy, saved, windows), None
        if kind == "sum":
            sums = pool_windows.sum_pool_gradient if backward else pool_windows.sum_pool
            return sums(self.first, self.parameters, windows, reduction), None
        number = self.number()
        if backward:
            return pool_windows.lp_pool_gradient(dy, x, saved, number, windows), None
        if self.which is PoolPass.LOG:
            return pool_windows.lp_pool_log(x, saved, number, windows), None
        return pool_windows.lp_pool(x, number, windows), None


CALLS: BoundedCache[Callable[[PoolCall], tuple[Tensor, Tensor | None]]] = BoundedCache()


def tap_dtype(windows: Windows) -> torch.dtype:
    """As `PoolProblem.tap_dtype`."""
    taps = 1
    for size in windows.kernel:
        taps *= size
    return torch.uint8 if taps <= 256 else torch.int32


def _check_parameters(call: PoolCall, problem: PoolProblem) -> None:
    parameters, reduction = call.parameters, call.reduction
    wanted = torch.float64 if problem.dtype == torch.float64 else torch.float32
    if parameters is None:
        if reduction.kind == "lp" and not reduction.exponent > 0:
            raise ProblemError(
                f"norm_type: expected a positive number, inf or -inf, got {reduction.exponent}"
            )
        return
    name = "weights" if reduction.kind == "sum" else "norm_type"
    if parameters.dtype != wanted or parameters.device != call.first.device:
        raise ProblemError(
            f"{name}: expected {wanted} on {call.first.device}, got {parameters.dtype} on "
            f"{parameters.device}; convert it first, for example {name}.to(...)"
        )
    found, taps = shape_of(parameters), list(problem.kernel_size[3 - problem.rank :])
    if reduction.kind == "sum" and (found != taps or not parameters.is_contiguous()):
        raise ProblemError(
            f"weights: expected contiguous weights of shape {taps}, that of the window, got "
            f"{found} with strides {list(parameters.stride())}"
        )
    if reduction.kind == "lp" and (found not in ([1], [problem.channels])):
        raise ProblemError(
            f"norm_type: expected one exponent, or one for each of {problem.channels} channels, "
            f"got shape {found}"
        )
