"""What the functions call: the op of a call, or on a CPU the shortest way around the dispatcher."""

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack  # type: ignore

from ..epilogue import Extras
from ..launch import interpreting
from ..problem import Pass
from ._run import run_fused
from .conv import BODIES, aten_records, conv, conv_dgrad, is_plain
from .fused import conv_dgrad_fused, conv_fused


def convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    *rest: Any,
) -> Tensor:
    """activation(conv(input, weight) + bias + residual); `rest` are the fields of ConvArguments."""
    plain = residual is None and activation == "none"
    if _shortcut(input, weight, bias, residual):
        if plain:
            return BODIES[Pass.FPROP](input, weight, bias, *rest)
        operands = (input, weight, bias, residual)
        if not interpreting() and _unrecorded(Pass.FPROP, operands, None):
            extras = Extras(bias, residual, activation)
            return run_fused(Pass.FPROP, input, weight, None, extras, *rest)[0]
    if plain:
        return conv(input, weight, bias, *rest)
    return conv_fused(input, weight, bias, residual, *rest, activation)[0]


def transpose(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    output_shape: list[int],
    *rest: Any,
) -> Tensor:
    """activation(conv_dgrad(input, weight) + bias + residual), of the full shape `output_shape`."""
    plain = bias is None and residual is None and activation == "none"
    # Autocast casts for the fused op only: conv_dgrad is a backward pass, in its forward's dtype.
    plain &= not autocasts(input)
    if not interpreting() and _shortcut(input, weight, bias, residual):
        if plain:
            return BODIES[Pass.DGRAD](input, weight, output_shape, *rest)
        if _unrecorded(Pass.DGRAD, (input, weight, bias, residual), output_shape):
            extras = Extras(bias, residual, activation)
            return run_fused(Pass.DGRAD, input, weight, output_shape, extras, *rest)[0]
    if plain:
        return conv_dgrad(input, weight, output_shape, *rest)
    return conv_dgrad_fused(input, weight, bias, residual, output_shape, *rest, activation)[0]


def _unrecorded(which: Pass, operands: tuple[Tensor | None, ...], size: Any) -> bool:
    """Whether the library need not record a gradient: nobody wants one, or ATen records its own."""
    if not (torch.is_grad_enabled() and torch._C._any_requires_grad(*operands)):
        return True
    return aten_records(which, operands[0], operands[1], size)  # type: ignore[arg-type]


def autocasts(tensor: Tensor) -> bool:
    """Whether autocast is on where the tensor lies; torch refuses the question for some devices."""
    kind = tensor.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def is_shortcut(*operands: Tensor | None) -> bool:
    """Whether plain CPU tensors may take ATen's function itself, which records its gradient."""
    return not interpreting() and _shortcut(*operands)


def _shortcut(*operands: Tensor | None) -> bool:
    """Whether a call's body may be called without the dispatcher's two round trips, which cost as
    much as a small convolution: plain CPU tensors, and no mode, transform or tracer to see it."""
    return (
        not torch.compiler.is_compiling()
        and operands[0].is_cpu  # type: ignore[union-attr]
        and is_plain(*operands)
        and torch._C._len_torch_function_stack() == 0
        and not torch.is_autocast_enabled("cpu")
        and peek_interpreter_stack() is None
    )
