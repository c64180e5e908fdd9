"""Pooling across channels instead of positions: maxout, and windows that slide over channels."""

from typing import Any

import torch
from torch import Tensor

from ..arguments import is_int
from ..checks import shape_of
from ..errors import ProblemError
from ..ops.entry import is_shortcut
from ..ops.pool import max_pool, sum_pool
from ._pool import PoolInput, prepare_pool
from .lp_pool import norm_of

KINDS = ("max", "avg", "l2")


def maxout(input: Tensor, pieces: int, dim: int = 1) -> Tensor:
    """The largest of each group of consecutive channels.

    y[..., k, ...] = max over j < pieces of x[..., k*pieces + j, ...], along `dim`

    Args:
        input: any shape; float16, bfloat16, float32, float64 or an integer dtype, any strides.
        pieces: channels in a group, a divisor of their number.
        dim: the axis of the channels, default 1.

    Returns:
        The input's shape with size / pieces along `dim`, in its dtype; dense in its order of axes.

    Raises:
        ProblemError: `pieces` does not divide the channels, or there is no such axis.

    Source: Goodfellow, Bengio, Courville, Deep Learning, sections 6.3.3 and 9.3.
    """
    size = _channels(input, dim)
    if not is_int(pieces) or pieces < 1 or size % pieces:
        raise ProblemError(
            f"pieces: expected a divisor of the {size} channels along axis {dim}, got {pieces!r}"
        )
    return cross_channel_pool(input, pieces, dim=dim)


def cross_channel_pool(
    input: Tensor, size: int, stride: int | None = None, kind: str = "max", dim: int = 1
) -> Tensor:
    """Pool over windows of neighbouring channels.

    y[..., k, ...] = max, mean or Euclidean norm over j < size of x[..., k*stride + j, ...]

    Args:
        input: any shape; float16, bfloat16, float32 or float64, and for "max" an integer dtype; any
            strides.
        size: channels in a window.
        stride: channels between windows; default the size.
        kind: "max", "avg" or "l2", default "max".
        dim: the axis of the channels, default 1.

    Returns:
        The input's shape with (channels - size) // stride + 1 along `dim`, in its dtype; dense in
        its order of axes.

    Raises:
        ProblemError: there is no such window, kind or axis.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3.
    """
    channels = _channels(input, dim)
    if kind not in KINDS:
        raise ProblemError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    if not is_int(size) or not 0 < size <= channels:
        raise ProblemError(
            f"size: expected an int from 1 to the {channels} channels along axis {dim}, got "
            f"{size!r}"
        )
    if stride is not None and (not is_int(stride) or stride < 1):
        raise ProblemError(f"stride: expected a positive int, or None for the size, got {stride!r}")
    dim %= input.dim()
    tiles = kind == "max" and stride in (None, size) and not channels % size
    traced = torch.compiler.is_compiling() or (torch.is_grad_enabled() and input.requires_grad)
    # Nobody wants to know who won.
    alone = tiles and not traced and is_shortcut(input)
    if alone and input.is_contiguous():
        return input.unflatten(dim, (-1, size)).amax(dim + 1)
    # In the order of memory the axes before and behind the channels are one axis each, without a
    # copy. The channels become the axis that windows slide along, and all behind them the channels.
    order = _memory_order(input)
    x, at = input.permute(order), order.index(dim)
    before, after = x.shape[:at], x.shape[at + 1 :]
    if alone:
        return x.unflatten(at, (-1, size)).amax(at + 1).permute(_inverse(order))
    flat = x.reshape(before.numel(), channels, after.numel()).transpose(1, 2)
    call = prepare_pool("cross_channel_pool", 1, flat, (size, stride, 0, 1, False))
    y = _pooled(call, kind)
    y = y.transpose(1, 2).reshape(*before, y.shape[2], *after)
    return y.permute(_inverse(order))


def _inverse(order: list[int]) -> list[int]:
    return [order.index(axis) for axis in range(len(order))]


def _pooled(call: PoolInput, kind: str) -> Tensor:
    if kind == "max":
        return max_pool(call.input, *call.arguments)[0]
    if kind == "avg":
        return sum_pool(call.input, None, "valid", 1.0, *call.arguments)
    return norm_of(call, 2.0)


def _memory_order(input: Tensor) -> list[int]:
    """The axes from outermost to innermost; as they stand where one of them is expanded."""
    strides = input.stride()
    if any(stride == 0 for stride in strides):
        return list(range(len(strides)))
    order: list[int] = []
    for axis, stride in enumerate(strides):
        at = len(order)
        # Not sorted(), which torch.compile cannot trace with symbolic strides.
        while at and strides[order[at - 1]] < stride:
            at -= 1
        order.insert(at, axis)
    return order


def _channels(input: Any, dim: Any) -> int:
    """How many there are along `dim`, if that is an axis."""
    if not isinstance(input, torch.Tensor):
        raise ProblemError(f"input: expected a torch.Tensor, got {type(input).__name__}")
    axes = input.dim()
    if not is_int(dim) or not -axes <= dim < axes:
        raise ProblemError(
            f"dim: expected an axis of the input, whose shape is {shape_of(input)}, got {dim!r}"
        )
    if not input.shape[dim]:
        raise ProblemError(
            f"input: expected at least one channel along axis {dim}, got {shape_of(input)}"
        )
    return input.shape[dim]
