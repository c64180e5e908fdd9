"""Pooling: every output is one reduction over its window."""

import triton.language as tl

from ._jit import kernel
from ._members import outranks
from ._numbers import rounded
from ._window import (
    aligned,
    exponent_of,
    first_tap,
    power,
    tap_inside,
    tile_of,
    window,
    window_size,
)


@kernel
def window_reduce(
    src_ptr,
    dst_ptr,
    saved_ptr,
    weight_ptr,
    exponent_ptr,
    batch: tl.int64,
    channels: tl.int64,
    src_d: tl.int64,
    src_h: tl.int64,
    src_w: tl.int64,
    dst_d: tl.int64,
    dst_h: tl.int64,
    dst_w: tl.int64,
    pad_d: tl.int64,
    pad_h: tl.int64,
    pad_w: tl.int64,
    high_d: tl.int64,
    high_h: tl.int64,
    high_w: tl.int64,
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
    stride_tn: tl.int64,
    stride_tc: tl.int64,
    stride_td: tl.int64,
    stride_th: tl.int64,
    stride_tw: tl.int64,
    stride_exponent: tl.int64,
    number: tl.float64,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    ADAPTIVE: tl.constexpr,
    REDUCE: tl.constexpr,
    DIVISOR: tl.constexpr,
    POWER: tl.constexpr,
    SCALED: tl.constexpr,
    LOWEST: tl.constexpr,
    CHANNELS_FAST: tl.constexpr,
    VECTOR: tl.constexpr,
    UNROLL: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    SOFT_BF16: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """dst[n, c, o] = reduction over taps f of src[n, c, o*s - pad + f*d], where that is inside.

    REDUCE "max": the largest element, and in `saved` the number of its tap; a NaN wins, and of
    equals the first. "sum": of w[f]*x, divided as DIVISOR says. "lp": (sum |x|**p)**(1/p). "log":
    sum of v**p * log(v), v = |x|/y with y from `saved`, by which y changes with p, and 0 where y is
    infinite. Grid axis 0: tiles of the output, channels innermost.
    """
    size = (src_d.to(INDEX), src_h.to(INDEX), src_w.to(INDEX))
    extent = (dst_d.to(INDEX), dst_h.to(INDEX), dst_w.to(INDEX))
    high = (high_d.to(INDEX), high_h.to(INDEX), high_w.to(INDEX))
    stride = (stride_sd.to(INDEX), stride_sh.to(INDEX), stride_sw.to(INDEX))
    n, c, o, live = tile_of(
        batch.to(INDEX), channels.to(INDEX), extent, CHANNELS_FAST, VECTOR, INDEX, BLOCK_M, BLOCK_N
    )
    start_d, taps_d = window(
        o[0], pad_d.to(INDEX), size[0], extent[0], FILTER[0], STRIDE[0], ADAPTIVE
    )
    start_h, taps_h = window(
        o[1], pad_h.to(INDEX), size[1], extent[1], FILTER[1], STRIDE[1], ADAPTIVE
    )
    start_w, taps_w = window(
        o[2], pad_w.to(INDEX), size[2], extent[2], FILTER[2], STRIDE[2], ADAPTIVE
    )
    start = (start_d, start_h, start_w)
    taps = (taps_d, taps_h, taps_w)
    source = n * stride_sn.to(INDEX) + c * stride_sc.to(INDEX)
    target = n * stride_dn.to(INDEX) + c * stride_dc.to(INDEX) + o[0] * stride_dd.to(INDEX)
    target += o[1] * stride_dh.to(INDEX) + o[2] * stride_dw.to(INDEX)
    saved = n * stride_tn.to(INDEX) + c * stride_tc.to(INDEX) + o[0] * stride_td.to(INDEX)
    saved += o[1] * stride_th.to(INDEX) + o[2] * stride_tw.to(INDEX)
    TAPS: tl.constexpr = FILTER[0] * FILTER[1] * FILTER[2]

    if REDUCE == "lp" or REDUCE == "log":  # noqa: PLR1714
        exponent = exponent_of(
            exponent_ptr, c, channels.to(INDEX), stride_exponent.to(INDEX), number, ACC
        )

    acc = tl.full((BLOCK_M, BLOCK_N), 0, ACC)
    if REDUCE == "max":
        acc = tl.full((BLOCK_M, BLOCK_N), LOWEST, ACC)
        # The first tap inside, for windows in which nothing is larger than the lowest number.
        f_d, some_d = first_tap(start_d, size[0], FILTER[0], DILATION[0], ADAPTIVE)
        f_h, some_h = first_tap(start_h, size[1], FILTER[1], DILATION[1], ADAPTIVE)
        f_w, some_w = first_tap(start_w, size[2], FILTER[2], DILATION[2], ADAPTIVE)
        first = (f_d * FILTER[1] + f_h) * FILTER[2] + f_w
        tap = tl.full((BLOCK_M, BLOCK_N), 0, tl.int32)
        tap += tl.where(some_d & some_h & some_w, first, 0).to(tl.int32)
        for t in tl.range(0, TAPS, loop_unroll_factor=UNROLL):
            offset, valid = tap_inside(
                t, start, taps, size, stride, live, FILTER, DILATION, ADAPTIVE
            )
            x = tl.load(aligned(src_ptr, source + offset, VECTOR), mask=valid, other=0).to(ACC)
            larger = valid & outranks(x, acc)
            acc = tl.where(larger, x, acc)
            tap = tl.where(larger, t, tap)
        dtype = saved_ptr.dtype.element_ty
        tl.store(aligned(saved_ptr, saved, VECTOR), tap.to(dtype), mask=live)

    if REDUCE == "sum":
        total = tl.full((BLOCK_M, BLOCK_N), 0, ACC)
        for t in tl.range(0, TAPS, loop_unroll_factor=UNROLL):
            offset, valid = tap_inside(
                t, start, taps, size, stride, live, FILTER, DILATION, ADAPTIVE
            )
            x = tl.load(aligned(src_ptr, source + offset, VECTOR), mask=valid, other=0).to(ACC)
            if weight_ptr is not None:
                w = tl.load(weight_ptr + t).to(ACC)
                x *= w
                if DIVISOR == "weights":
                    total += tl.where(valid, w, 0)
            acc += x
        if DIVISOR == "fixed":
            acc /= tl.full((1, 1), number, ACC)
        elif DIVISOR != "none":
            if DIVISOR != "weights":
                total += window_size(
                    start, taps, high, size, DIVISOR, FILTER, DILATION, ADAPTIVE
                ).to(ACC)
            acc = tl.where(total == 0, 0, acc / tl.where(total == 0, 1, total))

    if REDUCE == "lp":
        largest = tl.full((BLOCK_M, BLOCK_N), 1, ACC)
        if SCALED:
            # In units of the largest, no power of an element is too large or too small to hold.
            largest *= 0
            for t in tl.range(0, TAPS, loop_unroll_factor=UNROLL):
                offset, valid = tap_inside(
                    t, start, taps, size, stride, live, FILTER, DILATION, ADAPTIVE
                )
                x = tl.load(aligned(src_ptr, source + offset, VECTOR), mask=valid, other=0)
                x = tl.abs(x.to(ACC))
                largest = tl.where(outranks(x, largest), x, largest)
        ordinary = (largest > 0) & (largest < float("inf"))
        unit = tl.where(ordinary, largest, 1)
        for t in tl.range(0, TAPS, loop_unroll_factor=UNROLL):
            offset, valid = tap_inside(
                t, start, taps, size, stride, live, FILTER, DILATION, ADAPTIVE
            )
            x = tl.load(aligned(src_ptr, source + offset, VECTOR), mask=valid, other=0).to(ACC)
            acc += power(tl.abs(x) / unit if SCALED else tl.abs(x), exponent, POWER)
        if POWER == "two":
            acc = tl.sqrt(acc)
        elif POWER == "any":
            acc = power(acc, 1 / exponent, POWER)
        if SCALED:
            acc = tl.where(ordinary, unit * acc, largest)

    if REDUCE == "log":
        y = tl.load(aligned(saved_ptr, saved, VECTOR), mask=live, other=0).to(ACC)
        unit = tl.where(y > 0, y, 1)
        for t in tl.range(0, TAPS, loop_unroll_factor=UNROLL):
            offset, valid = tap_inside(
                t, start, taps, size, stride, live, FILTER, DILATION, ADAPTIVE
            )
            x = tl.load(aligned(src_ptr, source + offset, VECTOR), mask=valid, other=0)
            v = tl.abs(x.to(ACC)) / unit
            log = tl.log(tl.where(v > 0, v, 1))
            acc += power(v, exponent, POWER) * log
        acc = tl.where(y == float("inf"), 0, acc)

    result = acc
    if dst_ptr.dtype.element_ty.is_floating():
        result = rounded(acc, dst_ptr.dtype.element_ty, SOFT_BF16)
    tl.store(aligned(dst_ptr, target, VECTOR), result, mask=live)
