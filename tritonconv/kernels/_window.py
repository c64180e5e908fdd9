"""What the pooling kernels share: tiles of elements, windows along an axis, wide loads."""

import triton
import triton.language as tl

from ._index import in_range, unflatten3, unflatten4


@triton.jit
def tile_of(
    batch,
    channels,
    extent,
    CHANNELS_FAST: tl.constexpr,
    VECTOR: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """`(n, c, (d, h, w), live)` of this program's tile of a tensor (N, C, *extent).

    Channels-last: BLOCK_M positions x BLOCK_N channels. Otherwise one row of BLOCK_N elements in
    the order (n, c, d, h, w), so that small images leave no lane idle. What lies beyond the end has
    the coordinates of an element that exists, and is not `live`.
    """
    pid = tl.program_id(0).to(INDEX)
    positions = extent[0] * extent[1] * extent[2]
    columns = tl.arange(0, BLOCK_N).to(INDEX)
    if CHANNELS_FAST:
        tiles_n = tl.cdiv(channels, BLOCK_N)
        offs_m = (pid // tiles_n) * BLOCK_M + tl.arange(0, BLOCK_M).to(INDEX)
        offs_n = (pid % tiles_n) * BLOCK_N + columns
        rows = batch * positions
        n, q = unflatten4(tl.minimum(offs_m, rows - 1), extent)
        wide = (channels // VECTOR) * VECTOR  # the compiler sees that masks cut no vector
        live = (offs_m < rows)[:, None] & (offs_n < wide)[None, :]
        position = (q[0][:, None], q[1][:, None], q[2][:, None])
        return n[:, None], offs_n[None, :], position, live
    else:
        flat = pid * BLOCK_N + columns
        total = batch * channels * positions
        index = tl.minimum(flat, total - 1)
        plane = index // positions
        d, h, w = unflatten3(index % positions, extent[1], extent[2])
        position = (d[None, :], h[None, :], w[None, :])
        return (
            (plane // channels)[None, :],
            (plane % channels)[None, :],
            position,
            (flat < total)[None, :],
        )


@triton.jit
def aligned(pointer, offset, VECTOR: tl.constexpr):
    """pointer + offset, stated to begin a vector of VECTOR elements wherever one is read."""
    pointer += offset
    if VECTOR > 1:
        BYTES: tl.constexpr = VECTOR * pointer.dtype.element_ty.primitive_bitwidth // 8
        pointer = tl.multiple_of(pointer, (BYTES, BYTES))
        pointer = tl.max_contiguous(pointer, (1, VECTOR))
    return pointer


@triton.jit
def window(
    o,
    pad,
    size,
    windows,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    ADAPTIVE: tl.constexpr,
):
    """`(start, taps)` of window o along one axis; what lies outside 0..size-1 is still in it."""
    if ADAPTIVE:
        start = o * size // windows
        return start, tl.cdiv((o + 1) * size, windows) - start
    else:
        return o * STRIDE - pad, o * 0 + FILTER


@triton.jit
def taps_before(limit, start, FILTER: tl.constexpr, DILATION: tl.constexpr):
    """How many of the taps start, start + d, ... lie below `limit`."""
    # Lifted, so that the dividend is natural, where // rounds as written.
    LIFT: tl.constexpr = FILTER * DILATION
    count = (limit - start + DILATION - 1 + LIFT) // DILATION - FILTER
    return tl.minimum(tl.maximum(count, 0), FILTER)


@triton.jit
def first_tap(start, size, FILTER: tl.constexpr, DILATION: tl.constexpr, ADAPTIVE: tl.constexpr):
    """`(tap, exists)`: the first tap of an axis that reads an element."""
    if ADAPTIVE:
        return start * 0, start >= 0
    else:
        first = taps_before(start * 0, start, FILTER, DILATION)
        return first, first < taps_before(size, start, FILTER, DILATION)


@triton.jit
def taps_counted(
    start,
    pad_high,
    size,
    DIVISOR: tl.constexpr,
    FILTER: tl.constexpr,
    DILATION: tl.constexpr,
):
    """By how many taps of an axis an average is divided: those within the image, or within the
    image and the padding that was asked for."""
    if DIVISOR == "padded":
        return taps_before(size + pad_high, start, FILTER, DILATION)
    else:
        below = taps_before(size, start, FILTER, DILATION)
        return below - taps_before(start * 0, start, FILTER, DILATION)


@triton.jit
def window_size(
    start,
    taps,
    pad_high,
    size,
    DIVISOR: tl.constexpr,
    FILTER: tl.constexpr,
    DILATION: tl.constexpr,
    ADAPTIVE: tl.constexpr,
):
    """The product of `taps_counted` over the three axes, or of an adaptive window's lengths."""
    if ADAPTIVE:
        return taps[0] * taps[1] * taps[2]
    else:
        d = taps_counted(start[0], pad_high[0], size[0], DIVISOR, FILTER[0], DILATION[0])
        h = taps_counted(start[1], pad_high[1], size[1], DIVISOR, FILTER[1], DILATION[1])
        w = taps_counted(start[2], pad_high[2], size[2], DIVISOR, FILTER[2], DILATION[2])
        return d * h * w


@triton.jit
def tap_inside(
    t,
    start,
    taps,
    size,
    stride,
    live,
    FILTER: tl.constexpr,
    DILATION: tl.constexpr,
    ADAPTIVE: tl.constexpr,
):
    """`(offset, valid)` of tap t, counted through the (longest) window: where it reads its plane of
    x, and whether that is an element."""
    f_d = t // (FILTER[1] * FILTER[2])
    f_h = t // FILTER[2] % FILTER[1]
    f_w = t % FILTER[2]
    d = start[0] + f_d * DILATION[0]
    h = start[1] + f_h * DILATION[1]
    w = start[2] + f_w * DILATION[2]
    if ADAPTIVE:
        valid = live & (f_d < taps[0]) & (f_h < taps[1]) & (f_w < taps[2])
    else:
        valid = live & in_range(d, size[0]) & in_range(h, size[1]) & in_range(w, size[2])
    return d * stride[0] + h * stride[1] + w * stride[2], valid


@triton.jit
def power(base, exponent, POWER: tl.constexpr):
    """base ** exponent of natural bases; POWER says what is known of the exponent: "one", "two" or
    "any". 0 to any power is 0."""
    if POWER == "one":
        return base
    elif POWER == "two":
        return base * base
    else:
        return tl.where(base > 0, tl.exp2(exponent * tl.log2(base)), 0.0)


@triton.jit
def exponent_of(exponent_ptr, c, channels, stride, number, ACC: tl.constexpr):
    """The exponent of each channel: learned numbers in memory, or one and the same `number`."""
    if exponent_ptr is None:
        return tl.full((1, 1), number, ACC)
    else:
        # `c` is not bounded by the number of channels.
        return tl.load(exponent_ptr + tl.minimum(c, channels - 1) * stride).to(ACC)
