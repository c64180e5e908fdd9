"""fprop and dgrad of depthwise convolution: strips of results, weights kept in registers."""

import triton
import triton.language as tl

from ._depthwise import across, load_window, zero_tile
from ._epilogue import finish
from ._index import (
    advance,
    class_extent,
    class_taps,
    classes_of,
    residues_of,
    unflatten3,
    unflatten4,
    unit_or,
    whole_vectors,
)
from ._jit import kernel


@triton.jit
def load_weights(
    ptr,
    channel,
    col_ok,
    row,
    first,
    taps,
    stride,
    COUNT_H: tl.constexpr,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
    TAP_STEP: tl.constexpr,
    ACC: tl.constexpr,
):
    """The weights of `ROWS` rows of a class's taps, from `row` on: a tuple, over the taps, of one
    weight a channel; 0 where the class has no such tap. `channel` is the offset of a channel."""
    # A channel's taps lie together in memory, a tap's channels do not: so read them as one block.
    WIDTH: tl.constexpr = triton.next_power_of_2(ROWS * COUNT)
    tap = row * COUNT + tl.arange(0, WIDTH)
    j_d, j_h, j = unflatten3(tap, COUNT_H, COUNT)
    ok = (tl.arange(0, WIDTH) < ROWS * COUNT) & (j_d < taps[0]) & (j_h < taps[1]) & (j < taps[2])
    offset = (first[0] + j_d * TAP_STEP[0]) * stride[0]
    offset += (first[1] + j_h * TAP_STEP[1]) * stride[1]
    offset += (first[2] + j * TAP_STEP[2]) * stride[2]
    block = tl.load(
        ptr + channel[:, None] + offset[None, :], mask=col_ok[:, None] & ok[None, :], other=0.0
    )
    return unstack(block.to(ACC), WIDTH)


@triton.jit
def unstack(block, WIDTH: tl.constexpr):
    """The `WIDTH` columns of a block, in order."""
    columns = (block,)
    LEVELS: tl.constexpr = WIDTH.bit_length() - 1
    for level in tl.static_range(LEVELS):
        even = ()
        odd = ()
        for i in tl.static_range(2**level):
            a, b = tl.split(tl.reshape(columns[i], (block.shape[0], WIDTH >> (level + 1), 2)))
            even += (a,)
            odd += (b,)
        columns = even + odd
    found = ()
    for i in tl.static_range(WIDTH):
        found += (tl.reshape(columns[i], (block.shape[0],)),)
    return found


@triton.jit
def add_products(
    acc,
    window,
    weights,
    has_last,
    OFFSET: tl.constexpr,
    COUNT: tl.constexpr,
    LOW: tl.constexpr,
    WALK: tl.constexpr,
    DELTA: tl.constexpr,
    RAGGED: tl.constexpr,
    ROWS_FIRST: tl.constexpr,
    STRIP: tl.constexpr,
):
    """acc[i] + sum over j < COUNT of window[i*WALK + j*DELTA - LOW] * weights[OFFSET + j].

    `RAGGED`: some classes lack the last tap along W, and then `has_last` is false.
    """
    sums = ()
    for i in tl.static_range(STRIP):
        value = acc[i]
        for j in tl.static_range(COUNT):
            w = across(weights[OFFSET + j], ROWS_FIRST)
            more = value + window[i * WALK + j * DELTA - LOW] * w
            if RAGGED and j == COUNT - 1:
                # The missing tap's weight is 0, but 0 times infinity is not.
                more = tl.where(has_last, more, value)
            value = more
        sums += (value,)
    return sums


