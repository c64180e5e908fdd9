"""Pooling along one axis that is not spatial, such as the channels, and its gradient, in float64.

The axis becomes the spatial one of 1-D images, which `pooling` and `pooling_gradients` take.

Source: Goodfellow, Bengio, Courville, Deep Learning, section 6.3.1 (maxout), 9.3 (pooling over the
outputs of several filters).
"""

import math

import numpy as np

from .pooling import PoolWindows, avg_pool, lp_pool, max_pool
from .pooling_gradients import avg_pool_gradient, lp_pool_gradient, max_pool_gradient

KINDS = ("max", "avg", "lp")


def maxout(x: np.ndarray, pieces: int, axis: int = 1) -> np.ndarray:
    """The largest of every `pieces` neighbours along an axis: y[j] = max_{f < k} x[j k + f].

    x: any shape with a multiple of k = pieces at `axis`, default 1. Returns that divided by k, in
    max_pool's dtype.

    Raises ValueError if the axis is no multiple of pieces.

    Source: Deep Learning, section 6.3.1, eq. 6.37.
    """
    if pieces < 1 or np.shape(x)[axis] % pieces:
        raise ValueError(f"axis of size {np.shape(x)[axis]} must be a multiple of pieces={pieces}")
    return cross_channel(x, pieces, pieces, "max", axis)


def cross_channel(
    x: np.ndarray, size: int, stride: int, kind: str, axis: int = 1, p: float = 2.0
) -> np.ndarray:
    """Pooling along an axis that is not spatial: window j has the entries j s to j s + size - 1.

    x: any shape. kind: "max", "avg" or "lp", the last one with power p, default 2. axis: default 1,
    the channels. Returns x's shape with floor((C - size) / s) + 1 at `axis`, in the dtype of the
    pooling.

    Raises ValueError for another kind, or as the pooling itself does.
    """
    lines, windows = _lines(x, size, stride, axis)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "lp":
        y = lp_pool(lines, windows, p)
    else:
        y = avg_pool(lines, windows) if kind == "avg" else max_pool(lines, windows)[0]
    moved = np.moveaxis(np.asarray(x), axis, -1).shape
    return np.moveaxis(y.reshape(*moved[:-1], *windows.output_size), -1, axis)


def cross_channel_gradient(
    dy: np.ndarray, x: np.ndarray, size: int, stride: int, kind: str, axis: int = 1, p: float = 2.0
) -> np.ndarray:
    """Gradient of sum(y dy) for cross_channel, and so for maxout (size = stride = pieces, "max").

    dy: x's shape with the number of windows at `axis`. The rest as in cross_channel.
    Returns x's shape, float64.

    Raises ValueError as cross_channel does, or if dy's shape does not fit.
    """
    lines, windows = _lines(x, size, stride, axis)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    grads, _ = _lines(dy, size, stride, axis)
    if kind == "lp":
        dx, _ = lp_pool_gradient(grads, lines, windows, p)
    elif kind == "avg":
        dx = avg_pool_gradient(grads, windows)
    else:
        dx = max_pool_gradient(grads, max_pool(lines, windows)[1], windows)
    moved = np.moveaxis(np.asarray(x), axis, -1).shape
    return np.moveaxis(dx.reshape(moved), -1, axis)


def _lines(x: np.ndarray, size: int, stride: int, axis: int) -> tuple[np.ndarray, PoolWindows]:
    """x as (lines, 1, C) with `axis` last, and the windows that cross_channel has along it."""
    moved = np.moveaxis(np.asarray(x), axis, -1)
    windows = PoolWindows(moved.shape[-1:], (size,), (stride,), ((0, 0),), (1,))
    return moved.reshape(math.prod(moved.shape[:-1]), 1, moved.shape[-1]), windows
