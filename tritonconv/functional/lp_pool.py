"""Lp and L2 pooling: the p-norm of each window, scaled so that nothing over- or underflows.

Where torch's functions differ: they take powers of x, not of |x|, so that negative elements give
NaN when p is neither 1 nor even; their gradient at 0 is NaN for p < 1; a window that `ceil_mode`
cuts short counts as if it were whole; and powers of 16-bit numbers overflow and vanish.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ..checks import shape_of
from ..errors import ProblemError
from ..ops.pool import lp_pool, max_pool
from ..pool_problem import FLOATS, check_dtype
from ._pool import Padding, PoolInput, Size, is_number, is_readable, prepare_pool


def lp_pool1d(
    input: Tensor,
    norm_type: float | Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Size = 1,
) -> Tensor:
    """The p-norm of each window of a signal.

    y[n, c, q] = (sum over s of |x[n, c, q*stride - pad_low + s*dilation]|**p)**(1/p)
        over what is inside x

    Args:
        input: (N, C, W), or (C, W) for one signal; float16, bfloat16, float32 or float64, any
            strides.
        norm_type: p > 0; or inf, the largest |x|, or -inf, the smallest; or a tensor of one
            exponent, or of one a channel, (C,), which learns (generalised-mean pooling, but for the
            mean: the sum is not divided). It is read in float32 (float64 for float64), and only on
            a CPU is a number in it that is not positive refused.
        kernel_size, stride, padding, ceil_mode, dilation: as in `max_pool1d`.

    Returns:
        (N, C, Q) in the input's dtype and memory format. Powers are taken of |x| in units of the
        window's largest, in float32 (float64 for float64). A window without elements gives 0.

        dy/dx = sign(x) * (|x|/y)**(p - 1), 0 where x is 0, is finite unless x is NaN. A window with
        n infinite elements is measured in units of infinity: n**((1-p)/p) with its sign for each of
        them, 0 for the others. Where y alone is too large for the dtype, |x|/y is the true one. For
        p < 1, |x|/y counts as the smallest normal number at least, and its power as the dtype's
        largest number at most. Of p = +-inf the winner has the gradient. dy/dp is 0 where y is
        infinite.

    Raises:
        ProblemError: the arguments describe no pooling; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3.
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    return norm_of(prepare_pool("lp_pool", 1, input, options), norm_type)


def lp_pool2d(
    input: Tensor,
    norm_type: float | Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Size = 1,
) -> Tensor:
    """The p-norm of each window of an image.

    y[n, c, p, q] = (sum over r, s of |x[n, c, i, j]|**p)**(1/p), where inside x
        where i = p*stride_h - pad_h + r*dilation_h and j = q*stride_w - pad_w + s*dilation_w

    Args:
        input: (N, C, H, W), or (C, H, W); dtypes and strides as in `lp_pool1d`.
        norm_type: a number or a tensor, as in `lp_pool1d`.
        kernel_size, stride, padding, ceil_mode, dilation: as in `max_pool2d`.

    Returns:
        (N, C, P, Q) in the input's dtype and memory format; as in `lp_pool1d`.

    Raises:
        ProblemError: the arguments describe no pooling; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3.
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    return norm_of(prepare_pool("lp_pool", 2, input, options), norm_type)


def lp_pool3d(
    input: Tensor,
    norm_type: float | Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Size = 1,
) -> Tensor:
    """The p-norm of each window of a volume.

    y[n, c, z, p, q] = (sum over t, r, s of |x[n, c, h, i, j]|**p)**(1/p), where inside x
        where h = z*stride_d - pad_d + t*dilation_d, and i and j likewise

    Args:
        input: (N, C, D, H, W), or (C, D, H, W); dtypes and strides as in `lp_pool1d`.
        norm_type: a number or a tensor, as in `lp_pool1d`.
        kernel_size, stride, padding, ceil_mode, dilation: as in `max_pool3d`.

    Returns:
        (N, C, Z, P, Q) in the input's dtype and memory format; as in `lp_pool1d`.

    Raises:
        ProblemError: the arguments describe no pooling; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3.
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    return norm_of(prepare_pool("lp_pool", 3, input, options), norm_type)


