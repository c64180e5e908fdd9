"""Convolution of signals, images and volumes."""

from torch import Tensor

from ._call import Kind, Padding, Size, prepare

_CONV = Kind("conv", "K, C/groups")


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    mode: str = "cross_correlation",
    padding_mode: str = "zeros",
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Slide a bank of filters along a signal.

    y[n, k, q] = act(bias[k] + residual[n, k, q] + sum over c, s of
                     x[n, g(k)*C/groups + c, q*stride - pad_low + s*dilation] * w[k, c, s])
        where g(k) = k // (K/groups), and what lies outside x is as `padding_mode` says

    Args:
        input: (N, C, W), or (C, W) for one signal; float16, bfloat16, float32 or float64; any
            strides, read in place.
        weight: (K, C/groups, S), same dtype and device.
        bias: (K,), or (T, K) with 1 <= T <= Q, an untied bias: position q adds bias[q mod T, k].
            Same dtype and device. Default None.
        stride: samples between outputs, default 1.
        padding: samples added at each end: an int, ((low, high),), or a word. "valid": none;
            "same": output = ceil(W / stride), the odd sample at the high end; "same_lower": the
            odd sample at the low end; "full": dilation * (S - 1) at both ends. Default 0.
        dilation: samples between taps, default 1.
        groups: number of channel groups that do not see each other, default 1.
        mode: "cross_correlation", or "convolution", which reads the filter backwards: the
            textbook's definition, commutative under full padding.
        padding_mode: what padding adds. "zeros"; "reflect": the signal mirrored at its first and
            last sample, which are not repeated, padding < W; "replicate": those samples again;
            "circular": the signal again, from its other end, padding <= W.
        activation: None, "relu", "leaky_relu" (slope 0.01), "gelu" (exact), "silu", "sigmoid" or
            "tanh", applied last. Default None.
        residual: the result's shape, dtype and device; added before the activation. Default None.

    Returns:
        (N, K, Q) in the input's dtype, Q = (W + low + high - dilation*(S-1) - 1) // stride + 1;
        channels-last in memory if the input or the weight is.

    Raises:
        ProblemError: the arguments describe no convolution; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, sections 9.1 and 9.5.
    """
    operands = (input, weight, bias, residual, activation)
    options = (stride, padding, dilation, groups, mode, padding_mode)
    return prepare(_CONV, 1, operands, options).convolve()


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    mode: str = "cross_correlation",
    padding_mode: str = "zeros",
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Slide a bank of filters over an image.

    y[n, k, p, q] = act(bias[k] + residual[n, k, p, q] + sum over c, r, s of
                        x[n, g(k)*C/groups + c, i, j] * w[k, c, r, s])
        where i = p*stride_h - pad_h + r*dilation_h and j = q*stride_w - pad_w + s*dilation_w

    Args:
        input: (N, C, H, W), or (C, H, W) for one image; dtypes and strides as in `conv1d`.
        weight: (K, C/groups, R, S), same dtype and device.
        bias: (K,), or untied, (T, U, K): position (p, q) adds bias[p mod T, q mod U, k]. Default
            None.
        stride: pixels between outputs, an int or one an axis, default 1.
        padding: pixels added around the image: an int, one an axis, ((low, high), (low, high)),
            or a word of `conv1d`. Default 0.
        dilation: pixels between taps, an int or one an axis, default 1.
        groups: number of channel groups that do not see each other, default 1.
        mode: "cross_correlation" or "convolution", as in `conv1d`.
        padding_mode: "zeros", "reflect", "replicate" or "circular", as in `conv1d`.
        activation: None or a name, as in `conv1d`.
        residual: the result's shape; added before the activation. Default None.

    Returns:
        (N, K, P, Q) in the input's dtype; channels-last in memory if the input or the weight is.

    Raises:
        ProblemError: the arguments describe no convolution; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, sections 9.1 and 9.5.
    """
    operands = (input, weight, bias, residual, activation)
    options = (stride, padding, dilation, groups, mode, padding_mode)
    return prepare(_CONV, 2, operands, options).convolve()


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    mode: str = "cross_correlation",
    padding_mode: str = "zeros",
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Slide a bank of filters through a volume or a video.

    y[n, k, z, p, q] = act(bias[k] + residual[n, k, z, p, q] + sum over c, t, r, s of
                           x[n, g(k)*C/groups + c, h, i, j] * w[k, c, t, r, s])
        where h = z*stride_d - pad_d + t*dilation_d, and i and j likewise

    Args:
        input: (N, C, D, H, W), or (C, D, H, W) for one volume; dtypes and strides as in `conv1d`.
        weight: (K, C/groups, T, R, S), same dtype and device.
        bias: (K,), or untied with a period of three sizes in front, as in `conv2d`. Default None.
        stride: voxels between outputs, an int or one an axis, default 1.
        padding: voxels added around the volume: an int, one an axis, three (low, high) pairs, or a
            word of `conv1d`. Default 0.
        dilation: voxels between taps, an int or one an axis, default 1.
        groups: number of channel groups that do not see each other, default 1.
        mode: "cross_correlation" or "convolution", as in `conv1d`.
        padding_mode: "zeros", "reflect", "replicate" or "circular", as in `conv1d`.
        activation: None or a name, as in `conv1d`.
        residual: the result's shape; added before the activation. Default None.

    Returns:
        (N, K, Z, P, Q) in the input's dtype; channels-last in memory if the input or weight is.

    Raises:
        ProblemError: the arguments describe no convolution; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, sections 9.1 and 9.5.
    """
    operands = (input, weight, bias, residual, activation)
    options = (stride, padding, dilation, groups, mode, padding_mode)
    return prepare(_CONV, 3, operands, options).convolve()
