"""Pooling straight from its definition: a loop over windows, and a loop over the taps of each.

The oracle the pooling kernels are judged against. It is slow, computes in float64, and shares no
index arithmetic with the kernels: only images and channels are taken all at once. An element
outside the input is no element: it has no value that could win, and no weight. The gradients are in
`pooling_gradients`, pooling along other axes in `pooling_channels`.

Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3 (pooling).
Gulcehre et al., Learned-Norm Pooling for Deep Feedforward and Recurrent Neural Networks (lp).
Zeiler, Taylor, Fergus, Adaptive Deconvolutional Networks for Mid and High Level Feature Learning
(unpooling). The sizes, the counts and the adaptive windows are PyTorch's.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np


@dataclass(frozen=True)
class PoolWindows:
    """Where the windows fall: tap t of window o is input position p = o s - lo + t d, per axis.

    input_size: I, one size per spatial axis; their number is the rank (1, 2 or 3).
    kernel_size, stride, dilation: k, s, d, one positive int per axis.
    padding: one (lo, hi) pair per axis, at least 0; it may exceed the kernel and the data.
    ceil_mode: False (default) keeps the windows that fit in the padded input whole. True adds one
        that overhangs its end, unless that window starts at or beyond I + lo.
    adaptive: the number of windows O per axis, default None. If it is given, window o has the
        positions floor(o I / O) to ceil((o + 1) I / O) - 1, and only input_size is read beside it.

    Raises ValueError for mismatched lengths or a value out of range.
    """

    input_size: tuple[int, ...]
    kernel_size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    ceil_mode: bool = False
    adaptive: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.rank not in (1, 2, 3) or min(self.input_size) < 0:
            raise ValueError(f"input_size must be 1, 2 or 3 sizes >= 0, got {self.input_size}")
        if self.adaptive is not None:
            if len(self.adaptive) != self.rank or min(self.adaptive) < 0:
                raise ValueError(f"adaptive must be {self.rank} sizes >= 0, got {self.adaptive}")
            return
        for name in ("kernel_size", "stride", "padding", "dilation"):
            if len(getattr(self, name)) != self.rank:
                raise ValueError(
                    f"{name} must have one entry per spatial axis, {self.rank}, got "
                    f"{getattr(self, name)}"
                )
        if min(*self.kernel_size, *self.stride, *self.dilation) < 1:
            raise ValueError(f"kernel_size, stride and dilation must be at least 1, got {self}")
        if min(min(pads) for pads in self.padding) < 0:
            raise ValueError(f"padding must be at least 0, got {self.padding}")

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.input_size)

    @property
    def output_size(self) -> tuple[int, ...]:
        """Number of windows per axis.

        O = floor((I + lo + hi - d (k - 1) - 1) / s) + 1, or ceil in place of floor with ceil_mode,
        and then one less if window O - 1 starts at or beyond I + lo; 0 where that is negative.
        """
        if self.adaptive is not None:
            return self.adaptive
        sizes = []
        for axis, size in enumerate(self.input_size):
            (lo, hi), s = self.padding[axis], self.stride[axis]
            room = size + lo + hi - self.dilation[axis] * (self.kernel_size[axis] - 1) - 1
            windows = (math.ceil(room / s) if self.ceil_mode else math.floor(room / s)) + 1
            if self.ceil_mode and (windows - 1) * s >= size + lo:
                windows -= 1
            sizes.append(max(0, windows))
        return tuple(sizes)

    @property
    def box(self) -> tuple[int, ...]:
        """Per axis the number of taps that flat tap numbers count with, in row-major order.

        kernel_size; for adaptive windows the largest number of positions that any of them has along
        the axis, and at least 1.
        """
        if self.adaptive is None:
            return self.kernel_size
        return tuple(
            max([1, *(len(self._along(axis, o)) for o in range(windows))])
            for axis, windows in enumerate(self.adaptive)
        )

    def positions(self) -> Iterator[tuple[int, ...]]:
        """Every window o, in row-major order."""
        return product(*map(range, self.output_size))

    def taps_at(self, o: tuple[int, ...]) -> list[tuple[int, tuple[int, ...]]]:
        """Of window o the taps within the input, in row-major order: (flat tap, input index)."""
        axes = [
            [(t, p) for t, p in enumerate(self._along(axis, o[axis])) if 0 <= p < size]
            for axis, size in enumerate(self.input_size)
        ]
        found, box = [], self.box
        for taps in product(*axes):
            flat = 0
            for (t, _), length in zip(taps, box, strict=True):
                flat = flat * length + t
            found.append((flat, tuple(p for _, p in taps)))
        return found

    def count_at(self, o: tuple[int, ...]) -> int:
        """Number of taps of window o within the input and its padding: p < I + hi per axis.

        What overhangs the padding in ceil_mode does not count.
        """
        counts = []
        for axis, size in enumerate(self.input_size):
            hi = 0 if self.adaptive is not None else self.padding[axis][1]
            counts.append(sum(p < size + hi for p in self._along(axis, o[axis])))
        return math.prod(counts)

    def _along(self, axis: int, o: int) -> range:
        """Input positions along one axis of the taps of window o, outside the input too."""
        if self.adaptive is not None:
            size, windows = self.input_size[axis], self.adaptive[axis]
            return range(o * size // windows, -(-(o + 1) * size // windows))
        d = self.dilation[axis]
        start = o * self.stride[axis] - self.padding[axis][0]
        return range(start, start + d * self.kernel_size[axis], d)


def max_pool(x: np.ndarray, windows: PoolWindows) -> tuple[np.ndarray, np.ndarray]:
    """The largest element of each window, and the tap that it came from.

    y[n, c, o] = max_t x[n, c, o s - lo + t d],   taps[n, c, o] = the first t that attains it

    The last NaN of a window wins over everything, as in PyTorch. A window without an element gives
    -inf (of integers the dtype's least) and tap 0.

    x: (N, C, *I). Returns y (N, C, *O), float64, or x's dtype if that is an integer one, and the
    flat taps (N, C, *O), int64.

    Raises ValueError if x's shape does not fit the windows.
    """
    x = images("x", x, windows.input_size)
    if np.issubdtype(x.dtype, np.integer):
        least = np.iinfo(x.dtype).min
    else:
        x, least = x.astype(np.float64), -np.inf
    y = np.full((*x.shape[:2], *windows.output_size), least, x.dtype)
    taps = np.zeros(y.shape, np.int64)
    for o in windows.positions():
        at = (..., *o)
        for seen, (tap, i) in enumerate(windows.taps_at(o)):
            value, best = x[(..., *i)], y[at]
            # The first element wins even as -inf: no tap outside the input is ever named.
            better = (value > best) | np.isnan(value) | (seen == 0)
            y[at] = np.where(better, value, best)
            taps[at] = np.where(better, tap, taps[at])
    return y, taps


def indices(taps: np.ndarray, windows: PoolWindows) -> np.ndarray:
    """PyTorch's way to name the winners of max_pool: flat positions in the input's spatial plane.

    indices[n, c, o] = (p_D I_H + p_H) I_W + p_W with p the position of tap taps[n, c, o]

    taps: (N, C, *O), the flat taps of max_pool. Returns (N, C, *O), int64; -1 where the tap lies
    outside the input, which it does only where a window has no element.

    Raises ValueError if the taps' shape does not fit the windows.
    """
    taps = images("taps", taps, windows.output_size)
    found = np.empty(taps.shape, np.int64)
    for o in windows.positions():
        flat = np.full(math.prod(windows.box), -1)
        for tap, i in windows.taps_at(o):
            flat[tap] = np.ravel_multi_index(i, windows.input_size)
        found[(..., *o)] = flat[taps[(..., *o)]]
    return found


def max_unpool(y: np.ndarray, indices: np.ndarray, output_size: tuple[int, ...]) -> np.ndarray:
    """Every value where its index says, zero elsewhere: what undoes max_pool as far as one can.

    z[n, c, indices[n, c, o]] = y[n, c, o]; of several o with one index the last one stays

    y, indices: (N, C, *O). output_size: the spatial size of z. Returns (N, C, *output_size),
    float64.

    Raises ValueError if the shapes differ, or for an index outside 0..prod(output_size)-1.
    """
    y = np.asarray(y, np.float64)
    indices = np.asarray(indices)
    if indices.shape != y.shape:
        raise ValueError(f"indices must have y's shape {y.shape}, got {indices.shape}")
    plane = math.prod(output_size)
    if indices.size and not 0 <= indices.min() <= indices.max() < plane:
        raise ValueError(f"indices must lie in 0..{plane - 1}, got {indices.ravel()}")
    z = np.zeros((*y.shape[:2], plane))
    for n, c, *o in np.ndindex(y.shape):
        z[n, c, indices[(n, c, *o)]] = y[(n, c, *o)]
    return z.reshape(*y.shape[:2], *output_size)


def avg_pool(
    x: np.ndarray,
    windows: PoolWindows,
    count_include_pad: bool = True,
    divisor_override: float | None = None,
) -> np.ndarray:
    """The sum of each window over a count.

    y[n, c, o] = sum_t x[n, c, o s - lo + t d] / divisor(o)

    The divisor is divisor_override if given (default None); else the taps within the input and its
    padding (count_include_pad, the default), or within the input alone. A window without an element
    gives 0.

    x: (N, C, *I). Returns (N, C, *O), float64.

    Raises ValueError if x's shape does not fit the windows, or for a divisor_override of 0.
    """
    x = images("x", x, windows.input_size).astype(np.float64)
    y = np.zeros((*x.shape[:2], *windows.output_size))
    for o in windows.positions():
        at, inside = (..., *o), windows.taps_at(o)
        for _, i in inside:
            y[at] += x[(..., *i)]
        if inside:
            y[at] /= divisor(windows, o, count_include_pad, divisor_override)
    return y


def divisor(
    windows: PoolWindows, o: tuple[int, ...], count_include_pad: bool, override: float | None
) -> float:
    """What avg_pool divides the sum of window o by."""
    if override == 0:
        raise ValueError("divisor_override must not be 0, got 0")
    if override is not None:
        return override
    return windows.count_at(o) if count_include_pad else len(windows.taps_at(o))


def weighted_pool(
    x: np.ndarray, windows: PoolWindows, weights: np.ndarray, normalize: bool
) -> np.ndarray:
    """The weighted sum of each window, or the weighted mean of its elements.

    y[n, c, o] = sum_t w[t] x[n, c, o s - lo + t d] [ / sum_t w[t] if normalize ]

    over the taps t within the input: a window that overhangs it is divided by the weights it has
    left. 0 where those sum to 0, as where there are none.

    x: (N, C, *I). weights: windows.box (the kernel size), for all channels.
    Returns (N, C, *O), float64.

    Raises ValueError if x's or the weights' shape does not fit the windows.
    """
    x = images("x", x, windows.input_size).astype(np.float64)
    w = flat_weights(weights, windows)
    y = np.zeros((*x.shape[:2], *windows.output_size))
    for o in windows.positions():
        at, total = (..., *o), 0.0
        for tap, i in windows.taps_at(o):
            y[at] += w[tap] * x[(..., *i)]
            total += w[tap]
        if normalize:
            y[at] = y[at] / total if total != 0 else 0.0
    return y


def gaussian_weights(
    kernel_size: tuple[int, ...], sigma: float | tuple[float, ...], dilation: tuple[int, ...] = ()
) -> np.ndarray:
    """Weights that fall off with the distance from the window's centre.

    w[t] = exp(-sum_axis (d_axis (t_axis - (k_axis - 1) / 2))^2 / (2 sigma_axis^2))

    They are not divided by their sum: the middle one of an odd kernel is 1, and weighted_pool
    divides with normalize. sigma: standard deviation in positions of the input; one for all axes or
    one per axis. dilation: one per axis, default 1. Returns kernel_size, float64.

    Raises ValueError for a sigma that is not positive, or for a wrong number of them.
    """
    sigmas = sigma if isinstance(sigma, tuple) else (sigma,) * len(kernel_size)
    if len(sigmas) != len(kernel_size) or not all(s > 0 for s in sigmas):
        raise ValueError(f"sigma must be positive, one or {len(kernel_size)}, got {sigma}")
    w = np.zeros(kernel_size)
    for t in np.ndindex(*kernel_size):
        axes = zip(t, kernel_size, sigmas, dilation or (1,) * len(t), strict=True)
        distances = (d * (f - (k - 1) / 2) / s for f, k, s, d in axes)
        w[t] = math.exp(-sum(distance**2 for distance in distances) / 2)
    return w


def lp_pool(x: np.ndarray, windows: PoolWindows, p: float | np.ndarray) -> np.ndarray:
    """The p-norm of each window.

    y[n, c, o] = (sum_t |x[n, c, o s - lo + t d]|^p)^(1/p)

    p = inf gives the largest |x|, p = -inf the least. A window without an element gives 0. The sum
    is of |x| over the largest |x|, so that no power of it leaves float64's range.

    x: (N, C, *I). p: a positive number or +-inf, or (C,) of them, one per channel.
    Returns (N, C, *O), float64.

    Raises ValueError if x's or p's shape does not fit, or for another p.
    """
    x = images("x", x, windows.input_size).astype(np.float64)
    powers = channel_powers(p, x.shape[1])
    y = np.zeros((*x.shape[:2], *windows.output_size))
    for o in windows.positions():
        inside = [i for _, i in windows.taps_at(o)]
        for c, power in enumerate(powers):
            if inside:
                elements = np.stack([x[(slice(None), c, *i)] for i in inside])
                y[(slice(None), c, *o)] = _norm(elements, power)
    return y


def _norm(elements: np.ndarray, p: float) -> np.ndarray:
    """The p-norm of (T, N) over its T > 0 rows."""
    if math.isinf(p):
        return np.abs(elements).max(0) if p > 0 else np.abs(elements).min(0)
    scale, u = scaled(elements)
    with np.errstate(over="ignore"):  # many elements and a small p: the norm itself is too large
        return scale * (u**p).sum(0) ** (1 / p)


def scaled(elements: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m, |elements| / m) with m (N,) the largest of the (T, N) magnitudes.

    m is 1 where that is 0, infinite or NaN: there is nothing to scale.
    """
    magnitudes = np.abs(elements)
    largest = magnitudes.max(0)
    scale = np.where(np.isfinite(largest) & (largest > 0), largest, 1.0)
    return scale, magnitudes / scale


def channel_powers(p: float | np.ndarray, channels: int) -> list[float]:
    """The power of every channel. Raises ValueError for p <= 0 but -inf, NaN, or another shape."""
    powers = np.asarray(p, np.float64)
    if powers.shape not in ((), (channels,)):
        raise ValueError(f"p must be one number or {channels}, got shape {powers.shape}")
    if not ((powers > 0) | (powers == -np.inf)).all():
        raise ValueError(f"p must be positive, inf or -inf, got {p}")
    return np.broadcast_to(powers, (channels,)).tolist()


def as_matrix(windows: PoolWindows, pool: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The matrix of a linear pooling of one channel: M[o, i] = pool(image that is 1 at i)[o].

    pool: takes (N, 1, *I) to (N, 1, *O), for example avg_pool or weighted_pool with its other
    arguments bound. Returns (prod(O), prod(I)), positions in row-major order.
    """
    plane = math.prod(windows.input_size)
    columns = pool(np.eye(plane).reshape(plane, 1, *windows.input_size))
    return columns.reshape(plane, math.prod(windows.output_size)).T


def flat_weights(weights: np.ndarray, windows: PoolWindows) -> np.ndarray:
    """The weights by flat tap, float64. Raises ValueError unless their shape is windows.box."""
    if np.shape(weights) != windows.box:
        raise ValueError(f"weights must have shape {windows.box}, got {np.shape(weights)}")
    return np.asarray(weights, np.float64).ravel()


def images(name: str, x: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """x as an array. Raises ValueError unless its shape is (N, C, *size)."""
    x = np.asarray(x)
    if x.ndim != len(size) + 2 or x.shape[2:] != tuple(size):
        raise ValueError(f"{name} must have shape (N, C, *{tuple(size)}), got {x.shape}")
    return x
