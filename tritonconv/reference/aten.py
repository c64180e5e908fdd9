"""Convolution by ATen: the CPU path, and an oracle that shares no index code with the kernels."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..layout import dense_strides
from ..problem import ConvArguments


def conv(x: Tensor, w: Tensor, bias: Tensor | None, arguments: ConvArguments) -> Tensor:
    """y = conv(x, w) + bias.

    x (N, C, *input), w (K, C/g, *filter) or (*period, K, C/g, *filter), bias (K,), y (N, K,
    *output); any dtype and layout that ATen takes.
    """
    return conv_call(arguments, w.dim() != x.dim())(x, w, bias)


def conv_call(arguments: ConvArguments, tiled: bool) -> Callable[..., Tensor]:
    """`conv` with its arguments bound: what repeated calls of one problem run."""
    rank = len(arguments.stride)
    stride, dilation, groups = arguments.stride, arguments.dilation, arguments.groups
    padding, excess = _split_padding(arguments.padding)
    no_output_padding = (0,) * rank

    def plain(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        return torch.convolution(
            x, w, bias, stride, padding, dilation, False, no_output_padding, groups
        )

    def general(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        w = _flipped(w, rank, arguments)
        if tiled:
            y = _tiled_conv(x, w, arguments)
            return y if bias is None else y + bias.reshape(-1, *[1] * rank)
        return plain(torch.nn.functional.pad(x, excess) if excess else x, w, bias)

    return general if tiled or excess or arguments.flip else plain


def dgrad(dy: Tensor, w: Tensor, input_size: Sequence[int], arguments: ConvArguments) -> Tensor:
    """dx of shape `input_size` (N, C, *input) from dy (N, K, *output) and w."""
    return dgrad_call(input_size, arguments, w.dim() != dy.dim())(dy, w)


def dgrad_call(
    input_size: Sequence[int], arguments: ConvArguments, tiled: bool, channels_last: bool = False
) -> Callable[..., Tensor]:
    """`dgrad` with its arguments bound: what repeated calls of one problem run."""
    rank = len(arguments.stride)
    padding, excess = _split_padding(arguments.padding)
    pads = list(zip(excess[::2], excess[1::2], strict=True))[::-1] or [(0, 0)] * rank
    padded = [*input_size[:2]]
    padded += [n + low + high for n, (low, high) in zip(input_size[2:], pads, strict=True)]
    strides = dense_strides(padded, channels_last)

    def general(dy: Tensor, w: Tensor) -> Tensor:
        w = _flipped(w, rank, arguments)
        if tiled:
            return _tiled_dgrad(dy, w, input_size, arguments)
        # ATen asks for x but reads only its shape and memory format.
        x = torch.empty_strided(padded, strides, dtype=dy.dtype, device=dy.device)
        dx = _backward(dy, x, w, padding, arguments, (True, False, False))[0]
        for axis, (low, _) in enumerate(pads if excess else ()):
            dx = dx.narrow(2 + axis, low, input_size[2 + axis])
        return dx

    return general


def wgrad(dy: Tensor, x: Tensor, weight_size: Sequence[int], arguments: ConvArguments) -> Tensor:
    """dw of shape `weight_size` from dy (N, K, *output) and x (N, C, *input)."""
    return wgrad_call(weight_size, arguments, len(weight_size) != x.dim())(dy, x)


def wgrad_call(
    weight_size: Sequence[int], arguments: ConvArguments, tiled: bool
) -> Callable[..., Tensor]:
    """`wgrad` with its arguments bound: what repeated calls of one problem run."""
    rank = len(arguments.stride)
    padding, excess = _split_padding(arguments.padding)

    def general(dy: Tensor, x: Tensor) -> Tensor:
        if tiled:
            return _flipped(_tiled_wgrad(dy, x, weight_size, arguments), rank, arguments)
        padded = torch.nn.functional.pad(x, excess) if excess else x
        w = x.new_empty(weight_size)
        dw = _backward(dy, padded, w, padding, arguments, (False, True, False))[1]
        return _flipped(dw, rank, arguments)

    return general


def _backward(
    dy: Tensor,
    x: Tensor,
    w: Tensor,
    padding: Sequence[int],
    arguments: ConvArguments,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.aten.convolution_backward.default(
        dy,
        x,
        w,
        None,
        arguments.stride,
        padding,
        arguments.dilation,
        False,
        [0] * (x.dim() - 2),
        arguments.groups,
        wanted,
    )


def _flipped(w: Tensor, rank: int, arguments: ConvArguments) -> Tensor:
    return w.flip(tuple(range(-rank, 0))) if arguments.flip else w


def _split_padding(padding: Sequence[int]) -> tuple[list[int], list[int]]:
    """The symmetric part that ATen adds itself, and the rest in `F.pad`'s order (last axis first);
    the rest is empty where there is none."""
    lows, highs = padding[::2], padding[1::2]
    common = [min(low, high) for low, high in zip(lows, highs, strict=True)]
    excess = []
    for low, high, both in reversed(list(zip(lows, highs, common, strict=True))):
        excess += [low - both, high - both]
    return common, excess if any(excess) else []


# -- a weight period: one filter bank a position, or a repeating block of positions -----------


def _tiled_conv(x: Tensor, w: Tensor, arguments: ConvArguments) -> Tensor:
    """Every window of x against the bank of its position, in one einsum."""
    rank = x.dim() - 2
    windows, sizes = _windows(x, w.shape[-rank:], arguments)
    banks = _bank_of_each_position(w, sizes, arguments.groups)
    o, f = _letters(rank)
    y = torch.einsum(f"ngc{o}{f},{o}gkc{f}->ngk{o}", _wide(windows), _wide(banks))
    return y.reshape(x.shape[0], -1, *sizes).to(x.dtype)


def _tiled_dgrad(
    dy: Tensor, w: Tensor, input_size: Sequence[int], arguments: ConvArguments
) -> Tensor:
    """A tap at a time: what each output sends back through it, added where the tap had read."""
    rank, sizes = dy.dim() - 2, dy.shape[2:]
    groups = arguments.groups
    banks = _wide(_bank_of_each_position(w, sizes, groups))
    grads = _wide(dy).reshape(dy.shape[0], groups, -1, *sizes)
    o, _ = _letters(rank)
    lows, highs = arguments.padding[::2], arguments.padding[1::2]
    padded = [i + lo + hi for i, lo, hi in zip(input_size[2:], lows, highs, strict=True)]
    dx = grads.new_zeros(dy.shape[0], groups, banks.shape[rank + 2], *padded)
    for tap in itertools.product(*(range(n) for n in w.shape[-rank:])):
        part = torch.einsum(f"ngk{o},{o}gkc->ngc{o}", grads, banks[(..., *tap)])
        window = dx
        for axis, (f, d, s, size) in enumerate(
            zip(tap, arguments.dilation, arguments.stride, sizes, strict=True)
        ):
            window = window.narrow(3 + axis, f * d, (size - 1) * s + 1)
            window = window[(slice(None),) * (3 + axis) + (slice(None, None, s),)]
        window += part
    for axis in range(rank):
        dx = dx.narrow(3 + axis, lows[axis], input_size[2 + axis])
    return dx.reshape(tuple(input_size)).to(dy.dtype)


def _tiled_wgrad(
    dy: Tensor, x: Tensor, weight_size: Sequence[int], arguments: ConvArguments
) -> Tensor:
    """The gradient of every position's own filter, then the positions of each bank summed."""
    rank, sizes = dy.dim() - 2, dy.shape[2:]
    windows, _ = _windows(x, weight_size[-rank:], arguments)
    grads = _wide(dy).reshape(dy.shape[0], arguments.groups, -1, *sizes)
    o, f = _letters(rank)
    dw = torch.einsum(f"ngk{o},ngc{o}{f}->{o}gkc{f}", grads, _wide(windows))
    for axis, period in enumerate(weight_size[:rank]):
        shape = list(dw.shape)
        shape[axis] = period
        bank = torch.arange(sizes[axis], device=dw.device) % period
        dw = dw.new_zeros(shape).index_add_(axis, bank, dw)
    return dw.reshape(tuple(weight_size)).to(dy.dtype)


