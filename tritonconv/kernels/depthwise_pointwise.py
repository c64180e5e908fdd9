"""Depthwise, then pointwise convolution as one GEMM whose left operand is summed on the way."""

import triton
import triton.language as tl

from ._border import read_at
from ._epilogue import finish
from ._index import at, in_range, outer, outer_and, unflatten4, unit_or, whole_vectors
from ._jit import kernel
from ._numbers import multiply_add, rounded


@triton.constexpr_function
def tap_at(position, window, stride, dilation, taps):
    """Number of the tap with which a run's window number `window` reads the run's source position
    number `position`, or -1."""
    tap, between = divmod(position - window * stride, dilation)
    return tap if between == 0 and 0 <= tap < taps else -1


@triton.constexpr_function
def is_read(position, windows, stride, dilation, taps):
    """Whether any tap of a run's windows reads its source position number `position`."""
    return any(tap_at(position, j, stride, dilation, taps) >= 0 for j in range(windows))


@kernel
def depthwise_pointwise(
    src_ptr,
    filter_ptr,
    weight_ptr,
    bias_ptr,
    residual_ptr,
    pre_ptr,
    dst_ptr,
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
    filter_base: tl.int64,
    stride_fc: tl.int64,
    stride_ft: tl.int64,
    stride_fr: tl.int64,
    stride_fs: tl.int64,
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
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    FILTER_STRIDE: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    BORDER: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    KEEP_PRE: tl.constexpr,
    ACTIVATION: tl.constexpr,
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
    RUN: tl.constexpr,
):
    """dst[n, k, o] = act(bias + residual + sum over channels m of w[k, m] * h[n, m, o])
    with h[n, m, o] = sum over taps f of src[n, m / MULTIPLIER, o*s - pad + f*d] * filter[m, f]

    h is summed in float32 and rounded to the operands' dtype, as if it had been stored; it never
    is. A tile has (BLOCK_M x RUN positions) x (columns): each of its rows is a run of RUN
    neighbours along W, whose windows overlap, so that a value is loaded once for all of them. Each
    tile of columns sums h anew.
    Grid axis 0, slowest first: tile of positions, tile of columns.
    """
    pid = tl.program_id(0).to(INDEX)
    red = whole_vectors(reduce_channels.to(INDEX), SRC_VECTOR)
    if WEIGHT_REDUCE_UNIT:
        red = whole_vectors(red, WEIGHT_VECTOR)
    cols = whole_vectors(dst_channels.to(INDEX), DST_VECTOR)
    src_size = (src_d.to(INDEX), src_h.to(INDEX), src_w.to(INDEX))
    width = dst_w.to(INDEX)
    extent = (dst_d.to(INDEX), dst_h.to(INDEX), tl.cdiv(width, RUN))
    src_channel = unit_or(stride_sc.to(INDEX), SRC_UNIT)
    weight_reduce = unit_or(stride_wm.to(INDEX), WEIGHT_REDUCE_UNIT)
    weight_dst = unit_or(stride_wn.to(INDEX), WEIGHT_DST_UNIT)
    dst_channel = unit_or(stride_dc.to(INDEX), DST_UNIT)
    # Strides of the filter's taps, as constants where the filter has no gaps.
    tap_stride = (stride_ft.to(INDEX), stride_fr.to(INDEX), stride_fs.to(INDEX))
    if FILTER_STRIDE is not None:
        tap_stride = (FILTER_STRIDE[0], FILTER_STRIDE[1], FILTER_STRIDE[2])

    tiles_n = tl.cdiv(cols, BLOCK_N)
    rows = batch.to(INDEX) * extent[0] * extent[1] * extent[2]
    offs_m = (pid // tiles_n) * BLOCK_M + tl.arange(0, BLOCK_M)
    row_ok = offs_m < rows
    n, run = unflatten4(tl.minimum(offs_m, rows - 1), extent)
    offs_n = (pid % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    col_ok = offs_n < cols
    offs_k = tl.arange(0, BLOCK_K).to(INDEX)
    src_row = n * stride_sn.to(INDEX)
    base_d = run[0] * STRIDE[0] - pad_d.to(INDEX)
    base_h = run[1] * STRIDE[1] - pad_h.to(INDEX)
    base_w = run[2] * (RUN * STRIDE[2]) - pad_w.to(INDEX)
    filter_ptr += filter_base
    weight_tile = weight_ptr + outer(
        offs_k * weight_reduce, offs_n * weight_dst, not WEIGHT_REDUCE_UNIT
    )

    # Positions from the first tap of a run's first window to the last tap of its last one.
    REACH: tl.constexpr = (RUN - 1) * STRIDE[2] + (FILTER[2] - 1) * DILATION[2] + 1
    acc = (tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32),) * RUN
    nothing = tl.zeros((BLOCK_M, BLOCK_K), dtype=tl.float32)
    if not SRC_UNIT:
        nothing = tl.trans(nothing)
    for block in range(tl.cdiv(red, BLOCK_K)):
        c = block * BLOCK_K
        offs_c = c + offs_k
        channel_ok = offs_c < red
        src_col = (offs_c // MULTIPLIER) * src_channel
        filter_col = filter_ptr + offs_c * stride_fc.to(INDEX)
        sums = (nothing,) * RUN
        for line in range(FILTER[0] * FILTER[1]):
            f_d = line // FILTER[1]
            f_h = line % FILTER[1]
            filter_line = filter_col + (f_d * tap_stride[0] + f_h * tap_stride[1])
            i_d = base_d + f_d * DILATION[0]
            i_h = base_h + f_h * DILATION[1]
            taps = ()
            for u in tl.static_range(REACH):
                if is_read(u, RUN, STRIDE[2], DILATION[2], FILTER[2]):
                    tap = (i_d, i_h, base_w + u)
                    at_d, at_h, at_w, live = read_at(tap, src_size, row_ok, BORDER)
                    if BORDER != "zeros":
                        # A run may go on beyond the last position, which has no such border.
                        live = live & in_range(at_w, src_size[2])
                    src_pos = src_row + at_d * stride_sd.to(INDEX)
                    src_pos += at_h * stride_sh.to(INDEX) + at_w * stride_sw.to(INDEX)
                    x = tl.load(
                        at(src_ptr, outer(src_pos, src_col, SRC_UNIT), SRC_VECTOR),
                        mask=outer_and(live, channel_ok, SRC_UNIT),
                        other=0.0,
                    ).to(tl.float32)
                    # The first of the run's windows is the first to need a tap.
                    if tap_at(u, 0, STRIDE[2], DILATION[2], FILTER[2]) >= 0:
                        offset = tap_at(u, 0, STRIDE[2], DILATION[2], FILTER[2]) * tap_stride[2]
                        weight = tl.load(filter_line + offset, mask=channel_ok, other=0.0)
                        taps += (weight.to(tl.float32),)
                    added = ()
                    for j in tl.static_range(RUN):
                        total = sums[j]
                        if tap_at(u, j, STRIDE[2], DILATION[2], FILTER[2]) >= 0:
                            weight = taps[tap_at(u, j, STRIDE[2], DILATION[2], FILTER[2])]
                            if SRC_UNIT:
                                total += x * weight[None, :]
                            else:
                                total += x * weight[:, None]
                        added += (total,)
                    sums = added
        b = tl.load(
            at(weight_tile, c * weight_reduce, WEIGHT_VECTOR),
            mask=outer_and(channel_ok, col_ok, not WEIGHT_REDUCE_UNIT),
            other=0.0,
        )
        if WEIGHT_REDUCE_UNIT:
            b = tl.trans(b)
        added = ()
        for j in tl.static_range(RUN):
            a = rounded(sums[j], weight_ptr.dtype.element_ty, SOFT_BF16)
            if not SRC_UNIT:
                a = tl.trans(a)
            added += (multiply_add(a, b, acc[j], PRECISION, SOFT_BF16),)
        acc = added

    for j in tl.static_range(RUN):
        w = run[2] * RUN + j
        finish(
            acc[j],
            bias_ptr,
            residual_ptr,
            pre_ptr,
            dst_ptr,
            n,
            (run[0], run[1], w),
            offs_n,
            row_ok & (w < width),
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
