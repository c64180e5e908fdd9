"""Max unpooling: elements back to where max pooling found them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..arguments import not_negative, per_axis, positive
from ..checks import shape_of
from ..errors import ProblemError
from ._pool import Size, batch_of, is_readable


def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Size | None = None,
) -> Tensor:
    """Lay elements down where `max_pool1d` found them, and zeros elsewhere.

    x[n, c, indices[n, c, q]] = y[n, c, q]

    Args:
        input: (N, C, Q), or (C, Q); any dtype, any strides.
        indices: the same shape, int64, as `max_pool1d` returns them; -1 lays nothing down. Where
            two are equal, their elements must be, as overlapping windows make them.
        kernel_size, stride, padding: those of the pooling, ints or one an axis.
        output_size: the size of x, with or without its first axes; it must differ from the usual,
            (Q - 1)*stride - 2*padding + kernel_size, by less than a stride. Default that.

    Returns:
        (N, C, W) in the input's dtype.

    Raises:
        ProblemError: the arguments describe no unpooling, or an index lies outside (on a CPU).

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3; Zeiler and Fergus, 2014.
    """
    return _unpool(1, input, indices, (kernel_size, stride, padding, output_size))


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Size | None = None,
) -> Tensor:
    """Lay elements down where `max_pool2d` found them, and zeros elsewhere.

    x[n, c, i, j] = y[n, c, p, q], where indices[n, c, p, q] = i*W + j

    Args:
        input: (N, C, P, Q), or (C, P, Q); any dtype, any strides.
        indices: the same shape, int64, as `max_pool2d` returns them.
        kernel_size, stride, padding, output_size: as in `max_unpool1d`.

    Returns:
        (N, C, H, W) in the input's dtype.

    Raises:
        ProblemError: the arguments describe no unpooling, or an index lies outside (on a CPU).

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3; Zeiler and Fergus, 2014.
    """
    return _unpool(2, input, indices, (kernel_size, stride, padding, output_size))


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Size | None = None,
) -> Tensor:
    """Lay elements down where `max_pool3d` found them, and zeros elsewhere.

    x[n, c, h, i, j] = y[n, c, z, p, q], where indices[n, c, z, p, q] = (h*H + i)*W + j

    Args:
        input: (N, C, Z, P, Q), or (C, Z, P, Q); any dtype, any strides.
        indices: the same shape, int64, as `max_pool3d` returns them.
        kernel_size, stride, padding, output_size: as in `max_unpool1d`.

    Returns:
        (N, C, D, H, W) in the input's dtype.

    Raises:
        ProblemError: the arguments describe no unpooling, or an index lies outside (on a CPU).

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3; Zeiler and Fergus, 2014.
    """
    return _unpool(3, input, indices, (kernel_size, stride, padding, output_size))


def _unpool(rank: int, input: Any, indices: Any, options: tuple[Any, ...]) -> Tensor:
    y, single = batch_of("max_unpool", rank, input)
    if not isinstance(indices, Tensor) or indices.dtype != torch.int64:
        found = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
        raise ProblemError(f"indices: expected an int64 tensor, got {found}")
    if indices.shape != input.shape:
        raise ProblemError(
            f"indices: expected the input's shape {shape_of(input)}, got {shape_of(indices)}"
        )
    size = _size(rank, y.shape[2:], options)
    total = 1
    for n in size:
        total *= n
    flat = indices.reshape(*y.shape[:2], y.shape[2:].numel())
    if flat.numel() and is_readable(flat):
        low, high = int(flat.min()), int(flat.max())
        if low < -1 or high >= total:
            raise ProblemError(
                f"indices: expected positions below {total}, those of size {size}, or -1, got "
                f"{low} to {high}; name the size that was pooled as output_size"
            )
    # One place more takes what belongs nowhere; elements of equal indices are equal, so whichever
    # is written last, the result is the same.
    flat = torch.where(flat < 0, total, flat)
    x = y.new_zeros(*y.shape[:2], total + 1).scatter(2, flat, y.reshape(flat.shape))
    x = x[..., :total].reshape(*y.shape[:2], *size)
    return x.squeeze(0) if single else x


def _size(rank: int, sizes: Sequence[int], options: tuple[Any, ...]) -> list[int]:
    kernel_size, stride, padding, output_size = options
    kernel = per_axis("kernel_size", kernel_size, rank)
    steps = kernel if stride is None else per_axis("stride", stride, rank)
    pads = per_axis("padding", padding, rank)
    positive("kernel_size", kernel)
    positive("stride", steps)
    usual = [(n - 1) * s - 2 * p + k for n, s, p, k in zip(sizes, steps, pads, kernel, strict=True)]
    not_negative("padding", pads, "a larger result is an output_size")
    if output_size is None:
        if min(usual) < 1:
            raise ProblemError(
                f"padding: expected to leave at least one element along each spatial axis, got "
                f"{pads}, which makes the result {usual}; give the padding of the pooling"
            )
        return usual
    if isinstance(output_size, Sequence) and len(output_size) in (rank + 1, rank + 2):
        output_size = list(output_size)[-rank:]
    wanted = per_axis("output_size", output_size, rank)
    near = zip(wanted, usual, steps, strict=True)
    if min(wanted) < 1 or any(abs(w - n) >= s for w, n, s in near):
        raise ProblemError(
            f"output_size: expected positive ints less than a stride {steps} from {usual}, got "
            f"{wanted}; give the size that was pooled"
        )
    return wanted
