"""Depthwise separable convolution: every channel filtered by itself, then the channels mixed.

C*m*(R*S + K) products a pixel in place of C*R*S*K: the layer of Xception and MobileNet.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..errors import ProblemError
from ..ops.separable import depthwise_separable
from ._call import Kind, Padding, Size, canonical, check_operands, check_weight, take

_DEPTHWISE = Kind("depthwise_separable_conv", "C*m, 1")
_POINTWISE = Kind("depthwise_separable_conv", "K, C*m")


def depthwise_separable_conv1d(
    input: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
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
    """Filter every channel of a signal by itself, then mix the channels at each sample.

    y[n, k, q] = act(bias[k] + residual[n, k, q] + sum over c, j of u[k, c*m + j] * sum over s of
                     x[n, c, q*stride - pad_low + s*dilation] * w[c*m + j, s])

    The inner sums are stored in the input's dtype, so float16 and bfloat16 are rounded between the
    two steps. Nothing stands between them: no bias, no activation.

    Args:
        input: (N, C, W), or (C, W) for one signal; dtypes and strides as in `conv1d`.
        depthwise_weight: w (C*m, 1, S), m filters a channel; same dtype and device.
        pointwise_weight: u (K, C*m, 1), same dtype and device.
        bias: (K,), or untied, (T, K), as in `conv1d`. Default None.
        stride: samples between outputs, default 1.
        padding: samples added at each end: an int, ((low, high),) or a word of `conv1d`; default 0.
        dilation: samples between taps, default 1.
        mode: "cross_correlation" or "convolution", as in `conv1d`.
        padding_mode: "zeros", "reflect", "replicate" or "circular", as in `conv1d`.
        activation: None or a name, as in `conv1d`.
        residual: the result's shape; added before the activation. Default None.

    Returns:
        (N, K, Q) in the input's dtype, Q as in `conv1d`; memory format as after two calls of it.

    Raises:
        ProblemError: the arguments describe no convolution; says which, why and what to do.

    Source: Chollet, Xception: deep learning with depthwise separable convolutions, 2017, section 2;
    Goodfellow, Bengio, Courville, Deep Learning, section 9.5, on channels with few connections.
    """
    operands = (input, depthwise_weight, bias, residual, activation)
    options = (stride, padding, dilation, mode, padding_mode)
    return _two_steps(1, operands, pointwise_weight, options)


def depthwise_separable_conv2d(
    input: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
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
    """Filter every channel of an image by itself, then mix the channels at each pixel.

    y[n, k, p, q] = act(bias[k] + residual[n, k, p, q] + sum over c, l of u[k, c*m + l]
                        * sum over r, s of x[n, c, i, j] * w[c*m + l, r, s])
        where i = p*stride_h - pad_h + r*dilation_h and j = q*stride_w - pad_w + s*dilation_w

    Rounded between the steps as `depthwise_separable_conv1d` is.

    Args:
        input: (N, C, H, W), or (C, H, W) for one image; dtypes and strides as in `conv1d`.
        depthwise_weight: w (C*m, 1, R, S), m filters a channel; same dtype and device.
        pointwise_weight: u (K, C*m, 1, 1), same dtype and device.
        bias: (K,), or untied, (T, U, K), as in `conv2d`. Default None.
        stride: pixels between outputs, an int or one an axis, default 1.
        padding: pixels added around the image, as in `conv2d`; default 0.
        dilation: pixels between taps, an int or one an axis, default 1.
        mode: "cross_correlation" or "convolution", as in `conv1d`.
        padding_mode: "zeros", "reflect", "replicate" or "circular", as in `conv1d`.
        activation: None or a name, as in `conv1d`.
        residual: the result's shape; added before the activation. Default None.

    Returns:
        (N, K, P, Q) in the input's dtype; memory format as after two calls of `conv2d`.

    Raises:
        ProblemError: the arguments describe no convolution; says which, why and what to do.

    Source: as `depthwise_separable_conv1d`.
    """
    operands = (input, depthwise_weight, bias, residual, activation)
    options = (stride, padding, dilation, mode, padding_mode)
    return _two_steps(2, operands, pointwise_weight, options)


def depthwise_separable_conv3d(
    input: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
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
    """Filter every channel of a volume by itself, then mix the channels at each voxel.

    y[n, k, z, p, q] = act(bias[k] + residual[n, k, z, p, q] + sum over c, l of u[k, c*m + l]
                           * sum over t, r, s of x[n, c, h, i, j] * w[c*m + l, t, r, s])
        where h = z*stride_d - pad_d + t*dilation_d, and i and j likewise

    Rounded between the steps as `depthwise_separable_conv1d` is.

    Args:
        input: (N, C, D, H, W), or (C, D, H, W) for one volume; dtypes and strides as in `conv1d`.
        depthwise_weight: w (C*m, 1, T, R, S), m filters a channel; same dtype and device.
        pointwise_weight: u (K, C*m, 1, 1, 1), same dtype and device.
        bias: (K,), or untied with a period of three sizes in front, as in `conv2d`. Default None.
        stride: voxels between outputs, an int or one an axis, default 1.
        padding: voxels added around the volume, as in `conv3d`; default 0.
        dilation: voxels between taps, an int or one an axis, default 1.
        mode: "cross_correlation" or "convolution", as in `conv1d`.
        padding_mode: "zeros", "reflect", "replicate" or "circular", as in `conv1d`.
        activation: None or a name, as in `conv1d`.
        residual: the result's shape; added before the activation. Default None.

    Returns:
        (N, K, Z, P, Q) in the input's dtype; memory format as after two calls of `conv3d`.

    Raises:
        ProblemError: the arguments describe no convolution; says which, why and what to do.

    Source: as `depthwise_separable_conv1d`.
    """
    operands = (input, depthwise_weight, bias, residual, activation)
    options = (stride, padding, dilation, mode, padding_mode)
    return _two_steps(3, operands, pointwise_weight, options)


def _two_steps(
    rank: int, operands: Sequence[Any], pointwise: Tensor, options: Sequence[Any]
) -> Tensor:
    """The depthwise convolution, which takes all options, then the pointwise one, which takes all
    that is added to its sum. `operands` as in `take`, with the depthwise weight."""
    input, depthwise, bias, residual, activation, single = take(_DEPTHWISE, rank, operands)
    weights = {"depthwise_weight": depthwise, "pointwise_weight": pointwise}
    check_operands({"input": input} | weights)
    for kind, (argument, weight) in zip((_DEPTHWISE, _POINTWISE), weights.items(), strict=True):
        check_weight(kind, rank, weight, argument)
    name = f"{_DEPTHWISE.name}{rank}d"
    channels, middle = input.shape[1], depthwise.shape[0]
    if channels < 1:
        raise ProblemError(f"input: {name} expected at least one channel, got {list(input.shape)}")
    if depthwise.shape[1] != 1 or middle % channels:
        raise ProblemError(
            f"depthwise_weight: {name} expected shape [m * {channels}, 1, *filter], m filters for "
            f"each of the input's channels, got {list(depthwise.shape)}"
        )
    if pointwise.shape[1] != middle or any(size != 1 for size in pointwise.shape[2:]):
        raise ProblemError(
            f"pointwise_weight: {name} expected shape {['K', middle, *[1] * rank]}, one weight for "
            f"each filter of depthwise_weight, got {list(pointwise.shape)}"
        )
    stride, padding, dilation, mode, padding_mode = options
    arguments = (stride, padding, dilation, channels, mode, padding_mode)
    stride, pads, dilation, _, *last = canonical(rank, arguments, input.shape, depthwise.shape)
    tensors = (input, depthwise, pointwise, bias, residual, activation)
    y = depthwise_separable(*tensors, stride, pads, dilation, *last)
    return y.squeeze(0) if single else y
