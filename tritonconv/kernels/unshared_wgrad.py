"""wgrad where every position has weights of its own: the outer product of dy and a patch of x."""

import triton.language as tl

from ._border import read_at
from ._index import (
    at,
    class_extent,
    outer,
    outer_and,
    unflatten3,
    unit_or,
    whole_vectors,
)
from ._jit import kernel
from ._numbers import multiply_add, rounded


@kernel
def unshared_wgrad(
    grad_ptr,
    src_ptr,
    dst_ptr,
    batch: tl.int64,
    grad_channels: tl.int64,
    src_channels: tl.int64,
    grad_d: tl.int64,
    grad_h: tl.int64,
    grad_w: tl.int64,
    src_d: tl.int64,
    src_h: tl.int64,
    src_w: tl.int64,
    pad_d: tl.int64,
    pad_h: tl.int64,
    pad_w: tl.int64,
    period_d: tl.int64,
    period_h: tl.int64,
    period_w: tl.int64,
    groups: tl.int64,
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
    stride_bank_d: tl.int64,
    stride_bank_h: tl.int64,
    stride_bank_w: tl.int64,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    BORDER: tl.constexpr,
    GRAD_UNIT: tl.constexpr,
    SRC_UNIT: tl.constexpr,
    SRC_VECTOR: tl.constexpr,
    CHANNEL_FAST: tl.constexpr,
    WEIGHT_FLAT: tl.constexpr,
    WEIGHT_VECTOR: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    SOFT_BF16: tl.constexpr,
    DOT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """dw[bank, g, k, c, f] = sum over n, o of dy[n, g, k, o] * x[n, g, c, o*s - p + f*d]

    o runs over the positions of the bank, of which an unshared convolution has one.

    The columns of a tile are one flat list of (c, f), `CHANNEL_FAST` with c fastest, so that a
    bank that lies in memory in that order (`WEIGHT_FLAT`) is written as it lies.
    With DOT images are summed `BLOCK_K` at a time on matrix units, else one after the other.
    Grid axis 0, slowest first: bank (d, h, w), group, tile of K/g, tile of columns.
    """
    pid = tl.program_id(0).to(INDEX)
    batch = batch.to(INDEX)
    rows = grad_channels.to(INDEX)
    cols = whole_vectors(src_channels.to(INDEX), SRC_VECTOR)
    grad_size = (grad_d.to(INDEX), grad_h.to(INDEX), grad_w.to(INDEX))
    src_size = (src_d.to(INDEX), src_h.to(INDEX), src_w.to(INDEX))
    period = (period_d.to(INDEX), period_h.to(INDEX), period_w.to(INDEX))
    grad_channel = unit_or(stride_gc.to(INDEX), GRAD_UNIT)
    src_channel = unit_or(stride_sc.to(INDEX), SRC_UNIT)
    TAPS: tl.constexpr = FILTER[0] * FILTER[1] * FILTER[2]
    total = whole_vectors(cols * TAPS, WEIGHT_VECTOR)

    tiles_m = tl.cdiv(rows, BLOCK_M)
    tiles_n = tl.cdiv(total, BLOCK_N)
    pid_n = pid % tiles_n
    rest = pid // tiles_n
    pid_m = rest % tiles_m
    rest = rest // tiles_m
    group = rest % groups.to(INDEX)
    r = unflatten3(rest // groups.to(INDEX), period[1], period[2])

    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    row_ok = offs_m < rows
    col_ok = offs_n < total
    column = tl.minimum(offs_n, total - 1)
    if CHANNEL_FAST:
        c, f = column % cols, column // cols
    else:
        c, f = column // TAPS, column % TAPS
    f_d, f_h, f_w = unflatten3(f, FILTER[1], FILTER[2])
    grad_row = (group * rows + offs_m) * grad_channel
    src_col = (group * cols + c) * src_channel
    base_0 = r[0] * STRIDE[0] - pad_d.to(INDEX) + f_d * DILATION[0]
    base_1 = r[1] * STRIDE[1] - pad_h.to(INDEX) + f_h * DILATION[1]
    base_2 = r[2] * STRIDE[2] - pad_w.to(INDEX) + f_w * DILATION[2]
    step_0, step_1, step_2 = period[0] * STRIDE[0], period[1] * STRIDE[1], period[2] * STRIDE[2]

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=ACC)
    extent = class_extent(r, period, grad_size)
    for index in range(extent[0] * extent[1] * extent[2]):
        q = unflatten3(index, extent[1], extent[2])
        src = (base_0 + q[0] * step_0, base_1 + q[1] * step_1, base_2 + q[2] * step_2)
        src_0, src_1, src_2, valid = read_at(src, src_size, col_ok, BORDER)
        src_off = src_col + src_0 * stride_sd.to(INDEX)
        src_off += src_1 * stride_sh.to(INDEX) + src_2 * stride_sw.to(INDEX)
        grad_off = grad_row + (r[0] + q[0] * period[0]) * stride_gd.to(INDEX)
        grad_off += (r[1] + q[1] * period[1]) * stride_gh.to(INDEX)
        grad_off += (r[2] + q[2] * period[2]) * stride_gw.to(INDEX)
        if DOT:
            for step in range(tl.cdiv(batch, BLOCK_K)):
                n = step * BLOCK_K + tl.arange(0, BLOCK_K).to(INDEX)
                live = n < batch
                a = tl.load(
                    grad_ptr + outer(n * stride_gn.to(INDEX), grad_off, GRAD_UNIT),
                    mask=outer_and(live, row_ok, GRAD_UNIT),
                    other=0.0,
                )
                b_ptr = src_ptr + ((n * stride_sn.to(INDEX))[:, None] + src_off[None, :])
                b_ok = live[:, None] & valid[None, :]
                if SRC_VECTOR > 1:
                    # As in `unshared_gather`: a vector of channels belongs to one tap.
                    b_ptr = tl.max_contiguous(tl.multiple_of(b_ptr, (16, 16)), (1, SRC_VECTOR))
                    b_ok = tl.max_constancy(b_ok, (1, SRC_VECTOR))
                b = tl.load(b_ptr, mask=b_ok, other=0.0)
                if GRAD_UNIT:
                    a = tl.trans(a)
                acc = multiply_add(a, b, acc, PRECISION, SOFT_BF16)
        else:
            for n in range(batch):
                dy = tl.load(grad_ptr + n * stride_gn + grad_off, mask=row_ok, other=0.0)
                x = tl.load(src_ptr + n * stride_sn + src_off, mask=valid, other=0.0)
                acc += dy.to(ACC)[:, None] * x.to(ACC)[None, :]

    dst_ptr += weight_base + group * stride_wg
    dst_ptr += r[0] * stride_bank_d + r[1] * stride_bank_h + r[2] * stride_bank_w
    if WEIGHT_FLAT:
        dst_col = offs_n.to(tl.int64)
    else:
        dst_col = c * stride_wc + f_d * stride_wt + f_h * stride_wr + f_w * stride_ws
    tl.store(
        at(dst_ptr, (offs_m * stride_wk)[:, None] + dst_col[None, :], WEIGHT_VECTOR),
        rounded(acc, dst_ptr.dtype.element_ty, SOFT_BF16),
        mask=row_ok[:, None] & col_ok[None, :],
    )
