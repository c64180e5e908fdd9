"""torch.ops.tritonconv.conv, conv_dgrad and conv_wgrad: any rank, any weight period.

The three are the partial derivatives of one form, trilinear in (y, x, w), so the gradient of each
is made of the other two and double backward needs nothing new:

    conv(x, w)         d/dx: conv_dgrad(dy, w)     d/dw: conv_wgrad(dy, x)
    conv_dgrad(dy, w)  d/ddy: conv(ddx, w)         d/dw: conv_wgrad(dy, ddx)
    conv_wgrad(dy, x)  d/ddy: conv(x, ddw)         d/dx: conv_dgrad(dy, ddw)

On the CPU path ATen may record its own gradients instead (`aten_records`). Otherwise each has two
autograd functions. Eager calls take one that writes its context in `forward`; calls
under a torch.func transform take one with `setup_context`, which functorch demands and which is
slower.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ..launch import interpreting
from ..problem import ConvArguments, Pass
from ..reference.epilogue import bias_gradient, spread
from ._policy import hold_policy, under_forwards_policy
from ._run import problem_of, run
from ._vmap import grouped, scaled, vmap_conv, vmap_dgrad, vmap_wgrad, which_axis

TAIL = (
    "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, bool flip=False, "
    'str padding_mode="zeros"'
)
SCHEMAS = {
    "conv": f"conv(Tensor input, Tensor weight, Tensor? bias, {TAIL}) -> Tensor",
    "conv_dgrad": (
        f"conv_dgrad(Tensor grad_output, Tensor weight, SymInt[] input_size, {TAIL}) -> Tensor"
    ),
    "conv_wgrad": (
        f"conv_wgrad(Tensor grad_output, Tensor input, SymInt[] weight_size, {TAIL}) -> Tensor"
    ),
}
NAMES = {Pass.FPROP: "conv", Pass.DGRAD: "conv_dgrad", Pass.WGRAD: "conv_wgrad"}

library = torch.library.Library("tritonconv", "DEF")
for _schema in SCHEMAS.values():
    library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))

conv = torch.ops.tritonconv.conv.default
conv_dgrad = torch.ops.tritonconv.conv_dgrad.default
conv_wgrad = torch.ops.tritonconv.conv_wgrad.default
_OPS = {Pass.FPROP: conv, Pass.DGRAD: conv_dgrad, Pass.WGRAD: conv_wgrad}


# -- gradients -------------------------------------------------------------------------------


def _save(ctx: Any, which: Pass, inputs: tuple[Any, ...]) -> None:
    """Keep each operand only if the other one's gradient will read it."""
    a, b, extra, *rest = inputs
    hold_policy(ctx)
    need_a, need_b = ctx.needs_input_grad[:2]
    ctx.save_for_backward(a if need_b else None, b if need_a else None)
    ctx.call = which, a.shape, b.shape, getattr(extra, "shape", None), rest


@under_forwards_policy
def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    a, b = ctx.saved_tensors
    which, a_shape, b_shape, bias_shape, rest = ctx.call
    need_a, need_b, need_bias = ctx.needs_input_grad[:3]
    da = db = dbias = None
    if which is Pass.FPROP:
        da = conv_dgrad(grad, b, a_shape, *rest) if need_a else None
        db = conv_wgrad(grad, a, b_shape, *rest) if need_b else None
        dbias = bias_gradient(grad, bias_shape) if need_bias else None
    elif which is Pass.DGRAD:
        da = conv(grad, b, None, *rest) if need_a else None
        db = conv_wgrad(a, grad, b_shape, *rest) if need_b else None
    else:
        da = conv(b, grad, None, *rest) if need_a else None
        db = conv_dgrad(a, grad, b_shape, *rest) if need_b else None
    return da, db, dbias, *[None] * len(rest)


def _eager_function(which: Pass) -> Any:
    op = _OPS[which]

    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _save(ctx, which, inputs)
        if is_plain(*inputs[:3]):
            return run(which, *inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*inputs)

    body = {"forward": staticmethod(forward), "backward": staticmethod(_backward)}
    return type(f"Eager_{NAMES[which]}", (Function,), body)


def _transformed_function(which: Pass) -> Any:
    op = _OPS[which]

    def forward(*inputs: Any) -> Tensor:
        return op(*inputs)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save(ctx, which, inputs)

    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        return _vmapped(which, info.batch_size, in_dims, inputs), 0

    body = {
        "forward": staticmethod(forward),
        "setup_context": staticmethod(setup_context),
        "backward": staticmethod(_backward),
        "vmap": staticmethod(vmap),
    }
    return type(f"Transformed_{NAMES[which]}", (Function,), body)


def _vmapped(which: Pass, size: int, in_dims: tuple[Any, ...], inputs: tuple[Any, ...]) -> Tensor:
    a, b, extra, *rest = inputs
    arguments = ConvArguments(*rest)

    def tail(factor: int) -> tuple[Any, ...]:
        g = grouped(arguments, factor)
        return g.stride, g.padding, g.dilation, g.groups, g.flip, g.padding_mode

    if which is Pass.FPROP:

        def call(x: Tensor, w: Tensor, bias: Tensor | None, f: int) -> Tensor:
            return conv(x, w, bias, *tail(f))

        if extra is None or extra.dim() == 1 + (in_dims[2] is not None):
            return vmap_conv(size, in_dims[:3], (a, b, extra), call)
        y = vmap_conv(size, (*in_dims[:2], None), (a, b, None), call)
        banks = [extra] if in_dims[2] is None else extra.unbind(in_dims[2])
        return y + torch.stack([spread(bias, y.shape[3:]) for bias in banks])[:, None]
    if which is Pass.DGRAD:
        return vmap_dgrad(
            size,
            in_dims[:2],
            (a, b),
            lambda dy, w, n, f: conv_dgrad(dy, w, scaled(scaled(extra, 0, n), 1, f), *tail(f)),
        )
    axis = which_axis(which, len(arguments.stride), extra)
    return vmap_wgrad(
        size,
        in_dims[:2],
        (a, b),
        lambda dy, x, f: conv_wgrad(dy, x, scaled(extra, axis, f), *tail(f)),
        axis,
    )


