"""The gradients of `pooling`, each written out from its derivative, in float64.

dx[n, c, i] = sum_o dy[n, c, o] (dy/dx)(o, i), over the windows o that have element i. No gradient
comes from running a forward backwards: a mistake there would be undone here.

Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3. Gulcehre et al., Learned-Norm
Pooling for Deep Feedforward and Recurrent Neural Networks (the gradient of the power).
"""

import math

import numpy as np

from .pooling import (
    PoolWindows,
    channel_powers,
    divisor,
    flat_weights,
    images,
    scaled,
)

# The smallest normal and the largest number of float64.
LIMITS = (float(np.finfo(np.float64).tiny), float(np.finfo(np.float64).max))


def max_pool_gradient(dy: np.ndarray, taps: np.ndarray, windows: PoolWindows) -> np.ndarray:
    """Gradient of sum(y dy) for max_pool: each window's gradient goes to the element that won.

    dx[n, c, i] = sum of dy[n, c, o] over the windows o whose tap taps[n, c, o] is element i

    The taps say who won, also among ties and NaN. A window without an element gives nothing.

    dy, taps: (N, C, *O). Returns (N, C, *I), float64.

    Raises ValueError if a shape does not fit the windows.
    """
    taps = images("taps", taps, windows.output_size)
    dy = _gradients(dy, windows, taps)
    dx = np.zeros((*dy.shape[:2], *windows.input_size))
    for o in windows.positions():
        at = (..., *o)
        for tap, i in windows.taps_at(o):
            dx[(..., *i)] += np.where(taps[at] == tap, dy[at], 0.0)
    return dx


