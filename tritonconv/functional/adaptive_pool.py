"""Pooling to a given size, and over the whole image."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..errors import ProblemError
from ..ops.pool import max_pool, sum_pool
from ._pool import PoolInput, batch_of, check_flag, prepare_adaptive
from .lp_pool import norm_of

Sizes = int | Sequence[int | None] | None


def adaptive_max_pool1d(input: Tensor, output_size: Sizes, return_indices: bool = False) -> Any:
    """The largest element of each of `output_size` windows that share a signal out.

    y[n, c, q] = max of x[n, c, i] over floor(q*W/Q) <= i < ceil((q+1)*W/Q)

    Args:
        input: (N, C, W), or (C, W); dtypes and strides as in `max_pool1d`.
        output_size: the number of windows; None keeps the input's size.
        return_indices: as in `max_pool1d`, default False.

    Returns:
        (N, C, Q) in the input's dtype and memory format, and the indices if asked for; as in
        `max_pool1d`.

    Raises:
        ProblemError: the arguments describe no pooling; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3, inputs of varying size.
    """
    return _max(prepare_adaptive("adaptive_max_pool", 1, input, output_size), return_indices)


def adaptive_max_pool2d(input: Tensor, output_size: Sizes, return_indices: bool = False) -> Any:
    """The largest element of each window of a grid of windows that share an image out.

    y[n, c, p, q] = max of x[n, c, i, j] over floor(p*H/P) <= i < ceil((p+1)*H/P), and j likewise

    Args:
        input: (N, C, H, W), or (C, H, W); dtypes and strides as in `max_pool1d`.
        output_size: (P, Q), or one number for both; None keeps the input's size.
        return_indices: as in `max_pool2d`, default False.

    Returns:
        (N, C, P, Q); as in `adaptive_max_pool1d`.

    Raises:
        ProblemError: the arguments describe no pooling; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3, inputs of varying size.
    """
    return _max(prepare_adaptive("adaptive_max_pool", 2, input, output_size), return_indices)


def adaptive_max_pool3d(input: Tensor, output_size: Sizes, return_indices: bool = False) -> Any:
    """The largest element of each window of a grid of windows that share a volume out.

    y[n, c, z, p, q] = max of x[n, c, h, i, j] over floor(z*D/Z) <= h < ceil((z+1)*D/Z), and i and
        j likewise

    Args:
        input: (N, C, D, H, W), or (C, D, H, W); dtypes and strides as in `max_pool1d`.
        output_size: (Z, P, Q), or one number for all; None keeps the input's size.
        return_indices: as in `max_pool3d`, default False.

    Returns:
        (N, C, Z, P, Q); as in `adaptive_max_pool1d`.

    Raises:
        ProblemError: the arguments describe no pooling; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3, inputs of varying size.
    """
    return _max(prepare_adaptive("adaptive_max_pool", 3, input, output_size), return_indices)


def adaptive_avg_pool1d(input: Tensor, output_size: Sizes) -> Tensor:
    """The mean of each of `output_size` windows that share a signal out.

    y[n, c, q] = mean of x[n, c, i] over floor(q*W/Q) <= i < ceil((q+1)*W/Q)

    Args:
        input: (N, C, W), or (C, W); dtypes and strides as in `avg_pool1d`.
        output_size: the number of windows; None keeps the input's size.

    Returns:
        (N, C, Q) in the input's dtype and memory format.

    Raises:
        ProblemError: the arguments describe no pooling; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3, inputs of varying size.
    """
    return _avg(prepare_adaptive("adaptive_avg_pool", 1, input, output_size))


def adaptive_avg_pool2d(input: Tensor, output_size: Sizes) -> Tensor:
    """The mean of each window of a grid of windows that share an image out.

    y[n, c, p, q] = mean of x[n, c, i, j] over floor(p*H/P) <= i < ceil((p+1)*H/P), and j likewise

    Args:
        input: (N, C, H, W), or (C, H, W); dtypes and strides as in `avg_pool1d`.
        output_size: (P, Q), or one number for both; None keeps the input's size.

    Returns:
        (N, C, P, Q) in the input's dtype and memory format.

    Raises:
        ProblemError: the arguments describe no pooling; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3, inputs of varying size.
    """
    return _avg(prepare_adaptive("adaptive_avg_pool", 2, input, output_size))


def adaptive_avg_pool3d(input: Tensor, output_size: Sizes) -> Tensor:
    """The mean of each window of a grid of windows that share a volume out.

    y[n, c, z, p, q] = mean of x[n, c, h, i, j] over floor(z*D/Z) <= h < ceil((z+1)*D/Z), and i and
        j likewise

    Args:
        input: (N, C, D, H, W), or (C, D, H, W); dtypes and strides as in `avg_pool1d`.
        output_size: (Z, P, Q), or one number for all; None keeps the input's size.

    Returns:
        (N, C, Z, P, Q) in the input's dtype and memory format.

    Raises:
        ProblemError: the arguments describe no pooling; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3, inputs of varying size.
    """
    return _avg(prepare_adaptive("adaptive_avg_pool", 3, input, output_size))


def global_max_pool(input: Tensor) -> Tensor:
    """The largest element of each channel, whatever the image's size.

    y[n, c] = max over i of x[n, c, i], of which size-1 spatial axes stay

    Args:
        input: (N, C, *spatial) with one to three spatial axes; dtypes and strides as in
            `max_pool1d`.

    Returns:
        (N, C, *ones) in the input's dtype.

    Raises:
        ProblemError: the input has not one to three spatial axes, or one of size 0.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3, inputs of varying size.
    """
    return _max(_whole(input), False)


def global_avg_pool(input: Tensor) -> Tensor:
    """The mean of each channel, whatever the image's size.

    y[n, c] = mean over i of x[n, c, i], of which size-1 spatial axes stay

    Args:
        input: (N, C, *spatial) with one to three spatial axes; dtypes and strides as in
            `avg_pool1d`.

    Returns:
        (N, C, *ones) in the input's dtype.

    Raises:
        ProblemError: the input has not one to three spatial axes, or one of size 0.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3, inputs of varying size.
    """
    return _avg(_whole(input))


def global_lp_pool(input: Tensor, norm_type: float | Tensor = 2.0) -> Tensor:
    """The p-norm of each channel, whatever the image's size.

    y[n, c] = (sum over i of |x[n, c, i]|**p)**(1/p), of which size-1 spatial axes stay

    Args:
        input: (N, C, *spatial) with one to three spatial axes; dtypes and strides as in
            `lp_pool1d`.
        norm_type: p, a number or a tensor, as in `lp_pool1d`; default 2.

    Returns:
        (N, C, *ones) in the input's dtype.

    Raises:
        ProblemError: the input has not one to three spatial axes, or one of size 0.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3, inputs of varying size.
    """
    return norm_of(_whole(input), norm_type)


def _whole(input: Tensor) -> PoolInput:
    if isinstance(input, Tensor) and input.dim() not in (3, 4, 5):
        raise ProblemError(
            f"input: expected (N, C, *spatial) with one to three spatial axes, got {input.dim()} "
            f"axes in {list(input.shape)}"
        )
    rank = input.dim() - 2 if isinstance(input, Tensor) else 1
    input, _ = batch_of("global_pool", rank, input)
    return prepare_adaptive("global_pool", rank, input, 1)


def _max(call: PoolInput, return_indices: bool) -> Any:
    check_flag("return_indices", return_indices)
    y, taps = max_pool(call.input, *call.arguments)
    if return_indices:
        return call.batched(y), call.indices(taps)
    return call.batched(y)


def _avg(call: PoolInput) -> Tensor:
    return call.batched(sum_pool(call.input, None, "valid", 1.0, *call.arguments))
