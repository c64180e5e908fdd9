"""wgrad by plain multiply-adds: float64, few channels, depthwise."""

import triton.language as tl

from ._border import read_at
from ._index import (
    advance,
    class_extent,
    outer,
    outer_and,
    split_range,
    unflatten3,
    unflatten4,
    unit_or,
)
from ._jit import kernel
from ._numbers import rounded


@kernel
def wgrad_direct(
    grad_ptr,
    src_ptr,
    dst_ptr,
    batch: tl.int64,
    grad_channels: tl.int64,
    src_channels: tl.int64,
    grad_d: tl.int64,
    grad_h: tl.int64,
    grad_w: tl.int64,
    src_d: tl.int64,
    src_h: tl.int64,
    src_w: tl.int64,
    pad_d: tl.int64,
    pad_h: tl.int64,
    pad_w: tl.int64,
    period_d: tl.int64,
    period_h: tl.int64,
    period_w: tl.int64,
    groups: tl.int64,
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
    stride_wg: tl.int64,
    stride_wk: tl.int64,
    stride_wc: tl.int64,
    stride_wt: tl.int64,
    stride_wr: tl.int64,
    stride_ws: tl.int64,
    stride_bank_d: tl.int64,
    stride_bank_h: tl.int64,
    stride_bank_w: tl.int64,
    stride_split: tl.int64,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    BORDER: tl.constexpr,
    GROUPED: tl.constexpr,
    GRAD_UNIT: tl.constexpr,
    SRC_UNIT: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    SOFT_BF16: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """dw[bank, k, c, f] = sum over n, o in the bank of dy[n, k, o] * x[n, g(k), c, o*s - p + f*d].

    A program owns one (bank, tap, c) and a row of output channels of every group; positions are
    the other axis of its tile and are summed at the end.
    Grid axis 0, slowest first: split, bank (d, h, w), tap (t, r, s), c, tile of K.
    """
    pid = tl.program_id(0).to(INDEX)
    rows = grad_channels.to(INDEX)
    cols = src_channels.to(INDEX)
    all_rows = rows * groups.to(INDEX)
    src_size = (src_d.to(INDEX), src_h.to(INDEX), src_w.to(INDEX))
    period = (period_d.to(INDEX), period_h.to(INDEX), period_w.to(INDEX))
    grad_channel = unit_or(stride_gc.to(INDEX), GRAD_UNIT)
    src_channel = unit_or(stride_sc.to(INDEX), SRC_UNIT)

    tiles_n = tl.cdiv(all_rows, BLOCK_N)
    pid_n = pid % tiles_n
    rest = pid // tiles_n
    channel = rest % cols
    rest = rest // cols
    TAPS: tl.constexpr = FILTER[0] * FILTER[1] * FILTER[2]
    f_d, f_h, f_w = unflatten3(rest % TAPS, FILTER[1], FILTER[2])
    rest = rest // TAPS
    split, r = unflatten4(rest, period)

    extent = class_extent(r, period, (grad_d.to(INDEX), grad_h.to(INDEX), grad_w.to(INDEX)))
    total = batch.to(INDEX) * extent[0] * extent[1] * extent[2]
    start, stop = split_range(split, splits.to(INDEX), total, BLOCK_K)
    offs_k = start + tl.arange(0, BLOCK_K)
    n, q = unflatten4(offs_k, extent)
    by_n, by = unflatten4(r[0] * 0 + BLOCK_K, extent)

    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    row_ok = offs_n < all_rows
    group = offs_n // rows
    src_col = (group * cols + channel) * src_channel
    base_0 = r[0] * STRIDE[0] - pad_d.to(INDEX) + f_d * DILATION[0]
    base_1 = r[1] * STRIDE[1] - pad_h.to(INDEX) + f_h * DILATION[1]
    base_2 = r[2] * STRIDE[2] - pad_w.to(INDEX) + f_w * DILATION[2]
    step_d, step_h, step_w = period[0] * STRIDE[0], period[1] * STRIDE[1], period[2] * STRIDE[2]

    acc = tl.zeros((BLOCK_K, BLOCK_N), dtype=ACC)
    if not GRAD_UNIT:
        acc = tl.trans(acc)
    for _ in range(tl.cdiv(stop - start, BLOCK_K)):
        src = (base_0 + q[0] * step_d, base_1 + q[1] * step_h, base_2 + q[2] * step_w)
        src_0, src_1, src_2, valid = read_at(src, src_size, offs_k < stop, BORDER)
        grad_pos = n * stride_gn.to(INDEX) + (r[0] + q[0] * period[0]) * stride_gd.to(INDEX)
        grad_pos += (r[1] + q[1] * period[1]) * stride_gh.to(INDEX)
        grad_pos += (r[2] + q[2] * period[2]) * stride_gw.to(INDEX)
        src_pos = n * stride_sn.to(INDEX) + src_0 * stride_sd.to(INDEX)
        src_pos += src_1 * stride_sh.to(INDEX) + src_2 * stride_sw.to(INDEX)
        dy = tl.load(
            grad_ptr + outer(grad_pos, offs_n * grad_channel, GRAD_UNIT),
            mask=outer_and(valid, row_ok, GRAD_UNIT),
            other=0.0,
        )
        if GROUPED:
            x = tl.load(
                src_ptr + outer(src_pos, src_col, GRAD_UNIT),
                mask=outer_and(valid, row_ok, GRAD_UNIT),
                other=0.0,
            )
            acc += dy.to(ACC) * x.to(ACC)
        else:
            x = tl.load(src_ptr + src_pos + channel * src_channel, mask=valid, other=0.0)
            if GRAD_UNIT:
                acc += dy.to(ACC) * x.to(ACC)[:, None]
            else:
                acc += dy.to(ACC) * x.to(ACC)[None, :]
        offs_k += BLOCK_K
        n, q = advance(n, q, by_n, by, extent)

    if GRAD_UNIT:
        total_sum = tl.sum(acc, axis=0)
    else:
        total_sum = tl.sum(acc, axis=1)
    dst_ptr += split * stride_split + weight_base + channel * stride_wc
    dst_ptr += f_d * stride_wt + f_h * stride_wr + f_w * stride_ws
    dst_ptr += r[0] * stride_bank_d + r[1] * stride_bank_h + r[2] * stride_bank_w
    tl.store(
        dst_ptr + group * stride_wg + (offs_n % rows) * stride_wk,
        rounded(total_sum, dst_ptr.dtype.element_ty, SOFT_BF16),
        mask=row_ok,
    )
