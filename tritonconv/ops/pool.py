"""torch.ops.tritonconv.max_pool, sum_pool, lp_pool, and their gradients.

    max_pool(x)       dx: max_pool_grad(dy, taps)
    sum_pool(x, w)    dx: sum_pool_grad(dy, w), its adjoint
    lp_pool(x, p)     dx: lp_pool_grad(dy, x, y, p)     dp: dy * y/p * lp_pool_log(x, y, p)

The first two are linear once the taps are chosen, so their second derivatives need no new kernel;
those of the third, and what a torch.func transform sees of any, are torch's own functions over the
windows laid out (`reference/pool_windows.py`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..layout import is_channels_last
from ..pool_problem import PoolArguments, PoolOperands, PoolPass, Reduction
from ..reference import pool_windows
from ..reference.pool_geometry import Windows
from ._policy import hold_policy, under_forwards_policy
from ._pool_run import PoolCall
from .conv import conv_wgrad, is_plain, library

TAIL = (
    "SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
    "bool ceil_mode=False, SymInt[] adaptive_size=[]"
)
_SIZE = "SymInt[] input_size"
# The gradient's memory format, where it does not show in what is left of x: one output a channel.
_LAST = "bool channels_last=False"
_SUM = "Tensor? weights, str divisor, float number"
_NORM = "Tensor? exponents, float number"
SCHEMAS = {
    "max_pool": f"max_pool(Tensor input, {TAIL}) -> (Tensor, Tensor)",
    "max_pool_grad": (
        f"max_pool_grad(Tensor grad_output, Tensor taps, {_SIZE}, {TAIL}, {_LAST}) -> Tensor"
    ),
    "sum_pool": f"sum_pool(Tensor input, {_SUM}, {TAIL}) -> Tensor",
    "sum_pool_grad": (
        f"sum_pool_grad(Tensor grad_output, {_SIZE}, {_SUM}, {TAIL}, {_LAST}) -> Tensor"
    ),
    "lp_pool": f"lp_pool(Tensor input, {_NORM}, {TAIL}) -> Tensor",
    "lp_pool_log": f"lp_pool_log(Tensor input, Tensor output, {_NORM}, {TAIL}) -> Tensor",
    "lp_pool_grad": (
        f"lp_pool_grad(Tensor grad_output, Tensor input, Tensor output, {_NORM}, {TAIL}) -> Tensor"
    ),
}
for _schema in SCHEMAS.values():
    library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))

max_pool = torch.ops.tritonconv.max_pool.default
max_pool_grad = torch.ops.tritonconv.max_pool_grad.default
sum_pool = torch.ops.tritonconv.sum_pool.default
sum_pool_grad = torch.ops.tritonconv.sum_pool_grad.default
lp_pool = torch.ops.tritonconv.lp_pool.default
lp_pool_log = torch.ops.tritonconv.lp_pool_log.default
lp_pool_grad = torch.ops.tritonconv.lp_pool_grad.default


# -- what each op's arguments are ------------------------------------------------------------


def _max(x: Tensor, *window: Any) -> PoolCall:
    operands = PoolOperands(x)
    return PoolCall(PoolPass.FORWARD, Reduction("max"), operands, None, PoolArguments(*window))


def _max_grad(dy: Tensor, taps: Tensor, size: Any, *window: Any) -> PoolCall:
    operands = PoolOperands(None, dy, taps, size, *window[6:])
    arguments = PoolArguments(*window[:6])
    return PoolCall(PoolPass.BACKWARD, Reduction("max"), operands, None, arguments)


def _sum(x: Tensor, weights: Tensor | None, divisor: str, number: float, *window: Any) -> PoolCall:
    reduction = Reduction("sum", divisor, weights is not None, number)
    return PoolCall(PoolPass.FORWARD, reduction, PoolOperands(x), weights, PoolArguments(*window))


def _sum_grad(
    dy: Tensor, size: Any, weights: Tensor | None, divisor: str, number: float, *window: Any
) -> PoolCall:
    reduction = Reduction("sum", divisor, weights is not None, number)
    operands = PoolOperands(None, dy, None, size, *window[6:])
    arguments = PoolArguments(*window[:6])
    return PoolCall(PoolPass.BACKWARD, reduction, operands, weights, arguments)


def _lp(x: Tensor, exponents: Tensor | None, number: float, *window: Any) -> PoolCall:
    operands = PoolOperands(x)
    return PoolCall(
        PoolPass.FORWARD, _norm(exponents, number), operands, exponents, PoolArguments(*window)
    )


def _lp_log(
    x: Tensor, y: Tensor, exponents: Tensor | None, number: float, *window: Any
) -> PoolCall:
    operands = PoolOperands(x, None, y)
    return PoolCall(
        PoolPass.LOG, _norm(exponents, number), operands, exponents, PoolArguments(*window)
    )


def _lp_grad(
    dy: Tensor, x: Tensor, y: Tensor, exponents: Tensor | None, number: float, *window: Any
) -> PoolCall:
    operands = PoolOperands(x, dy, y)
    return PoolCall(
        PoolPass.BACKWARD, _norm(exponents, number), operands, exponents, PoolArguments(*window)
    )


def _norm(exponents: Tensor | None, number: float) -> Reduction:
    # Beside exponents in memory the number says nothing, so it must not tell problems apart.
    if exponents is None:
        return Reduction("lp", exponent=number)
    return Reduction("lp", learned=True, by_channel=exponents.numel() > 1)


CALLS: dict[str, Callable[..., PoolCall]] = {
    "max_pool": _max,
    "max_pool_grad": _max_grad,
    "sum_pool": _sum,
    "sum_pool_grad": _sum_grad,
    "lp_pool": _lp,
    "lp_pool_log": _lp_log,
    "lp_pool_grad": _lp_grad,
}


# -- gradients -------------------------------------------------------------------------------


def _below(name: str, inputs: Sequence[Any]) -> Any:
    """The op without its autograd."""
    if is_plain(*inputs):
        return _result(CALLS[name](*inputs).run())
    with torch._C._AutoDispatchBelowAutograd():
        return getattr(torch.ops.tritonconv, name).default(*inputs)


def _result(found: tuple[Tensor, Tensor | None]) -> Any:
    return found[0] if found[1] is None else found


def weights_gradient(call: PoolCall, x: Tensor, dy: Tensor) -> Tensor:
    """dw[f] = sum over n, c, o of dy/divisor * (x at tap f of o, less y where w divides): the wgrad
    of a convolution whose channels share one filter. Differentiable."""
    windows, weights, reduction = call.windows(), call.parameters, call.reduction
    assert weights is not None
    y_like = pool_windows.wide(dy)
    divisor = windows.divisor(reduction, weights, y_like)
    dz = y_like if divisor is None else y_like / divisor
    x = pool_windows.wide(x)
    found = _correlation(windows, x, dz)
    if reduction.divisor == "weights":
        y = sum_pool(x, weights, "weights", 1.0, *call.arguments)
        ones = x.new_ones(1, 1, *x.shape[2:])
        found = found - _correlation(windows, ones, (dz * y).sum((0, 1), keepdim=True))
    return found


def _correlation(windows: Windows, x: Tensor, dy: Tensor) -> Tensor:
    """sum over n, c, o of dy[n, c, o] * x[n, c, o*s - lo + f*d], for every tap f."""
    arguments, channels = windows.arguments, x.shape[1]
    if arguments.adaptive_size:
        elements = torch.where(windows.inside(x.device), windows.gather(x), 0)
        found = (elements * dy.unsqueeze(-1)).flatten(0, -2).sum(0)
        return found.view(list(windows.kernel))
    pads = []
    for axis in range(windows.rank):
        low, stride = arguments.padding[2 * axis], arguments.stride[axis]
        reach = arguments.dilation[axis] * (windows.kernel[axis] - 1) + 1
        last = (windows.sizes[axis] - 1) * stride + reach
        pads += [low, last - windows.input_size[axis] - low]  # as far as the last window reaches
    size = [channels, 1, *windows.kernel]
    dw = conv_wgrad(dy, x, size, arguments.stride, pads, arguments.dilation, channels)
    return dw.sum((0, 1))


def _max_backward(ctx: Any, dy: Tensor | None, _: Any) -> tuple[Any, ...]:
    (taps,) = ctx.saved_tensors
    _, *window = ctx.inputs
    arguments = (*PoolArguments(*window), ctx.channels_last)
    dx = None if dy is None else max_pool_grad(dy, taps, ctx.shape, *arguments)
    return dx, *[None] * len(window)


def _max_grad_backward(ctx: Any, ddx: Tensor) -> tuple[Any, ...]:
    (taps,) = ctx.saved_tensors
    windows = _max_grad(ddx, taps, *ctx.inputs[2:]).windows()
    return pool_windows.max_pool_at(ddx, taps, windows), *[None] * (len(ctx.inputs) - 1)


def _sum_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, weights = ctx.saved_tensors
    _, _, divisor, number, *window = ctx.inputs
    dx = dw = None
    if ctx.needs_input_grad[0]:
        dz, own = dy, divisor
        if divisor == "weights":
            call = _sum(dy.new_empty(ctx.shape, device="meta"), weights, divisor, number, *window)
            total = call.windows().divisor(call.reduction, weights, pool_windows.wide(dy))
            dz, own = (pool_windows.wide(dy) / total).to(dy.dtype), "none"  # type: ignore[operator]
        arguments = (*PoolArguments(*window), ctx.channels_last)
        dx = sum_pool_grad(dz, ctx.shape, weights, own, number, *arguments)
    if ctx.needs_input_grad[1]:
        dw = weights_gradient(_sum(x, weights, divisor, number, *window), x, dy)
    return dx, dw, *[None] * (len(ctx.inputs) - 2)


def _sum_grad_backward(ctx: Any, ddx: Tensor) -> tuple[Any, ...]:
    dy, weights = ctx.saved_tensors
    _, _, _, divisor, number, *window = ctx.inputs
    ddy = dw = None
    if ctx.needs_input_grad[0]:
        ddy = sum_pool(ddx, weights, divisor, number, *window[:6])
    if ctx.needs_input_grad[2]:
        dw = weights_gradient(_sum(ddx, weights, divisor, number, *window[:6]), ddx, dy)
    return ddy, None, dw, *[None] * (len(ctx.inputs) - 3)


def _lp_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, exponents, y = ctx.saved_tensors
    _, _, number, *window = ctx.inputs
    dx = dp = None
    if ctx.needs_input_grad[0]:
        dx = lp_pool_grad(dy, x, y, exponents, number, *window)
    if ctx.needs_input_grad[1]:
        log = pool_windows.wide(lp_pool_log(x, y, exponents, number, *window))
        norm = pool_windows.exponents(exponents, log.unsqueeze(-1))
        # What is infinite does not change with its exponent.
        each = pool_windows.wide(dy) * log / norm * torch.where(y.isinf(), 0, pool_windows.wide(y))
        shared = [0, *range(2, each.dim())] if exponents.numel() > 1 else list(range(each.dim()))
        dp = each.sum(shared).view_as(exponents)
    return dx, dp, *[None] * (len(ctx.inputs) - 2)


def _composed_backward(name: str, count: int) -> Callable[..., Any]:
    """Of an op whose first `count` arguments are tensors: that of its composition."""

    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        with torch.enable_grad():
            # Aliases: y was made from x, but the two are separate arguments here.
            saved = [None if t is None else t.view_as(t) for t in ctx.saved_tensors]
        inputs = [*saved, *ctx.inputs[count:]]
        wanted = [t for t, needs in zip(inputs, ctx.needs_input_grad, strict=True) if needs]
        with torch.enable_grad():
            call = CALLS[name](*inputs)
            value, _ = call.composed(call.windows())
            grads = torch.autograd.grad(value, wanted, grad, create_graph=True, allow_unused=True)
        found = iter(grads)
        return tuple(next(found) if needs else None for needs in ctx.needs_input_grad)

    return backward


# What each saves of its inputs and result, and its backward.
_SAVED: dict[str, Callable[[Sequence[Any], Any], tuple[Any, ...]]] = {
    "max_pool": lambda inputs, result: (result[1],),
    "max_pool_grad": lambda inputs, _: (inputs[1],),
    "sum_pool": lambda inputs, _: (inputs[0], inputs[1]),
    "sum_pool_grad": lambda inputs, _: (inputs[0], inputs[2]),
    "lp_pool": lambda inputs, result: (inputs[0], inputs[1], result),
    "lp_pool_log": lambda inputs, _: tuple(inputs[:3]),
    "lp_pool_grad": lambda inputs, _: tuple(inputs[:4]),
}
_BACKWARD = {
    "max_pool": _max_backward,
    "max_pool_grad": _max_grad_backward,
    "sum_pool": _sum_backward,
    "sum_pool_grad": _sum_grad_backward,
    "lp_pool": _lp_backward,
    "lp_pool_log": _composed_backward("lp_pool_log", 3),
    "lp_pool_grad": _composed_backward("lp_pool_grad", 4),
}


def _function(name: str) -> Any:
    def forward(ctx: Any, *inputs: Any) -> Any:
        hold_policy(ctx)
        result = _below(name, inputs)
        saved = _SAVED[name](inputs, result)
        if name == "sum_pool" and not ctx.needs_input_grad[1]:
            saved = (None, inputs[1])  # x is read by the gradient of the weights alone
        if name == "sum_pool_grad" and not ctx.needs_input_grad[2]:
            saved = (None, inputs[2])
        ctx.save_for_backward(*saved)
        ctx.shape = inputs[0].shape
        ctx.channels_last = is_channels_last(inputs[0].shape, inputs[0].stride())
        ctx.inputs = [None if isinstance(v, Tensor) else v for v in inputs]
        if name == "max_pool":
            ctx.mark_non_differentiable(result[1])
            ctx.set_materialize_grads(False)
        return result

    backward = staticmethod(under_forwards_policy(_BACKWARD[name]))
    body = {"forward": staticmethod(forward), "backward": backward}
    return type(f"Eager_{name}", (Function,), body)


# -- registration ----------------------------------------------------------------------------


def _backend(name: str) -> Callable[..., Any]:
    return lambda *inputs: _result(CALLS[name](*inputs).run())


def _fake(name: str) -> Callable[..., Any]:
    def fake(*inputs: Any) -> Any:
        call = CALLS[name](*inputs)
        problem = call.problem()
        shape, strides = problem.result_shape(call.which), problem.result_strides(call.which)
        result = call.first.new_empty_strided(shape, strides)
        if name == "max_pool":
            return result, torch.empty_like(result, dtype=problem.tap_dtype)
        return result

    return fake


def _autograd(name: str) -> Callable[..., Any]:
    function = _function(name)

    def autograd(*inputs: Any) -> Any:
        tensors = [v for v in inputs if isinstance(v, Tensor)]
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*tensors):
            return function.apply(*inputs)
        return _below(name, inputs)

    return autograd


def _transformed(name: str) -> Callable[..., Any]:
    def transformed(*inputs: Any) -> Any:
        call = CALLS[name](*inputs)
        call.problem()
        return _result(call.composed(call.windows()))

    return transformed


for _name in SCHEMAS:
    for _key in ("CPU", "CUDA"):
        library.impl(_name, _backend(_name), _key)
    library.impl(_name, _autograd(_name), "Autograd")
    library.impl(_name, _transformed(_name), "FuncTorchDynamicLayerFrontMode")
    torch.library.register_fake(f"tritonconv::{_name}", _fake(_name), lib=library)
