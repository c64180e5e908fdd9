"""Pooling on a CPU by a loop over the taps, each of them a strided view of the whole image.

Nothing is laid out, so this is fast; it looks at numbers, so it is for tensors that no transform
holds, and it has no derivatives. What it declines, by None, `pool_windows` computes.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .pool_geometry import Windows

# Beyond these the windows are laid out.
MOST_TAPS = 64
# Whole powers up to this are products.
MOST_FACTORS = 16
# A norm to the power p - 1 within 2**-RANGE and 2**RANGE costs no gradient that is worth having.
RANGE = 40
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def fits(windows: "Windows") -> bool:
    """Whether there are views: windows of one length, and few taps."""
    return not windows.arguments.adaptive_size and math.prod(windows.kernel) <= MOST_TAPS


def padded(x: Tensor, windows: "Windows", fill: float) -> Tensor:
    """x as far as the windows reach, and no farther."""
    low_high = windows.ends()
    return torch.constant_pad_nd(x, low_high, fill) if any(e > 0 for e in low_high) else x


def along(x: Tensor, windows: "Windows", axis: int, f: int) -> Tensor:
    """What tap f of an axis reads, of an x that is padded there."""
    stride, first = windows.arguments.stride[axis], f * windows.arguments.dilation[axis]
    at = (slice(None),) * (2 + axis)
    return x[(*at, slice(first, first + (windows.sizes[axis] - 1) * stride + 1, stride))]


def taps_of(x: Tensor, windows: "Windows") -> Iterator[tuple[int, Tensor]]:
    """`(number, view (N, C, *O))` of every tap of a padded x."""
    for number, f in enumerate(itertools.product(*map(range, windows.kernel))):
        view = x
        for axis, tap in enumerate(f):
            view = along(view, windows, axis, tap)
        yield number, view


def blank(like: Tensor, shape: Sequence[int], zeros: bool) -> Tensor:
    """A new tensor whose axes lie in memory as those of `like`."""
    order = sorted(range(like.dim()), key=lambda axis: -like.stride(axis))
    make = like.new_zeros if zeros else like.new_empty
    found = make([shape[axis] for axis in order])
    return found.permute([order.index(axis) for axis in range(like.dim())])


def added(x: Tensor, windows: "Windows") -> Tensor:
    """The sum of each window."""
    return _combined(torch.add, x, windows)


def largest(x: Tensor, windows: "Windows") -> Tensor:
    """The largest element of each window, of natural ones."""
    return _combined(torch.maximum, x, windows)


def _combined(combine: Callable[..., Tensor], x: Tensor, windows: "Windows") -> Tensor:
    """Two at a time, and an axis at a time."""
    x = padded(x, windows, 0)
    for axis in range(windows.rank):
        first, *views = (along(x, windows, axis, f) for f in range(windows.kernel[axis]))
        x = combine(first, views[0]) if views else first.clone()
        for view in views[1:]:
            combine(x, view, out=x)
    return x


def spread(g: Tensor, windows: "Windows") -> Tensor:
    """The adjoint of `added`."""
    for axis in reversed(range(windows.rank)):
        shape = list(g.shape)
        shape[2 + axis] = windows.reach(axis)
        taps, dilation = windows.kernel[axis], windows.arguments.dilation[axis]
        apart = windows.arguments.stride[axis] > dilation * (taps - 1)
        whole = blank(g, shape, zeros=not (apart and shape[2 + axis] == taps * windows.sizes[axis]))
        for f in range(taps):
            view = along(whole, windows, axis, f)
            view.copy_(g) if apart else view.add_(g)
        g = whole
    return cut(g, windows)


def cut(g: Tensor, windows: "Windows") -> Tensor:
    """Of what lies where windows reach, what lies on the image."""
    ends = [-end for end in windows.ends()]
    return torch.constant_pad_nd(g, ends, 0) if any(ends) else g


# -- the largest -----------------------------------------------------------------------------


def max_pool(x: Tensor, windows: "Windows", lowest: float) -> tuple[Tensor, Tensor]:
    """As `pool_windows.max_pool`, but for windows in which nothing is larger than the lowest."""
    views = taps_of(padded(x, windows, lowest), windows)
    y = next(views)[1].clone()
    taps = blank(y, y.shape, zeros=True).to(torch.uint8)
    for number, view in views:
        larger = (view > y).view(torch.uint8)
        taps = torch.maximum(taps, larger.mul_(number))  # numbers only grow
        torch.maximum(y, view, out=y)
    # A NaN would have made it one; but so would infinities of both signs.
    if y.is_floating_point() and bool(y.sum().isnan()) and bool(y.isnan().any()):
        for number, view in taps_of(padded(x, windows, lowest), windows):
            taps = torch.where(view.isnan(), number, taps)
    return y, taps.long()


def max_pool_gradient(dy: Tensor, taps: Tensor, windows: "Windows") -> Tensor:
    """As `pool_windows.max_pool_gradient`, of a dy in the dtype of sums."""
    shape = [*dy.shape[:2], *map(windows.reach, range(windows.rank))]
    dx = blank(dy, shape, zeros=not windows.tiles)
    bits, taps = dy.view(_BITS[dy.element_size()]), taps.to(torch.uint8)
    for number, view in taps_of(dx, windows):
        # Where it won all bits, else none: a product would make NaN of 0 and infinity.
        wins = (taps == number).view(torch.uint8).to(bits.dtype).neg_()
        if windows.tiles:
            torch.bitwise_and(wins, bits, out=view.view(bits.dtype))
        else:
            view.add_(wins.bitwise_and_(bits).view(dy.dtype))
    return cut(dx, windows)


def sum_pool_gradient(g: Tensor, weights: Tensor | None, windows: "Windows") -> Tensor:
    """As `pool_windows.sum_pool_gradient`, of a gradient that is divided."""
    if weights is None:
        return spread(g, windows)
    shape = [*g.shape[:2], *map(windows.reach, range(windows.rank))]
    dx = blank(g, shape, zeros=True)
    each = weights.flatten().tolist()
    for number, view in taps_of(dx, windows):
        view.add_(g, alpha=each[number])
    return cut(dx, windows)


# -- norms -----------------------------------------------------------------------------------


def lp_pool(x: Tensor, p: float, windows: "Windows") -> Tensor | None:
    """The norms of plain powers, if none of these is too large or too small to count."""
    limits = torch.finfo(x.dtype)
    if p in (1, 2):
        unit, powers = None, _powers(x, p)
    else:
        size = x.abs()
        unit = largest(size, windows)
        powers = _raised_(size, p)
    total = added(powers, windows)
    least, most = (float(bound) for bound in torch.aminmax(total))
    fewest = limits.tiny / limits.eps**2
    if not most < limits.max / 2:
        return None
    if least < fewest and bool(((x != 0) & (powers < fewest)).any()):
        return None
    if unit is None:
        return total.sqrt_() if p == 2 else total
    # In units of the largest: exact of a lone element, and nowhere less than the largest.
    total /= _powers(unit, p).clamp_(min=limits.tiny)
    return total.pow_(1 / p).mul_(unit)


def lp_pool_gradient(
    dy: Tensor, x: Tensor, y: Tensor, p: float, windows: "Windows"
) -> Tensor | None:
    """sign(x) * |x|**(p-1) * (dy * y**(1-p) of the windows that cover it), where p >= 1 and the
    norms are neither so large nor so small that it would matter."""
    if p < 1:
        return None
    least, most = (float(bound) for bound in torch.aminmax(y))
    if least == 0:
        y = y.masked_fill(y == 0, math.inf)
        least = float(y.amin())
    down, up = (float(bound) for bound in torch.aminmax(dy))
    furthest = RANGE / max(p - 1, 1)
    if not (2**-furthest <= least and most <= 2**furthest) or not max(-down, up) <= 2.0**RANGE:
        return None
    if p == 1:
        dx = spread(dy, windows).mul_(x.sign())
    elif p == 2:
        dx = spread(dy / y, windows).mul_(x)
    else:
        dx = spread(dy / _powers(y, p - 1), windows).mul_(_slopes(x, p))
    # Elements that no window covers may be anything, and give 0.
    return dx if bool(dx.sum().isfinite()) else None


def _powers(x: Tensor, p: float) -> Tensor:
    """|x|**p, by products where p is whole."""
    return x * x if p == 2 else _raised_(x.abs(), p)


def _raised_(size: Tensor, p: float) -> Tensor:
    """size**p, in its place: new memory costs more than a product."""
    if p == 1:
        return size
    if p == 3 or not (p.is_integer() and p <= MOST_FACTORS):
        return size.pow_(p)
    square = size * size
    found = size.copy_(square) if p % 2 == 0 else size.mul_(square)
    for _ in range(int(p) // 2 - 1):
        found.mul_(square)
    return found


def _slopes(x: Tensor, p: float) -> Tensor:
    """sign(x) * |x|**(p-1)."""
    if p.is_integer() and p <= MOST_FACTORS:
        return _powers(x, p - 2).mul_(x)
    return x.abs().pow_(p - 1).copysign_(x)
