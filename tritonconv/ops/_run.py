"""The body of every op: find the plan of the call, then run it on the call's tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from autotune.policies import current as current_policy

from ..epilogue import Extras
from ..launch import Plan, Slot
from ..layout import is_channels_last
from ..planning import BoundedCache, device_of, make_plan, why_aten
from ..problem import ConvArguments, ConvProblem, Pass, dgrad_problem, fprop_problem, wgrad_problem
from ..reference import aten, epilogue

CALLS: BoundedCache[Callable[..., Any]] = BoundedCache()

# The operands of each pass, in the order of its op's arguments, and its result.
OPERANDS = {
    Pass.FPROP: (Slot.INPUT, Slot.WEIGHT, Slot.OUTPUT),
    Pass.DGRAD: (Slot.OUTPUT, Slot.WEIGHT, Slot.INPUT),
    Pass.WGRAD: (Slot.OUTPUT, Slot.INPUT, Slot.WEIGHT),
}


def problem_of(
    which: Pass,
    a: Tensor,
    b: Tensor,
    extra: Any,
    arguments: ConvArguments,
    extras: Extras | None = None,
) -> ConvProblem:
    """The problem of a call: `extra` is fprop's bias, or the shape of the result to compute;
    `extras` the operands of a fused op, whose bias is among them."""
    if which is Pass.FPROP:
        return fprop_problem(a, b, extra, arguments, extras)
    if which is Pass.DGRAD:
        return dgrad_problem(a, b, extra, arguments, extras)
    return wgrad_problem(a, b, extra, arguments)


def run(which: Pass, a: Tensor, b: Tensor, extra: Any, *rest: Any) -> Tensor:
    """Compute one pass. `rest` are the fields of ConvArguments.

    A problem met before costs this look-up and the work itself.
    """
    stride, padding, dilation, groups, flip, mode = rest
    key = (
        which,
        a.shape,
        a.stride(),
        a.dtype,
        a.device,
        b.shape,
        b.stride(),
        b.dtype,
        b.device,
        None if extra is None else _key_of(extra),
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        groups,
        flip,
        mode,
        torch._C._get_fp32_precision_getter("cuda", "conv"),
        current_policy(),
        (a.data_ptr() | b.data_ptr()) & 15,
    )
    call = CALLS.get(key)
    if call is None:
        arguments = ConvArguments(*rest)
        call = CALLS.add(key, lambda: _prepare(which, a, b, extra, arguments))
    return call(a, b, extra)


def run_fused(
    which: Pass, a: Tensor, w: Tensor, size: Any, extras: Extras, *rest: Any
) -> tuple[Tensor, Tensor]:
    """Compute fprop or dgrad with an epilogue; `(result, the number before the activation)`, of
    which the second is empty unless asked for."""
    bias, residual, activation, keep_pre = extras
    stride, padding, dilation, groups, flip, mode = rest
    operands = (a, w, bias, residual)
    key = (
        which,
        *(None if t is None else _key_of(t) for t in operands),
        None if size is None else tuple(size),
        (activation, keep_pre),
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        groups,
        flip,
        mode,
        torch._C._get_fp32_precision_getter("cuda", "conv"),
        current_policy(),
        tuple(t.data_ptr() % 16 == 0 for t in operands if t is not None),
    )
    call = CALLS.get(key)
    if call is None:
        arguments = ConvArguments(*rest)
        call = CALLS.add(key, lambda: _prepare_fused(which, a, w, size, extras, arguments))
    return call(a, w, extras)


def _prepare(
    which: Pass, a: Tensor, b: Tensor, extra: Any, arguments: ConvArguments
) -> Callable[[Tensor, Tensor, Any], Tensor]:
    """Plan a call, and bind the plan to what remains to be done with the tensors."""
    plan = plan_call(which, a, b, extra, arguments)
    problem = plan.problem
    sums = sums_by_aten(problem, which, extra, arguments)

    def by_aten(a: Tensor, b: Tensor, extra: Any) -> Tensor:
        if which is not Pass.FPROP:
            return sums(a, b, None)
        if extra is None or extra.dim() == 1:
            return sums(a, b, extra)
        result = sums(a, b, None)
        return result.add_(epilogue.spread(extra, result.shape[2:]))

    return by_aten if plan.backend == "aten" else _bound(plan, isinstance(extra, Tensor))


def _prepare_fused(
    which: Pass, a: Tensor, w: Tensor, size: Any, extras: Extras, arguments: ConvArguments
) -> Callable[[Tensor, Tensor, Extras], tuple[Tensor, Tensor]]:
    plan = plan_call(which, a, w, size, arguments, extras)
    sums = sums_by_aten(plan.problem, which, size, arguments)
    tied = extras.bias is not None and extras.bias.dim() == 1

    def by_aten(a: Tensor, w: Tensor, extras: Extras) -> tuple[Tensor, Tensor]:
        return epilogue.finish(sums(a, w, extras.bias if tied else None), extras, tied)

    return by_aten if plan.backend == "aten" else _bound_fused(plan, extras)


def _bound(plan: Plan, biased: bool) -> Callable[[Tensor, Tensor, Any], Tensor]:
    """The kernels of a plain call, and nothing else that could have been done before it."""
    first, second, written = OPERANDS[plan.which]
    shape = plan.problem.result_shape(plan.which)
    strides = plan.problem.result_strides(plan.which)
    bias = (Slot.BIAS,) if biased else ()
    launch = plan.bind(first, second, written, *bias)
    empty = torch.empty_strided

    def with_bias(a: Tensor, b: Tensor, extra: Tensor) -> Tensor:
        result = empty(shape, strides, dtype=a.dtype, device=a.device)
        launch(a, b, result, extra)
        return result

    def without(a: Tensor, b: Tensor, extra: Any) -> Tensor:
        result = empty(shape, strides, dtype=a.dtype, device=a.device)
        launch(a, b, result)
        return result

    return with_bias if biased else without


def _bound_fused(
    plan: Plan, extras: Extras
) -> Callable[[Tensor, Tensor, Extras], tuple[Tensor, Tensor]]:
    first, second, written = OPERANDS[plan.which]
    shape = plan.problem.result_shape(plan.which)
    strides = plan.problem.result_strides(plan.which)
    optional = {
        Slot.BIAS: extras.bias is not None,
        Slot.RESIDUAL: extras.residual is not None,
        Slot.PRE: extras.keep_pre,
    }
    launch = plan.bind(first, second, written, *(s for s, present in optional.items() if present))

    def by_kernels(a: Tensor, w: Tensor, extras: Extras) -> tuple[Tensor, Tensor]:
        result = torch.empty_strided(shape, strides, dtype=a.dtype, device=a.device)
        pre = torch.empty_like(result) if extras.keep_pre else None
        others = [t for t in (extras.bias, extras.residual, pre) if t is not None]
        launch(a, w, result, *others)
        return result, result.new_empty(0) if pre is None else pre

    return by_kernels


def in_strides(result: Tensor, strides: tuple[int, ...]) -> Tensor:
    """ATen's own choice of memory format depends on dtype and backend; ours is one rule."""
    if result.stride() == strides:
        return result
    return torch.empty_strided(result.shape, strides, dtype=result.dtype).copy_(result)


