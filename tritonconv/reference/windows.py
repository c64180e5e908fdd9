"""A filter bank for every output position, on the CPU path: ATen's batched matrix product.

    y[n, k, o] = sum_{c, f} x[n, g(k) C/g + c, o s + f d] w[o mod t, k, c, f]

A block of positions at a time: its windows are gathered and multiplied with its banks as they lie
in memory, so the windows stay in cache and no weight is moved. The image has its border already.
Sums of 16-bit numbers are formed in float32.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..problem import ConvArguments

# Numbers in the windows of a block: 4 MB of float32.
BLOCK = 2**20

Box = tuple[slice, ...]


class Windows:
    """The windows of one problem, and the three passes over them.

    x (N, C, *I), w (*t, K, C/g, *F), y (N, K, *O). Images are gathered with n innermost: then the
    taps of a filter's row lie side by side for all images, and are copied together.
    """

    def __init__(self, x_size: Sequence[int], weight_size: Sequence[int], arguments: ConvArguments):
        rank = self.rank = len(arguments.stride)
        self.arguments, self.weight_size = arguments, weight_size
        self.batch, self.channels, *self.image = x_size
        self.period, self.taps = weight_size[:rank], weight_size[-rank:]
        self.sizes = output_size(self.image, self.taps, arguments)
        self.groups = arguments.groups
        self.filters = weight_size[rank] // self.groups
        self.depth = math.prod(weight_size[rank + 1 :])
        self.view = self._view()
        # Weights only pass through the cache, and count less; but 16-bit ones are copied.
        block = self.depth * max(1, self.batch, weight_size[rank] // 4)
        self.blocks: list[Any] = list(
            _blocks(self.sizes, self.period, max(1, BLOCK // max(1, block)))
        )
        self.unshared = list(self.period) == self.sizes
        self.whole = self.unshared and len(self.blocks) == 1
        if self.whole:  # nothing to slice
            self.blocks = [((...,), (...,))]

    def conv(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        """y, with bias (K,) added."""
        rank, windows = self.rank, self._gathered(x)
        shape = (*self.sizes, self.groups, self.batch, self.filters)
        rows: Any = None if self.whole else windows.new_empty(shape)
        for box, banks in self.blocks:
            columns, matrices = self._columns(windows[box]), self._matrices(w[banks])
            if self.batch == 1:  # vectors, which BLAS multiplies faster from the left
                part = torch.bmm(matrices, columns.view(len(columns), 1, self.depth).mT)
            else:
                part = torch.bmm(columns.mT, matrices.mT)
            if rows is None:
                rows = part.view(shape)
            else:
                target = rows[box]
                target.copy_(part.view(target.shape))
        if bias is not None:
            rows += bias.view(self.groups, 1, self.filters)
        y = rows.permute(rank + 1, rank, rank + 2, *range(rank))
        return y.reshape(self.batch, self.groups * self.filters, *self.sizes).to(x.dtype)

    def dgrad(self, dy: Tensor, w: Tensor) -> Tensor:
        """dx, not rounded to 16 bits."""
        rank, rows = self.rank, self._rows(dy)
        shape = (self.channels, *self.image, self.batch)
        dx: Any = None if self.whole else rows.new_zeros(shape)
        for box, banks in self.blocks:
            some = rows[box]
            part = torch.bmm(some.flatten(0, rank), self._matrices(w[banks]))
            part = part.view(*some.shape[:-1], *self.weight_size[rank + 1 :])
            # To (C, *F, *o, N): the image's own layout, with n innermost.
            part = part.permute(rank, *range(rank + 2, 2 * rank + 3), *range(rank), rank + 1)
            part = self._turned(part.flatten(0, 1), -rank - 2)
            if dx is None:
                dx = self._folded(part, self.image)
            else:
                target = dx[(slice(None), *map(self._region, range(rank), box))]
                target.add_(self._folded(part, target.shape[1:-1]))
        return dx.permute(-1, *range(rank + 1))

    def wgrad(self, dy: Tensor, x: Tensor) -> Tensor:
        """dw."""
        windows, rows = self._gathered(x), self._rows(dy)
        surplus = [t - size for t, size in zip(self.period, self.sizes, strict=True)]
        dw = x.new_empty(self.weight_size, dtype=rows.dtype if min(surplus) < 0 else x.dtype)
        if max(surplus) > 0:
            dw.zero_()  # some banks serve no position
        in_place = self.unshared and dw.dtype == rows.dtype
        for box, banks in self.blocks:
            left, right = rows[box].flatten(0, self.rank).mT, self._columns(windows[box]).mT
            target = dw[banks]
            if in_place:
                # Of vectors the product is an outer one, which `mul` makes faster.
                multiply = torch.mul if self.batch == 1 else torch.bmm
                multiply(left, right, out=target.view(len(left), self.filters, self.depth))
            elif box == banks:
                target.copy_(torch.bmm(left, right).view(target.shape))
            else:
                target.add_(torch.bmm(left, right).view(target.shape))
        return dw.to(x.dtype)

    def _view(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape and strides of all windows (*O, C, *F, N) of images (C, *I, N)."""
        steps = [self.batch * math.prod(self.image[axis:]) for axis in range(self.rank + 1)]
        stride, dilation = self.arguments.stride, self.arguments.dilation
        shape = (*self.sizes, self.channels, *self.taps, self.batch)
        positions = (step * s for step, s in zip(steps[1:], stride, strict=True))
        taps = (step * d for step, d in zip(steps[1:], dilation, strict=True))
        return shape, (*positions, steps[0], *taps, 1)

    def _gathered(self, x: Tensor) -> Tensor:
        """All windows, a view (*O, C, *F, N)."""
        images = wide(x).permute(*range(1, self.rank + 2), 0).contiguous()
        return images.as_strided(*self.view)

    def _columns(self, windows: Tensor) -> Tensor:
        """A block of windows (*o, C, *F, N) as a matrix (C/g * F, N) a position and group."""
        count = math.prod(windows.shape[: self.rank]) * self.groups
        return self._turned(windows, -2).reshape(count, self.depth, self.batch)

    def _turned(self, windows: Tensor, last: int) -> Tensor:
        """Windows as the filter meets them: a flipped filter is theirs to flip, for a block of them
        is smaller than its weights. `last` is their last axis of taps."""
        if self.arguments.flip:
            return windows.flip(tuple(range(last - self.rank + 1, last + 1)))
        return windows

    def _matrices(self, banks: Tensor) -> Tensor:
        """A block of banks (*t, K, C/g, *F) as a matrix (K/g, C/g * F) a bank and group."""
        count = math.prod(banks.shape[: self.rank]) * self.groups
        return wide(banks).reshape(count, self.filters, self.depth)

    def _rows(self, dy: Tensor) -> Tensor:
        """dy (N, K, *O) as (*O, g, N, K/g)."""
        grouped = wide(dy).view(self.batch, self.groups, self.filters, *self.sizes)
        return grouped.permute(*range(3, 3 + self.rank), 1, 0, 2).contiguous()

    def _region(self, axis: int, positions: slice) -> slice:
        """What the windows of some positions cover of the image."""
        stride, dilation = self.arguments.stride[axis], self.arguments.dilation[axis]
        last = (positions.stop - 1) * stride + reach(self.taps[axis], dilation)
        return slice(positions.start * stride, last)

    def _folded(self, part: Tensor, lengths: Sequence[int]) -> Tensor:
        """Windows (C, *F, *o, N) added where they lie in an image (C, *lengths, N), an axis at a
        time."""
        part = part.contiguous()
        for axis in reversed(range(self.rank)):
            stride, dilation = self.arguments.stride[axis], self.arguments.dilation[axis]
            taps, where = part.unbind(axis + 1), 2 * axis + 1
            shape = list(taps[0].shape)
            span = (shape[where] - 1) * stride + 1
            shape[where] = lengths[axis]
            part = part.new_zeros(shape)
            before = (slice(None),) * where
            for f, tap in enumerate(taps):
                part[(*before, slice(f * dilation, f * dilation + span, stride))].add_(tap)
        return part


