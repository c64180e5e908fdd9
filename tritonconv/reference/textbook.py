"""Convolution and its two gradients, straight from the definition, in float64.

The oracle the kernels are judged against: sums over the filter's taps with the index sets of each
axis written out. It is slow, and shares no index arithmetic with the kernels. Three derivations, so
that one mistake does not cancel another: the forward sum folds every position that a tap reads back
into the input; the input gradient lists the positions that stand for each input, and asks which
outputs reached them; the filter gradient reads an input that was extended beforehand.

Source: Goodfellow, Bengio, Courville, Deep Learning, chapter 9: eq. 9.4 to 9.6 (convolution,
cross-correlation), 9.8 (stride), 9.9 (unshared), 9.10 (tiled), 9.11 to 9.13 (gradients); section
6.3 (activations). Hendrycks, Gimpel, Gaussian Error Linear Units (gelu, silu).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np

LEAKY_SLOPE = 0.01
# How np.pad calls each padding mode; its signature asks for literals.
_EXTENSIONS: dict[str, Any] = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}


@dataclass(frozen=True)
class Geometry:
    """Where the filter's taps fall: input position p = o * stride - lo + f * dilation, per axis.

    stride, dilation: one positive int per spatial axis; their length is the rank (1, 2 or 3).
    padding: one (lo, hi) pair per axis, positions before and after the data; negative values crop,
        lo only with zeros.
    groups: number of independent channel groups, default 1.
    flip: False (default) is cross-correlation; True reads the filter backwards, the textbook's
        convolution.
    padding_mode: what a position p outside 0..I-1 reads. "zeros" (default): 0. "reflect": input -p
        or 2 (I - 1) - p, for pads below I. "replicate": the nearest input. "circular": input
        p mod I, for pads of at most I.

    Raises ValueError for mismatched lengths or a value out of range.
    """

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1
    flip: bool = False
    padding_mode: str = "zeros"

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
        if self.padding_mode not in _EXTENSIONS:
            raise ValueError(
                f"padding_mode must be one of {', '.join(_EXTENSIONS)}, got {self.padding_mode!r}"
            )
        if self.padding_mode != "zeros" and min(lo for lo, _ in self.padding) < 0:
            raise ValueError(f"low padding may crop only with zeros, got {self}")

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.stride)

    def check_input(self, input_size: tuple[int, ...]) -> None:
        """Raise ValueError where the input has too few positions to fill its padding from."""
        for size, pads in zip(input_size, self.padding, strict=True):
            most = {
                "zeros": math.inf,
                "reflect": size - 1,
                "replicate": math.inf if size else 0,
                "circular": size,
            }[self.padding_mode]
            if max(pads) > most:
                raise ValueError(
                    f"{self.padding_mode} padding of an axis of size {size} must be at most "
                    f"{most}, got {pads}"
                )


def output_size(
    input_size: tuple[int, ...], filter_size: tuple[int, ...], geometry: Geometry
) -> tuple[int, ...]:
    """Number of places where the whole dilated filter fits in the padded input, per axis.

    O = floor((I + lo + hi - d (F - 1) - 1) / s) + 1, and 0 where the filter does not fit.

    Raises ValueError if the padding mode cannot fill so much padding from this input.
    """
    geometry.check_input(input_size)
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

    y[n, k, o] = b[o mod t_b, k]
               + sum_{c, f} x[n, g(k) C/g + c, fold(o s - lo + f d)] w[o mod t, k, c, f]

    with g(k) the group of output channel k; fold leads a position outside x to the one that the
    padding mode names, or to a zero, and geometry.flip replaces the weight's f by F - 1 - f.
    Period 1 is the shared convolution, period O the unshared one.

    x: (N, C, *I). w: (K, C/g, *F), or (*t, K, C/g, *F). bias: (K,), or (*t_b, K) with
        1 <= t_b <= O; default None (no bias).
    Returns (N, K, *O), float64.

    Raises ValueError if w's rank, the channels, the groups, the padding or bias do not fit.

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
            p = _folded(o * geometry.stride[axis] - lo + shift[axis], input_size[axis], geometry)
            inside = (p >= 0) & (p < input_size[axis])
            outputs.append(o[inside])
            inputs.append(p[inside])
        y[(..., *np.ix_(*outputs))] += np.einsum(
            "ngc...,...gkc->ngk...",
            images[(..., *np.ix_(*inputs))],
            _weights_at(weights, tap, outputs, period),
        )
    return epilogue(y.reshape(len(images), groups * k_per_group, *out_size), bias)


def dgrad(
    dy: np.ndarray, w: np.ndarray, input_size: tuple[int, ...], geometry: Geometry
) -> np.ndarray:
    """Gradient of sum(y dy) with respect to the input: the adjoint of conv in x.

    dx[n, g C/g + c, p] = sum_{v, k in g, f} dy[n, k, o] w[o mod t, k, c, f]

    over the positions v that fold onto p, p itself and those of the padding that read it, and the
    taps f for which o = (v + lo - f d) / s is a whole number in [0, O). Without a bias it is the
    transposed convolution as well; `epilogue` adds one.

    dy: (N, K, *O). w: (K, C/g, *F), or (*t, K, C/g, *F). input_size: I.
    Returns (N, C, *I), float64.

    Raises ValueError if w's rank, the channels, the groups, the padding or dy's size do not fit.

    Source: Deep Learning, eq. 9.12 and 9.13.
    """
    weights = _grouped_weights(w, geometry)
    period, (groups, k_per_group, c_per_group), filter_size = _split(weights.shape, geometry.rank)
    out_size = output_size(input_size, filter_size, geometry)
    grads = _grouped_images("dy", dy, groups, k_per_group, out_size)
    # One entry an axis: each part of it has every input at most once, so += loses nothing.
    parts = list(product(*(_aliases(*axis, geometry) for axis in enumerate(input_size))))

    dx = np.zeros((len(grads), groups, c_per_group, *input_size))
    for (tap, shift), part in product(_taps(filter_size, geometry), parts):
        outputs, inputs = [], []
        for axis, (v, p) in enumerate(part):
            lo, _ = geometry.padding[axis]
            o, remainder = np.divmod(v + lo - shift[axis], geometry.stride[axis])
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

    dw[r, k, c, f] = sum_{n, o = r mod t} dy[n, k, o] x'[n, g(k) C/g + c, o s + f d]

    with x' the input that the padding has extended or cropped. Entries that serve no output,
    such as a residue r >= O, are zero.

    dy: (N, K, *O). x: (N, C, *I). weight_shape: (K, C/g, *F), or (*t, K, C/g, *F).
    Returns an array of weight_shape, float64.

    Raises ValueError if weight_shape's rank, the channels, the groups, the padding or dy's size do
    not fit.

    Source: Deep Learning, eq. 9.11.
    """
    dw = _grouped_weights(np.zeros(weight_shape), geometry)
    period, (groups, k_per_group, c_per_group), filter_size = _split(dw.shape, geometry.rank)
    images = _grouped_images("x", x, groups, c_per_group)
    out_size = output_size(images.shape[3:], filter_size, geometry)
    grads = _grouped_images("dy", dy, groups, k_per_group, out_size)

    padded = _extended(images, geometry)
    outputs = [np.arange(size) for size in out_size]
    residues = np.ix_(*[o % t for o, t in zip(outputs, period, strict=True)])
    for tap, shift in _taps(filter_size, geometry):
        inputs = [o * s + f for o, s, f in zip(outputs, geometry.stride, shift, strict=True)]
        per_output = np.einsum("ngk...,ngc...->...gkc", grads, padded[(..., *np.ix_(*inputs))])
        # Outputs of one residue land on one entry; += would keep only the last of them.
        np.add.at(dw[(..., *tap)], residues, per_output)
    return dw.reshape(weight_shape)


