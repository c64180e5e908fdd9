"""Where the windows of a pooling lie, and how an image is gathered into them and back."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..pool_problem import PoolArguments, Reduction, windows_of


class Windows:
    """The windows of one geometry: I and O sizes an axis, F the (longest) window."""

    def __init__(self, input_size: Sequence[int], arguments: PoolArguments) -> None:
        self.input_size, self.arguments = list(input_size), arguments
        self.kernel, self.sizes = windows_of(input_size, arguments)
        self.rank = len(self.sizes)
        self.axes = [self._axis(axis) for axis in range(self.rank)]
        # Whether every tap is an element, and whether windows meet without overlap or gap.
        self.full = not arguments.adaptive_size and all(map(self._within, range(self.rank)))
        undilated = all(d == 1 for d in arguments.dilation)
        self.tiles = self.full and undilated and list(arguments.stride) == list(self.kernel)

    def _within(self, axis: int) -> bool:
        """Whether no tap lies beyond the border of an axis."""
        stride, dilation = self.arguments.stride[axis], self.arguments.dilation[axis]
        last = (self.sizes[axis] - 1) * stride + (self.kernel[axis] - 1) * dilation
        return self.arguments.padding[2 * axis] == 0 and last < self.input_size[axis]

    def reach(self, axis: int) -> int:
        """How far the windows of an axis reach from the first tap."""
        taps = self.arguments.dilation[axis] * (self.kernel[axis] - 1) + 1
        return (self.sizes[axis] - 1) * self.arguments.stride[axis] + taps

    def ends(self) -> list[int]:
        """What to pad, or below 0 to crop, for windows that reach the ends: the last axis first."""
        found: list[int] = []
        for axis in range(self.rank):
            low = self.arguments.padding[2 * axis]
            found = [low, self.reach(axis) - self.input_size[axis] - low, *found]
        return found

    def _axis(self, axis: int) -> tuple[Tensor, Tensor, Tensor]:
        """`(positions (O, F), which of them are elements, how many taps an average counts)`."""
        size, count, taps = self.input_size[axis], self.sizes[axis], self.kernel[axis]
        o, f = torch.arange(count), torch.arange(taps)
        if self.arguments.adaptive_size:
            start, stop = o * size // count, -(-(o + 1) * size // count)
            positions = start[:, None] + f
            inside = positions < stop[:, None]
            return positions.clamp(max=size - 1), inside, inside.sum(1)
        low, high = self.arguments.padding[2 * axis : 2 * axis + 2]
        start = o * self.arguments.stride[axis] - low
        positions = start[:, None] + f * self.arguments.dilation[axis]
        inside = (positions >= 0) & (positions < size)
        return positions.clamp(0, size - 1), inside, (positions < size + high).sum(1)

    def gather(self, x: Tensor) -> Tensor:
        """(N, C, *I) to (N, C, *O, taps); beyond the border stands some element."""
        for axis, (positions, _, _) in enumerate(self.axes):
            at = 2 + 2 * axis
            if self.tiles:  # no copy
                x = x.narrow(at, 0, positions.numel()).unflatten(at, positions.shape)
            else:
                index = positions.flatten().to(x.device)
                x = x.index_select(at, index).unflatten(at, positions.shape)
        order = [0, 1, *range(2, 2 + 2 * self.rank, 2), *range(3, 2 + 2 * self.rank, 2)]
        return x.permute(order).flatten(2 + self.rank)

    def spread(self, g: Tensor) -> Tensor:
        """The adjoint: (N, C, *O, taps) added up to (N, C, *I). `g` is 0 beyond the border."""
        g = g.unflatten(-1, self.kernel)
        g = g.permute(
            0, 1, *(axis for k in range(self.rank) for axis in (2 + k, 2 + self.rank + k))
        )
        for axis in reversed(range(self.rank)):
            at = 2 + 2 * axis
            g = g.flatten(at, at + 1)
            if self.tiles:
                rest = self.input_size[axis] - g.shape[at]
                g = torch.nn.functional.pad(g, [0, 0] * (g.dim() - 1 - at) + [0, rest])
                continue
            shape = list(g.shape)
            shape[at] = self.input_size[axis]
            index = self.axes[axis][0].flatten().to(g.device)
            g = g.new_zeros(shape).index_add(at, index, g)
        return g

    def inside(self, device: Any = None) -> Tensor:
        """Which taps are elements, (*O, taps)."""
        found = torch.ones((), dtype=torch.bool, device=device)
        for axis, (_, inside, _) in enumerate(self.axes):
            shape = [1] * (2 * self.rank)
            shape[axis], shape[self.rank + axis] = inside.shape
            found = found & inside.to(device).view(shape)
        return found.flatten(self.rank)

    def divisor(self, reduction: Reduction, weights: Tensor | None, like: Tensor) -> Tensor | None:
        """What sums are divided by, of shape (*O) or one number; infinity instead of 0, so that
        both the result and its gradient are 0."""
        kind = reduction.divisor
        if kind == "none":
            return None
        if kind == "fixed":
            return like.new_tensor(reduction.exponent)
        if kind == "weights":
            assert weights is not None
            total = torch.where(self.inside(like.device), weights.flatten().to(like), 0).sum(-1)
        elif kind == "padded":
            total = like.new_ones(())
            for axis, (_, _, counted) in enumerate(self.axes):
                shape = [1] * self.rank
                shape[axis] = len(counted)
                total = total * counted.to(like).view(shape)
        else:
            total = self.inside(like.device).sum(-1).to(like)
        return torch.where(total == 0, math.inf, total)

    def elements(self, x: Tensor, otherwise: float = 0) -> Tensor:
        """(N, C, *O, taps): `gather`, with `otherwise` beyond the border."""
        gathered = self.gather(x)
        if self.full:
            return gathered
        return torch.where(self.inside(x.device), gathered, x.new_tensor(otherwise))
