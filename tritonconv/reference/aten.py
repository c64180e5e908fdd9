"""Convolution by ATen: the CPU path, and an oracle that shares no index code with the kernels.

One filter bank is ATen's own convolution, of an image with its border. A few banks that take turns
are as many convolutions, each of the image from another start on and with a longer stride
(`Turns`). Many banks are matrix products (`windows`).
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..layout import dense_strides
from ..problem import ConvArguments
from .border import border
from .windows import Copied, Windows, output_size, wide

# The weights may be copied to every position where that makes no more numbers: 8 MB of float32.
SMALL = 2**21
# How often the banks take turns, to their number, from which on a convolution a bank is fastest;
# the second where the weights may be copied.
TURNS = 4, 128


def conv(x: Tensor, w: Tensor, bias: Tensor | None, arguments: ConvArguments) -> Tensor:
    """y = conv(x, w) + bias.

    x (N, C, *input), w (K, C/g, *filter) or (*period, K, C/g, *filter), bias (K,), y (N, K,
    *output); any dtype and layout that ATen takes.
    """
    return conv_call(arguments, w.dim() != x.dim())(x, w, bias)


def conv_call(arguments: ConvArguments, tiled: bool) -> Callable[..., Tensor]:
    """`conv` with its arguments bound: what repeated calls of one problem run."""
    stride, dilation, groups = arguments.stride, arguments.dilation, arguments.groups
    around = border(arguments, explicit=tiled)
    padding, no_output_padding = around.zeros, (0,) * len(stride)
    passes = _passes(arguments)

    def plain(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        return torch.convolution(
            x, w, bias, stride, padding, dilation, False, no_output_padding, groups
        )

    def general(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        return plain(around.extend(x), _flipped(w, arguments), bias)

    def periodic(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        x = around.extend(x)
        return passes(x.shape, w.shape).conv(x, w, bias)

    if tiled:
        return periodic
    return general if around.changes or arguments.flip else plain


def dgrad(dy: Tensor, w: Tensor, input_size: Sequence[int], arguments: ConvArguments) -> Tensor:
    """dx of shape `input_size` (N, C, *input) from dy (N, K, *output) and w."""
    return dgrad_call(input_size, arguments, w.dim() != dy.dim())(dy, w)


def dgrad_call(
    input_size: Sequence[int], arguments: ConvArguments, tiled: bool, channels_last: bool = False
) -> Callable[..., Tensor]:
    """`dgrad` with its arguments bound, and a bias (C,) if there is one to add: what repeated calls
    of one problem run."""
    around = border(arguments, explicit=tiled)
    extended = (*input_size[:2], *around.sizes(input_size[2:]))
    strides = dense_strides(extended, channels_last)
    passes = _passes(arguments)

    def transposed(dy: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        # Faster than ATen's gradient of a convolution, and the same sums; but not everywhere.
        extra = _output_padding(dy.shape[2:], w.shape[-len(around.zeros) :])
        if extra is None or dy.dtype == torch.float64 or (channels_last and arguments.groups > 1):
            return general(dy, w, bias)
        w = _flipped(w, arguments)
        stride, dilation, groups = arguments.stride, arguments.dilation, arguments.groups
        within = None if any(around.crops) else bias  # what was cropped off comes back as zeros
        dx = torch.convolution(dy, w, within, stride, around.zeros, dilation, True, extra, groups)
        dx = around.fold(dx)
        return dx if within is bias else _with_bias(dx, bias)

    @functools.lru_cache(maxsize=1)
    def _output_padding(positions: Sequence[int], taps: Sequence[int]) -> list[int] | None:
        """What ATen's transposed convolution must add to reach the size; None if it cannot."""
        found = []
        for axis, (size, o, f) in enumerate(zip(extended[2:], positions, taps, strict=True)):
            stride, dilation = arguments.stride[axis], arguments.dilation[axis]
            natural = (o - 1) * stride - 2 * around.zeros[axis] + dilation * (f - 1) + 1
            found.append(size - natural)
            if not (0 <= size - natural < max(stride, dilation) and natural > 0):
                return None
        return found

    def general(dy: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        dtype = dy.dtype
        if around.adds:
            dy, w = wide(dy), wide(w)
        # ATen asks for x but reads only its shape and memory format.
        x = torch.empty_strided(extended, strides, dtype=dy.dtype, device=dy.device)
        w = _flipped(w, arguments)
        dx = _backward(dy, x, w, around.zeros, arguments, (True, False, False))[0]
        return _with_bias(around.fold(dx), bias).to(dtype)

    def periodic(dy: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        dx = around.fold(passes(extended, w.shape).dgrad(dy, w))
        return _with_bias(dx, bias).to(dy.dtype)

    if tiled:
        return periodic
    return general if around.adds else transposed


def _with_bias(dx: Tensor, bias: Tensor | None) -> Tensor:
    return dx if bias is None else dx + bias.view(-1, *[1] * (dx.dim() - 2))


def wgrad(dy: Tensor, x: Tensor, weight_size: Sequence[int], arguments: ConvArguments) -> Tensor:
    """dw of shape `weight_size` from dy (N, K, *output) and x (N, C, *input)."""
    return wgrad_call(weight_size, arguments, len(weight_size) != x.dim())(dy, x)


def wgrad_call(
    weight_size: Sequence[int], arguments: ConvArguments, tiled: bool
) -> Callable[..., Tensor]:
    """`wgrad` with its arguments bound: what repeated calls of one problem run."""
    weight_size = tuple(weight_size)
    around = border(arguments, explicit=tiled)
    passes = _passes(arguments)

    def general(dy: Tensor, x: Tensor) -> Tensor:
        w = x.new_empty(weight_size)
        x = around.extend(x)
        dw = _backward(dy, x, w, around.zeros, arguments, (False, True, False))[1]
        return _flipped(dw, arguments)

    def periodic(dy: Tensor, x: Tensor) -> Tensor:
        x = around.extend(x)
        return passes(x.shape, weight_size).wgrad(dy, x)

    return periodic if tiled else general


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


def _flipped(w: Tensor, arguments: ConvArguments) -> Tensor:
    rank = len(arguments.stride)
    return w.flip(tuple(range(-rank, 0))) if arguments.flip else w


# -- a weight period, of an image that has its border -----------------------------------------


def _passes(arguments: ConvArguments) -> Callable[..., "Turns | Windows"]:
    """From the shapes of x and w, what computes the passes; repeated calls have the same shapes."""

    @functools.lru_cache(maxsize=1)
    def passes(x_size: Sequence[int], weight_size: Sequence[int]) -> Turns | Windows:
        rank = len(arguments.stride)
        period = weight_size[:rank]
        sizes = output_size(x_size[2:], weight_size[-rank:], arguments)
        turns = math.prod(-(-size // t) for size, t in zip(sizes, period, strict=True))
        small = math.prod((*sizes, *weight_size[rank:])) <= SMALL
        form = Copied if small and turns > 1 else Windows
        if turns >= TURNS[small] * math.prod(map(min, period, sizes)):
            form = Turns
        return form(x_size, weight_size, arguments)

    return passes


class Turns:
    """The passes, a bank at a time.

    Bank r serves the positions r, r + t, r + 2t, ...: a convolution of x from r s on, with stride
    s t. Sums of 16-bit numbers are formed in float32, by ATen's float32 passes: those of its 16-bit
    passes depend on the processor.
    """

    def __init__(self, x_size: Sequence[int], weight_size: Sequence[int], arguments: ConvArguments):
        rank = len(arguments.stride)
        self.x_size, self.weight_size = x_size, weight_size
        period, stride = weight_size[:rank], arguments.stride
        self.sizes = output_size(x_size[2:], weight_size[-rank:], arguments)
        self.each = ConvArguments(
            [s * t for s, t in zip(stride, period, strict=True)],
            [0] * 2 * rank,
            arguments.dilation,
            arguments.groups,
            arguments.flip,
        )
        self.turns = []
        for bank in itertools.product(*map(range, map(min, period, self.sizes))):
            inputs = [slice(r * s, None) for r, s in zip(bank, stride, strict=True)]
            outputs = [slice(r, None, t) for r, t in zip(bank, period, strict=True)]
            self.turns.append((bank, (..., *inputs), (..., *outputs)))

    def conv(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        """y (N, K, *O), with bias (K,) added."""
        y = x.new_empty(x.shape[0], self.weight_size[len(self.sizes)], *self.sizes)
        x, w, bias = wide(x), wide(w), None if bias is None else wide(bias)
        for bank, inputs, outputs in self.turns:
            y[outputs] = conv(x[inputs], w[bank], bias, self.each)
        return y

    def dgrad(self, dy: Tensor, w: Tensor) -> Tensor:
        """dx (N, C, *I), not rounded to 16 bits."""
        dy, w = wide(dy), wide(w)
        dx = dy.new_zeros(self.x_size)
        for bank, inputs, outputs in self.turns:
            target = dx[inputs]
            target += dgrad(dy[outputs], w[bank], target.shape, self.each)
        return dx

    def wgrad(self, dy: Tensor, x: Tensor) -> Tensor:
        """dw (*t, K, C/g, *F)."""
        dw = x.new_zeros(self.weight_size)  # some banks may serve no position
        dy, x = wide(dy), wide(x)
        for bank, inputs, outputs in self.turns:
            target = dw[bank]
            target.copy_(wgrad(dy[outputs], x[inputs], target.shape, self.each))
        return dw