def epilogue(
    z: np.ndarray,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    activation: str = "none",
) -> np.ndarray:
    """What follows the sums of a convolution, or of its transpose.

    y[n, k, o] = act(z[n, k, o] + b[o mod t_b, k] + e[n, k, o])

    z: (N, K, *O). bias: (K,), or (*t_b, K) with 1 <= t_b <= O. residual, e: (N, K, *O).
    activation: a name in ACTIVATIONS. Defaults: none of them.
    Returns (N, K, *O), float64.

    Raises ValueError if the shapes do not fit, or for an unknown activation.
    """
    y = np.array(z, np.float64)
    if bias is not None:
        y += _bias_at(np.asarray(bias, np.float64), y.shape)
    if residual is not None:
        if np.shape(residual) != y.shape:
            raise ValueError(f"residual must have shape {y.shape}, got {np.shape(residual)}")
        y += np.asarray(residual, np.float64)
    return _activation(activation).value(y)


def activation_gradient(activation: str, z: np.ndarray) -> np.ndarray:
    """d act(z) / dz, element by element; at the bend of relu and leaky_relu the value from below.

    z: any shape. activation: a name in ACTIVATIONS. Returns an array of z's shape, float64.

    Raises ValueError for an unknown activation.
    """
    return _activation(activation).slope(np.asarray(z, np.float64))


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


