"""Convolution, activation and pooling by plain multiply-adds: whatever `conv_pool_gemm` leaves."""

import triton.language as tl

from ._border import read_at
from ._direct import add_channels
from ._epilogue import activate, biased, place, store_pooled
from ._index import bank_at, outer, unflatten3, unflatten4, unit_or, whole_vectors
from ._jit import kernel
from ._members import add_square, bounded_scale, outranks


@kernel
def conv_pool_direct(
    src_ptr,
    weight_ptr,
    bias_ptr,
    dst_ptr,
    taps_ptr,
    batch: tl.int64,
    reduce_channels: tl.int64,
    group_channels: tl.int64,
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
    period_d: tl.int64,
    period_h: tl.int64,
    period_w: tl.int64,
    stride_sn: tl.int64,
    stride_sc: tl.int64,
    stride_sd: tl.int64,
    stride_sh: tl.int64,
    stride_sw: tl.int64,
    weight_base: tl.int64,
    stride_wm: tl.int64,
    stride_wn: tl.int64,
    stride_wt: tl.int64,
    stride_wr: tl.int64,
    stride_ws: tl.int64,
    stride_bank_d: tl.int64,
    stride_bank_h: tl.int64,
    stride_bank_w: tl.int64,
    stride_dn: tl.int64,
    stride_dc: tl.int64,
    stride_dd: tl.int64,
    stride_dh: tl.int64,
    stride_dw: tl.int64,
    bias_period_d: tl.int64,
    bias_period_h: tl.int64,
    bias_period_w: tl.int64,
    stride_bias_d: tl.int64,
    stride_bias_h: tl.int64,
    stride_bias_w: tl.int64,
    stride_bias_c: tl.int64,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    BORDER: tl.constexpr,
    GROUPED: tl.constexpr,
    DEPTHWISE: tl.constexpr,
    TILED: tl.constexpr,
    BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    POOL: tl.constexpr,
    WINDOW: tl.constexpr,
    STEP: tl.constexpr,
    PIECE_STEP: tl.constexpr,
    MEMBERS: tl.constexpr,
    KEEP_TAPS: tl.constexpr,
    SRC_UNIT: tl.constexpr,
    VECTOR: tl.constexpr,
    DST_UNIT: tl.constexpr,
    DST_VECTOR: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    SOFT_BF16: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """dst[n, k, u] = pool over members t of act(bias[o mod bias_period, j] + sum over taps f and
    channels m of src[n, g(j), m, o*STRIDE - pad + f*DILATION] * w[o mod period, j, m, f]), where

    "max", "avg", "l2": o = u*STEP + t, of as many t as a window has positions, and j = k
    "maxout":           o = u, and j = k*PIECE_STEP + t

    with the number t of the winner in taps, laid out as dst, if KEEP_TAPS. A tile is (windows x
    channels of every group); it holds one member's sums at a time, and what is pooled of those
    before. DEPTHWISE: a channel of src for each of dst. TILED: period is not 1. `ACC` is float32,
    or float64 for float64. Grid axis 0, slowest first: tile of windows, tile of channels.
    """
    pid = tl.program_id(0).to(INDEX)
    ACROSS: tl.constexpr = POOL == "maxout"
    batch = batch.to(INDEX)
    # As a constant it keeps the channels of src neighbours.
    red = 1 if DEPTHWISE else reduce_channels.to(INDEX)
    # The compiler sees that no mask cuts a vector, of what is written or of what is read.
    cols = whole_vectors(dst_channels.to(INDEX), DST_VECTOR)
    cols = whole_vectors(cols, VECTOR if DEPTHWISE else 1)
    src_size = (src_d.to(INDEX), src_h.to(INDEX), src_w.to(INDEX))
    dst_size = (dst_d.to(INDEX), dst_h.to(INDEX), dst_w.to(INDEX))
    period = (period_d.to(INDEX), period_h.to(INDEX), period_w.to(INDEX))
    bank_stride = (stride_bank_d.to(INDEX), stride_bank_h.to(INDEX), stride_bank_w.to(INDEX))
    src_channel = unit_or(stride_sc.to(INDEX), SRC_UNIT)
    src_stride = (
        stride_sn.to(INDEX),
        src_channel,
        stride_sd.to(INDEX),
        stride_sh.to(INDEX),
        stride_sw.to(INDEX),
    )

    windows = batch * dst_size[0] * dst_size[1] * dst_size[2]
    tiles_n = tl.cdiv(cols, BLOCK_N)
    offs_m = pid // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)
    row_ok = offs_m < windows
    n, u = unflatten4(tl.minimum(offs_m, windows - 1), dst_size)
    offs_n = pid % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    col_ok = offs_n < cols

    zeros = tl.zeros((BLOCK_M, BLOCK_N), dtype=ACC)
    if not SRC_UNIT:
        zeros = tl.trans(zeros)
    value = zeros
    number = zeros.to(tl.int32)
    scale = bounded_scale(zeros)
    if POOL == "max" or ACROSS:
        value += float("-inf")
    for t in range(MEMBERS):
        channel = offs_n
        position = u
        if ACROSS:
            channel = tl.minimum(offs_n, cols - 1) * PIECE_STEP + t
        else:
            t_d, t_h, t_w = unflatten3(t, WINDOW[1], WINDOW[2])
            position = (u[0] * STEP[0] + t_d, u[1] * STEP[1] + t_h, u[2] * STEP[2] + t_w)
        group = channel if DEPTHWISE else channel // group_channels.to(INDEX)
        weight_at = channel * stride_wn.to(INDEX)
        if TILED:
            weight_at = outer(bank_at(position, period, bank_stride), weight_at, SRC_UNIT)
        z = zeros
        for f in range(FILTER[0] * FILTER[1] * FILTER[2]):
            f_d, f_h, f_w = unflatten3(f, FILTER[1], FILTER[2])
            i_0 = position[0] * STRIDE[0] - pad_d.to(INDEX) + f_d * DILATION[0]
            i_1 = position[1] * STRIDE[1] - pad_h.to(INDEX) + f_h * DILATION[1]
            i_2 = position[2] * STRIDE[2] - pad_w.to(INDEX) + f_w * DILATION[2]
            i_0, i_1, i_2, valid = read_at((i_0, i_1, i_2), src_size, row_ok, BORDER)
            tap_ptr = weight_ptr + weight_base
            tap_ptr += f_d * stride_wt + f_h * stride_wr + f_w * stride_ws
            z = add_channels(
                z,
                src_ptr,
                tap_ptr,
                place(n, (i_0, i_1, i_2), src_stride),
                group * red * src_channel,
                weight_at,
                valid,
                col_ok,
                red,
                src_channel,
                stride_wm.to(INDEX),
                GROUPED,
                SRC_UNIT,
                VECTOR,
            )
        z = biased(
            z,
            bias_ptr,
            position,
            channel,
            row_ok,
            col_ok,
            (bias_period_d.to(INDEX), bias_period_h.to(INDEX), bias_period_w.to(INDEX)),
            (
                stride_bias_d.to(INDEX),
                stride_bias_h.to(INDEX),
                stride_bias_w.to(INDEX),
                stride_bias_c.to(INDEX),
            ),
            BIAS,
            SRC_UNIT,
        )
        z = activate(z, ACTIVATION)
        if POOL == "avg":
            value += z
        elif POOL == "l2":
            value, scale = add_square(value, scale, z)
        else:
            wins = outranks(z, value)
            value = tl.where(wins, z, value)
            if KEEP_TAPS:
                number = tl.where(wins, t, number)
    if POOL == "avg":
        value /= MEMBERS
    elif POOL == "l2":
        value = tl.sqrt(value) * scale

    store_pooled(
        value,
        number,
        dst_ptr,
        taps_ptr,
        n,
        u,
        offs_n,
        row_ok,
        col_ok,
        (
            stride_dn.to(INDEX),
            unit_or(stride_dc.to(INDEX), DST_UNIT),
            stride_dd.to(INDEX),
            stride_dh.to(INDEX),
            stride_dw.to(INDEX),
        ),
        SRC_UNIT,
        KEEP_TAPS,
        DST_UNIT,
        DST_VECTOR,
        SOFT_BF16,
    )
