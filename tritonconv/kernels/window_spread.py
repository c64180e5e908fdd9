"""The gradient of pooling, as a gather: every element of x sums over the windows that cover it."""

import triton
import triton.language as tl

from ._index import in_range
from ._jit import kernel
from ._numbers import rounded
from ._window import aligned, exponent_of, power, tap_inside, tile_of, window, window_size


@triton.jit
def last_window(i, pad, size, windows, STRIDE: tl.constexpr, ADAPTIVE: tl.constexpr):
    """The last window of an axis that may hold position i."""
    if ADAPTIVE:
        return ((i + 1) * windows - 1) // size
    else:
        return tl.minimum((i + pad) // STRIDE, windows - 1)


@triton.jit
def tap_of(
    i,
    o,
    pad,
    size,
    windows,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    ADAPTIVE: tl.constexpr,
):
    """`(tap, holds, start, taps)`: by which tap window o holds position i of an axis, if it does;
    and the window."""
    start, taps = window(o, pad, size, windows, FILTER, STRIDE, ADAPTIVE)
    back = i - start
    holds = in_range(o, windows)
    if ADAPTIVE:
        return back, holds & (back < taps), start, taps
    else:
        tap = back // DILATION
        return tap, holds & (tap * DILATION == back) & (tap < FILTER), start, taps


@triton.jit
def slope(ratio, exponent, POWER: tl.constexpr, TINY: tl.constexpr, LARGEST: tl.constexpr):
    """ratio ** (p - 1), finite: of a ratio of TINY at least, and LARGEST at most."""
    if POWER == "one":
        return tl.full(ratio.shape, 1, ratio.dtype)
    elif POWER == "two":
        return ratio
    else:
        found = power(tl.where(ratio < TINY, TINY, ratio), exponent - 1, POWER)
        return tl.where(found > LARGEST, LARGEST, found)


@triton.jit
def share_of(
    x, count, total, exponent, POWER: tl.constexpr, TINY: tl.constexpr, LARGEST: tl.constexpr
):
    """`(ratio, counts)`: |x|/y in a window whose y is infinite, and whether x has a part in it.

    If `count` of its elements are infinite, in units of infinity: each is 1, any other 0. If none
    is, y was too large for its dtype: in units of LARGEST, where `total` is the sum of powers. A
    norm beyond them has an element within the number of elements to the power -1/p of LARGEST, so
    the largest powers are never lost.
    """
    boundless = tl.abs(x) == float("inf")
    some = count > 0
    size = tl.where(some, tl.where(boundless, 1, 0), tl.where(boundless, 0, tl.abs(x)) / LARGEST)
    total = tl.where(some, count, tl.where(total > 0, total, 1))
    if POWER == "two":
        root = tl.sqrt(total)
    elif POWER == "any":
        root = power(total, 1 / exponent, POWER)
    else:
        root = total
    return size / root, (some == boundless)


@kernel
def window_spread(
    grad_ptr,
    saved_ptr,
    src_ptr,
    dst_ptr,
    weight_ptr,
    exponent_ptr,
    batch: tl.int64,
    channels: tl.int64,
    src_d: tl.int64,
    src_h: tl.int64,
    src_w: tl.int64,
    grad_d: tl.int64,
    grad_h: tl.int64,
    grad_w: tl.int64,
    pad_d: tl.int64,
    pad_h: tl.int64,
    pad_w: tl.int64,
    high_d: tl.int64,
    high_h: tl.int64,
    high_w: tl.int64,
    stride_gn: tl.int64,
    stride_gc: tl.int64,
    stride_gd: tl.int64,
    stride_gh: tl.int64,
    stride_gw: tl.int64,
    stride_tn: tl.int64,
    stride_tc: tl.int64,
    stride_td: tl.int64,
    stride_th: tl.int64,
    stride_tw: tl.int64,
    stride_sn: tl.int64,
    stride_sc: tl.int64,
    stride_sd: tl.int64,
    stride_sh: tl.int64,
    stride_sw: tl.int64,
    stride_dn: tl.int64,
    stride_dc: tl.int64,
    stride_dd: tl.int64,
    stride_dh: tl.int64,
    stride_dw: tl.int64,
    stride_exponent: tl.int64,
    number: tl.float64,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    ADAPTIVE: tl.constexpr,
    COVER: tl.constexpr,
    REDUCE: tl.constexpr,
    DIVISOR: tl.constexpr,
    POWER: tl.constexpr,
    TINY: tl.constexpr,
    LARGEST: tl.constexpr,
    CHANNELS_FAST: tl.constexpr,
    VECTOR: tl.constexpr,
    UNROLL: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    SOFT_BF16: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """dst[n, c, i] = sum over windows o that hold i, by tap f, of grad[n, c, o] * dy/dx

    REDUCE "max": 1 where f is the tap in `saved`. "sum": w[f], divided as in forward. "lp":
    sign(x) * (|x|/y)**(p-1), with x from `src` and y from `saved`, and 0 where x is. An infinite y
    says nothing, and |x|/y is worked out anew: see `share_of`. COVER windows an axis at most hold a
    position. Nothing is added in memory, so the order of sums is fixed.
    Grid axis 0: tiles of x, channels innermost.
    """
    extent = (src_d.to(INDEX), src_h.to(INDEX), src_w.to(INDEX))
    windows = (grad_d.to(INDEX), grad_h.to(INDEX), grad_w.to(INDEX))
    pad = (pad_d.to(INDEX), pad_h.to(INDEX), pad_w.to(INDEX))
    high = (high_d.to(INDEX), high_h.to(INDEX), high_w.to(INDEX))
    n, c, i, live = tile_of(
        batch.to(INDEX), channels.to(INDEX), extent, CHANNELS_FAST, VECTOR, INDEX, BLOCK_M, BLOCK_N
    )
    last_d = last_window(i[0], pad[0], extent[0], windows[0], STRIDE[0], ADAPTIVE)
    last_h = last_window(i[1], pad[1], extent[1], windows[1], STRIDE[1], ADAPTIVE)
    last_w = last_window(i[2], pad[2], extent[2], windows[2], STRIDE[2], ADAPTIVE)
    grad = n * stride_gn.to(INDEX) + c * stride_gc.to(INDEX)
    saved = n * stride_tn.to(INDEX) + c * stride_tc.to(INDEX)
    source = n * stride_sn.to(INDEX) + c * stride_sc.to(INDEX) + i[0] * stride_sd.to(INDEX)
    source += i[1] * stride_sh.to(INDEX) + i[2] * stride_sw.to(INDEX)
    target = n * stride_dn.to(INDEX) + c * stride_dc.to(INDEX) + i[0] * stride_dd.to(INDEX)
    target += i[1] * stride_dh.to(INDEX) + i[2] * stride_dw.to(INDEX)

    acc = tl.full((BLOCK_M, BLOCK_N), 0, ACC)
    x = acc
    endless = tl.full((BLOCK_M, BLOCK_N), 0, tl.int32)
    if REDUCE == "lp":
        exponent = exponent_of(
            exponent_ptr, c, channels.to(INDEX), stride_exponent.to(INDEX), number, ACC
        )
        x = tl.load(aligned(src_ptr, source, VECTOR), mask=live, other=0).to(ACC)
    COUNT: tl.constexpr = COVER[0] * COVER[1] * COVER[2]
    for j in tl.range(0, COUNT, loop_unroll_factor=UNROLL):
        o_d = last_d - j // (COVER[1] * COVER[2])
        o_h = last_h - j // COVER[2] % COVER[1]
        o_w = last_w - j % COVER[2]
        f_d, holds_d, start_d, taps_d = tap_of(
            i[0], o_d, pad[0], extent[0], windows[0], FILTER[0], STRIDE[0], DILATION[0], ADAPTIVE
        )
        f_h, holds_h, start_h, taps_h = tap_of(
            i[1], o_h, pad[1], extent[1], windows[1], FILTER[1], STRIDE[1], DILATION[1], ADAPTIVE
        )
        f_w, holds_w, start_w, taps_w = tap_of(
            i[2], o_w, pad[2], extent[2], windows[2], FILTER[2], STRIDE[2], DILATION[2], ADAPTIVE
        )
        valid = live & holds_d & holds_h & holds_w
        tap = (f_d * FILTER[1] + f_h) * FILTER[2] + f_w
        at = grad + o_d * stride_gd.to(INDEX) + o_h * stride_gh.to(INDEX)
        at += o_w * stride_gw.to(INDEX)
        dy = tl.load(aligned(grad_ptr, at, VECTOR), mask=valid, other=0).to(ACC)
        if REDUCE != "sum":
            at = saved + o_d * stride_td.to(INDEX) + o_h * stride_th.to(INDEX)
            at += o_w * stride_tw.to(INDEX)
            kept = tl.load(aligned(saved_ptr, at, VECTOR), mask=valid, other=0)
        if REDUCE == "max":
            acc += tl.where(valid & (kept.to(tl.int32) == tap.to(tl.int32)), dy, 0)
        elif REDUCE == "sum":
            if weight_ptr is not None:
                dy *= tl.load(weight_ptr + tap, mask=valid, other=0).to(ACC)
            if DIVISOR == "fixed":
                dy /= tl.full((1, 1), number, ACC)
            elif DIVISOR != "none":
                count = window_size(
                    (start_d, start_h, start_w),
                    (taps_d, taps_h, taps_w),
                    high,
                    extent,
                    DIVISOR,
                    FILTER,
                    DILATION,
                    ADAPTIVE,
                )
                dy /= tl.maximum(count, 1).to(ACC)
            acc += dy
        else:
            y = kept.to(ACC)
            # 1 where an element is all of its window.
            ratio = tl.where(tl.abs(x) == y, 1, tl.abs(x) / tl.where(y == 0, 1, y))
            known = y != float("inf")
            endless = tl.where(valid & (y == float("inf")), 1, endless)
            acc += tl.where(known, dy * slope(ratio, exponent, POWER, TINY, LARGEST), 0)
    if REDUCE == "lp" and tl.max(tl.max(endless, 1), 0) > 0:
        stride = (stride_sd.to(INDEX), stride_sh.to(INDEX), stride_sw.to(INDEX))
        plane = n * stride_sn.to(INDEX) + c * stride_sc.to(INDEX)
        for j in tl.range(0, COUNT, loop_unroll_factor=1):
            o_d = last_d - j // (COVER[1] * COVER[2])
            o_h = last_h - j // COVER[2] % COVER[1]
            o_w = last_w - j % COVER[2]
            _, holds_d, start_d, taps_d = tap_of(
                i[0],
                o_d,
                pad[0],
                extent[0],
                windows[0],
                FILTER[0],
                STRIDE[0],
                DILATION[0],
                ADAPTIVE,
            )
            _, holds_h, start_h, taps_h = tap_of(
                i[1],
                o_h,
                pad[1],
                extent[1],
                windows[1],
                FILTER[1],
                STRIDE[1],
                DILATION[1],
                ADAPTIVE,
            )
            _, holds_w, start_w, taps_w = tap_of(
                i[2],
                o_w,
                pad[2],
                extent[2],
                windows[2],
                FILTER[2],
                STRIDE[2],
                DILATION[2],
                ADAPTIVE,
            )
            valid = live & holds_d & holds_h & holds_w
            at = grad + o_d * stride_gd.to(INDEX) + o_h * stride_gh.to(INDEX)
            at += o_w * stride_gw.to(INDEX)
            dy = tl.load(aligned(grad_ptr, at, VECTOR), mask=valid, other=0).to(ACC)
            at = saved + o_d * stride_td.to(INDEX) + o_h * stride_th.to(INDEX)
            at += o_w * stride_tw.to(INDEX)
            y = tl.load(aligned(saved_ptr, at, VECTOR), mask=valid, other=0).to(ACC)
            valid &= y == float("inf")
            count = tl.full((BLOCK_M, BLOCK_N), 0, ACC)
            total = tl.full((BLOCK_M, BLOCK_N), 0, ACC)
            for t in tl.range(0, FILTER[0] * FILTER[1] * FILTER[2], loop_unroll_factor=1):
                offset, inside = tap_inside(
                    t,
                    (start_d, start_h, start_w),
                    (taps_d, taps_h, taps_w),
                    extent,
                    stride,
                    valid,
                    FILTER,
                    DILATION,
                    ADAPTIVE,
                )
                size = tl.load(src_ptr + plane + offset, mask=inside, other=0).to(ACC)
                size = tl.abs(size)
                boundless = size == float("inf")
                count += tl.where(boundless, 1, 0)
                total += power(tl.where(boundless, 0, size) / LARGEST, exponent, POWER)
            ratio, holds = share_of(x, count, total, exponent, POWER, TINY, LARGEST)
            part = dy * slope(ratio, exponent, POWER, TINY, LARGEST)
            acc += tl.where(valid & holds, part, 0)
    if REDUCE == "lp":
        # A NaN keeps its own.
        acc = tl.where(x == 0, 0, tl.where(x < 0, -acc, tl.where(x > 0, acc, x)))
    tl.store(
        aligned(dst_ptr, target, VECTOR),
        rounded(acc, dst_ptr.dtype.element_ty, SOFT_BF16),
        mask=live,
    )
