"""Batching rules: a vmapped axis folds into the batch where weights allow it, else into groups."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..problem import ConvArguments, Pass

Op = Callable[..., Tensor]


def vmap_conv(size: int, in_dims: Sequence[Any], tensors: Sequence[Any], call: Op) -> Tensor:
    """fprop of (x, w, bias), any of them batched; `call(x, w, bias, groups factor)`.

    The result has the new axis in front.
    """
    x, w, bias = (_front(t, d) for t, d in zip(tensors, in_dims, strict=True))
    x_in, w_in, b_in = (d is not None for d in in_dims)
    rank = x.dim() - 2 - x_in
    plain_bias = None if b_in else bias
    if not x_in and not w_in:
        y = call(x, w, None, 1).expand(size, *[-1] * (rank + 2))
    elif not w_in:
        y = call(x.flatten(0, 1), w, plain_bias, 1).unflatten(0, (size, -1))
    else:
        folded_bias = None if bias is None else _rows(bias, b_in, size).flatten()
        x = _into(x, x_in, size, 1)
        w = _into(w, w_in, size, w.dim() - w_in - rank - 2)
        return _out_of(call(x, w, folded_bias, size), size, 1)
    if b_in:
        y = y + bias.reshape(size, 1, -1, *[1] * rank)
    return y


def vmap_dgrad(size: int, in_dims: Sequence[Any], tensors: Sequence[Any], call: Op) -> Tensor:
    """dgrad of (dy, w); `call(dy, w, batch factor, groups factor)`."""
    dy, w = (_front(t, d) for t, d in zip(tensors, in_dims, strict=True))
    dy_in, w_in = (d is not None for d in in_dims)
    rank = dy.dim() - 2 - dy_in
    if not w_in:
        return call(dy.flatten(0, 1), w, size, 1).unflatten(0, (size, -1))
    dy = _into(dy, dy_in, size, 1)
    w = _into(w, w_in, size, w.dim() - w_in - rank - 2)
    return _out_of(call(dy, w, 1, size), size, 1)


def vmap_wgrad(
    size: int, in_dims: Sequence[Any], tensors: Sequence[Any], call: Op, weight_axis: int
) -> Tensor:
    """wgrad of (dy, x); `call(dy, x, groups factor)`; dw's K is axis `weight_axis`."""
    dy, x = (
        _into(_front(t, d), d is not None, size, 1) for t, d in zip(tensors, in_dims, strict=True)
    )
    return _out_of(call(dy, x, size), size, weight_axis)


def grouped(arguments: ConvArguments, factor: int) -> ConvArguments:
    """The same convolution with `factor` times as many groups."""
    return replace(arguments, groups=arguments.groups * factor)


def scaled(sizes: Sequence[int], axis: int, factor: int) -> list[int]:
    """`sizes` with one of them multiplied."""
    sizes = list(sizes)
    sizes[axis] = sizes[axis] * factor
    return sizes


def which_axis(which: Pass, rank: int, size: Sequence[int]) -> int:
    """The axis of a pass's result shape that the groups fold into: C of dx, K of dw."""
    return 1 if which is Pass.DGRAD else len(size) - rank - 2


def _front(tensor: Any, dim: int | None) -> Any:
    return tensor if tensor is None or dim is None else tensor.movedim(dim, 0)


def _rows(tensor: Tensor, batched: bool, size: int) -> Tensor:
    return tensor if batched else tensor.expand(size, *tensor.shape)


def _into(tensor: Tensor, batched: bool, size: int, axis: int) -> Tensor:
    """The vmapped axis folded into `axis`, as its slow part: one group a vmapped element."""
    return _rows(tensor, batched, size).movedim(0, axis).flatten(axis, axis + 1)


def _out_of(tensor: Tensor, size: int, axis: int) -> Tensor:
    return tensor.unflatten(axis, (size, -1)).movedim(axis, 0)