def max_unpool_gradient(dz: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Gradient of sum(z dz) for max_unpool: dy[n, c, o] = dz[n, c, indices[n, c, o]].

    That is PyTorch's, also for an index that comes twice, where z has only one of the values.

    dz: (N, C, *output_size). indices: (N, C, *O). Returns (N, C, *O), float64.
    """
    plane = np.asarray(dz, np.float64).reshape(*dz.shape[:2], math.prod(dz.shape[2:]))
    dy = np.zeros(np.shape(indices))
    for n, c, *o in np.ndindex(dy.shape):
        dy[(n, c, *o)] = plane[n, c, indices[(n, c, *o)]]
    return dy


def avg_pool_gradient(
    dy: np.ndarray,
    windows: PoolWindows,
    count_include_pad: bool = True,
    divisor_override: float | None = None,
) -> np.ndarray:
    """Gradient of sum(y dy) for avg_pool: dx[n, c, i] = sum_{o with i} dy[n, c, o] / divisor(o).

    dy: (N, C, *O). The rest as in avg_pool. Returns (N, C, *I), float64.

    Raises ValueError if dy's shape does not fit the windows, or for a divisor_override of 0.
    """
    dy = _gradients(dy, windows)
    dx = np.zeros((*dy.shape[:2], *windows.input_size))
    for o in windows.positions():
        for _, i in windows.taps_at(o):
            share = divisor(windows, o, count_include_pad, divisor_override)
            dx[(..., *i)] += dy[(..., *o)] / share
    return dx


def weighted_pool_gradient(
    dy: np.ndarray, x: np.ndarray, windows: PoolWindows, weights: np.ndarray, normalize: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of sum(y dy) for weighted_pool, with W(o) = sum_t w[t] if normalize, else 1.

    dx[n, c, i] = sum_{o, t with i} dy[n, c, o] w[t] / W(o)
    dw[t] = sum_{n, c, o} dy[n, c, o] (x[n, c, o s - lo + t d] [ - y[n, c, o] if normalize ]) / W(o)

    over the taps within the input; a window whose W is 0 gives nothing.

    dy: (N, C, *O). x: (N, C, *I). weights: windows.box.
    Returns dx (N, C, *I) and dw of the weights' shape, float64.

    Raises ValueError if a shape does not fit the windows.
    """
    x = images("x", x, windows.input_size).astype(np.float64)
    dy = _gradients(dy, windows, x)
    w = flat_weights(weights, windows)
    dx, dw = np.zeros(x.shape), np.zeros(w.shape)
    for o in windows.positions():
        inside, part = windows.taps_at(o), dy[(..., *o)]
        total, mean = 1.0, np.zeros(part.shape)
        if normalize:
            total = sum(w[tap] for tap, _ in inside)
            if total == 0:
                continue
            for tap, i in inside:
                mean += w[tap] * x[(..., *i)] / total
        for tap, i in inside:
            dx[(..., *i)] += part * w[tap] / total
            dw[tap] += (part * (x[(..., *i)] - mean)).sum() / total
    return dx, dw.reshape(windows.box)


def lp_pool_gradient(
    dy: np.ndarray,
    x: np.ndarray,
    windows: PoolWindows,
    p: float | np.ndarray,
    limits: tuple[float, float] = LIMITS,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of sum(y dy) for lp_pool, with respect to the input and to the power.

    dx[n, c, i] = sum_{o with i} dy[n, c, o] sign(x_i) (|x_i| / y_o)^(p - 1)
    dp = sum dy_o y_o (sum_t u^p ln u / (p sum_t u^p) - ln(sum_t u^p) / p^2),   u = |x| / max|x|

    dx is 0 where x_i or y_o is 0, for every p (below 1 the slope there is infinite), and 0 ln 0 is
    0. For p = inf the gradient goes with its sign to the first element of the largest |x|, for -inf
    of the least, and dp is 0.

    All are finite. A window with infinite elements is measured in units of infinity: of its n
    infinite elements each is 1 and dx = dy sign(x_i) n^((1 - p) / p), any other is 0 and so is its
    dx. dp is 0 where y is infinite. For p < 1, |x_i| / y_o counts as `least` at least, and its
    power as `most` at most. An element that is NaN gives NaN.

    dy: (N, C, *O). x: (N, C, *I). p: as in lp_pool. limits: (least, most), the smallest normal and
    the largest number of a dtype, default those of float64.
    Returns dx (N, C, *I) and dp of p's shape, () or (C,), float64: each p has the sum over all that
    share it.

    Raises ValueError if a shape does not fit, or for a p that lp_pool refuses.
    """
    x = images("x", x, windows.input_size).astype(np.float64)
    dy = _gradients(dy, windows, x)
    dx, dp = np.zeros(x.shape), np.zeros(x.shape[1])
    for c, power in enumerate(channel_powers(p, x.shape[1])):
        for o in windows.positions():
            inside = [i for _, i in windows.taps_at(o)]
            if not inside:
                continue
            part = dy[(slice(None), c, *o)]
            elements = np.stack([x[(slice(None), c, *i)] for i in inside])
            to_elements, to_power = _norm_slopes(elements, power, limits)
            dp[c] += (part * to_power).sum()
            for slope, i in zip(to_elements, inside, strict=True):
                dx[(slice(None), c, *i)] += part * slope
    return dx, dp if np.ndim(p) else dp.sum()


def _norm_slopes(
    elements: np.ndarray, p: float, limits: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Of the p-norm of (T, N) over T: its derivative by each element (T, N), and by p (N,)."""
    if math.isinf(p):
        magnitudes = np.abs(elements)
        winner = magnitudes.argmax(0) if p > 0 else magnitudes.argmin(0)
        won = np.arange(len(elements))[:, np.newaxis] == winner
        return np.where(won, np.sign(elements), 0.0), np.zeros(winner.shape)
    least, most = limits
    endless = np.isinf(np.abs(elements).max(0))
    elements = np.where(endless, np.where(np.isinf(elements), np.sign(elements), 0.0), elements)
    scale, u = scaled(elements)
    total = (u**p).sum(0)
    # Where all elements are 0 the quotients are NaN, and replaced.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        root = total ** (1 / p)
        powers = np.minimum(np.maximum(u / root, least) ** (p - 1), most)
        slopes = np.where(elements != 0, np.sign(elements) * powers, 0.0)
        entropy = (u**p * np.log(np.where(u == 0, 1.0, u))).sum(0)
        by_power = scale * root * (entropy / (p * total) - np.log(total) / p**2)
        unbounded = endless | np.isinf(scale * root)
    return slopes, np.where((total != 0) & ~unbounded, by_power, 0.0)


def _gradients(
    dy: np.ndarray, windows: PoolWindows, beside: np.ndarray | None = None
) -> np.ndarray:
    """dy as float64, of the shape that the windows give to images beside it."""
    dy = images("dy", dy, windows.output_size).astype(np.float64)
    if beside is not None and dy.shape[:2] != beside.shape[:2]:
        raise ValueError(f"dy must have N and C {beside.shape[:2]}, got {dy.shape[:2]}")
    return dy
