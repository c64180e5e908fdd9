"""Max and average pooling in 1-D, 2-D and 3-D, as torch's but for wider padding and layouts."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as T

from ..errors import ProblemError
from ..ops.entry import is_shortcut
from ..ops.pool import max_pool, sum_pool
from ._pool import Padding, PoolInput, Size, check_flag, is_number, is_torchs, prepare_pool


def max_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window of a signal.

    y[n, c, q] = max over s of x[n, c, q*stride - pad_low + s*dilation], where that is inside x

    Args:
        input: (N, C, W), or (C, W) for one signal; float16, bfloat16, float32, float64 or an
            integer dtype, any strides.
        kernel_size: samples in a window.
        stride: samples between windows; default the kernel size.
        padding: samples around the signal that are no elements: an int of at most half the window,
            or without that limit ((low, high),), "valid", or "same" or "same_lower", which give
            ceil(W / stride) windows. Default 0.
        dilation: samples between taps, default 1.
        ceil_mode: round the number of windows up, default False. A last window that would begin in
            the padding is left out.
        return_indices: also return where the elements were, default False.

    Returns:
        (N, C, Q) in the input's dtype and memory format; with `return_indices` also an int64
        tensor of that shape, positions in x, -1 for a window without elements. A NaN wins, and of
        equal elements the first. A window without elements gives -inf, or the smallest integer.

    Raises:
        ProblemError: the arguments describe no pooling; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3.
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    return _max(prepare_pool("max_pool", 1, input, options), return_indices)


def max_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window of an image.

    y[n, c, p, q] = max over r, s of x[n, c, i, j], where that is inside x
        where i = p*stride_h - pad_h + r*dilation_h and j = q*stride_w - pad_w + s*dilation_w

    Args:
        input: (N, C, H, W), or (C, H, W) for one image; dtypes and strides as in `max_pool1d`.
        kernel_size: pixels of a window, an int or one an axis.
        stride: pixels between windows, an int or one an axis; default the kernel size.
        padding: as in `max_pool1d`, one an axis, or ((low, high), (low, high)). Default 0.
        dilation: pixels between taps, an int or one an axis, default 1.
        ceil_mode: as in `max_pool1d`, default False.
        return_indices: also return where the elements were, default False.

    Returns:
        (N, C, P, Q) in the input's dtype and memory format; with `return_indices` also an int64
        tensor of that shape, flat positions i*W + j; the rest as in `max_pool1d`.

    Raises:
        ProblemError: the arguments describe no pooling; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3.
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    return _max(prepare_pool("max_pool", 2, input, options), return_indices)


def max_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window of a volume or a video.

    y[n, c, z, p, q] = max over t, r, s of x[n, c, h, i, j], where that is inside x
        where h = z*stride_d - pad_d + t*dilation_d, and i and j likewise

    Args:
        input: (N, C, D, H, W), or (C, D, H, W); dtypes and strides as in `max_pool1d`.
        kernel_size: voxels of a window, an int or one an axis.
        stride: voxels between windows, an int or one an axis; default the kernel size.
        padding: as in `max_pool1d`, one an axis, or three (low, high) pairs. Default 0.
        dilation: voxels between taps, an int or one an axis, default 1.
        ceil_mode: as in `max_pool1d`, default False.
        return_indices: also return where the elements were, default False.

    Returns:
        (N, C, Z, P, Q) in the input's dtype and memory format; with `return_indices` also an int64
        tensor of that shape, flat positions (h*H + i)*W + j; the rest as in `max_pool1d`.

    Raises:
        ProblemError: the arguments describe no pooling; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3.
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    return _max(prepare_pool("max_pool", 3, input, options), return_indices)


def avg_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Size = 1,
) -> Tensor:
    """The mean of each window of a signal.

    y[n, c, q] = 1/m(q) * sum over s of x[n, c, q*stride - pad_low + s*dilation], where inside x

    Args:
        input: (N, C, W), or (C, W); float16, bfloat16, float32 or float64, any strides.
        kernel_size, stride, padding, ceil_mode, dilation: as in `max_pool1d`.
        count_include_pad: whether m counts the taps in the padding that was asked for, or those on
            elements alone. Default True; what `ceil_mode` adds beyond is never counted.
        divisor_override: m for every window, a number other than 0. Default None.

    Returns:
        (N, C, Q) in the input's dtype and memory format; sums are formed in float32 (float64 for
        float64). A window without elements gives 0.

    Raises:
        ProblemError: the arguments describe no pooling; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3.
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    call = prepare_pool("avg_pool", 1, input, options)
    return _avg(call, count_include_pad, divisor_override)


