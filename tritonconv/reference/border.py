"""The border of an image on the CPU path: what is read beyond its ends, and its adjoint."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..problem import ConvArguments


class Border(NamedTuple):
    """What surrounds an image, but for the zeros that ATen's convolution adds by itself.

    mode: where the pads are read from, one of zeros, reflect, replicate, circular. zeros: one int
    an axis, what ATen adds at both ends. pads: one (low, high) pair an axis, none negative. crops:
    one int an axis, what is then cut from the high end.
    """

    mode: str
    zeros: list[int]
    pads: list[tuple[int, int]]
    crops: list[int]

    @property
    def padded(self) -> bool:
        """Whether anything is added to the image here."""
        return any(map(any, self.pads))

    @property
    def changes(self) -> bool:
        """Whether `extend` does anything."""
        return self.padded or any(self.crops)

    @property
    def adds(self) -> bool:
        """Whether `fold` adds numbers, where it else only moves them."""
        return self.padded and self.mode != "zeros"

    def sizes(self, image: Sequence[int]) -> list[int]:
        """The sizes of an image once it is extended."""
        ends = zip(image, self.pads, self.crops, strict=True)
        return [size + low + high - crop for size, (low, high), crop in ends]

    def extend(self, x: Tensor) -> Tensor:
        """x (N, C, *I) with its border; x itself, or a view, where nothing is added."""
        sizes = self.sizes(x.shape[2:]) if any(self.crops) else []
        if self.padded:
            pads = [end for pair in reversed(self.pads) for end in pair]
            x = torch.nn.functional.pad(x, pads, "constant" if self.mode == "zeros" else self.mode)
        for axis, size in enumerate(sizes, start=2):
            x = x.narrow(axis, 0, size)
        return x

    def fold(self, dx: Tensor) -> Tensor:
        """The adjoint of `extend`: what reached the border goes back to where that was read from.

        dx is overwritten; it must be nobody else's. The result is a view.
        """
        if any(self.crops):
            dx = torch.nn.functional.pad(dx, [end for c in reversed(self.crops) for end in (0, c)])
        for axis, (low, high) in enumerate(self.pads, start=2):
            if low or high:
                dx = _fold_axis(dx, axis, low, high, self.mode)
        return dx


def border(arguments: ConvArguments, explicit: bool) -> Border:
    """The border of a problem; with `explicit`, nothing of it is left to ATen's convolution."""
    lows, highs = arguments.padding[::2], arguments.padding[1::2]
    crops = [max(0, -high) for high in highs]
    ends = [(low, max(0, high)) for low, high in zip(lows, highs, strict=True)]
    if explicit or arguments.padding_mode != "zeros":
        return Border(arguments.padding_mode, [0] * len(ends), ends, crops)
    zeros = [min(pair) for pair in ends]
    pads = [(low - both, high - both) for (low, high), both in zip(ends, zeros, strict=True)]
    return Border("zeros", zeros, pads, crops)


def _fold_axis(dx: Tensor, axis: int, low: int, high: int, mode: str) -> Tensor:
    size = dx.shape[axis] - low - high
    before, after = dx.narrow(axis, 0, low), dx.narrow(axis, low + size, high)
    image = dx.narrow(axis, low, size)
    if mode == "reflect":
        image.narrow(axis, 1, low).add_(before.flip(axis))
        image.narrow(axis, size - 1 - high, high).add_(after.flip(axis))
    elif mode == "replicate":
        image.narrow(axis, 0, 1).add_(before.sum(axis, keepdim=True))
        image.narrow(axis, size - 1, 1).add_(after.sum(axis, keepdim=True))
    elif mode == "circular":
        image.narrow(axis, size - low, low).add_(before)
        image.narrow(axis, 0, high).add_(after)
    return image
