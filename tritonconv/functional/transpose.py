"""Transposed convolution: the adjoint of a convolution, which turns outputs back into inputs."""

from torch import Tensor

from ._call import Kind, Padding, Size, transposed

_TRANSPOSE = Kind("conv_transpose", "C_in, C_out/groups")


def conv_transpose1d(
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
    """Lay a filter down at every sample of a signal, scaled by it, and add up.

    y[n, m, i] = act(bias[m] + residual[n, m, i]
                     + sum over k of group g, q, s of x[n, k, q] * w[k, c, s])
        over all q and s with i = q*stride - pad_low + s*dilation, where m = g*C_out/groups + c

    It is the adjoint of `conv1d` with the same weight, stride, padding and dilation, from its
    output, the input here, to its input: <conv1d(a, w), x> = <a, conv_transpose1d(x, w)>.

    Args:
        input: (N, C_in, W), or (C_in, W) for one signal; dtypes and strides as in `conv1d`.
        weight: (C_in, C_out/groups, S), same dtype and device.
        bias: (C_out,), or untied, (T, C_out) with 1 <= T <= output size: position i adds
            bias[i mod T, m]. Default None.
        stride: output samples between neighbouring input samples, default 1.
        padding: samples cropped from each end of the result: an int, ((low, high),), or a word,
            which crops what that word pads in `conv1d`. "valid": nothing; "same": output =
            W * stride, the odd sample at the high end; "same_lower": the odd one at the low end;
            "full": dilation * (S - 1) at both ends. Default 0.
        output_padding: samples more at the high end, less than the stride or the dilation; not with
            a word, nor with output_size. Default 0.
        groups: number of channel groups that do not see each other, default 1.
        dilation: samples between taps, default 1.
        output_size: the size that is wanted, of the `stride` sizes that `conv1d` maps to W: an int,
            or a shape whose last size counts. Default None: the smallest, plus output_padding, or
            what the word says.
        mode: "cross_correlation", or "convolution", the adjoint of `conv1d` in that mode.
        padding_mode: as in `conv1d`, whose adjoint sends what was read beyond an end back to where
            it came from: what "zeros" crops, the other modes add to the result. Their limits are
            in terms of the result: "reflect" needs padding < size, "circular" padding <= size.
        activation: None or a name, as in `conv1d`.
        residual: the result's shape; added before the activation. Default None.

    Returns:
        (N, C_out, size), size = (W-1)*stride - low - high + dilation*(S-1) + 1 + output_padding, in
        the input's dtype; channels-last in memory if the input or the weight is.

    Raises:
        ProblemError: the arguments describe no transposed convolution; says which, why and what to
            do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.5; Dumoulin, Visin, A guide to
    convolution arithmetic for deep learning, chapter 4.
    """
    operands = (input, weight, bias, residual, activation)
    sizes = (stride, padding, output_padding, groups, dilation, output_size)
    return transposed(_TRANSPOSE, 1, operands, (*sizes, mode, padding_mode))


def conv_transpose2d(
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
    """Lay a filter down at every pixel of an image, scaled by it, and add up.

    y[n, m, i, j] = act(bias[m] + residual[n, m, i, j]
                        + sum over k of group g, p, q, r, s of x[n, k, p, q] * w[k, c, r, s])
        where i = p*stride_h - pad_h + r*dilation_h, j = q*stride_w - pad_w + s*dilation_w and
        m = g*C_out/groups + c

    The adjoint of `conv2d`, as `conv_transpose1d` is of `conv1d`.

    Args:
        input: (N, C_in, H, W), or (C_in, H, W) for one image; dtypes and strides as in `conv1d`.
        weight: (C_in, C_out/groups, R, S), same dtype and device.
        bias: (C_out,), or untied, (T, U, C_out). Default None.
        stride: output pixels between neighbouring input pixels, an int or one an axis, default 1.
        padding: pixels cropped from the result's sides: an int, one an axis, ((low, high), (low,
            high)), or a word of `conv_transpose1d`. Default 0.
        output_padding: pixels more at the high ends, an int or one an axis, as in
            `conv_transpose1d`. Default 0.
        groups: number of channel groups that do not see each other, default 1.
        dilation: pixels between taps, an int or one an axis, default 1.
        output_size: the height and width that are wanted, or a shape that ends with them, as in
            `conv_transpose1d`. Default None.
        mode: "cross_correlation" or "convolution", as in `conv_transpose1d`.
        padding_mode: "zeros", "reflect", "replicate" or "circular", as in `conv_transpose1d`.
        activation: None or a name, as in `conv1d`.
        residual: the result's shape; added before the activation. Default None.

    Returns:
        (N, C_out, *size) in the input's dtype, sizes as in `conv_transpose1d`; channels-last in
        memory if the input or the weight is.

    Raises:
        ProblemError: the arguments describe no transposed convolution.

    Source: as `conv_transpose1d`.
    """
    operands = (input, weight, bias, residual, activation)
    sizes = (stride, padding, output_padding, groups, dilation, output_size)
    return transposed(_TRANSPOSE, 2, operands, (*sizes, mode, padding_mode))


def conv_transpose3d(
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
    """Lay a filter down at every voxel of a volume, scaled by it, and add up.

    y[n, m, i] = act(bias[m] + residual[n, m, i]
                     + sum over k of group g, o, f of x[n, k, o] * w[k, c, f])
        over all o and f with i = o*stride - pad_low + f*dilation along each of the three axes,
        where m = g*C_out/groups + c

    The adjoint of `conv3d`, as `conv_transpose1d` is of `conv1d`.

    Args:
        input: (N, C_in, D, H, W), or (C_in, D, H, W) for one volume; dtypes as in `conv1d`.
        weight: (C_in, C_out/groups, T, R, S), same dtype and device.
        bias: (C_out,), or untied with a period of three sizes in front. Default None.
        stride: output voxels between neighbouring input voxels, an int or one an axis, default 1.
        padding: voxels cropped from the result's sides: an int, one an axis, three (low, high)
            pairs, or a word of `conv_transpose1d`. Default 0.
        output_padding: voxels more at the high ends, an int or one an axis, as in
            `conv_transpose1d`. Default 0.
        groups: number of channel groups that do not see each other, default 1.
        dilation: voxels between taps, an int or one an axis, default 1.
        output_size: the three sizes that are wanted, or a shape that ends with them, as in
            `conv_transpose1d`. Default None.
        mode: "cross_correlation" or "convolution", as in `conv_transpose1d`.
        padding_mode: "zeros", "reflect", "replicate" or "circular", as in `conv_transpose1d`.
        activation: None or a name, as in `conv1d`.
        residual: the result's shape; added before the activation. Default None.

    Returns:
        (N, C_out, *size) in the input's dtype, sizes as in `conv_transpose1d`; channels-last in
        memory if the input or the weight is.

    Raises:
        ProblemError: the arguments describe no transposed convolution.

    Source: as `conv_transpose1d`.
    """
    operands = (input, weight, bias, residual, activation)
    sizes = (stride, padding, output_padding, groups, dilation, output_size)
    return transposed(_TRANSPOSE, 3, operands, (*sizes, mode, padding_mode))
