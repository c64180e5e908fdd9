"""wgrad as an implicit GEMM over positions, on tensor cores, with deterministic split-K."""

import triton.language as tl

from ._border import read_at
from ._index import (
    advance,
    at,
    class_extent,
    outer,
    outer_and,
    split_range,
    tile_order,
    unflatten3,
    unflatten4,
    unit_or,
    whole_vectors,
)
from ._jit import kernel
from ._numbers import multiply_add, rounded


@kernel
def wgrad_gemm(
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
    GRAD_UNIT: tl.constexpr,
    GRAD_VECTOR: tl.constexpr,
    SRC_UNIT: tl.constexpr,
    SRC_VECTOR: tl.constexpr,
    DST_UNIT: tl.constexpr,
    INDEX: tl.constexpr,
    PRECISION: tl.constexpr,
    SOFT_BF16: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """dw[bank, g, k, c, f] = sum over n, o of dy[n, g, k, o] * x[n, g, c, o*s - p + f*d].

    o runs over the positions of the bank: o mod period = bank.

    Grid axis 0, slowest first: split, group, bank (d, h, w), tap (t, r, s), tile of (K/g x C/g).
    Each split sums its own range of positions into its own slice of dst; with one split dst is
    dw itself, otherwise a float32 workspace that `sum_splits` adds up in a fixed order.
    """
    pid = tl.program_id(0).to(INDEX)
    rows = whole_vectors(grad_channels.to(INDEX), GRAD_VECTOR)
    cols = whole_vectors(src_channels.to(INDEX), SRC_VECTOR)
    src_size = (src_d.to(INDEX), src_h.to(INDEX), src_w.to(INDEX))
    grad_stride = (stride_gd.to(INDEX), stride_gh.to(INDEX), stride_gw.to(INDEX))
    src_stride = (stride_sd.to(INDEX), stride_sh.to(INDEX), stride_sw.to(INDEX))
    period = (period_d.to(INDEX), period_h.to(INDEX), period_w.to(INDEX))
    grad_channel = unit_or(stride_gc.to(INDEX), GRAD_UNIT)
    src_channel = unit_or(stride_sc.to(INDEX), SRC_UNIT)
    dst_channel = unit_or(stride_wc, DST_UNIT)

    tiles_m = tl.cdiv(rows, BLOCK_M)
    tiles_n = tl.cdiv(cols, BLOCK_N)
    pid_m, pid_n = tile_order(pid % (tiles_m * tiles_n), tiles_m, tiles_n, GROUP_M)
    rest = pid // (tiles_m * tiles_n)
    TAPS: tl.constexpr = FILTER[0] * FILTER[1] * FILTER[2]
    f_d, f_h, f_w = unflatten3(rest % TAPS, FILTER[1], FILTER[2])
    rest = rest // TAPS
    rest, r = unflatten4(rest, period)
    group = rest % groups.to(INDEX)
    split = rest // groups.to(INDEX)

    # The bank's positions in the order (n, q_d, q_h, q_w), and this split's range of them.
    extent = class_extent(r, period, (grad_d.to(INDEX), grad_h.to(INDEX), grad_w.to(INDEX)))
    total = batch.to(INDEX) * extent[0] * extent[1] * extent[2]
    start, stop = split_range(split, splits.to(INDEX), total, BLOCK_K)
    offs_k = start + tl.arange(0, BLOCK_K)
    n, q = unflatten4(offs_k, extent)
    by_n, by = unflatten4(r[0] * 0 + BLOCK_K, extent)

    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    row_ok = offs_m < rows
    col_ok = offs_n < cols
    grad_row = (group * rows + offs_m) * grad_channel
    src_col = (group * cols + offs_n) * src_channel
    # A position q of the bank reads x at base + q*step.
    base_0 = r[0] * STRIDE[0] - pad_d.to(INDEX) + f_d * DILATION[0]
    base_1 = r[1] * STRIDE[1] - pad_h.to(INDEX) + f_h * DILATION[1]
    base_2 = r[2] * STRIDE[2] - pad_w.to(INDEX) + f_w * DILATION[2]
    step_d, step_h, step_w = period[0] * STRIDE[0], period[1] * STRIDE[1], period[2] * STRIDE[2]

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for _ in range(tl.cdiv(stop - start, BLOCK_K)):
        live = offs_k < stop
        src = (base_0 + q[0] * step_d, base_1 + q[1] * step_h, base_2 + q[2] * step_w)
        src_0, src_1, src_2, valid = read_at(src, src_size, live, BORDER)
        grad_pos = n * stride_gn.to(INDEX) + (r[0] + q[0] * period[0]) * grad_stride[0]
        grad_pos += (r[1] + q[1] * period[1]) * grad_stride[1]
        grad_pos += (r[2] + q[2] * period[2]) * grad_stride[2]
        src_pos = n * stride_sn.to(INDEX) + src_0 * src_stride[0]
        src_pos += src_1 * src_stride[1] + src_2 * src_stride[2]
        # Rows of x outside the padding are masked in x alone: a zero there ends the product.
        a = tl.load(
            at(grad_ptr, outer(grad_row, grad_pos, not GRAD_UNIT), GRAD_VECTOR),
            mask=outer_and(row_ok, live, not GRAD_UNIT),
            other=0.0,
        )
        b = tl.load(
            at(src_ptr, outer(src_pos, src_col, SRC_UNIT), SRC_VECTOR),
            mask=outer_and(valid, col_ok, SRC_UNIT),
            other=0.0,
        )
        if GRAD_UNIT:
            a = tl.trans(a)
        if not SRC_UNIT:
            b = tl.trans(b)
        acc = multiply_add(a, b, acc, PRECISION, SOFT_BF16)
        offs_k += BLOCK_K
        n, q = advance(n, q, by_n, by, extent)

    dst_ptr += split * stride_split + weight_base + group * stride_wg
    dst_ptr += f_d * stride_wt + f_h * stride_wr + f_w * stride_ws
    dst_ptr += r[0] * stride_bank_d + r[1] * stride_bank_h + r[2] * stride_bank_w
    tl.store(
        dst_ptr + offs_m[:, None] * stride_wk + offs_n[None, :] * dst_channel,
        rounded(acc, dst_ptr.dtype.element_ty, SOFT_BF16),
        mask=row_ok[:, None] & col_ok[None, :],
    )
