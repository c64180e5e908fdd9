"""Strips: neighbouring positions along W, which share the source values that they read.

Position i of a strip reads the source at `start + i*WALK + j*DELTA`, j counting the taps along W.
All values from the strip's lowest to its highest are its window; each is loaded once and used for
every i and j that meet there: for 3 taps and 4 positions 6 loads, not 12. A tile holds many
strips for many channels, and one place of all those strips, or windows, is a tile.
"""

import triton
import triton.language as tl

from ._border import fold
from ._index import at, in_range, outer, outer_and


@triton.jit
def across(values, ROWS_FIRST: tl.constexpr):
    """One value a channel, to be combined with a tile of strips and channels."""
    if ROWS_FIRST:
        return values[None, :]
    else:
        return values[:, None]


@triton.jit
def zero_tile(
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, ROWS_FIRST: tl.constexpr, ACC: tl.constexpr
):
    """A tile of strips and channels."""
    if ROWS_FIRST:
        return tl.zeros((BLOCK_M, BLOCK_N), dtype=ACC)
    else:
        return tl.zeros((BLOCK_N, BLOCK_M), dtype=ACC)


@triton.jit
def load_window(
    src_ptr,
    row,
    start,
    live,
    col,
    col_ok,
    size,
    stride,
    LOW: tl.constexpr,
    HIGH: tl.constexpr,
    BORDER: tl.constexpr,
    ROWS_FIRST: tl.constexpr,
    VECTOR: tl.constexpr,
    ACC: tl.constexpr,
):
    """The source at `start + (0, 0, LOW)` .. `start + (0, 0, HIGH)`, a tuple of tiles.

    `row` is the offset of a strip's image, `col` that of a channel; `start`, `size` and `stride`
    are along (D, H, W), the first of them one position a strip.
    """
    if BORDER == "zeros":
        live = live & in_range(start[0], size[0]) & in_range(start[1], size[1])
        row += start[0] * stride[0] + start[1] * stride[1] + start[2] * stride[2]
    else:
        row += fold(start[0], size[0], BORDER) * stride[0]
        row += fold(start[1], size[1], BORDER) * stride[1]
    tile = outer(row, col, ROWS_FIRST)
    window = ()
    for step in tl.static_range(LOW, HIGH + 1):
        position = start[2] + step
        if BORDER == "zeros":
            offset = step * stride[2]
            ok = outer_and(live & in_range(position, size[2]), col_ok, ROWS_FIRST)
        else:
            offset = outer(fold(position, size[2], BORDER) * stride[2], col * 0, ROWS_FIRST)
            ok = outer_and(live, col_ok, ROWS_FIRST)
        window += (tl.load(at(src_ptr, tile + offset, VECTOR), mask=ok, other=0.0).to(ACC),)
    return window
