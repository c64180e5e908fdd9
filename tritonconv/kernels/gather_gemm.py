"""fprop and dgrad as one implicit GEMM over residue classes, on tensor cores."""

import triton.language as tl

from ._border import fold, image_total, image_walk
from ._epilogue import finish
from ._index import (
    at,
    class_extent,
    class_taps,
    classes_of,
    in_range,
    outer,
    outer_and,
    residues_of,
    split_range,
    tile_order,
    unflatten3,
    unflatten4,
    unit_or,
    whole_vectors,
    window_bits,
)
from ._jit import kernel
from ._numbers import multiply_add


@kernel
def gather_gemm(
    src_ptr,
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
    splits: tl.int64,
    stride_split: tl.int64,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    TAP_STEP: tl.constexpr,
    TAP_DELTA: tl.constexpr,
    DGRAD: tl.constexpr,
    TILED: tl.constexpr,
    SPLIT: tl.constexpr,
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
    GROUP_M: tl.constexpr,
):
    """dst[n, g, col, p] = act(bias + residual +
    sum over taps j and channels m of src[n, g, m, .] * w[bank, g, m, col, .])

    fprop: src = x, dst = y, m = C/g, col = K/g. dgrad: src = dy, dst = dx, m = K/g, col = C/g.
    Grid axis 0, slowest first: split, group, residue class (d, h, w), tile of (positions x
    columns). With SPLIT each split sums its own share of the steps into its own slice of dst, a
    float32 workspace that `finish_splits` adds up in a fixed order.
    `INDEX` is int32, or int64 where an offset can pass 2^31.
    """
    pid = tl.program_id(0).to(INDEX)
    if SPLIT:
        programs = tl.num_programs(0).to(INDEX) // splits.to(INDEX)
        split = pid // programs
        pid = pid % programs
        dst_ptr += split.to(tl.int64) * stride_split
    batch = batch.to(INDEX)
    red = whole_vectors(reduce_channels.to(INDEX), SRC_VECTOR)
    cols = whole_vectors(dst_channels.to(INDEX), DST_VECTOR)
    src_size = (src_d.to(INDEX), src_h.to(INDEX), src_w.to(INDEX))
    dst_size = (dst_d.to(INDEX), dst_h.to(INDEX), dst_w.to(INDEX))
    period = (period_d.to(INDEX), period_h.to(INDEX), period_w.to(INDEX))
    pad = (pad_d.to(INDEX), pad_h.to(INDEX), pad_w.to(INDEX))
    src_stride = (stride_sd.to(INDEX), stride_sh.to(INDEX), stride_sw.to(INDEX))
    tap_stride = (stride_wt.to(INDEX), stride_wr.to(INDEX), stride_ws.to(INDEX))
    src_channel = unit_or(stride_sc.to(INDEX), SRC_UNIT)
    weight_reduce = unit_or(stride_wm.to(INDEX), WEIGHT_REDUCE_UNIT)
    weight_dst = unit_or(stride_wn.to(INDEX), WEIGHT_DST_UNIT)
    dst_channel = unit_or(stride_dc.to(INDEX), DST_UNIT)

    residues, step = residues_of(period, STRIDE, DGRAD)
    classes, most = classes_of(residues, dst_size)
    tiles_m = tl.cdiv(batch * most, BLOCK_M)
    tiles_n = tl.cdiv(cols, BLOCK_N)
    pid_m, pid_n = tile_order(pid % (tiles_m * tiles_n), tiles_m, tiles_n, GROUP_M)
    rest = pid // (tiles_m * tiles_n)
    group, r = unflatten4(rest, classes)

    # This class's positions, in the order (n, q_d, q_h, q_w).
    extent = class_extent(r, residues, dst_size)
    rows = batch * extent[0] * extent[1] * extent[2]
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    row_ok = offs_m < rows
    n, q = unflatten4(tl.minimum(offs_m, rows - 1), extent)
    position = (r[0] + q[0] * residues[0], r[1] + q[1] * residues[1], r[2] + q[2] * residues[2])

    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K).to(INDEX)
    weight_ptr += weight_base + group * stride_wg
    if not DGRAD:
        weight_ptr += r[0] * stride_bank_d + r[1] * stride_bank_h + r[2] * stride_bank_w
    col_ok = offs_n < cols
    weight_tile = weight_ptr + outer(
        offs_k * weight_reduce, offs_n * weight_dst, not WEIGHT_REDUCE_UNIT
    )

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    # A position is read as itself and, where dgrad has a border that folds, as its images.
    IMAGES: tl.constexpr = DGRAD and BORDER != "zeros"
    FOLDED: tl.constexpr = not DGRAD and BORDER != "zeros"
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
        # Which taps of a row fall inside the source, one bit each: decided once, not every step.
        BITS: tl.constexpr = FILTER[0] * FILTER[1] * FILTER[2] <= 32 and not FOLDED
        if BITS:
            bits = live.to(tl.int32)
            bits = window_bits(bits, src_2, src_size[2], FILTER[2], TAP_DELTA[2], 1)
            bits = window_bits(bits, src_1, src_size[1], FILTER[1], TAP_DELTA[1], FILTER[2])
            bits = window_bits(
                bits, src_0, src_size[0], FILTER[0], TAP_DELTA[0], FILTER[1] * FILTER[2]
            )
        src_row = n * stride_sn.to(INDEX) + group * red * src_channel
        if not FOLDED:
            src_row += src_0 * src_stride[0] + src_1 * src_stride[1] + src_2 * src_stride[2]
            src_tile = src_ptr + outer(src_row, offs_k * src_channel, SRC_UNIT)
        # The flat loop's counters: dividing its index would cost more than the loads.
        j_d = base[0] * 0
        j_h = base[1] * 0
        j_w = base[2] * 0
        c = base[2] * 0
        deep = tl.cdiv(red, BLOCK_K)
        steps = taps[0] * taps[1] * taps[2] * deep
        if SPLIT:
            start, stop = split_range(split, splits.to(INDEX), steps, 1)
            steps = stop - start
            c = (start % deep) * BLOCK_K
            # A class that no tap reaches has no steps; its counters must not divide by 0.
            j_d, j_h, j_w = unflatten3(
                start // deep, tl.maximum(taps[1], 1), tl.maximum(taps[2], 1)
            )
        if IMAGES:
            # Most tiles lie away from the border and have no row with this image.
            steps = tl.where(tl.max(live.to(tl.int32), axis=0) > 0, steps, 0)
        else:
            steps = tl.where(pid_m * BLOCK_M < rows, steps, 0)
        for _ in range(steps):
            src_off = c * src_channel
            tap_off = c * weight_reduce
            if FOLDED:
                at_0 = fold(src_0 + j_d * TAP_DELTA[0], src_size[0], BORDER)
                at_1 = fold(src_1 + j_h * TAP_DELTA[1], src_size[1], BORDER)
                at_2 = fold(src_2 + j_w * TAP_DELTA[2], src_size[2], BORDER)
                row = src_row + at_0 * src_stride[0] + at_1 * src_stride[1] + at_2 * src_stride[2]
                src_tile = src_ptr + outer(row, offs_k * src_channel, SRC_UNIT)
                valid = live
            else:
                src_off += j_d * TAP_DELTA[0] * src_stride[0]
                src_off += j_h * TAP_DELTA[1] * src_stride[1]
                src_off += j_w * TAP_DELTA[2] * src_stride[2]
                if BITS:
                    j = (j_d * FILTER[1] + j_h) * FILTER[2] + j_w
                    valid = ((bits >> j.to(tl.int32)) & 1) != 0
                else:
                    valid = live & in_range(src_0 + j_d * TAP_DELTA[0], src_size[0])
                    valid = valid & in_range(src_1 + j_h * TAP_DELTA[1], src_size[1])
                    valid = valid & in_range(src_2 + j_w * TAP_DELTA[2], src_size[2])
            tap_off += (first[0] + j_d * TAP_STEP[0]) * tap_stride[0]
            tap_off += (first[1] + j_h * TAP_STEP[1]) * tap_stride[1]
            tap_off += (first[2] + j_w * TAP_STEP[2]) * tap_stride[2]
            if DGRAD and TILED:
                # The bank of the output that this tap came from: constant in the class, not in j.
                bank_d = (base[0] + j_d * TAP_DELTA[0]) % period[0]
                bank_h = (base[1] + j_h * TAP_DELTA[1]) % period[1]
                bank_w = (base[2] + j_w * TAP_DELTA[2]) % period[2]
                tap_off += ((bank_d + period[0]) % period[0]) * stride_bank_d.to(INDEX)
                tap_off += ((bank_h + period[1]) % period[1]) * stride_bank_h.to(INDEX)
                tap_off += ((bank_w + period[2]) % period[2]) * stride_bank_w.to(INDEX)
            channel_ok = c + offs_k < red
            a = tl.load(
                at(src_tile, src_off, SRC_VECTOR),
                mask=outer_and(valid, channel_ok, SRC_UNIT),
                other=0.0,
            )
            b = tl.load(
                at(weight_tile, tap_off, WEIGHT_VECTOR),
                mask=outer_and(channel_ok, col_ok, not WEIGHT_REDUCE_UNIT),
                other=0.0,
            )
            if not SRC_UNIT:
                a = tl.trans(a)
            if WEIGHT_REDUCE_UNIT:
                b = tl.trans(b)
            acc = multiply_add(a, b, acc, PRECISION, SOFT_BF16)
            c += BLOCK_K
            wrap = c >= red
            c = tl.where(wrap, 0, c)
            j_w += wrap.to(INDEX)
            wrap = j_w == taps[2]
            j_w = tl.where(wrap, 0, j_w)
            j_h += wrap.to(INDEX)
            wrap = j_h == taps[1]
            j_h = tl.where(wrap, 0, j_h)
            j_d += wrap.to(INDEX)

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
