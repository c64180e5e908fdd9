"""Index arithmetic shared by the kernels: residue classes, windows, mixed-radix positions.

Vocabulary (DESIGN.md works an example): along one axis the positions of the written tensor are
split by `position mod R`. A class `r` holds the positions `r + q*R`. Inside a class, tap number
`j` of the filter is tap `first + j*TAP_STEP` and reads the source at `base + q*row_step +
j*TAP_DELTA`, for every `q`; so a class has one short list of taps and wastes none.
"""

import triton
import triton.language as tl


@triton.jit
def unflatten3(index, size_h, size_w):
    """Split a flat index over (D, H, W) into its three coordinates."""
    return index // (size_h * size_w), (index // size_w) % size_h, index % size_w


@triton.jit
def in_range(position, size):
    """0 <= position < size, as one unsigned comparison."""
    if position.dtype == tl.int64:
        return position.to(tl.uint64, bitcast=True) < size.to(tl.uint64, bitcast=True)
    else:
        return position.to(tl.uint32, bitcast=True) < size.to(tl.uint32, bitcast=True)


@triton.jit
def axis_taps(
    residue,
    pad,
    lift,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    TAP_STEP: tl.constexpr,
    DGRAD: tl.constexpr,
):
    """`(base, first, taps)` of a residue class along one axis, whose first position is `residue`.

    fprop reads x at o*s - pad + f*d: every tap reaches every position. dgrad reads dy at
    (i + pad - f*d)/s, which is an integer for one tap in `TAP_STEP` only. `residue` may be as low
    as -lift, for the image of a position beyond the border.
    """
    if DGRAD:
        # A multiple of STRIDE that keeps the dividends natural, where // and % need no care.
        LIFT: tl.constexpr = STRIDE * DILATION * FILTER
        anchor = residue + pad + LIFT + lift * STRIDE
        first = residue * 0 + FILTER
        for back in tl.static_range(TAP_STEP):
            tap = TAP_STEP - 1 - back
            first = tl.where((anchor - tap * DILATION) % STRIDE == 0, tap, first)
        # More stride than filter: the first matching tap may lie beyond the filter's end.
        first = tl.minimum(first, FILTER)
        taps = (FILTER - first + TAP_STEP - 1) // TAP_STEP
        base = (anchor - first * DILATION) // STRIDE - LIFT // STRIDE - lift
    else:
        first = residue * 0
        taps = first + FILTER
        base = residue * STRIDE - pad
    return base, first, taps


@triton.jit
def residues_of(period, STRIDE: tl.constexpr, DGRAD: tl.constexpr):
    """`(residues, steps)` an axis: positions r + q*residues are a class, whose source positions
    lie `steps` apart. What repeats is the bank (fprop), or the bank and the tap list (dgrad)."""
    strided = (period[0] * STRIDE[0], period[1] * STRIDE[1], period[2] * STRIDE[2])
    if DGRAD:
        return strided, period
    else:
        return period, strided


@triton.jit
def classes_of(residues, size):
    """Number of classes an axis, and of positions in the largest one."""
    d = tl.minimum(residues[0], size[0])
    h = tl.minimum(residues[1], size[1])
    w = tl.minimum(residues[2], size[2])
    most = tl.cdiv(size[0], residues[0]) * tl.cdiv(size[1], residues[1])
    return (d, h, w), most * tl.cdiv(size[2], residues[2])


@triton.jit
def class_taps(
    residue,
    pad,
    lift,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    TAP_STEP: tl.constexpr,
    DGRAD: tl.constexpr,
):
    """`axis_taps` along (D, H, W): the three bases, first taps and numbers of taps."""
    base_d, first_d, taps_d = axis_taps(
        residue[0], pad[0], lift[0], FILTER[0], STRIDE[0], DILATION[0], TAP_STEP[0], DGRAD
    )
    base_h, first_h, taps_h = axis_taps(
        residue[1], pad[1], lift[1], FILTER[1], STRIDE[1], DILATION[1], TAP_STEP[1], DGRAD
    )
    base_w, first_w, taps_w = axis_taps(
        residue[2], pad[2], lift[2], FILTER[2], STRIDE[2], DILATION[2], TAP_STEP[2], DGRAD
    )
    return (base_d, base_h, base_w), (first_d, first_h, first_w), (taps_d, taps_h, taps_w)


@triton.jit
def class_extent(residue, residues, size):
    """Positions of a class along (D, H, W)."""
    return (
        tl.cdiv(size[0] - residue[0], residues[0]),
        tl.cdiv(size[1] - residue[1], residues[1]),
        tl.cdiv(size[2] - residue[2], residues[2]),
    )


