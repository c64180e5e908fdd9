"""Rows of a GEMM that are positions (n, d, h, w), decoded with few divisions.

The caller merges neighbouring axes along which every tensor steps evenly: `AXES` 1 is one axis (w)
in a dense channels-last tensor, 2 are images and positions (n, w) in a dense tensor stored by
channel, 4 is any tensor. `VECTOR` says that w has whole vectors of that many positions, which is
what makes loads and stores along it wide.
"""

import triton
import triton.language as tl

from ._index import advance, unflatten4


@triton.jit
def tile_rows(first, batch, extent, AXES: tl.constexpr, VECTOR: tl.constexpr, BLOCK: tl.constexpr):
    """`(n, (d, h, w))` of the rows first .. first + BLOCK - 1; beyond the end, rows that exist."""
    step = tl.arange(0, BLOCK).to(first.dtype)
    zero = step * 0
    if AXES == 1:
        return zero, (zero, zero, inside(first + step, extent[2], VECTOR))
    start_n, start = unflatten4(first, extent)
    h = wraps(start[2] + step, extent[2], BLOCK)
    w = start[2] + step - h * extent[2]
    if AXES == 2:
        w = tl.max_contiguous(tl.multiple_of(w, VECTOR), VECTOR)
        n = tl.max_constancy(tl.minimum(start_n + h, batch - 1), VECTOR)
        return n, (zero, zero, w)
    h += start[1]
    d = wraps(h, extent[1], BLOCK)
    h -= d * extent[1]
    d += start[0]
    n = wraps(d, extent[0], BLOCK)
    return tl.minimum(start_n + n, batch - 1), (d - n * extent[0], h, w)


@triton.jit
def wraps(digit, radix, BLOCK: tl.constexpr):
    """digit // radix for a digit below radix + BLOCK, without an integer division.

    It is 0 or 1 if the radix is large; if it is small, so are all numbers, and the float32
    quotient of digit + 1/2 is further from a whole number than it is wrong.
    """
    small = ((digit.to(tl.float32) + 0.5) / radix.to(tl.float32)).to(digit.dtype)
    return tl.where(radix < BLOCK, small, (digit >= radix).to(digit.dtype))


@triton.jit
def next_rows(n, q, by_n, by, extent, AXES: tl.constexpr):
    """The rows (by_n, by) further on, as `advance` counts them, for `AXES` 2 or 4."""
    if AXES == 2:
        w = q[2] + by[2]
        carry = w >= extent[2]
        return n + by_n + carry.to(w.dtype), (q[0], q[1], tl.where(carry, w - extent[2], w))
    else:
        return advance(n, q, by_n, by, extent)


@triton.jit
def inside(index, size, VECTOR: tl.constexpr):
    """`index`, or, beyond the end, the last vector over again: memory that may be read."""
    index = tl.minimum(index, size - VECTOR + index % VECTOR)
    return tl.max_contiguous(tl.multiple_of(index, VECTOR), VECTOR)


@triton.jit
def at_run(pointer, offset, VECTOR: tl.constexpr):
    """pointer + offset, stated to hold aligned vectors along the last axis of the tile.

    Unlike `_index.at`, it says that they are contiguous, where the compiler cannot see it. Without
    vectors it says so of pairs, which need not be true: nothing is said of their alignment, so all
    that follows is that neighbouring threads take neighbours along the last axis. Of two axes of
    which it knows nothing, Triton 3.6 gives them the first.
    """
    pointer += offset
    if VECTOR > 1:
        BYTES: tl.constexpr = VECTOR * pointer.dtype.element_ty.primitive_bitwidth // 8
        pointer = tl.multiple_of(pointer, (BYTES, BYTES))
        pointer = tl.max_contiguous(pointer, (1, VECTOR))
    else:
        pointer = tl.max_contiguous(pointer, (1, 2))
    return pointer
