"""Convolution and its two gradients, straight from the definition, in float64.

The oracle the kernels are judged against: sums over the filter's taps with the index sets of each
axis written out. It is slow, and shares no index arithmetic with the kernels. The forward sum asks
which outputs a tap can serve, the input gradient asks which outputs each input reached, and the
filter gradient reads an input extended by zeros: three derivations, so that one mistake does not
cancel another.

Source: Goodfellow, Bengio, Courville, Deep Learning, chapter 9: eq. 9.4 to 9.6 (convolution,
cross-correlation), 9.8 (stride), 9.9 (unshared), 9.10 (tiled), 9.11 to 9.13 (gradients).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np


@dataclass(frozen=True)
class Geometry:
    """Where the filter's taps fall: input position p = o * stride - lo + f * dilation, per axis.

    stride, dilation: one positive int per spatial axis; their length is the rank (1, 2 or 3).
    padding: one (lo, hi) pair per axis, zeros before and after the data; negative values crop.
    groups: number of independent channel groups, default 1.
    flip: False (default) is cross-correlation; True reads the filter backwards, the textbook's
        convolution.

    Raises ValueError for mismatched lengths or a value out of range.
    """

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1
    flip: bool = False

    def __post_init__(self):
        if not len(self.stride) == len(self.padding) == len(self.dilation):
            raise ValueError(
                "stride, padding and dilation must have one entry per spatial axis, got "
                f"{len(self.stride)}, {len(self.padding)} and {len(self.dilation)} entries"
            )
        if self.rank not in (1, 2, 3):
            raise ValueError(f"stride must have 1, 2 or 3 entries, got {self.rank}")
        if min(*self.stride, *self.dilation, self.groups) < 1:
            raise ValueError(f"stride, dilation and groups must be at least 1, got {self}")

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.stride)


def output_size(
    input_size: tuple[int, ...], filter_size: tuple[int, ...], geometry: Geometry
) -> tuple[int, ...]:
    """Number of places where the whole dilated filter fits in the padded input, per axis.

    O = floor((I + lo + hi - d (F - 1) - 1) / s) + 1, and 0 where the filter does not fit.
    """
    sizes = []
    for axis, (size, taps) in enumerate(zip(input_size, filter_size, strict=True)):
        lo, hi = geometry.padding[axis]
        room = size + lo + hi - geometry.dilation[axis] * (taps - 1) - 1
        sizes.append(max(0, room // geometry.stride[axis] + 1))
    return tuple(sizes)


def conv(
    x: np.ndarray, w: np.ndarray, geometry: Geometry, bias: np.ndarray | None = None
) -> np.ndarray:
    """Convolution whose weights repeat with a period t along the output.

    y[n, k, o] = b[k] + sum_{c, f} x[n, g(k) C/g + c, o s - lo + f d] w[o mod t, k, c, f]

    with g(k) the group of output channel k; reads outside x are zero, and geometry.flip replaces
    the weight's f by F - 1 - f. Period 1 is the shared convolution, period O the unshared one.

    x: (N, C, *I). w: (K, C/g, *F), or (*t, K, C/g, *F). bias: (K,), default None (no bias).
    Returns (N, K, *O), float64.

    Raises ValueError if w's rank, the channels, the groups or bias do not fit together.

    Source: Deep Learning, eq. 9.8 to 9.10.
    """
    weights = _grouped_weights(w, geometry)
    period, (groups, k_per_group, c_per_group), filter_size = _split(weights.shape, geometry.rank)
    images = _grouped_images("x", x, groups, c_per_group)
    input_size = images.shape[3:]
    out_size = output_size(input_size, filter_size, geometry)

    y = np.zeros((len(images), groups, k_per_group, *out_size))
    for tap, shift in _taps(filter_size, geometry):
        outputs, inputs = [], []
        for axis in range(geometry.rank):
            lo, _ = geometry.padding[axis]
            o = np.arange(out_size[axis])
            p = o * geometry.stride[axis] - lo + shift[axis]
            inside = (p >= 0) & (p < input_size[axis])
            outputs.append(o[inside])
            inputs.append(p[inside])
        y[(..., *np.ix_(*outputs))] += np.einsum(
            "ngc...,...gkc->ngk...",
            images[(..., *np.ix_(*inputs))],
            _weights_at(weights, tap, outputs, period),
        )
    y = y.reshape(len(images), groups * k_per_group, *out_size)
    if bias is not None:
        y += np.asarray(bias, np.float64).reshape(y.shape[1], *[1] * geometry.rank)
    return y


def dgrad(
    dy: np.ndarray, w: np.ndarray, input_size: tuple[int, ...], geometry: Geometry
) -> np.ndarray:
    """Gradient of sum(y dy) with respect to the input: the adjoint of conv in x.

    dx[n, g C/g + c, p] = sum_{k in g, f} dy[n, k, o] w[o mod t, k, c, f]

    over the taps f for which o = (p + lo - f d) / s is a whole number in [0, O).

    dy: (N, K, *O). w: (K, C/g, *F), or (*t, K, C/g, *F). input_size: I.
    Returns (N, C, *I), float64.

    Raises ValueError if w's rank, the channels, the groups or dy's size do not fit together.

    Source: Deep Learning, eq. 9.12 and 9.13.
    """
    weights = _grouped_weights(w, geometry)
    period, (groups, k_per_group, c_per_group), filter_size = _split(weights.shape, geometry.rank)
    out_size = output_size(input_size, filter_size, geometry)
    grads = _grouped_images("dy", dy, groups, k_per_group, out_size)

    dx = np.zeros((len(grads), groups, c_per_group, *input_size))
    for tap, shift in _taps(filter_size, geometry):
        outputs, inputs = [], []
        for axis in range(geometry.rank):
            lo, _ = geometry.padding[axis]
            p = np.arange(input_size[axis])
            o, remainder = np.divmod(p + lo - shift[axis], geometry.stride[axis])
            reached = (remainder == 0) & (o >= 0) & (o < out_size[axis])
            outputs.append(o[reached])
            inputs.append(p[reached])
        dx[(..., *np.ix_(*inputs))] += np.einsum(
            "ngk...,...gkc->ngc...",
            grads[(..., *np.ix_(*outputs))],
            _weights_at(weights, tap, outputs, period),
        )
    return dx.reshape(len(grads), groups * c_per_group, *input_size)


def wgrad(
    dy: np.ndarray, x: np.ndarray, weight_shape: tuple[int, ...], geometry: Geometry
) -> np.ndarray:
    """Gradient of sum(y dy) with respect to the weights.

    dw[r, k, c, f] = sum_{n, o = r mod t} dy[n, k, o] x[n, g(k) C/g + c, o s - lo + f d]

    Entries that serve no output, such as a residue r >= O, are zero.

    dy: (N, K, *O). x: (N, C, *I). weight_shape: (K, C/g, *F), or (*t, K, C/g, *F).
    Returns an array of weight_shape, float64.

    Raises ValueError if weight_shape's rank, the channels, the groups or dy's size do not fit.

    Source: Deep Learning, eq. 9.11.
    """
    dw = _grouped_weights(np.zeros(weight_shape), geometry)
    period, (groups, k_per_group, c_per_group), filter_size = _split(dw.shape, geometry.rank)
    images = _grouped_images("x", x, groups, c_per_group)
    out_size = output_size(images.shape[3:], filter_size, geometry)
    grads = _grouped_images("dy", dy, groups, k_per_group, out_size)

    padded = _zero_extended(images, geometry.padding)
    outputs = [np.arange(size) for size in out_size]
    residues = np.ix_(*[o % t for o, t in zip(outputs, period, strict=True)])
    for tap, shift in _taps(filter_size, geometry):
        inputs = [o * s + f for o, s, f in zip(outputs, geometry.stride, shift, strict=True)]
        per_output = np.einsum("ngk...,ngc...->...gkc", grads, padded[(..., *np.ix_(*inputs))])
        # Outputs of one residue land on one entry; += would keep only the last of them.
        np.add.at(dw[(..., *tap)], residues, per_output)
    return dw.reshape(weight_shape)


def _taps(
    filter_size: tuple[int, ...], geometry: Geometry
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Every weight's index in the filter, with its distance from the window's start."""
    for tap in product(*map(range, filter_size)):
        place = tap
        if geometry.flip:
            place = tuple(size - 1 - f for size, f in zip(filter_size, tap, strict=True))
        yield tap, tuple(f * d for f, d in zip(place, geometry.dilation, strict=True))


