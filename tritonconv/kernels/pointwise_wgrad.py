"""wgrad of a 1x1 filter that never leaves the image: a plain GEMM, with deterministic split-K."""

import triton.language as tl

from ._index import outer, split_range, tile_order, unflatten4, unit_or, whole_vectors
from ._jit import kernel
from ._numbers import multiply_add, rounded
from ._rows import at_run, inside, next_rows, tile_rows


@kernel
def pointwise_wgrad(
    grad_ptr,
    src_ptr,
    dst_ptr,
    batch: tl.int64,
    grad_channels: tl.int64,
    src_channels: tl.int64,
    row_d: tl.int64,
    row_h: tl.int64,
    row_w: tl.int64,
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
    stride_wg: tl.int64,
    stride_wk: tl.int64,
    stride_wc: tl.int64,
    stride_split: tl.int64,
    AXES: tl.constexpr,
    GRAD_UNIT: tl.constexpr,
    GRAD_ROW_UNIT: tl.constexpr,
    GRAD_VECTOR: tl.constexpr,
    SRC_UNIT: tl.constexpr,
    SRC_ROW_UNIT: tl.constexpr,
    SRC_VECTOR: tl.constexpr,
    ROW_VECTOR: tl.constexpr,
    DST_UNIT: tl.constexpr,
    INDEX: tl.constexpr,
    PRECISION: tl.constexpr,
    SOFT_BF16: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """dw[g, k, c] = sum over rows p of dy[g, k, p] * x[g, c, p]

    Rows are the positions (n, d, h, w) of dy, merged as `_rows.py` says; x is read at stride * p.
    Grid axis 0, slowest first: split, group, tile of (K/g x C/g).
    Each split sums its own range of rows into its own slice of dst; with one split dst is dw
    itself, otherwise a float32 workspace that `sum_splits` adds up in a fixed order.
    """
    pid = tl.program_id(0).to(INDEX)
    GRAD_CHANNELS: tl.constexpr = GRAD_VECTOR if GRAD_UNIT else 1
    SRC_CHANNELS: tl.constexpr = SRC_VECTOR if SRC_UNIT else 1
    all_k = whole_vectors(grad_channels.to(INDEX), GRAD_CHANNELS)
    all_c = whole_vectors(src_channels.to(INDEX), SRC_CHANNELS)
    extent = (row_d.to(INDEX), row_h.to(INDEX), whole_vectors(row_w.to(INDEX), ROW_VECTOR))
    rows = whole_vectors(batch.to(INDEX) * extent[0] * extent[1] * extent[2], ROW_VECTOR)
    grad_channel = unit_or(stride_gc.to(INDEX), GRAD_UNIT)
    src_channel = unit_or(stride_sc.to(INDEX), SRC_UNIT)
    grad_w = unit_or(stride_gw.to(INDEX), GRAD_ROW_UNIT)
    src_w = unit_or(stride_sw.to(INDEX), SRC_ROW_UNIT)

    tiles_m = tl.cdiv(all_k, BLOCK_M)
    tiles_n = tl.cdiv(all_c, BLOCK_N)
    pid_m, pid_n = tile_order(pid % (tiles_m * tiles_n), tiles_m, tiles_n, GROUP_M)
    rest = pid // (tiles_m * tiles_n)
    group = rest % groups.to(INDEX)
    split = rest // groups.to(INDEX)
    start, stop = split_range(split, splits.to(INDEX), rows, BLOCK_K)
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k_ok = offs_m < all_k
    c_ok = offs_n < all_c
    grad_col = (group * all_k + inside(offs_m, all_k, GRAD_CHANNELS)) * grad_channel
    src_col = (group * all_c + inside(offs_n, all_c, SRC_CHANNELS)) * src_channel

    offs_k = tl.arange(0, BLOCK_K).to(INDEX)
    n, q = tile_rows(start, batch.to(INDEX), extent, AXES, ROW_VECTOR, BLOCK_K)
    if AXES == 1:
        # Evenly spaced rows: the tiles move as a whole.
        grad_tile = grad_ptr + outer(q[2] * grad_w, grad_col, GRAD_UNIT)
        src_tile = src_ptr + outer(q[2] * src_w, src_col, SRC_UNIT)
    else:
        by_n, by = unflatten4(start * 0 + BLOCK_K, extent)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, stop - start, BLOCK_K):
        live = offs_k < stop - start - k
        if AXES == 1:
            grad_now = at_run(grad_tile, k * grad_w, GRAD_VECTOR)
            src_now = at_run(src_tile, k * src_w, SRC_VECTOR)
        else:
            grad_row = n * stride_gn.to(INDEX) + q[2] * grad_w
            src_row = n * stride_sn.to(INDEX) + q[2] * src_w
            if AXES > 2:
                grad_row += q[0] * stride_gd.to(INDEX) + q[1] * stride_gh.to(INDEX)
                src_row += q[0] * stride_sd.to(INDEX) + q[1] * stride_sh.to(INDEX)
            grad_now = at_run(grad_ptr, outer(grad_row, grad_col, GRAD_UNIT), GRAD_VECTOR)
            src_now = at_run(src_ptr, outer(src_row, src_col, SRC_UNIT), SRC_VECTOR)
            n, q = next_rows(n, q, by_n, by, extent, AXES)
        a = tl.load(grad_now, mask=live[:, None] if GRAD_UNIT else live[None, :], other=0.0)
        b = tl.load(src_now, mask=live[:, None] if SRC_UNIT else live[None, :], other=0.0)
        if GRAD_UNIT:
            a = tl.trans(a)
        if not SRC_UNIT:
            b = tl.trans(b)
        acc = multiply_add(a, b, acc, PRECISION, SOFT_BF16)

    dst_ptr += split * stride_split + group * stride_wg
    tl.store(
        dst_ptr + offs_m[:, None] * stride_wk + offs_n[None, :] * unit_or(stride_wc, DST_UNIT),
        rounded(acc, dst_ptr.dtype.element_ty, SOFT_BF16),
        mask=k_ok[:, None] & c_ok[None, :],
    )