def avg_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Size = 1,
) -> Tensor:
    """The mean of each window of an image.

    y[n, c, p, q] = 1/m(p, q) * sum over r, s of x[n, c, i, j], where inside x; i and j as in
        `max_pool2d`, m as in `avg_pool1d`

    Args:
        input: (N, C, H, W), or (C, H, W); float16, bfloat16, float32 or float64, any strides.
        kernel_size, stride, padding, ceil_mode, dilation: as in `max_pool2d`.
        count_include_pad, divisor_override: as in `avg_pool1d`.

    Returns:
        (N, C, P, Q) in the input's dtype and memory format; as in `avg_pool1d`.

    Raises:
        ProblemError: the arguments describe no pooling; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3.
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    call = prepare_pool("avg_pool", 2, input, options)
    return _avg(call, count_include_pad, divisor_override)


def avg_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Size = 1,
) -> Tensor:
    """The mean of each window of a volume or a video.

    y[n, c, z, p, q] = 1/m(z, p, q) * sum over t, r, s of x[n, c, h, i, j], where inside x; h, i
        and j as in `max_pool3d`, m as in `avg_pool1d`

    Args:
        input: (N, C, D, H, W), or (C, D, H, W); float16, bfloat16, float32 or float64, any strides.
        kernel_size, stride, padding, ceil_mode, dilation: as in `max_pool3d`.
        count_include_pad, divisor_override: as in `avg_pool1d`.

    Returns:
        (N, C, Z, P, Q) in the input's dtype and memory format; as in `avg_pool1d`.

    Raises:
        ProblemError: the arguments describe no pooling; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3.
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    call = prepare_pool("avg_pool", 3, input, options)
    return _avg(call, count_include_pad, divisor_override)


_MAX: dict[int, Any] = {3: torch.max_pool1d, 4: torch.max_pool2d, 5: torch.max_pool3d}
_AVG: dict[int, Any] = {3: T.avg_pool1d, 4: T.avg_pool2d, 5: T.avg_pool3d}


def _max(call: PoolInput, return_indices: bool) -> Any:
    x, arguments = call.input, call.arguments
    check_flag("return_indices", return_indices)
    if not return_indices and is_shortcut(x) and is_torchs(call):
        kernel, stride, pads, dilation, ceil_mode, _ = arguments
        y = _MAX[x.dim()](x, kernel, stride, pads[::2], dilation, ceil_mode)
        return call.batched(y)
    y, taps = max_pool(x, *arguments)
    if return_indices:
        return call.batched(y), call.indices(taps)
    return call.batched(y)


def _avg(call: PoolInput, count_include_pad: bool, divisor_override: float | None) -> Tensor:
    x, arguments = call.input, call.arguments
    check_flag("count_include_pad", count_include_pad)
    divisor, number = "padded" if count_include_pad else "valid", 1.0
    if divisor_override is not None:
        if not (
            is_number(divisor_override) and math.isfinite(divisor_override) and divisor_override
        ):
            raise ProblemError(
                "divisor_override: expected a finite number other than 0, or None for the size of "
                f"the window, got {divisor_override!r}"
            )
        divisor, number = "fixed", float(divisor_override)
    plain = divisor != "fixed" and set(arguments.dilation) == {1}
    if plain and is_shortcut(x) and is_torchs(call):
        kernel, stride, pads, _, ceil_mode, _ = arguments
        y = _AVG[x.dim()](x, kernel, stride, pads[::2], ceil_mode, count_include_pad)
        return call.batched(y)
    return call.batched(sum_pool(x, None, divisor, number, *arguments))
