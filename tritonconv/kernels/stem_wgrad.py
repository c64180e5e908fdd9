"""wgrad of few input channels: taps and channels share an axis of the GEMM; two-pass split-K."""

import triton.language as tl

from ._index import outer, outer_and, split_range, tile_order, unflatten4, unit_or, whole_vectors
from ._jit import kernel
from ._numbers import multiply_add, rounded
from ._patches import dot3, lane_word, load_patches, split_line, window_word
from ._rows import at_run, inside, next_rows, tile_rows


@kernel
def stem_wgrad(
    grad_ptr,
    src_ptr,
    dst_ptr,
    batch: tl.int64,
    grad_channels: tl.int64,
    grad_d: tl.int64,
    grad_h: tl.int64,
    grad_w: tl.int64,
    src_d: tl.int64,
    src_h: tl.int64,
    src_w: tl.int64,
    pad_d: tl.int64,
    pad_h: tl.int64,
    pad_w: tl.int64,
    groups: tl.int64,
    splits: tl.int64,
    stride_gn: tl.int64,
    stride_gc: tl.int64,
    stride_gd: tl.int64,
    stride_gh: tl.int64,
    stride_gw: tl.int64,
    stride_sn: tl.int64,
    stride_sc: tl.int64,
    stride_sd: tl.int64,
    stride_sh: tl.int64,
    stride_sw: tl.int64,
    weight_base: tl.int64,
    stride_wg: tl.int64,
    stride_wk: tl.int64,
    stride_wc: tl.int64,
    stride_wt: tl.int64,
    stride_wr: tl.int64,
    stride_ws: tl.int64,
    stride_split: tl.int64,
    CHANNELS: tl.constexpr,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    MASK: tl.constexpr,
    BORDER: tl.constexpr,
    GRAD_UNIT: tl.constexpr,
    GRAD_VECTOR: tl.constexpr,
    CHANNELS_FAST: tl.constexpr,
    SRC_VECTOR: tl.constexpr,
    INDEX: tl.constexpr,
    PRECISION: tl.constexpr,
    SOFT_BF16: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """dw[g, k, c, f] = sum over n, o of dy[n, g, k, o] * x[n, g, c, o*s - p + f*d]

    Grid axis 0, slowest first: split, group, tile of (K/g x lanes), a lane a channel and tap
    (`_patches.py`). Each split sums its own range of positions into its own slice of dst; with
    one split dst is dw itself, otherwise a float32 workspace that `sum_splits` adds up.
    """
    pid = tl.program_id(0).to(INDEX)
    LANES: tl.constexpr = CHANNELS * FILTER[0] * FILTER[1] * FILTER[2]
    TILES_N: tl.constexpr = (LANES + BLOCK_N - 1) // BLOCK_N
    # Vectors of dy run along its channels or, where a whole image is dense, along its positions.
    ROW_VECTOR: tl.constexpr = 1 if GRAD_UNIT else GRAD_VECTOR
    CHANNEL_VECTOR: tl.constexpr = GRAD_VECTOR if GRAD_UNIT else 1
    channels = whole_vectors(grad_channels.to(INDEX), CHANNEL_VECTOR)
    grad_size = (grad_d.to(INDEX), grad_h.to(INDEX), grad_w.to(INDEX))
    grad_stride = (stride_gd.to(INDEX), stride_gh.to(INDEX), stride_gw.to(INDEX))
    src_size = (src_d.to(INDEX), src_h.to(INDEX), src_w.to(INDEX))
    src_stride = (stride_sd.to(INDEX), stride_sh.to(INDEX), stride_sw.to(INDEX))
    tap_stride = (stride_wt.to(INDEX), stride_wr.to(INDEX), stride_ws.to(INDEX))
    src_channel = unit_or(stride_sc.to(INDEX), CHANNELS_FAST)
    rows = batch.to(INDEX) * grad_size[0] * grad_size[1] * grad_size[2]
    rows = whole_vectors(rows, ROW_VECTOR)

    tiles_m = tl.cdiv(channels, BLOCK_M)
    pid_m, pid_n = tile_order(pid % (tiles_m * TILES_N), tiles_m, TILES_N, GROUP_M)
    rest = pid // (tiles_m * TILES_N)
    group = rest % groups.to(INDEX)
    split = rest // groups.to(INDEX)
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    flat = (pid_n * BLOCK_N).to(tl.int32) + tl.arange(0, BLOCK_N)
    lane_ok = flat < LANES
    grad_col = group * channels + inside(offs_m, channels, CHANNEL_VECTOR)
    grad_col *= unit_or(stride_gc.to(INDEX), GRAD_UNIT)
    line, within = flat // (CHANNELS * FILTER[2]), flat % (CHANNELS * FILTER[2])
    channel, tap_w = split_line(within, FILTER[2], CHANNELS, CHANNELS_FAST)
    channel = channel.to(INDEX)
    tap = ((line // FILTER[1]).to(INDEX), (line % FILTER[1]).to(INDEX), tap_w.to(INDEX))
    reach = (tap[0] * DILATION[0], tap[1] * DILATION[1], tap[2] * DILATION[2])
    lane_live = lane_ok
    if MASK == "bits":
        lane_live = lane_word(lane_ok, tap, FILTER)
    src_ptr += group * CHANNELS * src_channel

    start, stop = split_range(split, splits.to(INDEX), rows, BLOCK_K)
    offs_k = start + tl.arange(0, BLOCK_K)
    n, q = tile_rows(start, batch.to(INDEX), grad_size, 4, 1, BLOCK_K)
    by_n, by = unflatten4(start * 0 + BLOCK_K, grad_size)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for _ in range(tl.cdiv(stop - start, BLOCK_K)):
        live = offs_k < stop
        grad_row = n * stride_gn.to(INDEX) + dot3(q, grad_stride)
        a = tl.load(
            at_run(grad_ptr, outer(grad_row, grad_col, GRAD_UNIT), GRAD_VECTOR),
            mask=live[:, None] if GRAD_UNIT else live[None, :],
            other=0.0,
        )
        anchor = (
            q[0] * STRIDE[0] - pad_d.to(INDEX),
            q[1] * STRIDE[1] - pad_h.to(INDEX),
            q[2] * STRIDE[2] - pad_w.to(INDEX),
        )
        row_live = live
        if MASK == "bits":
            row_live = window_word(live, anchor, src_size, FILTER, DILATION)
        b = load_patches(
            src_ptr,
            n * stride_sn.to(INDEX),
            anchor,
            row_live,
            channel * src_channel,
            reach,
            lane_live,
            (start * 0, start * 0, start * 0),
            src_size,
            src_stride,
            MASK,
            BORDER,
            SRC_VECTOR,
        )
        if GRAD_UNIT:
            a = tl.trans(a)
        if SRC_VECTOR == 1:
            b = tl.trans(b)
        acc = multiply_add(a, b, acc, PRECISION, SOFT_BF16)
        offs_k += BLOCK_K
        n, q = next_rows(n, q, by_n, by, grad_size, 4)

    weight_lane = channel * stride_wc.to(INDEX) + dot3(tap, tap_stride)
    dst_ptr += split * stride_split + weight_base + group * stride_wg
    tl.store(
        at_run(dst_ptr, outer(offs_m * stride_wk.to(INDEX), weight_lane, True), 1),
        rounded(acc, dst_ptr.dtype.element_ty, SOFT_BF16),
        mask=outer_and(offs_m < channels, lane_ok, True),
    )