class Copied(Windows):
    """The passes of a small problem whose banks take turns: each position gets a copy of its bank,
    for one large product is faster than many small ones."""

    def __init__(self, x_size: Sequence[int], weight_size: Sequence[int], arguments: ConvArguments):
        rank = len(arguments.stride)
        sizes = output_size(x_size[2:], weight_size[-rank:], arguments)
        super().__init__(x_size, (*sizes, *weight_size[rank:]), arguments)
        self.banks = weight_size[:rank]

    def conv(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        """y, with bias (K,) added."""
        return super().conv(x, self._copied(w), bias)

    def dgrad(self, dy: Tensor, w: Tensor) -> Tensor:
        """dx, not rounded to 16 bits."""
        return super().dgrad(dy, self._copied(w))

    def wgrad(self, dy: Tensor, x: Tensor) -> Tensor:
        """dw, the copies' gradients summed."""
        dw = super().wgrad(wide(dy), wide(x))
        for axis, period in enumerate(self.banks):
            whole, rest = divmod(dw.shape[axis], period)
            turns = dw.narrow(axis, 0, whole * period).unflatten(axis, (whole, period))
            last = dw.narrow(axis, whole * period, rest)
            dw = turns.sum(axis)
            dw.narrow(axis, 0, rest).add_(last)
        return dw.to(x.dtype)

    def _copied(self, w: Tensor) -> Tensor:
        for axis, (size, period) in enumerate(zip(self.sizes, self.banks, strict=True)):
            if period != size:
                w = w.index_select(axis, torch.arange(size, device=w.device) % period)
        return w


def output_size(
    sizes: Sequence[int], filter_size: Sequence[int], arguments: ConvArguments
) -> list[int]:
    """How many windows fit, an axis."""
    geometry = zip(sizes, filter_size, arguments.dilation, arguments.stride, strict=True)
    return [(size - reach(f, d)) // s + 1 for size, f, d, s in geometry]


def reach(taps: int, dilation: int) -> int:
    """From a window's first element to its last, both counted."""
    return (taps - 1) * dilation + 1


def wide(tensor: Tensor) -> Tensor:
    """In the dtype of its sums: float32 for 16-bit numbers."""
    return tensor.float() if tensor.dtype.itemsize == 2 else tensor


def _blocks(sizes: Sequence[int], period: Sequence[int], most: int) -> Iterator[tuple[Box, Box]]:
    """Boxes of at most `most` positions, each with the box of its banks, none of them there twice.

    The last axes are whole where they can be, for their weights are then one piece of memory.
    """
    axes = []
    for size, t in reversed(list(zip(sizes, period, strict=True))):
        whole = min(size, t)
        extent = -(-whole // -(-whole // most))  # equal pieces: no small one is left over
        most = max(1, most // extent)
        axes.insert(0, list(_pieces(size, t, extent)))
    for pieces in itertools.product(*axes):
        yield tuple(box for box, _ in pieces), tuple(banks for _, banks in pieces)


def _pieces(size: int, period: int, extent: int) -> Iterator[tuple[slice, slice]]:
    for first in range(0, size, period):
        end = min(period, size - first)
        for start in range(0, end, extent):
            stop = min(start + extent, end)
            yield slice(first + start, first + stop), slice(start, stop)
