"""torch.ops.tritonconv.conv_fused and conv_dgrad_fused: a pass with its epilogue, in one kernel.

    z = conv(input, weight) + bias + residual        or        z = conv_dgrad(input, weight) + ..
    output = activation(z)

The second is the transposed convolution. Backward turns dy into dz, by the value of the activation
or by z, which the kernel then stores too; what remains are the linear ops of `conv.py`, so that
double backward needs nothing new. Under a torch.func transform the op is its composition.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ..epilogue import NOT_FROM_VALUE, Extras
from ..problem import ConvArguments, Pass
from ..reference.epilogue import activation_gradient, bias_gradient, composed
from ._policy import hold_policy, under_forwards_policy
from ._run import problem_of, run_fused
from .conv import AUTOCAST, TAIL, conv, conv_dgrad, conv_wgrad, is_plain, library, with_defaults

_TAIL = f'{TAIL}, str activation="none", bool keep_pre=False) -> (Tensor, Tensor)'
_HEAD = "Tensor input, Tensor weight, Tensor? bias, Tensor? residual"
SCHEMAS = {
    "conv_fused": f"conv_fused({_HEAD}, {_TAIL}",
    "conv_dgrad_fused": f"conv_dgrad_fused({_HEAD}, SymInt[] output_size, {_TAIL}",
}
NAMES = {Pass.FPROP: "conv_fused", Pass.DGRAD: "conv_dgrad_fused"}
for _schema in SCHEMAS.values():
    library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))

conv_fused = torch.ops.tritonconv.conv_fused.default
conv_dgrad_fused = torch.ops.tritonconv.conv_dgrad_fused.default
OPS = {Pass.FPROP: conv_fused, Pass.DGRAD: conv_dgrad_fused}
DEFAULTS = (False, "zeros", "none", False)


class FusedCall(NamedTuple):
    """The arguments of either op, by what they are. `size` is None for fprop."""

    which: Pass
    a: Tensor
    w: Tensor
    extras: Extras
    size: Any
    rest: list[Any]

    @classmethod
    def of(cls, which: Pass, inputs: Sequence[Any]) -> "FusedCall":
        """From the op's arguments, of which the last may be missing."""
        a, w, bias, residual, *tail = inputs
        size = tail.pop(0) if which is Pass.DGRAD else None
        *rest, activation, keep_pre = with_defaults(tail, DEFAULTS)
        return cls(which, a, w, Extras(bias, residual, activation, keep_pre), size, rest)

    def inputs(self, keep_pre: bool) -> list[Any]:
        """Back to the op's arguments."""
        size = [] if self.size is None else [self.size]
        bias, residual, activation, _ = self.extras
        return [self.a, self.w, bias, residual, *size, *self.rest, activation, keep_pre]

    def linear(self) -> Tensor:
        """The sum alone, by the op that the epilogue is added to."""
        if self.which is Pass.FPROP:
            return conv(self.a, self.w, None, *self.rest)
        return conv_dgrad(self.a, self.w, self.size, *self.rest)

    def run(self, keep_pre: bool) -> tuple[Tensor, Tensor]:
        """Below autograd."""
        extras = self.extras._replace(keep_pre=keep_pre)
        if is_plain(self.a, self.w, extras.bias, extras.residual):
            return run_fused(self.which, self.a, self.w, self.size, extras, *self.rest)
        with torch._C._AutoDispatchBelowAutograd():
            return OPS[self.which](*self.inputs(keep_pre))


# -- gradients -------------------------------------------------------------------------------


