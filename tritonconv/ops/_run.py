"""The body of every op: find the plan of the call, then run it on the call's tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..launch import Plan, Slot, interpreting
from ..layout import is_channels_last
from ..planning import BoundedCache, device_of, make_plan
from ..problem import ConvArguments, ConvProblem, Pass, dgrad_problem, fprop_problem, wgrad_problem
from ..reference import aten

CALLS: BoundedCache[Callable[..., Tensor]] = BoundedCache()

# The operands of each pass, in the order of its op's arguments, and its result.
OPERANDS = {
    Pass.FPROP: (Slot.INPUT, Slot.WEIGHT, Slot.OUTPUT),
    Pass.DGRAD: (Slot.OUTPUT, Slot.WEIGHT, Slot.INPUT),
    Pass.WGRAD: (Slot.OUTPUT, Slot.INPUT, Slot.WEIGHT),
}


def problem_of(
    which: Pass, a: Tensor, b: Tensor, extra: Any, arguments: ConvArguments
) -> ConvProblem:
    """The problem of a call: `extra` is fprop's bias, or the shape of the result to compute."""
    if which is Pass.FPROP:
        return fprop_problem(a, b, extra, arguments)
    build = dgrad_problem if which is Pass.DGRAD else wgrad_problem
    return build(a, b, extra, arguments)


def run(which: Pass, a: Tensor, b: Tensor, extra: Any, *rest: Any) -> Tensor:
    """Compute one pass. `rest` are the ops' stride, padding, dilation, groups and flip.

    A problem met before costs this look-up and the work itself.
    """
    stride, padding, dilation, groups, flip = rest
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
        torch._C._get_fp32_precision_getter("cuda", "conv"),
        (a.data_ptr() | b.data_ptr()) & 15,
    )
    call = CALLS.get(key)
    if call is None:
        call = CALLS.add(key, lambda: _prepare(which, a, b, extra, ConvArguments(*rest)))
    return call(a, b, extra)


def _prepare(
    which: Pass, a: Tensor, b: Tensor, extra: Any, arguments: ConvArguments
) -> Callable[[Tensor, Tensor, Any], Tensor]:
    """Plan a call, and bind the plan to what remains to be done with the tensors."""
    plan = plan_call(which, a, b, extra, arguments)
    problem = plan.problem
    shape, strides = problem.result_shape(which), problem.result_strides(which)
    first, second, written = OPERANDS[which]
    compute = aten_call(which, extra, arguments, problem)

    def by_aten(a: Tensor, b: Tensor, extra: Any) -> Tensor:
        result = compute(a, b, extra)
        if result.stride() != strides:
            # ATen's own choice of memory format depends on dtype and backend; ours is one rule.
            result = torch.empty_strided(shape, strides, dtype=result.dtype).copy_(result)
        return result

    def by_kernels(a: Tensor, b: Tensor, extra: Any) -> Tensor:
        result = torch.empty_strided(shape, strides, dtype=a.dtype, device=a.device)
        tensors = {first: a, second: b, written: result}
        if problem.has_bias:
            # A vector of K values: made dense here if it is a view with gaps.
            tensors[Slot.BIAS] = extra.contiguous()
        plan.run(tensors)
        return result

    def by_nothing(a: Tensor, b: Tensor, extra: Any) -> Tensor:
        # Sums over no channels, which ATen leaves out of the result: zeros, and the bias.
        result = torch.empty_strided(shape, strides, dtype=a.dtype).zero_()
        if problem.has_bias:
            result += extra.reshape(-1, *[1] * problem.rank)
        return result

    if plan.backend != "aten":
        return by_kernels
    return by_aten if problem.in_channels else by_nothing


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


def plan_call(which: Pass, a: Tensor, b: Tensor, extra: Any, arguments: ConvArguments) -> Plan:
    """The plan of one call: checks the arguments, reads shapes, strides and pointers, runs nothing.

    CPU tensors take ATen, unless Triton interprets.
    """
    problem = problem_of(which, a, b, extra, arguments)
    if a.device.type == "cpu" and not interpreting():
        reason = "the tensors are on the CPU, and TRITON_INTERPRET is not set"
        return Plan(problem, which, "aten", "aten", rejected=(("triton kernels", reason),))
    aligned = (a.data_ptr() | b.data_ptr()) % 16 == 0
    return make_plan(problem, which, device_of(a.device.type, a.device.index), aligned=aligned)


def _key_of(extra: Tensor | Sequence[int]) -> Any:
    if isinstance(extra, Tensor):
        return (extra.shape, extra.stride(), extra.dtype, extra.device)
    return tuple(extra)
