"""The body of every op: find the plan of the call, then run it on the call's tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..epilogue import Extras
from ..launch import Plan, Slot, interpreting
from ..layout import is_channels_last
from ..planning import BoundedCache, device_of, make_plan
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
    strides = problem.result_strides(which)
    compute = aten_call(which, extra, arguments, problem)

    def by_aten(a: Tensor, b: Tensor, extra: Any) -> Tensor:
        untied = isinstance(extra, Tensor) and extra.dim() > 1
        result = compute(a, b, None if untied else extra)
        if untied:
            result = result.add_(epilogue.spread(extra, result.shape[2:]))
        return in_strides(result, strides)

    def by_kernels(a: Tensor, b: Tensor, extra: Any) -> Tensor:
        bias = extra if isinstance(extra, Tensor) else None
        return _launch(plan, a, b, Extras(bias))[0]

    def by_nothing(a: Tensor, b: Tensor, extra: Any) -> Tensor:
        # Sums over no channels, which ATen leaves out of the result: zeros, and the bias.
        result = torch.empty_strided(problem.result_shape(which), strides, dtype=a.dtype).zero_()
        if which is Pass.FPROP and extra is not None:
            result += epilogue.spread(extra, result.shape[2:])
        return result

    if plan.backend != "aten":
        return by_kernels
    return by_aten if problem.in_channels else by_nothing


def _prepare_fused(
    which: Pass, a: Tensor, w: Tensor, size: Any, extras: Extras, arguments: ConvArguments
) -> Callable[[Tensor, Tensor, Extras], tuple[Tensor, Tensor]]:
    plan = plan_call(which, a, w, size, arguments, extras)
    strides = plan.problem.result_strides(which)

    def by_kernels(a: Tensor, w: Tensor, extras: Extras) -> tuple[Tensor, Tensor]:
        return _launch(plan, a, w, extras)

    def by_aten(a: Tensor, w: Tensor, extras: Extras) -> tuple[Tensor, Tensor]:
        y, pre = epilogue.finish(run(which, a, w, size, *vars(arguments).values()), extras)
        return in_strides(y, strides), in_strides(pre, strides) if extras.keep_pre else pre

    return by_aten if plan.backend == "aten" else by_kernels


def _launch(plan: Plan, a: Tensor, b: Tensor, extras: Extras) -> tuple[Tensor, Tensor]:
    problem, which = plan.problem, plan.which
    first, second, written = OPERANDS[which]
    shape, strides = problem.result_shape(which), problem.result_strides(which)
    result = torch.empty_strided(shape, strides, dtype=a.dtype, device=a.device)
    tensors = {first: a, second: b, written: result}
    if extras.bias is not None:
        tensors[Slot.BIAS] = extras.bias
    if extras.residual is not None:
        tensors[Slot.RESIDUAL] = extras.residual
    pre = result.new_empty(0)
    if extras.keep_pre:
        pre = tensors[Slot.PRE] = torch.empty_like(result)
    plan.run(tensors)
    return result, pre


def in_strides(result: Tensor, strides: tuple[int, ...]) -> Tensor:
    """ATen's own choice of memory format depends on dtype and backend; ours is one rule."""
    if result.stride() == strides:
        return result
    return torch.empty_strided(result.shape, strides, dtype=result.dtype).copy_(result)


def aten_call(
    which: Pass, size: Any, arguments: ConvArguments, problem: ConvProblem
) -> Callable[[Tensor, Tensor, Any], Tensor]:
    """ATen's form of a pass; `size` is the shape of a gradient."""
    tiled = problem.period_axes
    if which is Pass.FPROP:
        return aten.conv_call(arguments, tiled)
    if which is Pass.DGRAD:
        channels_last = is_channels_last(problem.result_shape(which), problem.result_strides(which))
        gradient = aten.dgrad_call(size, arguments, tiled, channels_last)
    else:
        gradient = aten.wgrad_call(size, arguments, tiled)
    return lambda a, b, _: gradient(a, b)


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
    if a.device.type == "cpu" and not interpreting():
        reason = "the tensors are on the CPU, and TRITON_INTERPRET is not set"
        return Plan(problem, which, "aten", "aten", rejected=(("triton kernels", reason),))
    operands = (a, b, *(extras or ())[:2])
    aligned = all(t.data_ptr() % 16 == 0 for t in operands if t is not None)
    return make_plan(problem, which, device_of(a.device.type, a.device.index), aligned=aligned)


def _key_of(extra: Tensor | Sequence[int]) -> Any:
    if isinstance(extra, Tensor):
        return (extra.shape, extra.stride(), extra.dtype, extra.device)
    return tuple(extra)
