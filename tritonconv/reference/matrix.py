"""Convolution written out as the matrix it is, dense and in float64.

Convolution is linear in its input, so one image's outputs are M @ (its inputs) for a sparse,
highly structured M: a Toeplitz band in 1-D, doubly block Toeplitz in 2-D. M is assembled from
Kronecker products of one 0/1 selection matrix per axis and tap, which is another route than the
sums of `textbook.py`; its transpose is the input gradient.

Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.1 (Toeplitz, doubly block
circulant), section 9.5 (the transpose as the gradient).
"""

from functools import reduce
from itertools import product

import numpy as np

from .textbook import Geometry


def matrix(input_shape: tuple[int, ...], w: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The matrix M of a convolution without bias, for one image: y.ravel() = M @ x.ravel().

    Shared weights:  M = sum_f W_f (x) S^1_{f1} (x) ... (x) S^r_{fr}
    Period t:        rows o = q mod t of M are those rows of the shared matrix of w[q]

    with (x) the Kronecker product, W_f the (K, C) channel matrix of tap f (block diagonal over
    the groups) and S^a_f[o, p] = 1 where p = o s - lo + f d on axis a, else 0.

    input_shape: (C, *I). w: (K, C/g, *F), or (*t, K, C/g, *F).
    Returns (K * prod(O), C * prod(I)), float64, both sides in C order (channel slowest).
    """
    rank = geometry.rank
    w = np.asarray(w, np.float64)
    if w.ndim == rank + 2:
        w = w.reshape((1,) * rank + w.shape)
    if geometry.flip:
        w = np.flip(w, axis=tuple(range(-rank, 0)))
    period, k, filter_size = w.shape[:rank], w.shape[rank], w.shape[-rank:]

    selections = [
        _selections(input_shape[1 + axis], filter_size[axis], geometry, axis)
        for axis in range(rank)
    ]
    out_size = [taps.shape[1] for taps in selections]
    row_numbers = np.arange(k * np.prod(out_size, dtype=int)).reshape(k, *out_size)

    m = np.zeros((row_numbers.size, np.prod(input_shape, dtype=int)))
    for residue in product(*map(range, period)):
        served = tuple(slice(r, None, t) for r, t in zip(residue, period, strict=True))
        rows = row_numbers[(slice(None), *served)].ravel()
        for tap in product(*map(range, filter_size)):
            channels = _block_diagonal(w[residue][(..., *tap)], geometry.groups)
            axes = [taps[f][s] for taps, f, s in zip(selections, tap, served, strict=True)]
            m[rows] += reduce(np.kron, axes, channels)
    return m


def apply(m: np.ndarray, x: np.ndarray, output_shape: tuple[int, ...] | None = None) -> np.ndarray:
    """The matrix times each image: y[n] = M @ x[n].ravel().

    m: (rows, columns). x: (N, *image) with prod(image) = columns.
    output_shape: the shape of one result, such as (K, *O); default (rows,).
    Returns (N, *output_shape), float64.
    """
    flat = np.asarray(x, np.float64).reshape(len(x), m.shape[1]) @ m.T
    return flat if output_shape is None else flat.reshape(len(x), *output_shape)


def nonzeros(m: np.ndarray) -> int:
    """Number of entries of m that are not zero."""
    return int(np.count_nonzero(m))


def is_toeplitz(m: np.ndarray) -> bool:
    """Whether m is constant along its diagonals: m[i + 1, j + 1] = m[i, j].

    True of a 1-D, single-channel, shared convolution of stride 1.
    """
    return bool(np.array_equal(m[1:, 1:], m[:-1, :-1]))


def is_circulant(m: np.ndarray) -> bool:
    """Whether m is square and constant along its diagonals taken modulo its size.

    True of a 1-D convolution whose input wraps around.
    """
    return m.shape[0] == m.shape[1] and bool(np.array_equal(m, np.roll(m, (1, 1), (0, 1))))


def is_doubly_block_toeplitz(
    m: np.ndarray, output_size: tuple[int, int], input_size: tuple[int, int]
) -> bool:
    """Whether m, cut into O2 x I2 blocks, is Toeplitz in its blocks and within each of them.

    m[(i + 1, u), (j + 1, v)] = m[(i, u), (j, v)] and m[(i, u + 1), (j, v + 1)] = m[(i, u), (j, v)].
    True of a 2-D, single-channel, shared convolution of stride 1.

    m: (O1 * O2, I1 * I2). output_size: (O1, O2). input_size: (I1, I2).
    """
    blocks = m.reshape(*output_size, *input_size)
    across = np.array_equal(blocks[1:, :, 1:], blocks[:-1, :, :-1])
    within = np.array_equal(blocks[:, 1:, :, 1:], blocks[:, :-1, :, :-1])
    return bool(across and within)


def _selections(size: int, taps: int, geometry: Geometry, axis: int) -> np.ndarray:
    """S[f, o, p] = 1 where output o reads input p through tap f of one axis: (F, O, I)."""
    lo, hi = geometry.padding[axis]
    dilation = geometry.dilation[axis]
    # A window starts at -lo, and the last one still ends within the padding after the data.
    starts = np.arange(-lo, size + hi - dilation * (taps - 1), geometry.stride[axis])
    positions = starts + dilation * np.arange(taps)[:, np.newaxis]
    return (positions[..., np.newaxis] == np.arange(size)).astype(np.float64)


def _block_diagonal(tap: np.ndarray, groups: int) -> np.ndarray:
    """One tap's (K, C/g) weights as the (K, C) channel matrix, zero between groups."""
    k, c_per_group = tap.shape
    same_group = np.kron(np.eye(groups), np.ones((k // groups, c_per_group)))
    return np.tile(tap, (1, groups)) * same_group
