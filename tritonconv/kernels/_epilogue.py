"""The end of every kernel for fprop and dgrad: bias, residual, activation, and the store."""

import triton
import triton.language as tl

from ._index import at, bank_at, column_of, outer, outer_and
from ._numbers import rounded

LEAKY_SLOPE = tl.constexpr(0.01)
ROOT_HALF = tl.constexpr(0.7071067811865476)


@triton.jit
def sigmoid(z):
    """1 / (1 + exp(-z)), from the exponential of a negative number, which cannot overflow."""
    small = tl.exp(-tl.abs(z))
    return tl.where(z < 0, small, 1.0) / (1.0 + small)


@triton.jit
def tanh(z):
    """(1 - e) / (1 + e) with e = exp(-2|z|); near 0, where that difference loses its digits,
    another form with a relative error of a few roundings."""
    size = tl.abs(z)
    e = tl.exp(-2.0 * size)
    far = (1.0 - e) / (1.0 + e)
    if z.dtype == tl.float64:
        # e - 1 as (e - 1) log(exponent) / log(e), where the error of e cancels.
        # Source: Higham, Accuracy and Stability of Numerical Algorithms, section 1.14.1.
        plain = (e == 1.0) | (e < 0.25)
        m = (e - 1.0) * (-2.0 * size / tl.log(tl.where(plain, 0.5, e)))
        near = tl.where(e == 1.0, size, -m / (m + 2.0))
        size = tl.where(e < 0.25, far, near)
    else:
        # z + z^3 p(z^2), p of degree 4 fitted to tanh on |z| < 0.625 at Chebyshev's nodes.
        t = size * size
        p = 0.02100364120752163 + t * -0.00610494799614841
        p = -0.3333332909961591 + t * (0.13332782263953277 + t * (-0.053852497464660205 + t * p))
        size = tl.where(size < 0.625, size + size * t * p, far)
    return tl.where(z < 0, -size, size)


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    """The activation of z, element by element. NaN stays NaN."""
    if ACTIVATION == "relu":
        return tl.where(z < 0, 0.0, z)
    elif ACTIVATION == "leaky_relu":
        return tl.where(z < 0, z * LEAKY_SLOPE, z)
    elif ACTIVATION == "gelu":
        return 0.5 * z * (1.0 + tl.erf(z * ROOT_HALF))
    elif ACTIVATION == "silu":
        return z * sigmoid(z)
    elif ACTIVATION == "sigmoid":
        return sigmoid(z)
    elif ACTIVATION == "tanh":
        return tanh(z)
    else:
        return z


@triton.jit
def place(n, position, stride):
    """Offset of image n and position (d, h, w), channels left out; stride is (n, c, d, h, w)."""
    offset = n * stride[0] + position[0] * stride[2]
    return offset + position[1] * stride[3] + position[2] * stride[4]


@triton.jit
def biased(
    acc,
    bias_ptr,
    position,
    channel,
    row_ok,
    col_ok,
    period,
    stride,
    BIAS: tl.constexpr,
    COLUMNS_FAST: tl.constexpr,
):
    """acc + bias[position mod period, channel], of a tile as `outer` orders it; stride is
    (d, h, w, c)."""
    if BIAS == "tied":
        bias = tl.load(bias_ptr + channel * stride[3], mask=col_ok, other=0.0)
        acc += column_of(bias.to(acc.dtype), COLUMNS_FAST)
    elif BIAS == "untied":
        bias = tl.load(
            bias_ptr + outer(bank_at(position, period, stride), channel * stride[3], COLUMNS_FAST),
            mask=outer_and(row_ok, col_ok, COLUMNS_FAST),
            other=0.0,
        )
        acc += bias.to(acc.dtype)
    return acc


@triton.jit
def store_pooled(
    value,
    number,
    dst_ptr,
    taps_ptr,
    n,
    position,
    channel,
    row_ok,
    col_ok,
    stride,
    COLUMNS_FAST: tl.constexpr,
    KEEP_TAPS: tl.constexpr,
    DST_UNIT: tl.constexpr,
    DST_VECTOR: tl.constexpr,
    SOFT_BF16: tl.constexpr,
):
    """dst[n, channel, position] = value, and taps there = number if KEEP_TAPS, both tiles as
    `outer` orders them by COLUMNS_FAST. stride is (n, c, d, h, w), of dst and of taps."""
    offset = outer(place(n, position, stride), channel * stride[1], DST_UNIT)
    ok = outer_and(row_ok, col_ok, DST_UNIT)
    if COLUMNS_FAST != DST_UNIT:
        value = tl.trans(value)
    value = rounded(value, dst_ptr.dtype.element_ty, SOFT_BF16)
    tl.store(at(dst_ptr, offset, DST_VECTOR), value, mask=ok)
    if KEEP_TAPS:
        if COLUMNS_FAST != DST_UNIT:
            number = tl.trans(number)
        # In bytes, as many as a vector of dst holds are a whole number of these vectors.
        tl.store(
            tl.multiple_of(taps_ptr + offset, (DST_VECTOR, DST_VECTOR)),
            number.to(taps_ptr.dtype.element_ty),
            mask=ok,
        )


@triton.jit
def finish(
    acc,
    bias_ptr,
    residual_ptr,
    pre_ptr,
    dst_ptr,
    n,
    position,
    channel,
    row_ok,
    col_ok,
    bias_period,
    bias_stride,
    residual_stride,
    dst_stride,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    KEEP_PRE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    DST_UNIT: tl.constexpr,
    DST_VECTOR: tl.constexpr,
    SOFT_BF16: tl.constexpr,
):
    """dst[n, channel, position] = activation(acc + bias[position mod period, channel] + residual).

    `acc` is a tile of (rows x columns): `n` and the three of `position` belong to its rows,
    `channel`, counted over all groups, to its columns. Strides: bias (d, h, w, c), the others
    (n, c, d, h, w), with a constant 1 for c where the destination's channels are contiguous.
    """
    acc = biased(
        acc, bias_ptr, position, channel, row_ok, col_ok, bias_period, bias_stride, BIAS, True
    )
    if not DST_UNIT:
        acc = tl.trans(acc)
    ok = outer_and(row_ok, col_ok, DST_UNIT)
    if RESIDUAL:
        row = place(n, position, residual_stride)
        residual = tl.load(
            residual_ptr + outer(row, channel * residual_stride[1], DST_UNIT), mask=ok, other=0.0
        )
        acc += residual.to(acc.dtype)
    offset = outer(place(n, position, dst_stride), channel * dst_stride[1], DST_UNIT)
    if KEEP_PRE:
        value = rounded(acc, pre_ptr.dtype.element_ty, SOFT_BF16)
        tl.store(at(pre_ptr, offset, DST_VECTOR), value, mask=ok)
    value = rounded(activate(acc, ACTIVATION), dst_ptr.dtype.element_ty, SOFT_BF16)
    tl.store(at(dst_ptr, offset, DST_VECTOR), value, mask=ok)