@kernel
def depthwise_gather(
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
    steps: tl.int64,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    TAP_STEP: tl.constexpr,
    TAP_DELTA: tl.constexpr,
    DGRAD: tl.constexpr,
    MULTIPLIED: tl.constexpr,
    HELD: tl.constexpr,
    BORDER: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    KEEP_PRE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SRC_UNIT: tl.constexpr,
    SRC_VECTOR: tl.constexpr,
    DST_UNIT: tl.constexpr,
    DST_VECTOR: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    SOFT_BF16: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STRIP: tl.constexpr,
):
    """dst[n, k, p] = act(bias + residual +
    sum over taps j and channels m of src[n, g(k)*M + m, .] * w[k or g(k)*M + m, j])

    fprop: src = x, dst = y, M = 1, g(k) = k / (K/C). dgrad: src = dy, dst = dx, M = K/C, g(k) = k.
    `MULTIPLIED` says that K/C is not 1. Border modes are fprop's alone.

    A program owns a tile of channels and `steps` tiles of strips of results along W, one after
    another; rows of such a tile are neighbours along H. With HELD it loads its weights before the
    first, which needs M = 1; otherwise it loads them again, a row of taps at a time, in each.
    Grid axis 0, slowest first: residue class (d, h, w), run of tiles of strips, tile of channels.
    `ACC` is float32, or float64 for float64.
    """
    pid = tl.program_id(0).to(INDEX)
    batch = batch.to(INDEX)
    red = reduce_channels.to(INDEX)
    cols = dst_channels.to(INDEX)
    VECTOR: tl.constexpr = SRC_VECTOR if SRC_VECTOR > DST_VECTOR else DST_VECTOR
    all_cols = whole_vectors(cols * groups.to(INDEX), VECTOR)
    src_size = (src_d.to(INDEX), src_h.to(INDEX), src_w.to(INDEX))
    dst_size = (dst_d.to(INDEX), dst_h.to(INDEX), dst_w.to(INDEX))
    pad = (pad_d.to(INDEX), pad_h.to(INDEX), pad_w.to(INDEX))
    src_stride = (stride_sd.to(INDEX), stride_sh.to(INDEX), stride_sw.to(INDEX))
    tap_stride = (stride_wt, stride_wr, stride_ws)
    src_channel = unit_or(stride_sc.to(INDEX), SRC_UNIT)
    dst_channel = unit_or(stride_dc.to(INDEX), DST_UNIT)

    residues, walk = residues_of((1, 1, 1), STRIDE, DGRAD)
    classes, _ = classes_of(residues, dst_size)
    # The class of position 0 has the most positions along each axis.
    most = batch * tl.cdiv(dst_size[0], residues[0]) * tl.cdiv(dst_size[1], residues[1])
    most *= tl.cdiv(tl.cdiv(dst_size[2], residues[2]), STRIP)
    steps = steps.to(INDEX)
    runs = tl.cdiv(tl.cdiv(most, BLOCK_M), steps)
    tiles_n = tl.cdiv(all_cols, BLOCK_N)
    run = (pid // tiles_n) % runs
    _, r = unflatten4(pid // (tiles_n * runs), classes)
    extent = class_extent(r, residues, dst_size)
    base, first, taps = class_taps(r, pad, (0, 0, 0), FILTER, STRIDE, DILATION, TAP_STEP, DGRAD)
    # What is unrolled is as long as the taps of the class that has the most.
    COUNT_D: tl.constexpr = (FILTER[0] + TAP_STEP[0] - 1) // TAP_STEP[0]
    COUNT_H: tl.constexpr = (FILTER[1] + TAP_STEP[1] - 1) // TAP_STEP[1]
    COUNT: tl.constexpr = (FILTER[2] + TAP_STEP[2] - 1) // TAP_STEP[2]
    RAGGED: tl.constexpr = COUNT > 1 and FILTER[2] % TAP_STEP[2] != 0
    WALK: tl.constexpr = 1 if DGRAD else STRIDE[2]
    DELTA: tl.constexpr = TAP_DELTA[2]
    LOW: tl.constexpr = (COUNT - 1) * DELTA if DGRAD else 0
    HIGH: tl.constexpr = (STRIP - 1) * WALK + (0 if DGRAD else (COUNT - 1) * DELTA)

    offs_n = (pid % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    col_ok = offs_n < all_cols
    if MULTIPLIED:
        group = offs_n // cols
        src_col = group * red * src_channel
        weight_col = group * stride_wg + (offs_n % cols) * stride_wn
    else:
        src_col = offs_n * src_channel
        weight_col = offs_n * stride_wg
    weight_ptr += weight_base
    # A bias that is the same everywhere is the first term of each sum, read once.
    initial = zero_tile(BLOCK_M, BLOCK_N, SRC_UNIT, ACC)
    if BIAS == "tied":
        bias = tl.load(bias_ptr + offs_n * stride_bias_c.to(INDEX), mask=col_ok, other=0.0)
        initial += across(bias.to(ACC), SRC_UNIT)
    # Rows of taps that are multiplied between one load of weights and the next, and those loads.
    ROWS: tl.constexpr = COUNT_D * COUNT_H if HELD else 1
    loads = 1
    held = ()
    if HELD:
        held = load_weights(
            weight_ptr,
            weight_col,
            col_ok,
            0,
            first,
            taps,
            tap_stride,
            COUNT_H,
            COUNT,
            ROWS,
            TAP_STEP,
            ACC,
        )
    else:
        loads = tl.where(taps[2] > 0, red * taps[0] * taps[1], 0)

    # The class's strips in the order (n, q_d, strip, q_h), and this run of them.
    counts = (extent[0], tl.cdiv(extent[2], STRIP), extent[1])
    rows = batch * counts[0] * counts[1] * counts[2]
    offs_m = run * steps * BLOCK_M + tl.arange(0, BLOCK_M)
    n, t = unflatten4(tl.minimum(offs_m, rows - 1), counts)
    by_n, by = unflatten4(r[0] * 0 + BLOCK_M, counts)
    for _ in range(tl.minimum(steps, tl.cdiv(rows, BLOCK_M) - run * steps)):
        row_ok = offs_m < rows
        # Beyond the last strip: an image that is there.
        image = tl.minimum(n, batch - 1)
        q_w = t[1] * STRIP
        src_row = image * stride_sn.to(INDEX)
        at_d = base[0] + t[0] * walk[0]
        at_h = base[1] + t[2] * walk[1]
        at_w = base[2] + q_w * WALK
        acc = (initial,) * STRIP
        for step in range(loads):
            weights, channel, limit = held, src_col, rows
            if not HELD:
                m, j_d, j_h = unflatten3(step, taps[0], taps[1])
                channel = src_col + m * src_channel
                weights = load_weights(
                    weight_ptr + m * stride_wm,
                    weight_col,
                    col_ok,
                    j_d * COUNT_H + j_h,
                    first,
                    taps,
                    tap_stride,
                    COUNT_H,
                    COUNT,
                    ROWS,
                    TAP_STEP,
                    ACC,
                )
            for row in tl.static_range(ROWS):
                if HELD:
                    j_d = row // COUNT_H
                    j_h = row % COUNT_H
                    # Rows that the class does not have are read as 0, like their weights.
                    limit = tl.where((j_d < taps[0]) & (j_h < taps[1]) & (taps[2] > 0), rows, 0)
                window = load_window(
                    src_ptr,
                    src_row,
                    (at_d + j_d * TAP_DELTA[0], at_h + j_h * TAP_DELTA[1], at_w),
                    offs_m < limit,
                    channel,
                    col_ok,
                    src_size,
                    src_stride,
                    LOW,
                    HIGH,
                    BORDER,
                    SRC_UNIT,
                    SRC_VECTOR,
                    ACC,
                )
                acc = add_products(
                    acc,
                    window,
                    weights,
                    taps[2] == COUNT,
                    row * COUNT,
                    COUNT,
                    LOW,
                    WALK,
                    DELTA,
                    RAGGED,
                    SRC_UNIT,
                    STRIP,
                )
        for i in tl.static_range(STRIP):
            total = acc[i]
            if not SRC_UNIT:
                total = tl.trans(total)
            position = (
                r[0] + t[0] * residues[0],
                r[1] + t[2] * residues[1],
                r[2] + (q_w + i) * residues[2],
            )
            finish(
                total,
                bias_ptr,
                residual_ptr,
                pre_ptr,
                dst_ptr,
                image,
                position,
                offs_n,
                row_ok & (q_w + i < extent[2]),
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
                "untied" if BIAS == "untied" else "none",
                RESIDUAL,
                KEEP_PRE,
                ACTIVATION,
                DST_UNIT,
                DST_VECTOR,
                SOFT_BF16,
            )
        offs_m += BLOCK_M
        n, t = advance(n, t, by_n, by, counts)