def l2_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Size = 1,
) -> Tensor:
    """The Euclidean norm of each window: `lp_pool1d` with p = 2.

    y[n, c, q] = sqrt(sum over s of x[n, c, q*stride - pad_low + s*dilation]**2) over what is
        inside x

    Args:
        input: (N, C, W), or (C, W); dtypes and strides as in `lp_pool1d`.
        kernel_size, stride, padding, ceil_mode, dilation: as in `max_pool1d`.

    Returns:
        (N, C, Q) in the input's dtype and memory format; as in `lp_pool1d`.

    Raises:
        ProblemError: the arguments describe no pooling; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3.
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    return norm_of(prepare_pool("l2_pool", 1, input, options), 2.0)


def l2_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Size = 1,
) -> Tensor:
    """The Euclidean norm of each window: `lp_pool2d` with p = 2.

    y[n, c, p, q] = sqrt(sum over r, s of x[n, c, i, j]**2), where inside x
        where i = p*stride_h - pad_h + r*dilation_h and j = q*stride_w - pad_w + s*dilation_w

    Args:
        input: (N, C, H, W), or (C, H, W); dtypes and strides as in `lp_pool1d`.
        kernel_size, stride, padding, ceil_mode, dilation: as in `max_pool2d`.

    Returns:
        (N, C, P, Q) in the input's dtype and memory format; as in `lp_pool1d`.

    Raises:
        ProblemError: the arguments describe no pooling; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3.
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    return norm_of(prepare_pool("l2_pool", 2, input, options), 2.0)


def l2_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Size = 1,
) -> Tensor:
    """The Euclidean norm of each window: `lp_pool3d` with p = 2.

    y[n, c, z, p, q] = sqrt(sum over t, r, s of x[n, c, h, i, j]**2), where inside x
        where h = z*stride_d - pad_d + t*dilation_d, and i and j likewise

    Args:
        input: (N, C, D, H, W), or (C, D, H, W); dtypes and strides as in `lp_pool1d`.
        kernel_size, stride, padding, ceil_mode, dilation: as in `max_pool3d`.

    Returns:
        (N, C, Z, P, Q) in the input's dtype and memory format; as in `lp_pool1d`.

    Raises:
        ProblemError: the arguments describe no pooling; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3.
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    return norm_of(prepare_pool("l2_pool", 3, input, options), 2.0)


def norm_of(call: PoolInput, norm_type: Any) -> Tensor:
    """The p-norm of a call's windows."""
    x, arguments = call.input, call.arguments
    if isinstance(norm_type, Tensor):
        exponents = _learned(norm_type, x)
        return call.batched(lp_pool(x, exponents, 2.0, *arguments))
    if not is_number(norm_type):
        raise ProblemError(f"norm_type: expected a number or a tensor, got {norm_type!r}")
    p = float(norm_type)
    if math.isinf(p):
        return call.batched(_extreme(call, largest=p > 0))
    if not p > 0:
        raise ProblemError(
            f"norm_type: expected a positive number, inf or -inf, got {norm_type!r}; there is no "
            "norm of another exponent"
        )
    return call.batched(lp_pool(x, None, p, *arguments))


def _extreme(call: PoolInput, largest: bool) -> Tensor:
    """The largest or the smallest |x| of each window, 0 where it has no element."""
    check_dtype("input", call.input, FLOATS)
    size = call.input.abs()
    y, _ = max_pool(size if largest else -size, *call.arguments)
    empty = ~call.windows().inside(y.device).any(-1)
    return torch.where(empty, 0, y if largest else -y)


def _learned(norm_type: Tensor, x: Tensor) -> Tensor:
    """The exponents as the op takes them: one, or one a channel."""
    found = shape_of(norm_type)
    if found not in ([], [1], [x.shape[1]]) or not norm_type.is_floating_point():
        raise ProblemError(
            f"norm_type: expected one exponent, or {x.shape[1]}, one a channel, of a floating "
            f"dtype, got shape {found} of {norm_type.dtype}"
        )
    if is_readable(norm_type) and not bool((norm_type > 0).all()):
        raise ProblemError(
            f"norm_type: expected positive numbers, got {norm_type.min().item():g} among them; "
            "clamp it, or learn its logarithm"
        )
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return norm_type.to(x.device, dtype).reshape(-1).contiguous()
