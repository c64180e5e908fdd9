"""fprop of few input channels: taps and channels are one axis of the GEMM, on tensor cores."""

import triton
import triton.language as tl

from ._epilogue import finish
from ._index import outer, tile_order, unit_or, whole_vectors
from ._jit import kernel
from ._numbers import multiply_add
from ._patches import load_patches, split_line
from ._rows import at_run, inside, tile_rows


@triton.jit
def add_lines(
    acc,
    src_ptr,
    src_row,
    anchor,
    row_ok,
    src_size,
    src_stride,
    weight_ptr,
    weight_col,
    weight_stride,
    first_lane,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    FILTER: tl.constexpr,
    DILATION: tl.constexpr,
    MASK: tl.constexpr,
    BORDER: tl.constexpr,
    CHANNELS_FAST: tl.constexpr,
    SRC_VECTOR: tl.constexpr,
    WEIGHT_VECTOR: tl.constexpr,
    INDEX: tl.constexpr,
    PRECISION: tl.constexpr,
    SOFT_BF16: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """acc + the products of WIDTH lanes, from `first_lane` on, of every line of the filter.

    A step takes as many lines as fit into BLOCK_K. From one step to the next all its lanes move
    by the same offset, so they are decoded once. Strides: x (c, d, h, w), weight (c, t, r, s).
    """
    FIT: tl.constexpr = BLOCK_K // WIDTH
    LINES: tl.constexpr = FIT if FIT < FILTER[1] else FILTER[1]
    flat = tl.arange(0, BLOCK_K)
    channel, s = split_line(first_lane + flat % WIDTH, FILTER[2], CHANNELS, CHANNELS_FAST)
    channel, line, s = channel.to(INDEX), (flat // WIDTH).to(INDEX), s.to(INDEX)
    reach = (line * 0, line * DILATION[1], s * DILATION[2])
    weight_lane = channel * weight_stride[0] + line * weight_stride[2] + s * weight_stride[3]
    weight_tile = outer(weight_col, weight_lane, True)

    t = weight_stride[1] * 0
    r = weight_stride[2] * 0
    for _ in range(FILTER[0] * ((FILTER[1] + LINES - 1) // LINES)):
        lane_ok = (line < LINES) & (r + line < FILTER[1])
        a = load_patches(
            src_ptr,
            src_row,
            anchor,
            row_ok,
            channel * src_stride[0],
            reach,
            lane_ok,
            (t * DILATION[0], r * DILATION[1], t * 0),
            src_size,
            (src_stride[1], src_stride[2], src_stride[3]),
            MASK,
            BORDER,
            SRC_VECTOR,
        )
        moved = t * weight_stride[1] + r * weight_stride[2]
        b = tl.load(
            at_run(weight_ptr + moved, weight_tile, WEIGHT_VECTOR),
            mask=lane_ok[None, :],
            other=0.0,
        )
        if SRC_VECTOR == 1:
            a = tl.trans(a)
        acc = multiply_add(a, tl.trans(b), acc, PRECISION, SOFT_BF16)
        r += LINES
        wrap = r >= FILTER[1]
        r = tl.where(wrap, 0, r)
        t += wrap.to(INDEX)
    return acc


@kernel
def stem_gemm(
    src_ptr,
    weight_ptr,
    bias_ptr,
    residual_ptr,
    pre_ptr,
    dst_ptr,
    images: tl.int64,
    dst_channels: tl.int64,
    src_d: tl.int64,
    src_h: tl.int64,
    src_w: tl.int64,
    dst_d: tl.int64,
    dst_h: tl.int64,
    dst_w: tl.int64,
    pad_d: tl.int64,
    pad_h: tl.int64,
    pad_w: tl.int64,
    batch: tl.int64,
    row_d: tl.int64,
    row_h: tl.int64,
    row_w: tl.int64,
    stride_sn: tl.int64,
    stride_sc: tl.int64,
    stride_sd: tl.int64,
    stride_sh: tl.int64,
    stride_sw: tl.int64,
    weight_base: tl.int64,
    stride_wg: tl.int64,
    stride_wm: tl.int64,
    stride_wn: tl.int64,
    stride_wt: tl.int64,
    stride_wr: tl.int64,
    stride_ws: tl.int64,
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
    CHANNELS: tl.constexpr,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    AXES: tl.constexpr,
    MASK: tl.constexpr,
    BORDER: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    KEEP_PRE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    CHANNELS_FAST: tl.constexpr,
    SRC_VECTOR: tl.constexpr,
    WEIGHT_VECTOR: tl.constexpr,
    DST_UNIT: tl.constexpr,
    DST_ROW_UNIT: tl.constexpr,
    DST_VECTOR: tl.constexpr,
    INDEX: tl.constexpr,
    PRECISION: tl.constexpr,
    SOFT_BF16: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """y[n, g, k, o] = act(bias + residual + sum over lanes (c, f) of x[n, g, c, o*s - p + f*d] *
    w[g, k, c, f])

    Rows are the output's positions (n, d, h, w): as they are for x, merged as `_rows.py` says for
    y. The sum runs over the lines of the filter, (w, c) side by side, several of them a step.
    Grid axis 0, slowest first: group, tile of (rows x K/g).
    """
    pid = tl.program_id(0).to(INDEX)
    LINE: tl.constexpr = CHANNELS * FILTER[2]
    ROW_VECTOR: tl.constexpr = 1 if DST_UNIT else DST_VECTOR
    cols = whole_vectors(dst_channels.to(INDEX), DST_VECTOR if DST_UNIT else 1)
    merged = (row_d.to(INDEX), row_h.to(INDEX), whole_vectors(row_w.to(INDEX), ROW_VECTOR))
    rows = whole_vectors(batch.to(INDEX) * merged[0] * merged[1] * merged[2], ROW_VECTOR)
    dst_size = (dst_d.to(INDEX), dst_h.to(INDEX), dst_w.to(INDEX))
    src_size = (src_d.to(INDEX), src_h.to(INDEX), src_w.to(INDEX))
    src_stride = (
        unit_or(stride_sc.to(INDEX), CHANNELS_FAST),
        stride_sd.to(INDEX),
        stride_sh.to(INDEX),
        stride_sw.to(INDEX),
    )
    weight_stride = (
        stride_wm.to(INDEX),
        stride_wt.to(INDEX),
        stride_wr.to(INDEX),
        stride_ws.to(INDEX),
    )

    tiles_m = tl.cdiv(rows, BLOCK_M)
    tiles_n = tl.cdiv(cols, BLOCK_N)
    pid_m, pid_n = tile_order(pid % (tiles_m * tiles_n), tiles_m, tiles_n, GROUP_M)
    group = pid // (tiles_m * tiles_n)
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n, q = tile_rows(pid_m * BLOCK_M, images.to(INDEX), dst_size, 4, 1, BLOCK_M)
    anchor = (
        q[0] * STRIDE[0] - pad_d.to(INDEX),
        q[1] * STRIDE[1] - pad_h.to(INDEX),
        q[2] * STRIDE[2] - pad_w.to(INDEX),
    )
    src_row = n * stride_sn.to(INDEX) + group * CHANNELS * src_stride[0]
    row_ok = offs_m < rows
    weight_col = inside(offs_n, cols, 1) * stride_wn.to(INDEX)
    weight_ptr += weight_base + group * stride_wg

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    # A line longer than a step is cut into whole steps and a rest.
    REST: tl.constexpr = LINE % BLOCK_K
    for first_lane in range(0, LINE - REST, BLOCK_K):
        acc = add_lines(
            acc,
            src_ptr,
            src_row,
            anchor,
            row_ok,
            src_size,
            src_stride,
            weight_ptr,
            weight_col,
            weight_stride,
            first_lane,
            BLOCK_K,
            CHANNELS,
            FILTER,
            DILATION,
            MASK,
            BORDER,
            CHANNELS_FAST,
            SRC_VECTOR,
            WEIGHT_VECTOR,
            INDEX,
            PRECISION,
            SOFT_BF16,
            BLOCK_K,
        )
    if REST > 0:
        acc = add_lines(
            acc,
            src_ptr,
            src_row,
            anchor,
            row_ok,
            src_size,
            src_stride,
            weight_ptr,
            weight_col,
            weight_stride,
            LINE - REST,
            REST,
            CHANNELS,
            FILTER,
            DILATION,
            MASK,
            BORDER,
            CHANNELS_FAST,
            SRC_VECTOR,
            WEIGHT_VECTOR,
            INDEX,
            PRECISION,
            SOFT_BF16,
            BLOCK_K,
        )

    n, position = tile_rows(pid_m * BLOCK_M, batch.to(INDEX), merged, AXES, ROW_VECTOR, BLOCK_M)
    finish(
        acc,
        bias_ptr,
        residual_ptr,
        pre_ptr,
        dst_ptr,
        n,
        position,
        group * cols + offs_n,
        row_ok,
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
