"""Weighted average pooling: elements count by their distance from the window's centre."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import shape_of
from ..errors import ProblemError
from ..ops.pool import sum_pool
from ..pool_problem import FLOATS, check_dtype
from ._pool import Padding, PoolInput, Size, check_flag, is_number, prepare_pool

Sigma = float | Sequence[float]


def weighted_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    *,
    sigma: Sigma | None = None,
    weights: Tensor | None = None,
    normalize: bool = True,
    dilation: Size = 1,
) -> Tensor:
    """The weighted average of each window of a signal.

    y[n, c, q] = sum over s of w[s] * x[n, c, q*stride - pad_low + s*dilation] / sum of those w
        over what is inside x

    Args:
        input: (N, C, W), or (C, W) for one signal; float16, bfloat16, float32 or float64, any
            strides.
        kernel_size, stride, padding, ceil_mode, dilation: as in `max_pool1d`.
        sigma: width in samples of a Gaussian, w = exp(-distance**2 / (2*sigma**2)), of the distance
            from the window's centre.
        weights: (S,), the weights themselves, which may learn; either these or sigma. They are read
            in float32 (float64 for float64).
        normalize: divide by the weights of the elements, default True; a window whose weights add
            up to 0 gives 0.

    Returns:
        (N, C, Q) in the input's dtype and memory format; sums are formed in float32 (float64 for
        float64).

    Raises:
        ProblemError: the arguments describe no pooling; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3.
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    call = prepare_pool("weighted_pool", 1, input, options)
    return _weighted(call, sigma, weights, normalize)


def weighted_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    *,
    sigma: Sigma | None = None,
    weights: Tensor | None = None,
    normalize: bool = True,
    dilation: Size = 1,
) -> Tensor:
    """The weighted average of each window of an image.

    y[n, c, p, q] = sum over r, s of w[r, s] * x[n, c, i, j] / sum of those w over what is inside x
        where i = p*stride_h - pad_h + r*dilation_h and j = q*stride_w - pad_w + s*dilation_w

    Args:
        input: (N, C, H, W), or (C, H, W); dtypes and strides as in `weighted_pool1d`.
        kernel_size, stride, padding, ceil_mode, dilation: as in `max_pool2d`.
        sigma: as in `weighted_pool1d`, a number or one an axis.
        weights: (R, S), as in `weighted_pool1d`.
        normalize: as in `weighted_pool1d`, default True.

    Returns:
        (N, C, P, Q) in the input's dtype and memory format; as in `weighted_pool1d`.

    Raises:
        ProblemError: the arguments describe no pooling; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3.
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    call = prepare_pool("weighted_pool", 2, input, options)
    return _weighted(call, sigma, weights, normalize)


def weighted_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    *,
    sigma: Sigma | None = None,
    weights: Tensor | None = None,
    normalize: bool = True,
    dilation: Size = 1,
) -> Tensor:
    """The weighted average of each window of a volume.

    y[n, c, z, p, q] = sum over t, r, s of w[t, r, s] * x[n, c, h, i, j] / sum of those w over what
        is inside x, where h = z*stride_d - pad_d + t*dilation_d, and i and j likewise

    Args:
        input: (N, C, D, H, W), or (C, D, H, W); dtypes and strides as in `weighted_pool1d`.
        kernel_size, stride, padding, ceil_mode, dilation: as in `max_pool3d`.
        sigma: as in `weighted_pool1d`, a number or one an axis.
        weights: (T, R, S), as in `weighted_pool1d`.
        normalize: as in `weighted_pool1d`, default True.

    Returns:
        (N, C, Z, P, Q) in the input's dtype and memory format; as in `weighted_pool1d`.

    Raises:
        ProblemError: the arguments describe no pooling; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3.
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    call = prepare_pool("weighted_pool", 3, input, options)
    return _weighted(call, sigma, weights, normalize)


def gaussian_window(
    kernel_size: Sequence[int], dilation: Sequence[int], sigma: Sequence[float]
) -> Tensor:
    """w[f] = exp(-sum over axes of (d*(f - (F-1)/2))**2 / (2*sigma**2)), float64."""
    window = torch.ones((), dtype=torch.float64)
    for taps, step, width in zip(kernel_size, dilation, sigma, strict=True):
        distance = step * (torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2)
        window = window.unsqueeze(-1) * torch.exp(-(distance**2) / (2 * width**2))
    return window


def _weighted(call: PoolInput, sigma: Any, weights: Any, normalize: bool) -> Tensor:
    x, arguments = call.input, call.arguments
    rank = x.dim() - 2
    check_flag("normalize", normalize)
    if (sigma is None) == (weights is None):
        raise ProblemError(
            "weights: expected either weights or sigma, got "
            + ("both" if weights is not None else "neither")
        )
    if weights is None:
        widths = list(sigma) if isinstance(sigma, Sequence) else [sigma] * rank
        if len(widths) != rank or not all(_is_width(w) for w in widths):
            raise ProblemError(
                f"sigma: expected a positive number, or {rank} of them, got {sigma!r}"
            )
        weights = gaussian_window(arguments.kernel_size, arguments.dilation, widths)
    elif not isinstance(weights, Tensor) or shape_of(weights) != list(arguments.kernel_size):
        found = shape_of(weights) if isinstance(weights, Tensor) else type(weights).__name__
        raise ProblemError(
            f"weights: expected a tensor of shape {list(arguments.kernel_size)}, that of the "
            f"window, got {found}"
        )
    else:
        check_dtype("weights", weights, FLOATS)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    weights = weights.to(x.device, dtype).contiguous()
    divisor = "weights" if normalize else "none"
    return call.batched(sum_pool(x, weights, divisor, 1.0, *arguments))


def _is_width(value: Any) -> bool:
    return is_number(value) and value > 0