# -- registration ----------------------------------------------------------------------------


def _backend(which: Pass) -> Callable[..., Tensor]:
    def backend(
        a: Tensor,
        b: Tensor,
        extra: Any,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
        flip: bool = False,
        padding_mode: str = "zeros",
    ) -> Tensor:
        return run(which, a, b, extra, stride, padding, dilation, groups, flip, padding_mode)

    return backend


def _fake(which: Pass) -> Callable[..., Tensor]:
    def fake(a: Tensor, b: Tensor, extra: Any, *rest: Any) -> Tensor:
        problem = problem_of(which, a, b, extra, ConvArguments(*rest))
        return a.new_empty_strided(problem.result_shape(which), problem.result_strides(which))

    return fake


def _autograd(which: Pass) -> Callable[..., Tensor]:
    op, function = _OPS[which], _eager_function(which)

    def autograd(
        a: Tensor,
        b: Tensor,
        extra: Any,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
        flip: bool = False,
        padding_mode: str = "zeros",
    ) -> Tensor:
        plain = is_plain(a, b, extra)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(a, b, extra):
            if not (plain and aten_records(which, a, b, extra)):
                return function.apply(
                    a, b, extra, stride, padding, dilation, groups, flip, padding_mode
                )
        elif not plain:
            with torch._C._AutoDispatchBelowAutograd():
                return op(a, b, extra, stride, padding, dilation, groups, flip, padding_mode)
        return run(which, a, b, extra, stride, padding, dilation, groups, flip, padding_mode)

    return autograd


def aten_records(which: Pass, a: Tensor, b: Tensor, extra: Any) -> bool:
    """Whether the CPU path may be left to record ATen's own gradients, at ATen's speed.

    Not where its gradients would break our rule of memory formats (channels-last in 1-D, and in 3-D
    but for float32), and not for a weight period, whose CPU path writes into its own buffers.
    """
    axes = a.dim()
    periodic = axes != (len(extra) if which is Pass.WGRAD else b.dim())
    if not a.is_cpu or periodic or b.numel() == 0 or interpreting():
        return False
    if axes == 4 or (axes == 5 and a.dtype == torch.float32):
        return True
    return a.is_contiguous() and b.is_contiguous()


def is_plain(*operands: Any) -> bool:
    """Whether the next stop of the dispatcher would be our own backend: real tensors on a CPU or
    GPU, no lazy negation, and no mode that wants to see the call. Going there directly saves a
    round trip through the dispatcher. What is no tensor (a shape, no bias) does not matter."""
    if torch._C._len_torch_dispatch_stack():
        return False
    for operand in operands:
        if type(operand) in _PLAIN:
            if not (operand.is_cpu or operand.is_cuda):
                return False
            if operand.is_neg() or operand._is_zerotensor():
                return False
        elif isinstance(operand, Tensor):
            return False
    return True


def explainer() -> Any:
    """The recorder of `explain`, if it watches this call. An op of several stages tells it with
    `declined` why it is not one kernel."""
    mode = _get_current_dispatch_mode()
    return mode if type(mode).__module__ == "tritonconv.explain" else None


_PLAIN = frozenset((Tensor, torch.nn.Parameter))


def _transformed(which: Pass) -> Callable[..., Tensor]:
    function = _transformed_function(which)

    def transformed(a: Tensor, b: Tensor, extra: Any, *rest: Any) -> Tensor:
        return function.apply(a, b, extra, *with_defaults(rest))

    return transformed


def with_defaults(rest: Sequence[Any], defaults: Sequence[Any] = (False, "zeros")) -> list[Any]:
    """The arguments from `stride` on: the dispatcher drops those that equal their default."""
    return [*rest, *defaults[len(rest) - 4 :]]


AUTOCAST = {
    "cuda": torch._C.DispatchKey.AutocastCUDA,
    "cpu": torch._C.DispatchKey.AutocastCPU,
}


def _autocast(device: str) -> Callable[..., Tensor]:
    below = torch._C.DispatchKeySet(AUTOCAST[device])

    def autocast(x: Tensor, w: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        dtype = torch.get_autocast_dtype(device)
        with torch._C._ExcludeDispatchKeyGuard(below):
            cast = [
                t.to(dtype) if t is not None and t.dtype == torch.float32 else t
                for t in (x, w, bias)
            ]
            return conv(*cast, *rest)

    return autocast


BODIES = {which: _autograd(which) for which in Pass}
for _which, _name in NAMES.items():
    for _key in ("CPU", "CUDA"):
        library.impl(_name, _backend(_which), _key)
    library.impl(_name, BODIES[_which], "Autograd")
    library.impl(_name, _transformed(_which), "FuncTorchDynamicLayerFrontMode")
    torch.library.register_fake(f"tritonconv::{_name}", _fake(_which), lib=library)
# Only the forward op casts: a backward runs outside autocast, in the dtype of its forward.
library.impl("conv", _autocast("cuda"), "AutocastCUDA")
library.impl("conv", _autocast("cpu"), "AutocastCPU")
