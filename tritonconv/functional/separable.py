"""Separable convolution: a filter that is an outer product, applied an axis at a time.

F1 * F2 taps a pixel become F1 + F2, and less memory for parameters; a Gaussian and a box are such
filters, a learned one seldom is exactly. `factor_separable` finds the factors, or says which
filter has none. Every channel is filtered by itself; `depthwise_separable_conv2d` mixes them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import check_tensors
from ..errors import ProblemError
from ..ops.entry import convolve
from ._call import Kind, Padding, Size, canonical, check_operands, natural_size, take

_SEPARABLE = Kind("separable_conv", "C")


def separable_conv1d(
    input: Tensor,
    filters: Sequence[Tensor],
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    *,
    mode: str = "cross_correlation",
    padding_mode: str = "zeros",
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Filter every channel of a signal by itself; in 1-D every filter is separable.

    y[n, c, q] = act(bias[c] + residual[n, c, q] + sum over s of
                     x[n, c, q*stride - pad_low + s*dilation] * w[c, s])

    Args:
        input: (N, C, W), or (C, W) for one signal; dtypes and strides as in `conv1d`.
        filters: one tensor, ((C, S),), same dtype and device.
        bias: (C,), or untied, (T, C), as in `conv1d`. Default None.
        stride: samples between outputs, default 1.
        padding: samples added at each end: an int, ((low, high),) or a word of `conv1d`; default 0.
        dilation: samples between taps, default 1.
        mode: "cross_correlation" or "convolution", as in `conv1d`.
        padding_mode: "zeros", "reflect", "replicate" or "circular", as in `conv1d`.
        activation: None or a name, as in `conv1d`.
        residual: the result's shape; added before the activation. Default None.

    Returns:
        (N, C, Q) in the input's dtype, Q as in `conv1d`; channels-last in memory if the input is.

    Raises:
        ProblemError: the arguments describe no convolution; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.8.
    """
    operands = (input, None, bias, residual, activation)
    return _an_axis_at_a_time(1, operands, filters, (stride, padding, dilation, mode, padding_mode))


