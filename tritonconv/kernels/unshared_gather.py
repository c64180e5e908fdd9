"""fprop and dgrad where every position has weights of its own, which are read once."""

import triton
import triton.language as tl

from ._border import read_at
from ._epilogue import finish
from ._index import (
    advance,
    at,
    class_taps,
    in_range,
    outer,
    outer_and,
    unflatten3,
    unflatten4,
    unit_or,
    whole_vectors,
)
from ._jit import kernel
from ._numbers import multiply_add


@triton.jit
def wrapped(position, period):
    """position mod period, for a position that may lie up to one period or more below 0."""
    return (position % period + period) % period


@kernel
def unshared_gather(
    src_ptr,
    weight_ptr,
    bias_ptr,
    residual_ptr,
    pre_ptr,
    dst_ptr,
    batch: tl.int64,
    groups: tl.int64,
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
    period_d: tl.int64,
    period_h: tl.int64,
    period_w: tl.int64,
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
    stride_bank_d: tl.int64,
    stride_bank_h: tl.int64,
    stride_bank_w: tl.int64,
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
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    TAP_STEP: tl.constexpr,
    TAP_DELTA: tl.constexpr,
    DGRAD: tl.constexpr,
    TILED: tl.constexpr,
    BORDER: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    KEEP_PRE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SRC_UNIT: tl.constexpr,
    SRC_VECTOR: tl.constexpr,
    CHANNEL_FAST: tl.constexpr,
    WEIGHT_FLAT: tl.constexpr,
    WEIGHT_DST_UNIT: tl.constexpr,
    WEIGHT_VECTOR: tl.constexpr,
    DST_UNIT: tl.constexpr,
    DST_VECTOR: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    SOFT_BF16: tl.constexpr,
    DOT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """dst[n, g, col, p] = act(bias + residual +
    sum over taps j and channels m of src[n, g, m, .] * w[bank, g, m, col, .])

    A program owns one position p; the rows of its tile are images n, since only they share the
    position's weights. The sum runs over one flat list of (m, j), `CHANNEL_FAST` with m fastest:
    no channel block is padded for each tap, and where fprop's bank has that order in memory
    (`WEIGHT_FLAT`) it is read as it lies, whatever the number of channels.
    With DOT the tiles are multiplied on matrix units, else term by term into an accumulator of
    (rows x columns x terms), summed at the end, in float32 or float64 (`ACC`).
    Grid axis 0, slowest first: position (d, h, w), group, tile of columns, tile of images. So
    neighbours read the same weights or overlapping windows of src.
    """
    pid = tl.program_id(0).to(INDEX)
    batch = batch.to(INDEX)
    red = whole_vectors(reduce_channels.to(INDEX), SRC_VECTOR)
    cols = whole_vectors(dst_channels.to(INDEX), DST_VECTOR)
    src_size = (src_d.to(INDEX), src_h.to(INDEX), src_w.to(INDEX))
    period = (period_d.to(INDEX), period_h.to(INDEX), period_w.to(INDEX))
    pad = (pad_d.to(INDEX), pad_h.to(INDEX), pad_w.to(INDEX))
    src_channel = unit_or(stride_sc.to(INDEX), SRC_UNIT)
    weight_dst = unit_or(stride_wn.to(INDEX), WEIGHT_DST_UNIT)
    dst_channel = unit_or(stride_dc.to(INDEX), DST_UNIT)

    tiles_m = tl.cdiv(batch, BLOCK_M)
    tiles_n = tl.cdiv(cols, BLOCK_N)
    pid_m = pid % tiles_m
    rest = pid // tiles_m
    pid_n = rest % tiles_n
    rest = rest // tiles_n
    group = rest % groups.to(INDEX)
    r = unflatten3(rest // groups.to(INDEX), dst_h.to(INDEX), dst_w.to(INDEX))

    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    row_ok = offs_m < batch
    n = tl.minimum(offs_m, batch - 1)
    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    col_ok = offs_n < cols
    src_tile = src_ptr + (n * stride_sn.to(INDEX) + group * red * src_channel)[:, None]
    weight_ptr += weight_base + group * stride_wg
    if not DGRAD:
        bank = r
        if TILED:
            bank = (r[0] % period[0], r[1] % period[1], r[2] % period[2])
        weight_ptr += bank[0] * stride_bank_d + bank[1] * stride_bank_h + bank[2] * stride_bank_w
    weight_col = offs_n * weight_dst

    # A class of one position. Tap number v of it is tap first + v*TAP_STEP, at base + v*TAP_DELTA.
    base, first, taps = class_taps(r, pad, (0, 0, 0), FILTER, STRIDE, DILATION, TAP_STEP, DGRAD)
    total = red * taps[0] * taps[1] * taps[2]
    if WEIGHT_FLAT:
        total = whole_vectors(total, WEIGHT_VECTOR)
    # The digits of a term's number: all but the first have a radix, which must not be 0.
    if CHANNEL_FAST:
        radix = (tl.maximum(taps[1], 1), tl.maximum(taps[2], 1), tl.maximum(red, 1))
    else:
        radix = (tl.maximum(taps[0], 1), tl.maximum(taps[1], 1), tl.maximum(taps[2], 1))
    terms = tl.arange(0, BLOCK_K)
    top, low = unflatten4(terms.to(INDEX), radix)
    by_top, by = unflatten4(r[0] * 0 + BLOCK_K, radix)

    if DOT:
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    else:
        acc = tl.zeros((BLOCK_M, BLOCK_N, BLOCK_K), dtype=ACC)
    for step in range(tl.cdiv(total, BLOCK_K)):
        offs_k = step * BLOCK_K + terms
        live = offs_k < total
        if CHANNEL_FAST:
            m, v = low[2], (tl.minimum(top, FILTER[0] - 1), low[0], low[1])
        else:
            m, v = top, low
        src = (
            base[0] + v[0] * TAP_DELTA[0],
            base[1] + v[1] * TAP_DELTA[1],
            base[2] + v[2] * TAP_DELTA[2],
        )
        weight_row = m * stride_wm.to(INDEX)
        weight_row += (first[0] + v[0] * TAP_STEP[0]) * stride_wt.to(INDEX)
        weight_row += (first[1] + v[1] * TAP_STEP[1]) * stride_wr.to(INDEX)
        weight_row += (first[2] + v[2] * TAP_STEP[2]) * stride_ws.to(INDEX)
        if DGRAD:
            inside = in_range(src[1], src_size[1]) & in_range(src[2], src_size[2])
            valid = live & in_range(src[0], src_size[0]) & inside
            # Each tap came from another output, with its own bank; one outside has none.
            bank_d, bank_h, bank_w = src
            if TILED:
                bank_d = wrapped(bank_d, period[0])
                bank_h = wrapped(bank_h, period[1])
                bank_w = wrapped(bank_w, period[2])
            weight_row += bank_d * stride_bank_d.to(INDEX)
            weight_row += bank_h * stride_bank_h.to(INDEX)
            weight_row += bank_w * stride_bank_w.to(INDEX)
            live = valid
        else:
            src_0, src_1, src_2, valid = read_at(src, src_size, live, BORDER)
            src = (src_0, src_1, src_2)
            if WEIGHT_FLAT:
                weight_row = offs_k
        src_off = m * src_channel + src[0] * stride_sd.to(INDEX)
        src_off += src[1] * stride_sh.to(INDEX) + src[2] * stride_sw.to(INDEX)
        a_ptr = src_tile + src_off[None, :]
        a_ok = row_ok[:, None] & valid[None, :]
        if SRC_VECTOR > 1:
            # Channels are the fastest digit, and a vector of them never crosses into another tap.
            a_ptr = tl.max_contiguous(tl.multiple_of(a_ptr, (16, 16)), (1, SRC_VECTOR))
            a_ok = tl.max_constancy(a_ok, (1, SRC_VECTOR))
        a = tl.load(a_ptr, mask=a_ok, other=0.0)
        b = tl.load(
            at(weight_ptr, outer(weight_row, weight_col, DGRAD), WEIGHT_VECTOR),
            mask=outer_and(live, col_ok, DGRAD),
            other=0.0,
        )
        if DOT != DGRAD:
            b = tl.trans(b)
        if DOT:
            acc = multiply_add(a, b, acc, PRECISION, SOFT_BF16)
        else:
            acc += a.to(ACC)[:, None, :] * b.to(ACC)[None, :, :]
        top, low = advance(top, low, by_top, by, radix)

    if not DOT:
        acc = tl.sum(acc, axis=2)
    finish(
        acc,
        bias_ptr,
        residual_ptr,
        pre_ptr,
        dst_ptr,
        n,
        (r[0] + n * 0, r[1] + n * 0, r[2] + n * 0),
        group * cols + offs_n,
        row_ok,
        col_ok,
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
            dst_channel,
            stride_dd.to(INDEX),
            stride_dh.to(INDEX),
            stride_dw.to(INDEX),
        ),
        BIAS,
        RESIDUAL,
        KEEP_PRE,
        ACTIVATION,
        DST_UNIT,
        DST_VECTOR,
        SOFT_BF16,
    )