@triton.jit
def unflatten4(index, extent):
    """Split a flat index over (N, D, H, W) into n and its (D, H, W) coordinates."""
    positions = extent[0] * extent[1] * extent[2]
    d, h, w = unflatten3(index % positions, extent[1], extent[2])
    return index // positions, (d, h, w)


@triton.jit
def bank_at(position, period, stride):
    """Offset of the bank that is a position's turn, of `period` banks an axis."""
    bank = (position[0] % period[0]) * stride[0]
    bank += (position[1] % period[1]) * stride[1]
    return bank + (position[2] % period[2]) * stride[2]


@triton.jit
def split_range(split, splits, total, BLOCK_K: tl.constexpr):
    """The range [start, stop) of a split sum, in whole steps of BLOCK_K."""
    chunk = tl.cdiv(tl.cdiv(total, BLOCK_K), splits) * BLOCK_K
    start = split * chunk
    return start, tl.maximum(tl.minimum(start + chunk, total), start)


@triton.jit
def window_bits(
    bits, position, size, COUNT: tl.constexpr, DELTA: tl.constexpr, WIDTH: tl.constexpr
):
    """One more axis of a bit mask over taps: `bits`, WIDTH long, repeated for each of COUNT taps
    at position + tap*DELTA, and cleared where that falls outside 0..size-1."""
    found = bits * 0
    for tap in tl.static_range(COUNT):
        inside = in_range(position + tap * DELTA, size)
        found |= tl.where(inside, bits, 0) << (tap * WIDTH)
    return found


@triton.jit
def advance(n, q, by_n, by, extent):
    """Add (by_n, by) to the position (n, q) whose (D, H, W) digits have the radix `extent`.

    The digits of `by` are below their radix, so a carry is 0 or 1: no division in the loop.
    """
    w = q[2] + by[2]
    carry = w >= extent[2]
    w = tl.where(carry, w - extent[2], w)
    h = q[1] + by[1] + carry.to(w.dtype)
    carry = h >= extent[1]
    h = tl.where(carry, h - extent[1], h)
    d = q[0] + by[0] + carry.to(w.dtype)
    carry = d >= extent[0]
    d = tl.where(carry, d - extent[0], d)
    return n + by_n + carry.to(w.dtype), (d, h, w)


@triton.jit
def outer(rows, columns, COLUMNS_FAST: tl.constexpr):
    """rows + columns as a tile whose last axis is the one that is contiguous in memory."""
    if COLUMNS_FAST:
        return rows[:, None] + columns[None, :]
    else:
        return columns[:, None] + rows[None, :]


@triton.jit
def outer_and(rows, columns, COLUMNS_FAST: tl.constexpr):
    """The mask that belongs to `outer`."""
    if COLUMNS_FAST:
        return rows[:, None] & columns[None, :]
    else:
        return columns[:, None] & rows[None, :]


@triton.jit
def row_of(values, COLUMNS_FAST: tl.constexpr):
    """A value a row of `outer`, to be broadcast over its columns."""
    return values[:, None] if COLUMNS_FAST else values[None, :]


@triton.jit
def column_of(values, COLUMNS_FAST: tl.constexpr):
    """A value a column of `outer`, to be broadcast over its rows."""
    return values[None, :] if COLUMNS_FAST else values[:, None]


@triton.jit
def at(pointer, offset, VECTOR: tl.constexpr):
    """pointer + offset; with VECTOR > 1, stated to be readable in 16-byte vectors.

    The sum is formed here because a hint is kept only on an operation of the same function.
    """
    pointer += offset
    if VECTOR > 1:
        pointer = tl.multiple_of(pointer, (16, 16))
    return pointer


@triton.jit
def whole_vectors(size, VECTOR: tl.constexpr):
    """A channel count that the compiler can see to be a multiple of `VECTOR`."""
    return (size // VECTOR) * VECTOR


@triton.jit
def unit_or(stride, UNIT: tl.constexpr):
    """1 as a constant where the axis is the contiguous one, else the run-time stride."""
    if UNIT:
        return 1
    else:
        return stride


@triton.jit
def tile_order(tile, tiles_m, tiles_n, GROUP_M: tl.constexpr):
    """(pid_m, pid_n) in columns of `GROUP_M` rows, so that neighbours share operands in L2."""
    in_column = GROUP_M * tiles_n
    first_m = (tile // in_column) * GROUP_M
    rows = tl.minimum(tiles_m - first_m, GROUP_M)
    inside = tile % in_column
    return first_m + inside % rows, inside // rows
