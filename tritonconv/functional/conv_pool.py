"""The textbook's three-stage layer as one function: convolution, detector, pooling."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..arguments import is_int, per_axis, positive
from ..conv_pool import POOLS
from ..errors import ProblemError
from ..ops.conv_pool import conv_pool
from ._call import Kind, Padding, Size, prepare

_KIND = Kind("conv_pool", "K, C/groups")


def conv_pool1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    activation: str | None = "relu",
    pool: str = "max",
    pool_size: Size = 2,
    pool_stride: Size | None = None,
    mode: str = "cross_correlation",
    padding_mode: str = "zeros",
) -> Tensor:
    """Slide a bank of filters along a signal, detect, and pool: one layer of a network.

    y[n, k, u] = pool over t < pool_size of z[n, k, u*pool_stride + t]
        where z = activation(conv1d(input, weight, bias, ...))

    Args:
        input: (N, C, W), or (C, W) for one signal; dtypes and strides as in `conv1d`.
        weight: (K, C/groups, S), same dtype and device.
        bias: (K,), or untied as in `conv1d`. Default None.
        stride, padding, dilation, groups, mode, padding_mode: those of the convolution, as in
            `conv1d`.
        activation: None or a name, as in `conv1d`; default "relu".
        pool: "max", "avg", "l2" (the Euclidean norm), or "maxout", the largest of each group of
            pool_size consecutive channels. Default "max".
        pool_size: samples of z in a window, or for "maxout" channels, which then divide K.
            Default 2.
        pool_stride: samples (or channels) between windows; default the pool size. On a GPU
            windows that do not overlap are pooled in the convolution's kernel, all others in a
            second one.

    Returns:
        (N, K, U) with U = (Q - pool_size) // pool_stride + 1, Q as in `conv1d`; for "maxout" that
        many channels of Q samples. In the input's dtype; memory format as in `conv1d`.

    Raises:
        ProblemError: the arguments describe no such layer; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3 and figure 9.7.
    """
    options = (stride, padding, dilation, groups, mode, padding_mode)
    return _layer(1, (input, weight, bias), options, (activation, pool, pool_size, pool_stride))


def conv_pool2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    activation: str | None = "relu",
    pool: str = "max",
    pool_size: Size = 2,
    pool_stride: Size | None = None,
    mode: str = "cross_correlation",
    padding_mode: str = "zeros",
) -> Tensor:
    """Slide a bank of filters over an image, detect, and pool: one layer of a network.

    y[n, k, u, v] = pool over r, s of z[n, k, u*pool_stride_h + r, v*pool_stride_w + s]
        where z = activation(conv2d(input, weight, bias, ...)) and r, s count through the window

    Args:
        input: (N, C, H, W), or (C, H, W) for one image; dtypes and strides as in `conv1d`.
        weight: (K, C/groups, R, S), same dtype and device.
        bias: (K,), or untied as in `conv2d`. Default None.
        stride, padding, dilation, groups, mode, padding_mode: those of the convolution, as in
            `conv2d`.
        activation, pool: as in `conv_pool1d`; defaults "relu" and "max".
        pool_size: pixels of z in a window, an int or one an axis; for "maxout" one int, of
            channels. Default 2.
        pool_stride: pixels (or channels) between windows; default the pool size.

    Returns:
        (N, K, U, V), or for "maxout" fewer channels of the convolution's pixels, as in
        `conv_pool1d`.

    Raises:
        ProblemError: the arguments describe no such layer; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3 and figure 9.7.
    """
    options = (stride, padding, dilation, groups, mode, padding_mode)
    return _layer(2, (input, weight, bias), options, (activation, pool, pool_size, pool_stride))


def conv_pool3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    activation: str | None = "relu",
    pool: str = "max",
    pool_size: Size = 2,
    pool_stride: Size | None = None,
    mode: str = "cross_correlation",
    padding_mode: str = "zeros",
) -> Tensor:
    """Slide a bank of filters through a volume, detect, and pool: one layer of a network.

    y[n, k, u] = pool over f of z[n, k, u*pool_stride + f] along each of the three axes
        where z = activation(conv3d(input, weight, bias, ...)) and f counts through the window

    Args:
        input: (N, C, D, H, W), or (C, D, H, W) for one volume; dtypes and strides as in `conv1d`.
        weight: (K, C/groups, T, R, S), same dtype and device.
        bias: (K,), or untied as in `conv3d`. Default None.
        stride, padding, dilation, groups, mode, padding_mode: those of the convolution, as in
            `conv3d`.
        activation, pool: as in `conv_pool1d`; defaults "relu" and "max".
        pool_size: voxels of z in a window, an int or one an axis; for "maxout" one int, of
            channels. Default 2.
        pool_stride: voxels (or channels) between windows; default the pool size.

    Returns:
        (N, K, *U), or for "maxout" fewer channels of the convolution's voxels, as in
        `conv_pool1d`.

    Raises:
        ProblemError: the arguments describe no such layer; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3 and figure 9.7.
    """
    options = (stride, padding, dilation, groups, mode, padding_mode)
    return _layer(3, (input, weight, bias), options, (activation, pool, pool_size, pool_stride))


def _layer(
    rank: int, operands: Sequence[Any], options: tuple[Any, ...], stages: Sequence[Any]
) -> Tensor:
    """`stages` are (activation, pool, pool_size, pool_stride), as the caller wrote them."""
    activation, pool, pool_size, pool_stride = stages
    input, weight, bias = operands
    call = prepare(_KIND, rank, (input, weight, bias, None, activation), options)
    if not isinstance(pool, str):
        raise ProblemError(f"pool: expected one of {', '.join(POOLS)}, got {pool!r}")
    size = _sizes("pool_size", pool_size, pool, rank)
    step = size if pool_stride is None else _sizes("pool_stride", pool_stride, pool, rank)
    rest = (*call.rest, call.activation, pool, size, step)
    y = conv_pool(call.input, call.weight, call.bias, *rest)
    return y.squeeze(0) if call.single else y


def _sizes(name: str, value: Any, pool: str, rank: int) -> list[int]:
    """One an axis that `pool` slides along: the spatial ones, or that of the channels."""
    if pool == "maxout":
        sizes = list(value) if isinstance(value, Sequence) else [value]
        if len(sizes) != 1 or not is_int(sizes[0]):
            raise ProblemError(
                f"{name}: expected one int, a number of channels, for pool 'maxout', got {value!r}"
            )
    else:
        sizes = per_axis(name, value, rank)
    positive(name, sizes)
    return sizes
