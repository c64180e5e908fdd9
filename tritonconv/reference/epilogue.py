"""The epilogue by torch's own functions: on the CPU path, under transforms, and for gradients."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..epilogue import LEAKY_SLOPE, Extras

_aten = torch.ops.aten

ACTIVATE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky_relu": lambda z: F.leaky_relu(z, LEAKY_SLOPE),
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
# Of a tensor that nobody else holds; only those whose derivative follows from their value.
ACTIVATE_IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "leaky_relu": lambda z: F.leaky_relu_(z, LEAKY_SLOPE),
    "sigmoid": torch.sigmoid_,
    "tanh": torch.tanh_,
}


def _silu_backward(dy: Tensor, z: Tensor) -> Tensor:
    # ATen's own has no derivative, so a second backward takes the formula.
    if not (torch.is_grad_enabled() and (dy.requires_grad or z.requires_grad)):
        return _aten.silu_backward(dy, z)
    gate = torch.sigmoid(z)
    return dy * (gate * (1 + z * (1 - gate)))


# dz from dy and what was saved: z itself for gelu and silu, the activation's value for the others.
_DERIVATIVE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda dy, y: _aten.threshold_backward(dy, y, 0),
    "leaky_relu": lambda dy, y: _aten.leaky_relu_backward(dy, y, LEAKY_SLOPE, True),
    "gelu": _aten.gelu_backward,
    "silu": _silu_backward,
    "sigmoid": _aten.sigmoid_backward,
    "tanh": _aten.tanh_backward,
}


def finish(z: Tensor, extras: Extras, tied_bias_done: bool = False) -> tuple[Tensor, Tensor]:
    """`(activation(z + bias + residual), the same before the activation)`.

    z (N, K, *O) is overwritten where that is safe; it must be nobody else's. `tied_bias_done`: a
    bias of shape (K,) is in z already. The second tensor is empty unless `extras.keep_pre`.
    """
    bias, residual, activation, keep_pre = extras
    if bias is not None and not (tied_bias_done and bias.dim() == 1):
        z = z.add_(spread(bias, z.shape[2:]))
    if residual is not None:
        z = z.add_(residual)
    if activation == "none":
        return z, z.clone() if keep_pre else z.new_empty(0)
    if keep_pre:
        return ACTIVATE[activation](z), z
    return ACTIVATE_IN_PLACE.get(activation, ACTIVATE[activation])(z), z.new_empty(0)


def composed(z: Tensor, extras: Extras) -> tuple[Tensor, Tensor]:
    """`finish` without writing to z, for torch's transforms."""
    bias, residual, activation, keep_pre = extras
    z = z if bias is None else z + spread(bias, z.shape[2:])
    z = z if residual is None else z + residual
    pre = z.clone() if keep_pre else z.new_empty(0)
    return (z.clone() if activation == "none" else ACTIVATE[activation](z)), pre


def activation_gradient(activation: str, dy: Tensor, saved: Tensor | None) -> Tensor:
    """dz from dy, differentiable; `saved` as `_DERIVATIVE` wants it."""
    if activation == "none" or saved is None:
        return dy
    return _DERIVATIVE[activation](dy, saved)


def spread(bias: Tensor, sizes: Sequence[int]) -> Tensor:
    """A bias (K,) or (*period, K) as it meets the positions: (K, *ones) or (K, *sizes)."""
    rank = len(sizes)
    if bias.dim() == 1:
        return bias.reshape(-1, *[1] * rank)
    for axis, size in enumerate(sizes):
        period = bias.shape[axis]
        if period not in (1, size):
            position = torch.arange(size, device=bias.device)
            bias = bias.index_select(axis, position % period)
    return bias.movedim(-1, 0)


def bias_gradient(grad: Tensor, bias_shape: Sequence[int]) -> Tensor:
    """The gradient of the bias: grad (N, K, *O) summed over the images and each bank's positions.

    Every sum has a fixed order: a position's bank is made an axis of its own, never an index.
    """
    if len(bias_shape) == 1:
        return grad.sum([0, *range(2, grad.dim())])
    found = grad.sum(0)
    for axis, period in enumerate(bias_shape[:-1], start=1):
        missing = -found.shape[axis] % period
        if missing:
            after = [0, 0] * (found.dim() - 1 - axis) + [0, missing]
            found = F.pad(found, after)
        found = found.unflatten(axis, (-1, period)).sum(axis)
    return found.movedim(0, -1)
