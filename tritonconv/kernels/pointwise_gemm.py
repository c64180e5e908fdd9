"""fprop and dgrad of a 1x1 filter that never leaves the image: a plain GEMM, on tensor cores."""

import triton.language as tl

from ._epilogue import finish
from ._index import at, outer, tile_order, unit_or, whole_vectors
from ._jit import kernel
from ._numbers import multiply_add
from ._rows import at_run, inside, tile_rows


@kernel
def pointwise_gemm(
    src_ptr,
    weight_ptr,
    bias_ptr,
    residual_ptr,
    pre_ptr,
    dst_ptr,
    batch: tl.int64,
    reduce_channels: tl.int64,
    dst_channels: tl.int64,
    row_d: tl.int64,
    row_h: tl.int64,
    row_w: tl.int64,
    stride_sn: tl.int64,
    stride_sc: tl.int64,
    stride_sd: tl.int64,
    stride_sh: tl.int64,
    stride_sw: tl.int64,
    stride_wg: tl.int64,
    stride_wm: tl.int64,
    stride_wn: tl.int64,
    stride_dn: tl.int64,
    stride_dc: tl.int64,
    stride_dd: tl.int64,
    stride_dh: tl.int64,
    stride_dw: tl.int64,
    stride_en: tl.int64,
    stride_ec: tl.int64,
    stride_ed: tl.int64,
    stride_eh: tl.int64,
    stride_ew: tl.int64,
    bias_period_d: tl.int64,
    bias_period_h: tl.int64,
    bias_period_w: tl.int64,
    stride_bias_d: tl.int64,
    stride_bias_h: tl.int64,
    stride_bias_w: tl.int64,
    stride_bias_c: tl.int64,
    AXES: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    KEEP_PRE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SRC_UNIT: tl.constexpr,
    SRC_ROW_UNIT: tl.constexpr,
    SRC_VECTOR: tl.constexpr,
    WEIGHT_REDUCE_UNIT: tl.constexpr,
    WEIGHT_DST_UNIT: tl.constexpr,
    WEIGHT_VECTOR: tl.constexpr,
    DST_UNIT: tl.constexpr,
    DST_ROW_UNIT: tl.constexpr,
    DST_VECTOR: tl.constexpr,
    ROW_VECTOR: tl.constexpr,
    REDUCE_VECTOR: tl.constexpr,
    COLUMN_VECTOR: tl.constexpr,
    INDEX: tl.constexpr,
    PRECISION: tl.constexpr,
    SOFT_BF16: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """dst[n, g, col, p] = act(bias + residual + sum over m of src[n, g, m, p] * w[g, m, col])

    fprop: src = x at stride * p, dst = y, m = C/g, col = K/g. dgrad: src = dy, dst = dx, m = K/g,
    col = C/g. Rows are the positions (n, d, h, w) of dst, merged as `_rows.py` says; a tile that
    overhangs its tensor reads the last row or column again and does not store it.
    The numbers of rows, of m and of columns are multiples of the `_VECTOR` of that name.
    Grid axis 0, slowest first: group, tile of (rows x columns).
    """
    pid = tl.program_id(0).to(INDEX)
    red = whole_vectors(reduce_channels.to(INDEX), REDUCE_VECTOR)
    cols = whole_vectors(dst_channels.to(INDEX), COLUMN_VECTOR)
    extent = (row_d.to(INDEX), row_h.to(INDEX), whole_vectors(row_w.to(INDEX), ROW_VECTOR))
    rows = whole_vectors(batch.to(INDEX) * extent[0] * extent[1] * extent[2], ROW_VECTOR)
    src_channel = unit_or(stride_sc.to(INDEX), SRC_UNIT)
    src_w = unit_or(stride_sw.to(INDEX), SRC_ROW_UNIT)
    weight_reduce = unit_or(stride_wm.to(INDEX), WEIGHT_REDUCE_UNIT)
    weight_dst = unit_or(stride_wn.to(INDEX), WEIGHT_DST_UNIT)

    tiles_m = tl.cdiv(rows, BLOCK_M)
    tiles_n = tl.cdiv(cols, BLOCK_N)
    pid_m, pid_n = tile_order(pid % (tiles_m * tiles_n), tiles_m, tiles_n, GROUP_M)
    group = pid // (tiles_m * tiles_n)
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K).to(INDEX)
    n, position = tile_rows(pid_m * BLOCK_M, batch.to(INDEX), extent, AXES, ROW_VECTOR, BLOCK_M)
    src_row = n * stride_sn.to(INDEX) + position[2] * src_w + group * red * src_channel
    if AXES > 2:
        src_row += position[0] * stride_sd.to(INDEX) + position[1] * stride_sh.to(INDEX)
    src_tile = src_ptr + outer(src_row, offs_k * src_channel, SRC_UNIT)
    weight_tile = (
        weight_ptr
        + group * stride_wg
        + outer(
            offs_k * weight_reduce,
            inside(offs_n, cols, COLUMN_VECTOR) * weight_dst,
            not WEIGHT_REDUCE_UNIT,
        )
    )

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for c in range(0, red, BLOCK_K):
        channel_ok = offs_k < red - c
        a = tl.load(
            at_run(src_tile, c * src_channel, SRC_VECTOR),
            mask=channel_ok[None, :] if SRC_UNIT else channel_ok[:, None],
            other=0.0,
        )
        b = tl.load(
            at(weight_tile, c * weight_reduce, WEIGHT_VECTOR),
            mask=channel_ok[None, :] if WEIGHT_REDUCE_UNIT else channel_ok[:, None],
            other=0.0,
        )
        if not SRC_UNIT:
            a = tl.trans(a)
        if WEIGHT_REDUCE_UNIT:
            b = tl.trans(b)
        acc = multiply_add(a, b, acc, PRECISION, SOFT_BF16)

    finish(
        acc,
        bias_ptr,
        residual_ptr,
        pre_ptr,
        dst_ptr,
        n,
        position,
        group * cols + offs_n,
        offs_m < rows,
        offs_n < cols,
        (bias_period_d.to(INDEX), bias_period_h.to(INDEX), bias_period_w.to(INDEX)),
        (
            stride_bias_d.to(INDEX),
            stride_bias_h.to(INDEX),
            stride_bias_w.to(INDEX),
            stride_bias_c.to(INDEX),
        ),
        (
            stride_en.to(INDEX),
            stride_ec.to(INDEX),
            stride_ed.to(INDEX),
            stride_eh.to(INDEX),
            stride_ew.to(INDEX),
        ),
        (
            stride_dn.to(INDEX),
            unit_or(stride_dc.to(INDEX), DST_UNIT),
            stride_dd.to(INDEX),
            stride_dh.to(INDEX),
            unit_or(stride_dw.to(INDEX), DST_ROW_UNIT),
        ),
        BIAS,
        RESIDUAL,
        KEEP_PRE,
        ACTIVATION,
        DST_UNIT,
        DST_VECTOR,
        SOFT_BF16,
    )