def _function(which: Pass) -> Any:
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        hold_policy(ctx)
        call = FusedCall.of(which, inputs)
        activation = call.extras.activation
        ctx.set_materialize_grads(False)
        y, pre = call.run(call.extras.keep_pre or activation in NOT_FROM_VALUE)
        need_a, need_w = ctx.needs_input_grad[:2]
        saved = None if activation == "none" else pre if activation in NOT_FROM_VALUE else y
        ctx.save_for_backward(call.a if need_w else None, call.w if need_a else None, saved)
        bias = call.extras.bias
        ctx.call = activation, call.a.shape, call.w.shape, getattr(bias, "shape", None), call.rest
        ctx.inputs = len(inputs)
        return y, pre

    @under_forwards_policy
    def backward(ctx: Any, dy: Tensor | None, dpre: Tensor | None) -> tuple[Any, ...]:
        a, w, saved = ctx.saved_tensors
        activation, a_shape, w_shape, bias_shape, rest = ctx.call
        need_a, need_w, need_bias, need_residual = ctx.needs_input_grad[:4]
        nothing = (None,) * ctx.inputs
        dz = None if dy is None else activation_gradient(activation, dy, saved)
        if dpre is not None and dpre.numel():
            dz = dpre if dz is None else dz + dpre
        if dz is None:
            return nothing
        if which is Pass.FPROP:
            da = conv_dgrad(dz, w, a_shape, *rest) if need_a else None
            dw = conv_wgrad(dz, a, w_shape, *rest) if need_w else None
        else:
            da = conv(dz, w, None, *rest) if need_a else None
            dw = conv_wgrad(a, dz, w_shape, *rest) if need_w else None
        db = bias_gradient(dz, bias_shape) if need_bias else None
        return da, dw, db, dz if need_residual else None, *nothing[4:]

    body = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(f"Eager_{NAMES[which]}", (Function,), body)


# -- registration ----------------------------------------------------------------------------


def _backend(which: Pass) -> Callable[..., Any]:
    def backend(*inputs: Any) -> tuple[Tensor, Tensor]:
        call = FusedCall.of(which, inputs)
        return run_fused(which, call.a, call.w, call.size, call.extras, *call.rest)

    return backend


def _fake(which: Pass) -> Callable[..., Any]:
    def fake(*inputs: Any) -> tuple[Tensor, Tensor]:
        call = FusedCall.of(which, inputs)
        arguments = ConvArguments(*call.rest)
        problem = problem_of(which, call.a, call.w, call.size, arguments, call.extras)
        y = call.a.new_empty_strided(problem.result_shape(which), problem.result_strides(which))
        return y, torch.empty_like(y) if call.extras.keep_pre else call.a.new_empty(0)

    return fake


def _autograd(which: Pass) -> Callable[..., Any]:
    function = _function(which)

    def autograd(*inputs: Any) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs[:4]):
            call = FusedCall.of(which, inputs)
            return function.apply(*call.inputs(call.extras.keep_pre))
        call = FusedCall.of(which, inputs)
        return call.run(call.extras.keep_pre)

    return autograd


def _transformed(which: Pass) -> Callable[..., Any]:
    def transformed(*inputs: Any) -> tuple[Tensor, Tensor]:
        call = FusedCall.of(which, inputs)
        return composed(call.linear(), call.extras)

    return transformed


def _autocast(which: Pass, device: str) -> Callable[..., Any]:
    def autocast(*inputs: Any) -> tuple[Tensor, Tensor]:
        dtype = torch.get_autocast_dtype(device)
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(AUTOCAST[device])):
            cast = [
                t.to(dtype) if t is not None and t.dtype == torch.float32 else t for t in inputs[:4]
            ]
            return OPS[which](*cast, *inputs[4:])

    return autocast


for _which, _name in NAMES.items():
    for _key in ("CPU", "CUDA"):
        library.impl(_name, _backend(_which), _key)
    library.impl(_name, _autograd(_which), "Autograd")
    library.impl(_name, _transformed(_which), "FuncTorchDynamicLayerFrontMode")
    library.impl(_name, _autocast(_which, "cuda"), "AutocastCUDA")
    library.impl(_name, _autocast(_which, "cpu"), "AutocastCPU")
    torch.library.register_fake(f"tritonconv::{_name}", _fake(_which), lib=library)