def _weights_at(
    weights: np.ndarray, tap: tuple[int, ...], outputs: list[np.ndarray], period: tuple[int, ...]
) -> np.ndarray:
    """One tap's weights as the given outputs see them: (*outputs, g, K/g, C/g)."""
    residues = [o % t for o, t in zip(outputs, period, strict=True)]
    return weights[(..., *tap)][np.ix_(*residues)]


def _zero_extended(images: np.ndarray, padding: tuple[tuple[int, int], ...]) -> np.ndarray:
    """The images with lo zeros before and hi after the data of each axis, cropped if negative."""
    outer, sizes = images.shape[:3], images.shape[3:]
    padded_sizes, target, source = [], [], []
    for size, (lo, hi) in zip(sizes, padding, strict=True):
        first = max(0, -lo)
        # Where everything is cropped the slices are empty; a negative bound would wrap around.
        last = max(first, min(size, size + hi))
        padded_sizes.append(max(0, size + lo + hi))
        source.append(slice(first, last))
        target.append(slice(first + lo, last + lo))
    padded = np.zeros((*outer, *padded_sizes))
    padded[(..., *target)] = images[(..., *source)]
    return padded


def _grouped_weights(w: np.ndarray, geometry: Geometry) -> np.ndarray:
    """w as float64 (*t, g, K/g, C/g, *F), with period 1 where w has no period axes."""
    w = np.asarray(w, np.float64)
    rank, groups = geometry.rank, geometry.groups
    if w.ndim == rank + 2:
        w = w[(np.newaxis,) * rank]
    if w.ndim != 2 * rank + 2:
        raise ValueError(
            f"w must have {rank + 2} axes (K, C/g, *F) or {2 * rank + 2} axes (*t, K, C/g, *F) "
            f"for {rank} spatial axes, got {w.ndim}"
        )
    period, filter_size = w.shape[:rank], w.shape[-rank:]
    k, c_per_group = w.shape[rank:-rank]
    if k % groups:
        raise ValueError(f"w's {k} output channels must be a multiple of groups={groups}")
    return w.reshape(*period, groups, k // groups, c_per_group, *filter_size)


def _split(shape: tuple[int, ...], rank: int) -> tuple[tuple[int, ...], ...]:
    """The period, channel and filter parts of a grouped weight's shape."""
    return shape[:rank], shape[rank:-rank], shape[-rank:]


def _grouped_images(
    name: str,
    images: np.ndarray,
    groups: int,
    channels_per_group: int,
    size: tuple[int, ...] | None = None,
) -> np.ndarray:
    """images (N, g * channels, *size) as float64 (N, g, channels, *size)."""
    images = np.asarray(images, np.float64)
    n, channels, *got_size = images.shape
    if channels != groups * channels_per_group:
        raise ValueError(
            f"{name} must have {groups} x {channels_per_group} channels (groups x channels per "
            f"group of the weights), got {channels}"
        )
    if size is not None and tuple(got_size) != tuple(size):
        raise ValueError(f"{name} must have spatial size {tuple(size)}, got {tuple(got_size)}")
    return images.reshape(n, groups, channels_per_group, *got_size)
