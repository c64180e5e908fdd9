"""Unshared convolution: every position has filters of its own; also "locally connected layer".

Locality without sharing: for images in which a feature belongs to one place (a chin in the lower
half of a face). The weight has the output's size in front, and grows with it.
"""

from torch import Tensor

from ._call import Kind, Padding, Size, prepare, transposed

_UNSHARED = Kind("unshared_conv", "the output's size, K, C/groups", banks=True, unshared=True)
_TRANSPOSE = Kind("unshared_conv_transpose", "the input's size, K, C/groups", banks=True)


def unshared_conv1d(
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
    """Slide along a signal with other filters at every position.

    y[n, k, q] = act(bias[q mod t, k] + residual[n, k, q] + sum over c, s of
                     x[n, g(k)*C/groups + c, q*stride - pad_low + s*dilation] * w[q, k, c, s])

    Args:
        input: (N, C, W), or (C, W) for one signal; dtypes and strides as in `conv1d`.
        weight: (Q, K, C/groups, S), Q the output's size; same dtype and device.
        bias: (K,), or untied, (t, K) with 1 <= t <= Q; (Q, K) gives every unit its own. Default
            None.
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
        the weight is, whose axis of positions does not count.

    Raises:
        ProblemError: the arguments describe no convolution, or weight has not Q banks.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.5, "unshared convolution".
    """
    operands = (input, weight, bias, residual, activation)
    options = (stride, padding, dilation, groups, mode, padding_mode)
    return prepare(_UNSHARED, 1, operands, options).convolve()


def unshared_conv2d(
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
    """Slide over an image with other filters at every position.

    y[n, k, p, q] = act(bias[p mod t, q mod u, k] + residual[n, k, p, q] + sum over c, r, s of
                        x[n, g(k)*C/groups + c, i, j] * w[p, q, k, c, r, s])
        where i = p*stride_h - pad_h + r*dilation_h and j = q*stride_w - pad_w + s*dilation_w

    Args:
        input: (N, C, H, W), or (C, H, W) for one image; dtypes and strides as in `conv1d`.
        weight: (P, Q, K, C/groups, R, S), P x Q the output's size; same dtype and device.
        bias: (K,), or untied, (t, u, K); (P, Q, K) gives every unit its own. Default None.
        stride: pixels between outputs, an int or one an axis, default 1.
        padding: pixels added around the image, as in `conv2d`; default 0.
        dilation: pixels between taps, an int or one an axis, default 1.
        groups: number of channel groups that do not see each other, default 1.
        mode: "cross_correlation" or "convolution", as in `conv1d`.
        padding_mode: "zeros", "reflect", "replicate" or "circular", as in `conv1d`.
        activation: None or a name, as in `conv1d`.
        residual: the result's shape; added before the activation. Default None.

    Returns:
        (N, K, P, Q) in the input's dtype; memory format as in `unshared_conv1d`.

    Raises:
        ProblemError: the arguments describe no convolution, or weight has not P x Q banks.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.5, "unshared convolution".
    """
    operands = (input, weight, bias, residual, activation)
    options = (stride, padding, dilation, groups, mode, padding_mode)
    return prepare(_UNSHARED, 2, operands, options).convolve()


def unshared_conv3d(
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
    """Slide through a volume with other filters at every position.

    y[n, k, z, p, q] = act(bias[o mod t, k] + residual[n, k, z, p, q] + sum over c, f of
                           x[n, g(k)*C/groups + c, i] * w[o, k, c, f])
        where o = (z, p, q), i = o*stride - pad_low + f*dilation along each of the three axes

    Args:
        input: (N, C, D, H, W), or (C, D, H, W) for one volume; dtypes and strides as in `conv1d`.
        weight: (Z, P, Q, K, C/groups, T, R, S), Z x P x Q the output's size; same dtype and device.
        bias: (K,), or untied, (*t, K); (Z, P, Q, K) gives every unit its own. Default None.
        stride: voxels between outputs, an int or one an axis, default 1.
        padding: voxels added around the volume, as in `conv3d`; default 0.
        dilation: voxels between taps, an int or one an axis, default 1.
        groups: number of channel groups that do not see each other, default 1.
        mode: "cross_correlation" or "convolution", as in `conv1d`.
        padding_mode: "zeros", "reflect", "replicate" or "circular", as in `conv1d`.
        activation: None or a name, as in `conv1d`.
        residual: the result's shape; added before the activation. Default None.

    Returns:
        (N, K, Z, P, Q) in the input's dtype; memory format as in `unshared_conv1d`.

    Raises:
        ProblemError: the arguments describe no convolution, or weight has not Z x P x Q banks.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.5, "unshared convolution".
    """
    operands = (input, weight, bias, residual, activation)
    options = (stride, padding, dilation, groups, mode, padding_mode)
    return prepare(_UNSHARED, 3, operands, options).convolve()


def unshared_conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    output_size: Size | None = None,
    mode: str = "cross_correlation",
    padding_mode: str = "zeros",
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Lay down at every sample of a signal filters of its own, scaled by it, and add up.

    y[n, m, i] = act(bias[i mod t, m] + residual[n, m, i]
                     + sum over k of group g, q, s of x[n, k, q] * w[q, k, c, s])
        over all q and s with i = q*stride - pad_low + s*dilation, where m = g*C/groups + c

    The adjoint of `unshared_conv1d`: <unshared_conv1d(a, w), x> = <a, y>.

    Args:
        input: (N, K, Q), or (K, Q) for one signal; dtypes and strides as in `conv1d`.
        weight: (Q, K, C/groups, S), a bank of filters for each of the input's samples; same dtype
            and device. The weight of `unshared_conv1d`.
        bias: (C,), or untied, (t, C) with 1 <= t <= output size. Default None.
        stride: output samples between neighbouring input samples, default 1.
        padding: samples cropped from each end: an int, ((low, high),) or a word, as in
            `conv_transpose1d`. Default 0.
        output_padding: samples more at the high end, as in `conv_transpose1d`. Default 0.
        groups: number of channel groups that do not see each other, default 1.
        dilation: samples between taps, default 1.
        output_size: the size that is wanted, as in `conv_transpose1d`. Default None.
        mode: "cross_correlation" or "convolution", as in `conv_transpose1d`.
        padding_mode: "zeros", "reflect", "replicate" or "circular", as in `conv_transpose1d`.
        activation: None or a name, as in `conv1d`.
        residual: the result's shape; added before the activation. Default None.

    Returns:
        (N, C, size) in the input's dtype, size as in `conv_transpose1d`; channels-last in memory if
        the input or the weight is, whose axis of positions does not count.

    Raises:
        ProblemError: the arguments describe no transposed convolution, or weight has not Q banks.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.5.
    """
    operands = (input, weight, bias, residual, activation)
    sizes = (stride, padding, output_padding, groups, dilation, output_size)
    return transposed(_TRANSPOSE, 1, operands, (*sizes, mode, padding_mode))


def unshared_conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    output_size: Size | None = None,
    mode: str = "cross_correlation",
    padding_mode: str = "zeros",
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Lay down at every pixel of an image filters of its own, scaled by it, and add up.

    y[n, m, i, j] = act(bias[i mod t, j mod u, m] + residual[n, m, i, j]
                        + sum over k of group g, p, q, r, s of x[n, k, p, q] * w[p, q, k, c, r, s])
        where i = p*stride_h - pad_h + r*dilation_h, j = q*stride_w - pad_w + s*dilation_w and
        m = g*C/groups + c

    The adjoint of `unshared_conv2d`.

    Args:
        input: (N, K, P, Q), or (K, P, Q) for one image; dtypes and strides as in `conv1d`.
        weight: (P, Q, K, C/groups, R, S), a bank of filters for each of the input's pixels; same
            dtype and device.
        bias: (C,), or untied, (t, u, C). Default None.
        stride: output pixels between neighbouring input pixels, an int or one an axis, default 1.
        padding: pixels cropped from the result's sides, as in `conv_transpose2d`. Default 0.
        output_padding: pixels more at the high ends, as in `conv_transpose2d`. Default 0.
        groups: number of channel groups that do not see each other, default 1.
        dilation: pixels between taps, an int or one an axis, default 1.
        output_size: the sizes that are wanted, as in `conv_transpose2d`. Default None.
        mode: "cross_correlation" or "convolution", as in `conv_transpose1d`.
        padding_mode: "zeros", "reflect", "replicate" or "circular", as in `conv_transpose1d`.
        activation: None or a name, as in `conv1d`.
        residual: the result's shape; added before the activation. Default None.

    Returns:
        (N, C, *size) in the input's dtype; sizes and memory format as in
        `unshared_conv_transpose1d`.

    Raises:
        ProblemError: the arguments describe no transposed convolution, or weight has not P x Q
            banks.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.5.
    """
    operands = (input, weight, bias, residual, activation)
    sizes = (stride, padding, output_padding, groups, dilation, output_size)
    return transposed(_TRANSPOSE, 2, operands, (*sizes, mode, padding_mode))


def unshared_conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    output_size: Size | None = None,
    mode: str = "cross_correlation",
    padding_mode: str = "zeros",
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Lay down at every voxel of a volume filters of its own, scaled by it, and add up.

    y[n, m, i] = act(bias[i mod t, m] + residual[n, m, i]
                     + sum over k of group g, o, f of x[n, k, o] * w[o, k, c, f])
        over all o and f with i = o*stride - pad_low + f*dilation along each of the three axes,
        where m = g*C/groups + c

    The adjoint of `unshared_conv3d`.

    Args:
        input: (N, K, Z, P, Q), or (K, Z, P, Q) for one volume; dtypes and strides as in `conv1d`.
        weight: (Z, P, Q, K, C/groups, T, R, S), a bank of filters for each of the input's voxels;
            same dtype and device.
        bias: (C,), or untied, (*t, C). Default None.
        stride: output voxels between neighbouring input voxels, an int or one an axis, default 1.
        padding: voxels cropped from the result's sides, as in `conv_transpose3d`. Default 0.
        output_padding: voxels more at the high ends, as in `conv_transpose3d`. Default 0.
        groups: number of channel groups that do not see each other, default 1.
        dilation: voxels between taps, an int or one an axis, default 1.
        output_size: the sizes that are wanted, as in `conv_transpose3d`. Default None.
        mode: "cross_correlation" or "convolution", as in `conv_transpose1d`.
        padding_mode: "zeros", "reflect", "replicate" or "circular", as in `conv_transpose1d`.
        activation: None or a name, as in `conv1d`.
        residual: the result's shape; added before the activation. Default None.

    Returns:
        (N, C, *size) in the input's dtype; sizes and memory format as in
        `unshared_conv_transpose1d`.

    Raises:
        ProblemError: the arguments describe no transposed convolution, or weight has not Z x P x Q
            banks.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.5.
    """
    operands = (input, weight, bias, residual, activation)
    sizes = (stride, padding, output_padding, groups, dilation, output_size)
    return transposed(_TRANSPOSE, 3, operands, (*sizes, mode, padding_mode))
