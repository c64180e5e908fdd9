"""The second pass of a split fprop or dgrad: add the partial sums in a fixed order, then finish."""

import triton.language as tl

from ._epilogue import finish, place
from ._index import outer, outer_and, unflatten4, unit_or
from ._jit import kernel


@kernel
def finish_splits(
    workspace_ptr,
    bias_ptr,
    residual_ptr,
    pre_ptr,
    dst_ptr,
    batch: tl.int64,
    channels: tl.int64,
    dst_d: tl.int64,
    dst_h: tl.int64,
    dst_w: tl.int64,
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
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    KEEP_PRE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    DST_UNIT: tl.constexpr,
    INDEX: tl.constexpr,
    SOFT_BF16: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """dst[n, c, p] = act(bias + residual + sum over splits of workspace[split, n, c, p]).

    A split's slice of the workspace has the strides of dst.
    Grid axis 0, slowest first: tile of positions (n, d, h, w), tile of channels.
    """
    pid = tl.program_id(0).to(INDEX)
    cols = channels.to(INDEX)
    size = (dst_d.to(INDEX), dst_h.to(INDEX), dst_w.to(INDEX))
    rows = batch.to(INDEX) * size[0] * size[1] * size[2]
    tiles_n = tl.cdiv(cols, BLOCK_N)
    offs_m = (pid // tiles_n) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = (pid % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_ok = offs_m < rows
    col_ok = offs_n < cols
    n, position = unflatten4(tl.minimum(offs_m, rows - 1), size)
    stride = (
        stride_dn.to(INDEX),
        unit_or(stride_dc.to(INDEX), DST_UNIT),
        stride_dd.to(INDEX),
        stride_dh.to(INDEX),
        stride_dw.to(INDEX),
    )
    offset = outer(place(n, position, stride), offs_n * stride[1], DST_UNIT)
    ok = outer_and(row_ok, col_ok, DST_UNIT)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    if not DST_UNIT:
        acc = tl.trans(acc)
    for _ in range(splits.to(INDEX)):
        acc += tl.load(workspace_ptr + offset, mask=ok, other=0.0)
        workspace_ptr += stride_split
    if not DST_UNIT:
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
        stride,
        BIAS,
        RESIDUAL,
        KEEP_PRE,
        ACTIVATION,
        DST_UNIT,
        1,
        SOFT_BF16,
    )