def _folded(p: np.ndarray, size: int, geometry: Geometry) -> np.ndarray:
    """The inputs that positions p of the padded axis read; outside 0..size-1 there is a zero."""
    last = size - 1
    if geometry.padding_mode == "reflect":
        return last - np.abs(last - np.abs(p))
    if geometry.padding_mode == "replicate":
        return np.clip(p, 0, last)
    return p % size if geometry.padding_mode == "circular" else p


def _aliases(axis: int, size: int, geometry: Geometry) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs (v, p) of arrays of one length: position v stands for input p, no p twice in a pair.

    Together they name every v of the padded axis that reads an input, and some beyond its ends,
    where no output looks.
    """
    lo, hi = geometry.padding[axis]
    p = np.arange(size)
    if geometry.padding_mode == "reflect":
        return [(p, p), (-p[1:], p[1:]), (2 * (size - 1) - p[:-1], p[:-1])]
    if geometry.padding_mode == "replicate":
        before = [(p[:1] - step, p[:1]) for step in range(1, lo + 1)]
        after = [(p[-1:] + step, p[-1:]) for step in range(1, hi + 1)]
        return [(p, p), *before, *after]
    if geometry.padding_mode == "circular":
        return [(p, p), (p - size, p), (p + size, p)]
    return [(p, p)]


def _extended(images: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The images with their padding around the data of each axis.

    A negative low end is cut off, so that index 0 is where the first window starts; a negative high
    end may stay, for no output reads it.
    """
    outer = images.ndim - geometry.rank
    widths = [(max(0, lo), max(0, hi)) for lo, hi in geometry.padding]
    padded = np.pad(images, [(0, 0)] * outer + widths, mode=_EXTENSIONS[geometry.padding_mode])
    return padded[(..., *[slice(max(0, -lo), None) for lo, _ in geometry.padding])]


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


def _bias_at(bias: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The bias as each element of an (N, K, *O) result sees it: (K, *O), or (K, 1, ...)."""
    _, channels, *sizes = shape
    if bias.shape == (channels,):
        return bias.reshape(channels, *[1] * len(sizes))
    if bias.ndim != len(sizes) + 1 or bias.shape[-1] != channels:
        raise ValueError(
            f"bias must have shape ({channels},) or ({len(sizes)} periods, {channels}), got "
            f"{bias.shape}"
        )
    period = bias.shape[:-1]
    if any(not 1 <= t <= size for t, size in zip(period, sizes, strict=True)):
        raise ValueError(f"bias must have periods from 1 to {tuple(sizes)}, got {period}")
    banks = [np.arange(size) % t for size, t in zip(sizes, period, strict=True)]
    return np.moveaxis(bias[np.ix_(*banks)], -1, 0)


class Activation(NamedTuple):
    """A function of one number and its derivative, of float64 arrays."""

    value: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]


def _activation(name: str) -> Activation:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]


def _sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)), of exp(-|z|), which cannot overflow."""
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, small) / (1 + small)


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _normal(z: np.ndarray) -> np.ndarray:
    """P(Z <= z) of a standard normal Z: (1 + erf(z / sqrt 2)) / 2, without its cancellation."""
    return _erfc(-z / math.sqrt(2)) / 2


def _normal_density(z: np.ndarray) -> np.ndarray:
    return np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


ACTIVATIONS = {
    "none": Activation(lambda z: z, np.ones_like),
    "relu": Activation(lambda z: np.maximum(z, 0), lambda z: np.where(z > 0, 1.0, 0.0)),
    "leaky_relu": Activation(
        lambda z: np.where(z > 0, z, LEAKY_SLOPE * z),
        lambda z: np.where(z > 0, 1.0, LEAKY_SLOPE),
    ),
    "gelu": Activation(lambda z: z * _normal(z), lambda z: _normal(z) + z * _normal_density(z)),
    "silu": Activation(lambda z: z * _sigmoid(z), lambda z: _sigmoid(z) * (1 + z * _sigmoid(-z))),
    "sigmoid": Activation(_sigmoid, lambda z: _sigmoid(z) * _sigmoid(-z)),
    "tanh": Activation(np.tanh, lambda z: 1 - np.tanh(z) ** 2),
}