def _windows(
    x: Tensor, filter_size: Sequence[int], arguments: ConvArguments
) -> tuple[Tensor, list[int]]:
    """A view (N, g, C/g, *output, *filter) of the padded input, and the output's sizes."""
    rank = x.dim() - 2
    x = torch.nn.functional.pad(x, _split_padding(arguments.padding)[1])
    symmetric = _split_padding(arguments.padding)[0]
    x = torch.nn.functional.pad(x, [p for p in reversed(symmetric) for _ in (0, 1)])
    sizes = [
        (size - d * (f - 1) - 1) // s + 1
        for size, d, f, s in zip(
            x.shape[2:], arguments.dilation, filter_size, arguments.stride, strict=True
        )
    ]
    grouped = x.reshape(x.shape[0], arguments.groups, -1, *x.shape[2:])
    steps = grouped.stride()[3:]
    strides = [
        *grouped.stride()[:3],
        *(step * s for step, s in zip(steps, arguments.stride, strict=True)),
        *(step * d for step, d in zip(steps, arguments.dilation, strict=True)),
    ]
    shape = [*grouped.shape[:3], *sizes, *filter_size]
    assert len(strides) == 3 + 2 * rank
    return grouped.as_strided(shape, strides, grouped.storage_offset()), sizes


def _bank_of_each_position(w: Tensor, sizes: Sequence[int], groups: int) -> Tensor:
    """(*output, g, K/g, C/g, *filter): w[o mod period]."""
    rank = len(sizes)
    for axis, size in enumerate(sizes):
        if w.shape[axis] != size:
            w = w.index_select(axis, torch.arange(size, device=w.device) % w.shape[axis])
    return w.reshape(*sizes, groups, -1, *w.shape[rank + 1 :])


def _wide(tensor: Tensor) -> Tensor:
    """Sums of 16-bit numbers are formed in float32."""
    return tensor.float() if tensor.dtype.itemsize == 2 else tensor


def _letters(rank: int) -> tuple[str, str]:
    return "xyz"[:rank], "rst"[:rank]
