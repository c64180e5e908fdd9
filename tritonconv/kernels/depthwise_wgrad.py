"""wgrad of depthwise convolution: a sum a tap in registers, over strips of positions."""

import triton
import triton.language as tl

from ._depthwise import load_window, zero_tile
from ._index import (
    advance,
    at,
    outer,
    outer_and,
    split_range,
    unflatten4,
    unit_or,
    whole_vectors,
)
from ._jit import kernel
from ._numbers import rounded


@triton.jit
def add_strips(
    acc,
    grad_ptr,
    src_ptr,
    counts,
    lead,
    batch,
    split,
    splits,
    tap_row,
    pad,
    col_ok,
    grad_col,
    src_col,
    src_size,
    grad_stride,
    src_stride,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    TAP_ROWS: tl.constexpr,
    BORDER: tl.constexpr,
    ROWS_FIRST: tl.constexpr,
    GRAD_VECTOR: tl.constexpr,
    SRC_VECTOR: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STRIP: tl.constexpr,
):
    """acc[row, s] + sum over this split's strips and their positions o of dy[o] * x[o, row, s].

    The strips are `counts` (D, strips, H) in number for each image; along W they begin at `lead`.
    `grad_stride` and `src_stride` are (n, d, h, w).
    """
    rows = batch * counts[0] * counts[1] * counts[2]
    # There may be no strip at all, but nothing may be divided by 0.
    counts = (counts[0], tl.maximum(counts[1], 1), counts[2])
    begin, stop = split_range(split, splits, rows, BLOCK_M)
    offs_m = begin + tl.arange(0, BLOCK_M)
    n, t = unflatten4(offs_m, counts)
    by_n, by = unflatten4(lead * 0 + BLOCK_M, counts)
    HIGH: tl.constexpr = (STRIP - 1) * STRIDE[2] + (FILTER[2] - 1) * DILATION[2]
    # Under Triton 3.6 an element of a constant tuple is no constant until it has a name.
    TAP_COLUMNS: tl.constexpr = FILTER[2]
    for _ in range(tl.cdiv(stop - begin, BLOCK_M)):
        live = offs_m < stop
        image = tl.minimum(n, batch - 1)
        o_w = lead + t[1] * STRIP
        grad_row = image * grad_stride[0] + t[0] * grad_stride[1]
        grad_row += t[2] * grad_stride[2] + o_w * grad_stride[3]
        grad_tile = outer(grad_row, grad_col, ROWS_FIRST)
        ok = outer_and(live, col_ok, ROWS_FIRST)
        dy = ()
        for i in tl.static_range(STRIP):
            tile = at(grad_ptr, grad_tile + i * grad_stride[3], GRAD_VECTOR)
            dy += (tl.load(tile, mask=ok, other=0.0).to(ACC),)
        sums = ()
        for row in tl.static_range(TAP_ROWS):
            f_d = (tap_row + row) // FILTER[1]
            f_h = (tap_row + row) % FILTER[1]
            window = load_window(
                src_ptr,
                image * src_stride[0],
                (
                    t[0] * STRIDE[0] - pad[0] + f_d * DILATION[0],
                    t[2] * STRIDE[1] - pad[1] + f_h * DILATION[1],
                    o_w * STRIDE[2] - pad[2],
                ),
                offs_m < tl.where(f_d < FILTER[0], stop, begin),
                src_col,
                col_ok,
                src_size,
                (src_stride[1], src_stride[2], src_stride[3]),
                0,
                HIGH,
                BORDER,
                ROWS_FIRST,
                SRC_VECTOR,
                ACC,
            )
            for s in tl.static_range(TAP_COLUMNS):
                total = acc[row * FILTER[2] + s]
                for i in tl.static_range(STRIP):
                    total += dy[i] * window[i * STRIDE[2] + s * DILATION[2]]
                sums += (total,)
        acc = sums
        offs_m += BLOCK_M
        n, t = advance(n, t, by_n, by, counts)
    return acc


