"""torch.ops.tritonconv.depthwise_separable: a depthwise and a pointwise convolution as one.

    y = conv(conv(input, depthwise_weight), pointwise_weight, bias)

Where it pays, one kernel computes it and the result of the depthwise step is never stored;
elsewhere the op is the two convolutions. Backward of the one kernel computes that result again,
and what remains are the linear ops of `conv.py`, so that double backward needs nothing new. Under
a torch.func transform the op is its two convolutions.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..launch import Plan, Slot, interpreting
from ..planning import BoundedCache, device_of, why_aten
from ..problem import Pass
from ..reference.epilogue import bias_gradient
from ..separable import (
    DEPTHWISE_WEIGHT,
    NAME,
    declines,
    fused_plan,
    separable_problem,
    supports,
    two_arguments,
)
from ._policy import hold_policy, under_forwards_policy
from ._run import _key_of, run
from .conv import AUTOCAST, conv, conv_dgrad, conv_wgrad, explainer, is_plain, library
from .entry import convolve

SCHEMAS = {
    "depthwise_separable": (
        "depthwise_separable(Tensor input, Tensor depthwise_weight, Tensor pointwise_weight, "
        "Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, bool flip=False, "
        'str padding_mode="zeros") -> Tensor'
    )
}
library.define(SCHEMAS["depthwise_separable"], tags=(torch.Tag.pt2_compliant_tag,))
_op = torch.ops.tritonconv.depthwise_separable.default

# The fused plan of a call, or None and the reason why the two convolutions run.
_PLANS: BoundedCache[tuple[Plan | None, str]] = BoundedCache()


def depthwise_separable(
    input: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    *rest: Any,
) -> Tensor:
    """activation(y + residual), y as the op's; `rest` are stride, padding, dilation, flip and
    padding_mode. What the functions call."""
    # torch.compile cannot trace the question whether Triton interprets; on a CPU it seldom does.
    aten = input.is_cpu and (torch.compiler.is_compiling() or not interpreting())
    if residual is None and activation == "none" and not aten:
        return _op(input, depthwise_weight, pointwise_weight, bias, *rest)
    first, second = two_arguments(input.shape[1], *rest)
    hidden = convolve(input, depthwise_weight, None, None, "none", *first)
    return convolve(hidden, pointwise_weight, bias, residual, activation, *second)


def plan_call(
    x: Tensor, depthwise: Tensor, pointwise: Tensor, bias: Tensor | None, *rest: Any
) -> tuple[Plan | None, str]:
    """The plan of one launch, or None and why two convolutions serve better. Checks the
    arguments."""
    problem = separable_problem(x, depthwise, pointwise, bias, *rest)
    reason = why_aten(x)
    if reason is not None:
        return None, reason
    device = device_of(x)
    refused = supports(problem) or declines(problem, device)
    if refused is not None:
        return None, refused
    operands = (x, depthwise, pointwise, bias)
    aligned = all(t.data_ptr() % 16 == 0 for t in operands if t is not None)
    return fused_plan(problem, device, aligned=aligned), ""


def _plan(*inputs: Any) -> Plan | None:
    """`plan_call`, remembered by the call's signature."""
    operands, (stride, padding, dilation, *others) = inputs[:4], inputs[4:]
    key = (
        *(None if t is None else _key_of(t) for t in operands),
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        *others,
        torch._C._get_fp32_precision_getter("cuda", "conv"),
        tuple(t.data_ptr() % 16 == 0 for t in operands if t is not None),
    )
    found = _PLANS.get(key)
    return (_PLANS.add(key, lambda: plan_call(*inputs)) if found is None else found)[0]


def _run_plan(plan: Plan, *inputs: Any) -> Tensor:
    x, depthwise, pointwise, bias = inputs[:4]
    shape = plan.problem.result_shape(Pass.FPROP)
    y = torch.empty_strided(
        shape, plan.problem.result_strides(Pass.FPROP), dtype=x.dtype, device=x.device
    )
    tensors = {
        Slot.INPUT: x,
        DEPTHWISE_WEIGHT: depthwise,
        Slot.WEIGHT: pointwise,
        Slot.OUTPUT: y,
    }
    if bias is not None:
        tensors[Slot.BIAS] = bias
    plan.run(tensors)
    return y