def separable_conv2d(
    input: Tensor,
    filters: Sequence[Tensor],
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    *,
    mode: str = "cross_correlation",
    padding_mode: str = "zeros",
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Filter every channel of an image by the outer product of a column and a row.

    y[n, c, p, q] = act(bias[c] + residual[n, c, p, q] + sum over r, s of
                        x[n, c, i, j] * v[c, r] * h[c, s])
        where i = p*stride_h - pad_h + r*dilation_h and j = q*stride_w - pad_w + s*dilation_w

    Two passes, first along the axis that leaves fewer numbers for the second. What lies between
    them is stored in the input's dtype, so float16 and bfloat16 are rounded once more than by
    `conv2d` with groups=C and the product as its weight; float32 and float64 to their precision.

    Args:
        input: (N, C, H, W), or (C, H, W) for one image; dtypes and strides as in `conv1d`.
        filters: v (C, R) along the height and h (C, S) along the width, same dtype and device.
        bias: (C,), or untied, (T, U, C), as in `conv2d`. Default None.
        stride: pixels between outputs, an int or one an axis, default 1.
        padding: pixels added around the image, as in `conv2d`; default 0.
        dilation: pixels between taps, an int or one an axis, default 1.
        mode: "cross_correlation" or "convolution", as in `conv1d`.
        padding_mode: "zeros", "reflect", "replicate" or "circular", as in `conv1d`.
        activation: None or a name, as in `conv1d`.
        residual: the result's shape; added before the activation. Default None.

    Returns:
        (N, C, P, Q) in the input's dtype; channels-last in memory if the input is.

    Raises:
        ProblemError: the arguments describe no convolution; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.8.
    """
    operands = (input, None, bias, residual, activation)
    return _an_axis_at_a_time(2, operands, filters, (stride, padding, dilation, mode, padding_mode))


def separable_conv3d(
    input: Tensor,
    filters: Sequence[Tensor],
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    *,
    mode: str = "cross_correlation",
    padding_mode: str = "zeros",
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Filter every channel of a volume by the outer product of three vectors.

    y[n, c, z, p, q] = act(bias[c] + residual[n, c, z, p, q] + sum over t, r, s of
                           x[n, c, h, i, j] * u[c, t] * v[c, r] * w[c, s])
        where h = z*stride_d - pad_d + t*dilation_d, and i and j likewise

    Three passes, each along the axis that leaves the fewest numbers for the next; rounded between
    them as `separable_conv2d` is.

    Args:
        input: (N, C, D, H, W), or (C, D, H, W) for one volume; dtypes and strides as in `conv1d`.
        filters: u (C, T), v (C, R) and w (C, S) along depth, height and width, same dtype and
            device.
        bias: (C,), or untied with a period of three sizes in front. Default None.
        stride: voxels between outputs, an int or one an axis, default 1.
        padding: voxels added around the volume, as in `conv3d`; default 0.
        dilation: voxels between taps, an int or one an axis, default 1.
        mode: "cross_correlation" or "convolution", as in `conv1d`.
        padding_mode: "zeros", "reflect", "replicate" or "circular", as in `conv1d`.
        activation: None or a name, as in `conv1d`.
        residual: the result's shape; added before the activation. Default None.

    Returns:
        (N, C, Z, P, Q) in the input's dtype; channels-last in memory if the input is.

    Raises:
        ProblemError: the arguments describe no convolution; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.8.
    """
    operands = (input, None, bias, residual, activation)
    return _an_axis_at_a_time(3, operands, filters, (stride, padding, dilation, mode, padding_mode))


def factor_separable(weight: Tensor, tol: float = 1e-6) -> tuple[Tensor, ...]:
    """The vectors whose outer product is a depthwise filter: the `filters` of a separable one.

    weight[c, 0, r, s] = v[c, r] * h[c, s], and so with one factor or three

    Computed in float64, without gradients. The factors of a filter have the same length, and the
    first entry of each that is not negligible is positive, but for the last factor's, which
    carries the sign: the same weight gives the same factors everywhere.

    Args:
        weight: (C, 1, *filter), as `conv1d`, `conv2d` or `conv3d` take it with groups=C; float16,
            bfloat16, float32 or float64.
        tol: what counts as zero, as a fraction of a filter's largest singular value; default 1e-6.
            A filter that was rounded to 16 bits needs about 1e-2 (bfloat16) or 1e-3 (float16).

    Returns:
        One tensor (C, size) a spatial axis, contiguous, in the weight's dtype. Their product is the
        nearest of rank 1 in two dimensions, and in three as near to it as `tol`.

    Raises:
        ProblemError: a filter is no outer product, which is said of the first such channel, with
            the axis along which it is none and its numerical rank there.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.8; De Lathauwer, De Moor,
    Vandewalle, A multilinear singular value decomposition, SIAM J. Matrix Anal. Appl. 21 (2000).
    """
    _check_factorable(weight, tol)
    wide = weight.detach().squeeze(1).double()
    scale, directions = wide, []
    for axis in range(1, wide.dim()):
        # Rows along the axis, a column for each line of the filter that is parallel to it.
        rows = wide.movedim(axis, 1).reshape(*wide.shape[:1], wide.shape[axis], -1)
        left, values, _ = torch.linalg.svd(rows, full_matrices=False)
        _check_rank_one(weight, axis - 1, values, tol)
        direction = _first_positive(left[:, :, 0], tol)
        directions.append(direction)
        # Contracting every axis with its direction leaves the filter's signed magnitude.
        scale = (scale * direction.reshape(len(direction), -1, *[1] * (scale.dim() - 2))).sum(1)
    length = scale.abs().pow(1 / len(directions))[:, None]
    factors = [direction * length for direction in directions]
    factors[-1] *= scale.sign()[:, None]
    return tuple(factor.to(weight.dtype) for factor in factors)


def _an_axis_at_a_time(
    rank: int, operands: Sequence[Any], filters: Any, options: Sequence[Any]
) -> Tensor:
    """`rank` depthwise passes, each with a filter of size 1 along the other axes; what is added to
    the sum is added in the last."""
    y, _, bias, residual, activation, single = take(_SEPARABLE, rank, operands)
    _check_filters(f"{_SEPARABLE.name}{rank}d", rank, y, filters)
    stride, padding, dilation, mode, padding_mode = options
    channels = y.shape[1]
    shape = (channels, 1, *(f.shape[1] for f in filters))
    arguments = (stride, padding, dilation, channels, mode, padding_mode)
    rest = canonical(rank, arguments, y.shape, shape)
    sizes = natural_size(y.shape, shape, rest)
    shrinks = [n / m for n, m in zip(sizes, y.shape[2:], strict=True)]
    order: list[int] = []
    for axis in range(rank):
        # Inserted in order: sorted() takes no symbolic keys.
        order.insert(len([a for a in order if shrinks[a] <= shrinks[axis]]), axis)
    stride, pads, dilation, *last = rest
    ones, zeros = [1] * rank, [0] * (2 * rank)
    for done, axis in enumerate(order, start=1):
        after = slice(axis + 1, None)
        weight = filters[axis].reshape(channels, 1, *ones[:axis], -1, *ones[after])
        steps = [*ones[:axis], stride[axis], *ones[after]]
        sides = [*zeros[: 2 * axis], *pads[2 * axis : 2 * axis + 2], *zeros[2 * axis + 2 :]]
        gaps = [*ones[:axis], dilation[axis], *ones[after]]
        extras = (bias, residual, activation) if done == rank else (None, None, "none")
        y = convolve(y, weight, *extras, steps, sides, gaps, *last)
    return y.squeeze(0) if single else y


def _check_filters(name: str, rank: int, input: Tensor, filters: Any) -> None:
    if isinstance(filters, Tensor) or not isinstance(filters, Sequence) or len(filters) != rank:
        found = len(filters) if isinstance(filters, Sequence) else type(filters).__name__
        raise ProblemError(
            f"filters: {name} expected a sequence of {rank} tensors (C, size), one a spatial axis, "
            f"got {found}; factor_separable makes them of a weight"
        )
    check_operands({"input": input} | {f"filters[{i}]": f for i, f in enumerate(filters)})
    channels = input.shape[1]
    for axis, factor in enumerate(filters):
        if factor.dim() != 2 or factor.shape[0] != channels or min(factor.shape) < 1:
            raise ProblemError(
                f"filters[{axis}]: {name} expected shape [{channels}, size], a vector for each of "
                f"the input's channels, neither empty, got {list(factor.shape)}"
            )


def _check_factorable(weight: Any, tol: Any) -> None:
    check_tensors({"weight": weight})
    if weight.dim() not in (3, 4, 5) or weight.shape[1] != 1 or 0 in weight.shape:
        raise ProblemError(
            "weight: factor_separable expected (C, 1, *filter) with one to three axes of a filter, "
            f"none empty, got {list(weight.shape)}"
        )
    if not isinstance(tol, int | float) or not 0 <= tol < 1:
        raise ProblemError(f"tol: expected a fraction, at least 0 and less than 1, got {tol!r}")
    if not weight.isfinite().all():
        raise ProblemError("weight: factor_separable expected finite numbers, got inf or nan")


def _check_rank_one(weight: Tensor, axis: int, values: Tensor, tol: float) -> None:
    """`values` (C, count): each filter's singular values along an axis, the largest first."""
    ranks = (values > tol * values[:, :1]).sum(1)
    if ranks.max() > 1:
        channel = int((ranks > 1).int().argmax())
        ratio = float(values[channel, 1] / values[channel, 0])
        raise ProblemError(
            f"weight: factor_separable expected outer products, got a filter of numerical rank "
            f"{int(ranks[channel])} in channel {channel} of {list(weight.shape)}, along spatial "
            f"axis {axis}; its second singular value is {ratio:.3g} of the first, against tol = "
            f"{tol:g}; use conv{weight.dim() - 2}d with groups, or raise tol to approximate"
        )


def _first_positive(vectors: Tensor, tol: float) -> Tensor:
    """Each row (C, size) or its negative. A singular vector's sign is arbitrary, and so would be
    that of its largest entry where two are equal but for rounding."""
    counts = vectors.abs() > max(tol, 1e-9) * vectors.abs().amax(1, keepdim=True)
    first = vectors.gather(1, counts.int().argmax(1, keepdim=True))
    return vectors * first.sign()
