"""fprop and dgrad by plain multiply-adds: float64, few channels, depthwise."""

import triton.language as tl

from ._index import axis_taps, in_range, outer, outer_and, unflatten3, unit_or
from ._jit import kernel
from ._numbers import rounded


@kernel
def gather_direct(
    src_ptr,
    weight_ptr,
    bias_ptr,
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
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    TAP_STEP: tl.constexpr,
    TAP_DELTA: tl.constexpr,
    DGRAD: tl.constexpr,
    GROUPED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SRC_UNIT: tl.constexpr,
    DST_UNIT: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    SOFT_BF16: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """dst[n, k, p] = sum over taps j and channels m of src[n, g(k), m, .] * w[bank, k, m, .].

    A tile is (positions x channels of every group), so that depthwise convolution reads and
    writes whole channel rows; with one group the source column is read once and broadcast.
    Grid axis 0, slowest first: residue class (d, h, w), tile of positions, tile of channels.
    `ACC` is float32, or float64 for float64.
    """
    pid = tl.program_id(0).to(INDEX)
    batch = batch.to(INDEX)
    red = reduce_channels.to(INDEX)
    cols = dst_channels.to(INDEX)
    all_cols = cols * groups.to(INDEX)
    src_size = (src_d.to(INDEX), src_h.to(INDEX), src_w.to(INDEX))
    dst_size = (dst_d.to(INDEX), dst_h.to(INDEX), dst_w.to(INDEX))
    period = (period_d.to(INDEX), period_h.to(INDEX), period_w.to(INDEX))
    src_channel = unit_or(stride_sc.to(INDEX), SRC_UNIT)
    dst_channel = unit_or(stride_dc.to(INDEX), DST_UNIT)
    if DGRAD:
        res_d, res_h, res_w = period[0] * STRIDE[0], period[1] * STRIDE[1], period[2] * STRIDE[2]
        step_d, step_h, step_w = period[0], period[1], period[2]
    else:
        res_d, res_h, res_w = period[0], period[1], period[2]
        step_d, step_h, step_w = period[0] * STRIDE[0], period[1] * STRIDE[1], period[2] * STRIDE[2]
    most = tl.cdiv(dst_size[0], res_d) * tl.cdiv(dst_size[1], res_h) * tl.cdiv(dst_size[2], res_w)
    tiles_m = tl.cdiv(batch * most, BLOCK_M)
    tiles_n = tl.cdiv(all_cols, BLOCK_N)
    pid_n = pid % tiles_n
    pid_m = (pid // tiles_n) % tiles_m
    classes_h = tl.minimum(res_h, dst_size[1])
    classes_w = tl.minimum(res_w, dst_size[2])
    r_d, r_h, r_w = unflatten3(pid // (tiles_n * tiles_m), classes_h, classes_w)
    base_d, first_d, taps_d = axis_taps(
        r_d, pad_d.to(INDEX), FILTER[0], STRIDE[0], DILATION[0], TAP_STEP[0], DGRAD
    )
    base_h, first_h, taps_h = axis_taps(
        r_h, pad_h.to(INDEX), FILTER[1], STRIDE[1], DILATION[1], TAP_STEP[1], DGRAD
    )
    base_w, first_w, taps_w = axis_taps(
        r_w, pad_w.to(INDEX), FILTER[2], STRIDE[2], DILATION[2], TAP_STEP[2], DGRAD
    )

    size_h = tl.cdiv(dst_size[1] - r_h, res_h)
    size_w = tl.cdiv(dst_size[2] - r_w, res_w)
    positions = tl.cdiv(dst_size[0] - r_d, res_d) * size_h * size_w
    rows = batch * positions
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    row_ok = offs_m < rows
    offs_m = tl.minimum(offs_m, rows - 1)
    n = offs_m // positions
    q_d, q_h, q_w = unflatten3(offs_m % positions, size_h, size_w)
    src_0 = base_d + q_d * step_d
    src_1 = base_h + q_h * step_h
    src_2 = base_w + q_w * step_w

    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    col_ok = offs_n < all_cols
    group = offs_n // cols
    src_row = n * stride_sn.to(INDEX)
    src_col = group * red * src_channel
    weight_col = group * stride_wg.to(INDEX) + (offs_n % cols) * stride_wn.to(INDEX)

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=ACC)
    if not SRC_UNIT:
        acc = tl.trans(acc)
    # Two loops, not four: the taps in one, the channels in the other.
    for j in range(taps_d * taps_h * taps_w):
        j_d, j_h, j_w = unflatten3(j, taps_h, taps_w)
        i_0 = src_0 + j_d * TAP_DELTA[0]
        i_1 = src_1 + j_h * TAP_DELTA[1]
        i_2 = src_2 + j_w * TAP_DELTA[2]
        valid = row_ok & in_range(i_0, src_size[0])
        valid = valid & in_range(i_1, src_size[1]) & in_range(i_2, src_size[2])
        src_pos = src_row + i_0 * stride_sd.to(INDEX)
        src_pos += i_1 * stride_sh.to(INDEX) + i_2 * stride_sw.to(INDEX)
        if DGRAD:
            # The output's bank; one period is added because the window may begin before 0.
            bank_d = (base_d + j_d * TAP_DELTA[0]) % period[0]
            bank_h = (base_h + j_h * TAP_DELTA[1]) % period[1]
            bank_w = (base_w + j_w * TAP_DELTA[2]) % period[2]
            bank_d = (bank_d + period[0]) % period[0]
            bank_h = (bank_h + period[1]) % period[1]
            bank_w = (bank_w + period[2]) % period[2]
        else:
            bank_d, bank_h, bank_w = r_d, r_h, r_w
        tap_ptr = weight_ptr + weight_base
        tap_ptr += bank_d * stride_bank_d + bank_h * stride_bank_h + bank_w * stride_bank_w
        tap_ptr += (first_d + j_d * TAP_STEP[0]) * stride_wt
        tap_ptr += (first_h + j_h * TAP_STEP[1]) * stride_wr
        tap_ptr += (first_w + j_w * TAP_STEP[2]) * stride_ws
        for m in range(red):
            w = tl.load(tap_ptr + weight_col + m * stride_wm.to(INDEX), mask=col_ok, other=0.0)
            if GROUPED:
                x = tl.load(
                    src_ptr + outer(src_pos, src_col + m * src_channel, SRC_UNIT),
                    mask=outer_and(valid, col_ok, SRC_UNIT),
                    other=0.0,
                )
                acc += x.to(ACC) * outer(src_pos * 0, w.to(ACC), SRC_UNIT)
            else:
                x = tl.load(src_ptr + src_pos + m * src_channel, mask=valid, other=0.0)
                if SRC_UNIT:
                    acc += x.to(ACC)[:, None] * w.to(ACC)[None, :]
                else:
                    acc += w.to(ACC)[:, None] * x.to(ACC)[None, :]

    if not SRC_UNIT:
        acc = tl.trans(acc)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + offs_n, mask=col_ok, other=0.0)
        acc += bias[None, :].to(ACC)
    dst_row = n * stride_dn.to(INDEX)
    dst_row += (r_d + q_d * res_d) * stride_dd.to(INDEX)
    dst_row += (r_h + q_h * res_h) * stride_dh.to(INDEX)
    dst_row += (r_w + q_w * res_w) * stride_dw.to(INDEX)
    if not DST_UNIT:
        acc = tl.trans(acc)
    tl.store(
        dst_ptr + outer(dst_row, offs_n * dst_channel, DST_UNIT),
        rounded(acc, dst_ptr.dtype.element_ty, SOFT_BF16),
        mask=outer_and(row_ok, col_ok, DST_UNIT),
    )
