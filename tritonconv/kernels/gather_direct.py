"""fprop and dgrad by plain multiply-adds: float64, few channels, depthwise."""

import triton.language as tl

from ._border import image_total, image_walk, read_at
from ._direct import add_channels
from ._epilogue import finish
from ._index import (
    class_extent,
    class_taps,
    classes_of,
    in_range,
    residues_of,
    unflatten3,
    unflatten4,
    unit_or,
)
from ._jit import kernel


@kernel
def gather_direct(
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
    GROUPED: tl.constexpr,
    BORDER: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    KEEP_PRE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SRC_UNIT: tl.constexpr,
    DST_UNIT: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    SOFT_BF16: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """dst[n, k, p] = act(bias + residual +
    sum over taps j and channels m of src[n, g(k), m, .] * w[bank, k, m, .])

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
    pad = (pad_d.to(INDEX), pad_h.to(INDEX), pad_w.to(INDEX))
    src_channel = unit_or(stride_sc.to(INDEX), SRC_UNIT)
    dst_channel = unit_or(stride_dc.to(INDEX), DST_UNIT)
    residues, step = residues_of(period, STRIDE, DGRAD)
    classes, most = classes_of(residues, dst_size)
    tiles_m = tl.cdiv(batch * most, BLOCK_M)
    tiles_n = tl.cdiv(all_cols, BLOCK_N)
    pid_n = pid % tiles_n
    pid_m = (pid // tiles_n) % tiles_m
    _, r = unflatten4(pid // (tiles_n * tiles_m), classes)

    extent = class_extent(r, residues, dst_size)
    rows = batch * extent[0] * extent[1] * extent[2]
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    row_ok = offs_m < rows
    n, q = unflatten4(tl.minimum(offs_m, rows - 1), extent)
    position = (r[0] + q[0] * residues[0], r[1] + q[1] * residues[1], r[2] + q[2] * residues[2])

    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    col_ok = offs_n < all_cols
    group = offs_n // cols
    src_row = n * stride_sn.to(INDEX)
    src_col = group * red * src_channel
    weight_col = group * stride_wg.to(INDEX) + (offs_n % cols) * stride_wn.to(INDEX)

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=ACC)
    if not SRC_UNIT:
        acc = tl.trans(acc)
    # A position is read as itself and, where dgrad has a border that folds, as its images.
    IMAGES: tl.constexpr = DGRAD and BORDER != "zeros"
    images = 1
    if IMAGES:
        images = image_total(pad, dst_size, src_size, FILTER, STRIDE, DILATION, BORDER)
    for image in range(images):
        live, anchor, walk = row_ok, r, step
        lift = (0, 0, 0)
        if IMAGES:
            live, anchor, walk = image_walk(
                pad[0] * 0 + image,
                r,
                step,
                position,
                row_ok,
                pad,
                dst_size,
                src_size,
                FILTER,
                STRIDE,
                DILATION,
                BORDER,
            )
            lift = dst_size
        base, first, taps = class_taps(anchor, pad, lift, FILTER, STRIDE, DILATION, TAP_STEP, DGRAD)
        src_0 = base[0] + q[0] * walk[0]
        src_1 = base[1] + q[1] * walk[1]
        src_2 = base[2] + q[2] * walk[2]
        # Two loops, not four: the taps in one, the channels in the other.
        for j in range(taps[0] * taps[1] * taps[2]):
            j_d, j_h, j_w = unflatten3(j, taps[1], taps[2])
            i_0 = src_0 + j_d * TAP_DELTA[0]
            i_1 = src_1 + j_h * TAP_DELTA[1]
            i_2 = src_2 + j_w * TAP_DELTA[2]
            if DGRAD:
                inside = in_range(i_1, src_size[1]) & in_range(i_2, src_size[2])
                valid = live & in_range(i_0, src_size[0]) & inside
                # The output's bank; one period is added because the window may begin before 0.
                bank_d = (base[0] + j_d * TAP_DELTA[0]) % period[0]
                bank_h = (base[1] + j_h * TAP_DELTA[1]) % period[1]
                bank_w = (base[2] + j_w * TAP_DELTA[2]) % period[2]
                bank_d = (bank_d + period[0]) % period[0]
                bank_h = (bank_h + period[1]) % period[1]
                bank_w = (bank_w + period[2]) % period[2]
            else:
                i_0, i_1, i_2, valid = read_at((i_0, i_1, i_2), src_size, live, BORDER)
                bank_d, bank_h, bank_w = r[0], r[1], r[2]
            src_pos = src_row + i_0 * stride_sd.to(INDEX)
            src_pos += i_1 * stride_sh.to(INDEX) + i_2 * stride_sw.to(INDEX)
            tap_ptr = weight_ptr + weight_base
            tap_ptr += bank_d * stride_bank_d + bank_h * stride_bank_h + bank_w * stride_bank_w
            tap_ptr += (first[0] + j_d * TAP_STEP[0]) * stride_wt
            tap_ptr += (first[1] + j_h * TAP_STEP[1]) * stride_wr
            tap_ptr += (first[2] + j_w * TAP_STEP[2]) * stride_ws
            acc = add_channels(
                acc,
                src_ptr,
                tap_ptr,
                src_pos,
                src_col,
                weight_col,
                valid,
                col_ok,
                red,
                src_channel,
                stride_wm.to(INDEX),
                GROUPED,
                SRC_UNIT,
                1,
            )

    if not SRC_UNIT:
        acc = tl.trans(acc)
    finish(
        acc,
        bias_ptr,
        residual_ptr,
        pre_ptr,
        dst_ptr,
        n,
        position,
        offs_n,
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
        1,
        SOFT_BF16,
    )
