"""Convolution functions with the arguments of torch.nn.functional, and more kinds of padding."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .arguments import flips, padding_pairs, per_axis
from .errors import ProblemError
from .ops.entry import convolve

Size = int | Sequence[int]
Padding = int | Sequence[int] | str | Sequence[Sequence[int]]


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
) -> Tensor:
    """Slide a bank of filters along a signal.

    y[n, k, q] = bias[k] + sum over c, s of
                 x[n, g(k)*C/groups + c, q*stride - pad_low + s*dilation] * w[k, c, s]

    Args:
        input: (N, C, W), or (C, W) for one signal; float16, bfloat16, float32 or float64; any
            strides, read in place.
        weight: (K, C/groups, S), same dtype and device.
        bias: (K,), or None.
        stride: samples between outputs, default 1.
        padding: zeros at each end, in samples: an int, ((low, high),), or a word. "valid":
            none; "same": output = ceil(W / stride), the odd zero at the high end; "same_lower":
            the odd zero at the low end; "full": dilation * (S - 1) at both ends. Default 0.
        dilation: samples between taps, default 1.
        groups: number of channel groups that do not see each other, default 1.
        mode: "cross_correlation", or "convolution", which reads the filter backwards: the
            textbook's definition, commutative under full padding.

    Returns:
        (N, K, Q) in the input's dtype, Q = (W + low + high - dilation*(S-1) - 1) // stride + 1;
        channels-last in memory if the input or the weight is.

    Raises:
        ProblemError: the arguments describe no convolution; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, sections 9.1 and 9.5.
    """
    return _conv(1, input, weight, bias, (stride, padding, dilation, groups, mode))


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
) -> Tensor:
    """Slide a bank of filters over an image.

    y[n, k, p, q] = bias[k] + sum over c, r, s of x[n, g(k)*C/groups + c, i, j] * w[k, c, r, s]
        where i = p*stride_h - pad_h + r*dilation_h and j = q*stride_w - pad_w + s*dilation_w

    Args:
        input: (N, C, H, W), or (C, H, W) for one image; dtypes and strides as in `conv1d`.
        weight: (K, C/groups, R, S), same dtype and device.
        bias: (K,), or None.
        stride: pixels between outputs, an int or one an axis, default 1.
        padding: zeros around the image, in pixels: an int, one an axis, ((low, high), (low, high)),
            or a word of `conv1d`. Default 0.
        dilation: pixels between taps, an int or one an axis, default 1.
        groups: number of channel groups that do not see each other, default 1.
        mode: "cross_correlation" or "convolution", as in `conv1d`.

    Returns:
        (N, K, P, Q) in the input's dtype; channels-last in memory if the input or the weight is.

    Raises:
        ProblemError: the arguments describe no convolution; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, sections 9.1 and 9.5.
    """
    return _conv(2, input, weight, bias, (stride, padding, dilation, groups, mode))


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
) -> Tensor:
    """Slide a bank of filters through a volume or a video.

    y[n, k, z, p, q] = bias[k]
        + sum over c, t, r, s of x[n, g(k)*C/groups + c, h, i, j] * w[k, c, t, r, s]
        where h = z*stride_d - pad_d + t*dilation_d, and i and j likewise

    Args:
        input: (N, C, D, H, W), or (C, D, H, W) for one volume; dtypes and strides as in `conv1d`.
        weight: (K, C/groups, T, R, S), same dtype and device.
        bias: (K,), or None.
        stride: voxels between outputs, an int or one an axis, default 1.
        padding: zeros around the volume, in voxels: an int, one an axis, three (low, high) pairs,
            or a word of `conv1d`. Default 0.
        dilation: voxels between taps, an int or one an axis, default 1.
        groups: number of channel groups that do not see each other, default 1.
        mode: "cross_correlation" or "convolution", as in `conv1d`.

    Returns:
        (N, K, Z, P, Q) in the input's dtype; channels-last in memory if the input or weight is.

    Raises:
        ProblemError: the arguments describe no convolution; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, sections 9.1 and 9.5.
    """
    return _conv(3, input, weight, bias, (stride, padding, dilation, groups, mode))


def _conv(
    rank: int, input: Tensor, weight: Tensor, bias: Tensor | None, options: tuple[Any, ...]
) -> Tensor:
    """The canonical form of a call: a batch, `rank` ints an option, padding as (low, high)."""
    for name, tensor in (("input", input), ("weight", weight), ("bias", bias)):
        if not isinstance(tensor, Tensor) and (name != "bias" or tensor is not None):
            raise ProblemError(f"{name}: expected a torch.Tensor, got {type(tensor).__name__}")
    axes = input.dim()
    if axes not in (rank + 1, rank + 2) or weight.dim() != rank + 2:
        name, tensor = ("input", input) if axes not in (rank + 1, rank + 2) else ("weight", weight)
        wanted = (
            f"{rank + 2} axes, or {rank + 1} without a batch"
            if name == "input"
            else (f"{rank + 2} axes (K, C/groups and {rank} of the filter)")
        )
        raise ProblemError(
            f"{name}: conv{rank}d expected {wanted}, got {tensor.dim()} in {list(tensor.shape)}"
        )
    stride, padding, dilation, groups, mode = options
    stride = [stride] * rank if type(stride) is int else per_axis("stride", stride, rank)
    dilation = [dilation] * rank if type(dilation) is int else per_axis("dilation", dilation, rank)
    if type(padding) is int:
        padding = [padding] * (2 * rank)
    else:
        padding = padding_pairs(
            padding, stride, dilation, input.shape[-rank:], weight.shape[-rank:]
        )
    if not isinstance(groups, int) or isinstance(groups, bool):
        (groups,) = per_axis("groups", groups, 1)
    flip = mode != "cross_correlation" and flips(mode)
    if axes == rank + 2:
        return convolve(
            input, weight, bias, None, "none", stride, padding, dilation, groups, flip, "zeros"
        )
    one = input.unsqueeze(0)
    return convolve(
        one, weight, bias, None, "none", stride, padding, dilation, groups, flip, "zeros"
    ).squeeze(0)