@kernel
def depthwise_wgrad(
    grad_ptr,
    src_ptr,
    dst_ptr,
    batch: tl.int64,
    groups: tl.int64,
    grad_channels: tl.int64,
    grad_d: tl.int64,
    grad_h: tl.int64,
    grad_w: tl.int64,
    src_d: tl.int64,
    src_h: tl.int64,
    src_w: tl.int64,
    pad_d: tl.int64,
    pad_h: tl.int64,
    pad_w: tl.int64,
    splits: tl.int64,
    stride_gn: tl.int64,
    stride_gc: tl.int64,
    stride_gd: tl.int64,
    stride_gh: tl.int64,
    stride_gw: tl.int64,
    stride_sn: tl.int64,
    stride_sc: tl.int64,
    stride_sd: tl.int64,
    stride_sh: tl.int64,
    stride_sw: tl.int64,
    weight_base: tl.int64,
    stride_wk: tl.int64,
    stride_wt: tl.int64,
    stride_wr: tl.int64,
    stride_ws: tl.int64,
    stride_split: tl.int64,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    TAP_ROWS: tl.constexpr,
    BORDER: tl.constexpr,
    GRAD_UNIT: tl.constexpr,
    GRAD_VECTOR: tl.constexpr,
    SRC_UNIT: tl.constexpr,
    SRC_VECTOR: tl.constexpr,
    MULTIPLIED: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    SOFT_BF16: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STRIP: tl.constexpr,
):
    """dw[k, f] = sum over n, o of dy[n, k, o] * x[n, k / (K/C), o*s - p + f*d].

    A program owns a tile of channels k and `TAP_ROWS` rows (t, r) of taps. It sums over whole
    strips of outputs along W, then over those that are left, one by one: were a strip to overhang,
    what it reads there would have to be multiplied by 0, and infinity must not be.
    Grid axis 0, slowest first: split, part of the rows of taps, tile of K.
    """
    pid = tl.program_id(0).to(INDEX)
    batch = batch.to(INDEX)
    VECTOR: tl.constexpr = GRAD_VECTOR if GRAD_VECTOR > SRC_VECTOR else SRC_VECTOR
    cols = whole_vectors(grad_channels.to(INDEX) * groups.to(INDEX), VECTOR)
    pad = (pad_d.to(INDEX), pad_h.to(INDEX), pad_w.to(INDEX))
    src_size = (src_d.to(INDEX), src_h.to(INDEX), src_w.to(INDEX))
    grad_stride = (
        stride_gn.to(INDEX),
        stride_gd.to(INDEX),
        stride_gh.to(INDEX),
        stride_gw.to(INDEX),
    )
    src_stride = (
        stride_sn.to(INDEX),
        stride_sd.to(INDEX),
        stride_sh.to(INDEX),
        stride_sw.to(INDEX),
    )
    PARTS: tl.constexpr = (FILTER[0] * FILTER[1] + TAP_ROWS - 1) // TAP_ROWS
    TAP_COLUMNS: tl.constexpr = FILTER[2]
    tiles_n = tl.cdiv(cols, BLOCK_N)
    tap_row = (pid // tiles_n) % PARTS * TAP_ROWS
    split = pid // (tiles_n * PARTS)
    offs_n = (pid % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    col_ok = offs_n < cols
    grad_col = offs_n * unit_or(stride_gc.to(INDEX), GRAD_UNIT)
    src_col = offs_n // grad_channels.to(INDEX) if MULTIPLIED else offs_n
    src_col *= unit_or(stride_sc.to(INDEX), SRC_UNIT)

    acc = (zero_tile(BLOCK_M, BLOCK_N, GRAD_UNIT, ACC),) * (TAP_ROWS * FILTER[2])
    sizes = (grad_d.to(INDEX), grad_h.to(INDEX), grad_w.to(INDEX))
    strips = sizes[2] // STRIP
    for left in tl.static_range(2 if STRIP > 1 else 1):
        acc = add_strips(
            acc,
            grad_ptr,
            src_ptr,
            (sizes[0], sizes[2] - strips * STRIP if left else strips, sizes[1]),
            strips * STRIP * left,
            batch,
            split,
            splits.to(INDEX),
            tap_row,
            pad,
            col_ok,
            grad_col,
            src_col,
            src_size,
            grad_stride,
            src_stride,
            FILTER,
            STRIDE,
            DILATION,
            TAP_ROWS,
            BORDER,
            GRAD_UNIT,
            GRAD_VECTOR,
            SRC_VECTOR,
            ACC,
            BLOCK_M,
            BLOCK_N,
            1 if left else STRIP,
        )

    dst_ptr += split * stride_split + weight_base + offs_n * stride_wk
    for row in tl.static_range(TAP_ROWS):
        f_d = (tap_row + row) // FILTER[1]
        f_h = (tap_row + row) % FILTER[1]
        for s in tl.static_range(TAP_COLUMNS):
            total = tl.sum(acc[row * FILTER[2] + s], axis=0 if GRAD_UNIT else 1)
            tl.store(
                dst_ptr + f_d * stride_wt + f_h * stride_wr + s * stride_ws,
                rounded(total, dst_ptr.dtype.element_ty, SOFT_BF16),
                mask=offs_n < tl.where(f_d < FILTER[0], cols, 0),
            )