def sums_by_aten(
    problem: ConvProblem, which: Pass, size: Any, arguments: ConvArguments
) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """A pass by ATen, with a bias of one value a channel, in the strides that the problem says;
    `size` is the shape of a gradient."""
    tiled = problem.period_axes
    shape, strides = problem.result_shape(which), problem.result_strides(which)
    if which is Pass.FPROP:
        compute = aten.conv_call(arguments, tiled)
    elif which is Pass.DGRAD:
        compute = aten.dgrad_call(size, arguments, tiled, is_channels_last(shape, strides))
    else:
        gradient = aten.wgrad_call(size, arguments, tiled)

        def compute(a: Tensor, b: Tensor, _: Tensor | None) -> Tensor:
            return gradient(a, b)

    def sums(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        return in_strides(compute(a, b, bias), strides)

    def no_sums(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        # Over no channels, which ATen leaves out of the result: zeros, and the bias.
        result = torch.empty_strided(shape, strides, dtype=a.dtype).zero_()
        return result if bias is None else result.add_(epilogue.spread(bias, result.shape[2:]))

    return sums if problem.in_channels else no_sums


def plan_call(
    which: Pass,
    a: Tensor,
    b: Tensor,
    extra: Any,
    arguments: ConvArguments,
    extras: Extras | None = None,
) -> Plan:
    """The plan of one call: checks the arguments, reads shapes, strides and pointers, runs nothing.

    CPU tensors take ATen, unless Triton interprets.
    """
    problem = problem_of(which, a, b, extra, arguments, extras)
    reason = why_aten(a)
    if reason is not None:
        return Plan(problem, which, "aten", "aten", rejected=(("triton kernels", reason),))
    operands = (a, b, *(extras or ())[:2])
    aligned = all(t.data_ptr() % 16 == 0 for t in operands if t is not None)
    return make_plan(problem, which, device_of(a), aligned=aligned)


def _key_of(extra: Tensor | Sequence[int]) -> Any:
    if isinstance(extra, Tensor):
        return (extra.shape, extra.stride(), extra.dtype, extra.device)
    return tuple(extra)