def _two_steps(step: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """The op as two convolutions by `step`, which is the op `conv` or what it runs."""
    x, depthwise, pointwise, bias, *rest = inputs
    first, second = two_arguments(x.shape[1], *rest)
    return step(step(x, depthwise, None, *first), pointwise, bias, *second)


# -- gradients -------------------------------------------------------------------------------


class _Separable(Function):
    """Old-style, as the functions of `conv.py` are: the cheapest that torch has."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        hold_policy(ctx)
        x, depthwise, pointwise, bias, *rest = inputs
        need_x, need_depthwise, need_pointwise, _ = ctx.needs_input_grad[:4]
        hidden = need_x or need_depthwise
        ctx.save_for_backward(
            x if need_depthwise or need_pointwise else None,
            depthwise if need_x or need_pointwise else None,
            pointwise if hidden else None,
        )
        ctx.call = x.shape, depthwise.shape, pointwise.shape, getattr(bias, "shape", None), rest
        return _below_autograd(*inputs)

    @staticmethod
    @under_forwards_policy
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, depthwise, pointwise = ctx.saved_tensors
        x_shape, depthwise_shape, pointwise_shape, bias_shape, rest = ctx.call
        need_x, need_depthwise, need_pointwise, need_bias = ctx.needs_input_grad[:4]
        first, second = two_arguments(x_shape[1], *rest)
        dx = d_depthwise = d_pointwise = None
        if need_x or need_depthwise:
            hidden_shape = (x_shape[0], depthwise_shape[0], *dy.shape[2:])
            d_hidden = conv_dgrad(dy, pointwise, hidden_shape, *second)
            dx = conv_dgrad(d_hidden, depthwise, x_shape, *first) if need_x else None
            if need_depthwise:
                d_depthwise = conv_wgrad(d_hidden, x, depthwise_shape, *first)
        if need_pointwise:
            hidden = conv(x, depthwise, None, *first)
            d_pointwise = conv_wgrad(dy, hidden, pointwise_shape, *second)
        dbias = bias_gradient(dy, bias_shape) if need_bias else None
        return dx, d_depthwise, d_pointwise, dbias, *[None] * len(rest)


# -- registration ----------------------------------------------------------------------------


def _backend(*inputs: Any) -> Tensor:
    inputs = complete(*inputs)
    plan = _plan(*inputs)
    if plan is None:
        return _two_steps(lambda *step: run(Pass.FPROP, *step), *inputs)
    return _run_plan(plan, *inputs)


def _below_autograd(*inputs: Any) -> Tensor:
    if is_plain(*inputs[:4]):
        return _backend(*inputs)
    with torch._C._AutoDispatchBelowAutograd():
        return _op(*inputs)


def _autograd(*inputs: Any) -> Tensor:
    inputs = complete(*inputs)
    watcher = explainer()
    if watcher is not None:
        plan, reason = plan_call(*inputs)
        if plan is None:
            watcher.declined(NAME, reason)
            return _two_steps(conv, *inputs)
    elif is_plain(*inputs[:4]) and _plan(*inputs) is None:
        # Two ops record their own gradients, and keep what lies between them.
        return _two_steps(conv, *inputs)
    if torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs[:4]):
        return _Separable.apply(*inputs)
    return _below_autograd(*inputs)


def _transformed(*inputs: Any) -> Tensor:
    return _two_steps(conv, *complete(*inputs))


def _fake(*inputs: Any) -> Tensor:
    problem = separable_problem(*complete(*inputs)).pointwise
    shape, strides = problem.result_shape(Pass.FPROP), problem.result_strides(Pass.FPROP)
    return inputs[0].new_empty_strided(shape, strides)


def complete(*inputs: Any) -> tuple[Any, ...]:
    """The arguments with the defaults that the dispatcher drops."""
    return (*inputs, *(False, "zeros")[len(inputs) - 7 :])


def _autocast(device: str) -> Callable[..., Tensor]:
    below = torch._C.DispatchKeySet(AUTOCAST[device])

    def autocast(*inputs: Any) -> Tensor:
        dtype = torch.get_autocast_dtype(device)
        with torch._C._ExcludeDispatchKeyGuard(below):
            cast = [
                t.to(dtype) if t is not None and t.dtype == torch.float32 else t for t in inputs[:4]
            ]
            return _op(*cast, *inputs[4:])

    return autocast


library.impl("depthwise_separable", _backend, "CPU")
library.impl("depthwise_separable", _backend, "CUDA")
library.impl("depthwise_separable", _autograd, "Autograd")
library.impl("depthwise_separable", _transformed, "FuncTorchDynamicLayerFrontMode")
library.impl("depthwise_separable", _autocast("cuda"), "AutocastCUDA")
library.impl("depthwise_separable", _autocast("cpu"), "AutocastCPU")
torch.library.register_fake("tritonconv::depthwise_separable", _fake, lib=library)
