"""Tiled convolution: filters that take turns along the image.

"Tiled" is the textbook's word for a weight that repeats with a period: neighbouring positions have
different filters, as if the layer were not shared, but position `o` uses bank `o mod period`, so
memory grows with the period and not with the image. Period 1 is `conv2d`, a period of the output's
size is `unshared_conv2d`. It does not mean that a large image is split into pieces to save memory.
"""

from torch import Tensor

from ._call import Kind, Padding, Size, prepare

_TILED = Kind("tiled_conv", "the period, K, C/groups", banks=True)


def tiled_conv1d(
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
    """Slide filters along a signal that take turns from output to output.

    y[n, k, q] = act(bias[q mod t, k] + residual[n, k, q] + sum over c, s of
                     x[n, g(k)*C/groups + c, q*stride - pad_low + s*dilation] * w[q mod T, k, c, s])

    Not a way of splitting a long signal to save memory: the filters are tiled, not the signal.

    Args:
        input: (N, C, W), or (C, W) for one signal; dtypes and strides as in `conv1d`.
        weight: (T, K, C/groups, S), T banks of filters with 1 <= T <= Q; same dtype and device.
        bias: (K,), or untied, (t, K), tied in the pattern of the filters where t = T. Default None.
        stride: samples between outputs, default 1.
        padding: samples added at each end: an int, ((low, high),) or a word of `conv1d`; default 0.
        dilation: samples between taps, default 1.
        groups: number of channel groups that do not see each other, default 1.
        mode: "cross_correlation" or "convolution", as in `conv1d`.
        padding_mode: "zeros", "reflect", "replicate" or "circular", as in `conv1d`.
        activation: None or a name, as in `conv1d`.
        residual: the result's shape; added before the activation. Default None.

    Returns:
        (N, K, Q) in the input's dtype, Q as in `conv1d`; channels-last in memory if the input or
        the weight is, whose period does not count.

    Raises:
        ProblemError: the arguments describe no convolution, or T > Q.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.5, "tiled convolution".
    """
    operands = (input, weight, bias, residual, activation)
    options = (stride, padding, dilation, groups, mode, padding_mode)
    return prepare(_TILED, 1, operands, options).convolve()


def tiled_conv2d(
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
    """Slide filters over an image that take turns along both axes, like a mosaic of tiles.

    y[n, k, p, q] = act(bias[p mod t, q mod u, k] + residual[n, k, p, q] + sum over c, r, s of
                        x[n, g(k)*C/groups + c, i, j] * w[p mod T, q mod U, k, c, r, s])
        where i = p*stride_h - pad_h + r*dilation_h and j = q*stride_w - pad_w + s*dilation_w

    Args:
        input: (N, C, H, W), or (C, H, W) for one image; dtypes and strides as in `conv1d`.
        weight: (T, U, K, C/groups, R, S) with 1 <= T <= P, 1 <= U <= Q; same dtype and device.
        bias: (K,), or untied, (t, u, K). Default None.
        stride: pixels between outputs, an int or one an axis, default 1.
        padding: pixels added around the image, as in `conv2d`; default 0.
        dilation: pixels between taps, an int or one an axis, default 1.
        groups: number of channel groups that do not see each other, default 1.
        mode: "cross_correlation" or "convolution", as in `conv1d`.
        padding_mode: "zeros", "reflect", "replicate" or "circular", as in `conv1d`.
        activation: None or a name, as in `conv1d`.
        residual: the result's shape; added before the activation. Default None.

    Returns:
        (N, K, P, Q) in the input's dtype; memory format as in `tiled_conv1d`.

    Raises:
        ProblemError: the arguments describe no convolution, or the period exceeds the output.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.5, "tiled convolution".
    """
    operands = (input, weight, bias, residual, activation)
    options = (stride, padding, dilation, groups, mode, padding_mode)
    return prepare(_TILED, 2, operands, options).convolve()


def tiled_conv3d(
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
    """Slide filters through a volume that take turns along its three axes.

    y[n, k, z, p, q] = act(bias[o mod t, k] + residual[n, k, z, p, q] + sum over c, f of
                           x[n, g(k)*C/groups + c, i] * w[o mod T, k, c, f])
        where o = (z, p, q), i = o*stride - pad_low + f*dilation along each of the three axes

    Args:
        input: (N, C, D, H, W), or (C, D, H, W) for one volume; dtypes and strides as in `conv1d`.
        weight: (*T, K, C/groups, *filter), the period T of three sizes, each at least 1 and at most
            the output's; same dtype and device.
        bias: (K,), or untied, (*t, K). Default None.
        stride: voxels between outputs, an int or one an axis, default 1.
        padding: voxels added around the volume, as in `conv3d`; default 0.
        dilation: voxels between taps, an int or one an axis, default 1.
        groups: number of channel groups that do not see each other, default 1.
        mode: "cross_correlation" or "convolution", as in `conv1d`.
        padding_mode: "zeros", "reflect", "replicate" or "circular", as in `conv1d`.
        activation: None or a name, as in `conv1d`.
        residual: the result's shape; added before the activation. Default None.

    Returns:
        (N, K, Z, P, Q) in the input's dtype; memory format as in `tiled_conv1d`.

    Raises:
        ProblemError: the arguments describe no convolution, or the period exceeds the output.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.5, "tiled convolution".
    """
    operands = (input, weight, bias, residual, activation)
    options = (stride, padding, dilation, groups, mode, padding_mode)
    return prepare(_TILED, 3, operands, options).convolve()
