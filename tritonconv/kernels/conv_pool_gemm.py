"""Convolution, activation and pooling as one GEMM, whose result is pooled before it is stored."""

import triton.language as tl

from ._border import fold
from ._epilogue import activate, biased, store_pooled
from ._index import (
    at,
    in_range,
    outer,
    outer_and,
    tile_order,
    unflatten3,
    unflatten4,
    unit_or,
    whole_vectors,
    window_bits,
)
from ._jit import kernel
from ._members import largest, mean, members_of, norm, places, winner
from ._numbers import multiply_add


@kernel
def conv_pool_gemm(
    src_ptr,
    weight_ptr,
    bias_ptr,
    dst_ptr,
    taps_ptr,
    batch: tl.int64,
    reduce_channels: tl.int64,
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
    stride_bias_c: tl.int64,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    BORDER: tl.constexpr,
    BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    POOL: tl.constexpr,
    WINDOW: tl.constexpr,
    STEP: tl.constexpr,
    MEMBERS: tl.constexpr,
    PADDED: tl.constexpr,
    KEEP_TAPS: tl.constexpr,
    SRC_UNIT: tl.constexpr,
    SRC_VECTOR: tl.constexpr,
    WEIGHT_REDUCE_UNIT: tl.constexpr,
    WEIGHT_DST_UNIT: tl.constexpr,
    WEIGHT_VECTOR: tl.constexpr,
    DST_UNIT: tl.constexpr,
    DST_VECTOR: tl.constexpr,
    INDEX: tl.constexpr,
    PRECISION: tl.constexpr,
    SOFT_BF16: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """dst[n, g, k, u] = pool over members t of act(bias + sum over taps f and channels m of
    src[n, g, m, o*STRIDE - pad + f*DILATION] * w[g, k, m, f]), where

    "max", "avg", "l2": o = u*STEP + t, of as many t as a window has positions
    "maxout":           o = u, and k*MEMBERS + t in place of k

    with the number t of the winner in taps, laid out as dst, if KEEP_TAPS. dst_channels counts k
    before pooling. A unit of MEMBERS takes PADDED, a power of two, places of the tile, and lies
    along the columns of the product: the product is w x src^T for windows, src x w^T for maxout.
    Grid axis 0, slowest first: group, tile of (windows x channels).
    """
    pid = tl.program_id(0).to(INDEX)
    ACROSS: tl.constexpr = POOL == "maxout"
    ROW_MEMBERS: tl.constexpr = 1 if ACROSS else PADDED
    COL_MEMBERS: tl.constexpr = PADDED if ACROSS else 1
    UNITS_M: tl.constexpr = BLOCK_M // ROW_MEMBERS
    UNITS_N: tl.constexpr = BLOCK_N // COL_MEMBERS
    batch = batch.to(INDEX)
    red = whole_vectors(reduce_channels.to(INDEX), SRC_VECTOR)
    pooled = whole_vectors(dst_channels.to(INDEX) // COL_MEMBERS, DST_VECTOR)
    src_size = (src_d.to(INDEX), src_h.to(INDEX), src_w.to(INDEX))
    dst_size = (dst_d.to(INDEX), dst_h.to(INDEX), dst_w.to(INDEX))
    src_stride = (stride_sd.to(INDEX), stride_sh.to(INDEX), stride_sw.to(INDEX))
    tap_stride = (stride_wt.to(INDEX), stride_wr.to(INDEX), stride_ws.to(INDEX))
    src_channel = unit_or(stride_sc.to(INDEX), SRC_UNIT)
    weight_reduce = unit_or(stride_wm.to(INDEX), WEIGHT_REDUCE_UNIT)
    weight_dst = unit_or(stride_wn.to(INDEX), WEIGHT_DST_UNIT)
    dst_channel = unit_or(stride_dc.to(INDEX), DST_UNIT)

    windows = batch * dst_size[0] * dst_size[1] * dst_size[2]
    tiles_m = tl.cdiv(windows, UNITS_M)
    tiles_n = tl.cdiv(pooled, UNITS_N)
    pid_m, pid_n = tile_order(pid % (tiles_m * tiles_n), tiles_m, tiles_n, GROUP_M)
    group = pid // (tiles_m * tiles_n)

    unit, member = places(BLOCK_M, ROW_MEMBERS)
    window = pid_m * UNITS_M + unit
    row_ok = window < windows
    if not ACROSS:
        row_ok = row_ok & (member < MEMBERS)
        member = tl.minimum(member, MEMBERS - 1)
    n, q = unflatten4(tl.minimum(window, windows - 1), dst_size)
    t = unflatten3(member.to(INDEX), WINDOW[1], WINDOW[2])
    src_0 = (q[0] * STEP[0] + t[0]) * STRIDE[0] - pad_d.to(INDEX)
    src_1 = (q[1] * STEP[1] + t[1]) * STRIDE[1] - pad_h.to(INDEX)
    src_2 = (q[2] * STEP[2] + t[2]) * STRIDE[2] - pad_w.to(INDEX)

    unit, member = places(BLOCK_N, COL_MEMBERS)
    offs_n = (pid_n * UNITS_N + unit) * COL_MEMBERS + member
    col_ok = offs_n < pooled * COL_MEMBERS
    offs_k = tl.arange(0, BLOCK_K).to(INDEX)
    weight_tile = (weight_ptr + weight_base + group * stride_wg) + outer(
        offs_k * weight_reduce, offs_n * weight_dst, not WEIGHT_REDUCE_UNIT
    )
    # Which taps of a row fall inside the source, one bit each: decided once, not every step.
    FOLDED: tl.constexpr = BORDER != "zeros"
    BITS: tl.constexpr = FILTER[0] * FILTER[1] * FILTER[2] <= 32 and not FOLDED
    if BITS:
        bits = row_ok.to(tl.int32)
        bits = window_bits(bits, src_2, src_size[2], FILTER[2], DILATION[2], 1)
        bits = window_bits(bits, src_1, src_size[1], FILTER[1], DILATION[1], FILTER[2])
        bits = window_bits(bits, src_0, src_size[0], FILTER[0], DILATION[0], FILTER[1] * FILTER[2])
    src_row = n * stride_sn.to(INDEX) + group * red * src_channel
    if not FOLDED:
        src_row += src_0 * src_stride[0] + src_1 * src_stride[1] + src_2 * src_stride[2]
        src_tile = src_ptr + outer(src_row, offs_k * src_channel, SRC_UNIT)
    # The flat loop's counters: dividing its index would cost more than the loads.
    f_d = pid * 0
    f_h = pid * 0
    f_w = pid * 0
    c = pid * 0
    if ACROSS:
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    else:
        acc = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    for _ in range(FILTER[0] * FILTER[1] * FILTER[2] * tl.cdiv(red, BLOCK_K)):
        src_off = c * src_channel
        tap_off = c * weight_reduce
        if FOLDED:
            at_0 = fold(src_0 + f_d * DILATION[0], src_size[0], BORDER)
            at_1 = fold(src_1 + f_h * DILATION[1], src_size[1], BORDER)
            at_2 = fold(src_2 + f_w * DILATION[2], src_size[2], BORDER)
            row = src_row + at_0 * src_stride[0] + at_1 * src_stride[1] + at_2 * src_stride[2]
            src_tile = src_ptr + outer(row, offs_k * src_channel, SRC_UNIT)
            valid = row_ok
        else:
            src_off += f_d * DILATION[0] * src_stride[0]
            src_off += f_h * DILATION[1] * src_stride[1]
            src_off += f_w * DILATION[2] * src_stride[2]
            if BITS:
                tap = (f_d * FILTER[1] + f_h) * FILTER[2] + f_w
                valid = ((bits >> tap.to(tl.int32)) & 1) != 0
            else:
                valid = row_ok & in_range(src_0 + f_d * DILATION[0], src_size[0])
                valid = valid & in_range(src_1 + f_h * DILATION[1], src_size[1])
                valid = valid & in_range(src_2 + f_w * DILATION[2], src_size[2])
        tap_off += f_d * tap_stride[0] + f_h * tap_stride[1] + f_w * tap_stride[2]
        channel_ok = c + offs_k < red
        x = tl.load(
            at(src_tile, src_off, SRC_VECTOR),
            mask=outer_and(valid, channel_ok, SRC_UNIT),
            other=0.0,
        )
        w = tl.load(
            at(weight_tile, tap_off, WEIGHT_VECTOR),
            mask=outer_and(channel_ok, col_ok, not WEIGHT_REDUCE_UNIT),
            other=0.0,
        )
        # Loaded as they lie in memory, now (positions x channels) and (channels x filters).
        if not SRC_UNIT:
            x = tl.trans(x)
        if WEIGHT_REDUCE_UNIT:
            w = tl.trans(w)
        if ACROSS:
            acc = multiply_add(x, w, acc, PRECISION, SOFT_BF16)
        else:
            acc = multiply_add(tl.trans(w), tl.trans(x), acc, PRECISION, SOFT_BF16)
        c += BLOCK_K
        wrap = c >= red
        c = tl.where(wrap, 0, c)
        f_w += wrap.to(INDEX)
        wrap = f_w == FILTER[2]
        f_w = tl.where(wrap, 0, f_w)
        f_h += wrap.to(INDEX)
        wrap = f_h == FILTER[1]
        f_h = tl.where(wrap, 0, f_h)
        f_d += wrap.to(INDEX)

    acc = biased(
        acc,
        bias_ptr,
        q,
        group * pooled * COL_MEMBERS + offs_n,
        row_ok,
        col_ok,
        (1, 1, 1),
        (0, 0, 0, stride_bias_c.to(INDEX)),
        BIAS,
        ACROSS,
    )
    members = members_of(activate(acc, ACTIVATION), PADDED)
    if KEEP_TAPS:
        value, number = winner(members, MEMBERS)
    elif POOL == "avg":
        value = mean(members, MEMBERS)
    elif POOL == "l2":
        value = norm(members, MEMBERS)
    else:
        value = largest(members, MEMBERS)

    window = pid_m * UNITS_M + tl.arange(0, UNITS_M)
    row_ok = window < windows
    n, q = unflatten4(tl.minimum(window, windows - 1), dst_size)
    offs_n = pid_n * UNITS_N + tl.arange(0, UNITS_N)
    store_pooled(
        value,
        number if KEEP_TAPS else value,
        dst_ptr,
        taps_ptr,
        n,
        q,
        group * pooled + offs_n,
        row_ok,
        offs_n < pooled,
        (
            stride_dn.to(INDEX),
            dst_channel,
            stride_dd.to(INDEX),
            stride_dh.to(INDEX),
            stride_dw.to(INDEX),
        ),
        ACROSS,
        KEEP_TAPS,
        DST_UNIT,
        DST_VECTOR,
        SOFT_BF16,
    )
