"""Convolution written out as the matrix it is, dense or as its entries, in float64.

Convolution is linear in its input, so one image's outputs are M @ (its inputs) for a sparse,
highly structured M: a Toeplitz band in 1-D, doubly block Toeplitz in 2-D, circulant where the
input wraps around. M is assembled from Kronecker products of one 0/1 selection matrix per axis and
tap, which is another route than the sums of `textbook.py`; its transpose is the input gradient.

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
    the groups) and S^a_f[o, p] = 1 where output o of axis a reads input p through tap f, else 0:
    p = fold(o s - lo + f d), as the padding mode folds positions outside the input.

    input_shape: (C, *I). w: (K, C/g, *F), or (*t, K, C/g, *F).
    Returns (K * prod(O), C * prod(I)), float64, both sides in C order (channel slowest).

    Raises ValueError if the padding mode cannot fill the padding from this input.
    """
    rank = geometry.rank
    w = _banks(w, geometry)
    period, k, filter_size = w.shape[:rank], w.shape[rank], w.shape[-rank:]

    selections = [
        (sources[..., np.newaxis] == np.arange(size)).astype(np.float64)
        for sources, size in zip(
            _sources(input_shape, filter_size, geometry), input_shape[1:], strict=True
        )
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


def coordinates(
    input_shape: tuple[int, ...], w: np.ndarray, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The entries of `matrix` where an output is connected to an input, without the zeros between.

    Memory and time grow with their number, at most K prod(O) C/g prod(F), not with M's area. Where
    taps meet on one input, as on a folded border, their weights are summed; an entry that is zero
    because its weights are is kept.

    input_shape: (C, *I). w: (K, C/g, *F), or (*t, K, C/g, *F).
    Returns (rows, columns, values), one-dimensional, int64, int64 and float64, sorted by row and
    then by column, each pair once: M[rows, columns] = values.

    Raises ValueError as `matrix` does.
    """
    rank = geometry.rank
    w = _banks(w, geometry)
    period, (k, c_per_group), filter_size = w.shape[:rank], w.shape[rank:-rank], w.shape[-rank:]
    sources = _sources(input_shape, filter_size, geometry)
    out_size = [axis.shape[1] for axis in sources]
    columns_of_m = np.prod(input_shape, dtype=int)
    row_numbers = np.arange(k * np.prod(out_size, dtype=int)).reshape(k, 1, *out_size)
    # (K, C/g): the input channels that each output channel reads.
    channels = np.arange(k)[:, np.newaxis] // (k // geometry.groups) * c_per_group
    channels = channels + np.arange(c_per_group)
    column_numbers = np.arange(columns_of_m).reshape(input_shape)[channels]

    places, values = [], []
    for tap in product(*map(range, filter_size)):
        reads = [axis[f] for axis, f in zip(sources, tap, strict=True)]
        outputs = [np.flatnonzero(read >= 0) for read in reads]
        inputs = [read[o] for read, o in zip(reads, outputs, strict=True)]
        banks = np.ix_(*[o % t for o, t in zip(outputs, period, strict=True)])
        rows = row_numbers[(..., *np.ix_(*outputs))]
        places.append(rows * columns_of_m + column_numbers[(..., *np.ix_(*inputs))])
        values.append(np.moveaxis(w[(..., *tap)][banks], (-2, -1), (0, 1)))
    place, entry = np.unique(np.concatenate([p.ravel() for p in places]), return_inverse=True)
    sums = np.bincount(entry, np.concatenate([v.ravel() for v in values]), minlength=len(place))
    rows, columns = np.divmod(place, columns_of_m)
    return rows, columns, sums


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

    True of a 1-D, single-channel, shared convolution of stride 1 whose input wraps around and whose
    output is as long.
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


def is_doubly_block_circulant(m: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether m, cut into S2 x S2 blocks, is circulant in its blocks and within each of them.

    True of a 2-D, single-channel, shared convolution of stride 1 whose input wraps around on both
    axes and whose output is as large.

    m: (S1 * S2, S1 * S2). size: (S1, S2). A matrix of another shape is not.
    """
    if m.shape != (size[0] * size[1],) * 2:
        return False
    blocks = m.reshape(*size, *size)
    across = np.array_equal(blocks, np.roll(blocks, (1, 1), (0, 2)))
    within = np.array_equal(blocks, np.roll(blocks, (1, 1), (1, 3)))
    return bool(across and within)


def _banks(w: np.ndarray, geometry: Geometry) -> np.ndarray:
    """w as float64 (*t, K, C/g, *F), its taps in the order in which they meet the input."""
    rank = geometry.rank
    w = np.asarray(w, np.float64)
    if w.ndim == rank + 2:
        w = w.reshape((1,) * rank + w.shape)
    return np.flip(w, axis=tuple(range(-rank, 0))) if geometry.flip else w


def _sources(
    input_shape: tuple[int, ...], filter_size: tuple[int, ...], geometry: Geometry
) -> list[np.ndarray]:
    """One (F, O) table an axis: the input that output o reads through tap f, -1 where it is 0."""
    geometry.check_input(input_shape[1:])
    tables = []
    for axis, (size, taps) in enumerate(zip(input_shape[1:], filter_size, strict=True)):
        padded = _padded_positions(np.arange(size), geometry.padding[axis], geometry.padding_mode)
        dilation = geometry.dilation[axis]
        # The last window still ends within the padding after the data.
        starts = np.arange(0, len(padded) - dilation * (taps - 1), geometry.stride[axis])
        tables.append(padded[starts + dilation * np.arange(taps)[:, np.newaxis]])
    return tables


def _padded_positions(inside: np.ndarray, padding: tuple[int, int], mode: str) -> np.ndarray:
    """The input that each position of a padded axis reads: `inside` between its two borders."""
    size, (lo, hi) = len(inside), padding
    before, after = max(lo, 0), max(hi, 0)
    low, high = {
        "zeros": (np.full(before, -1), np.full(after, -1)),
        "reflect": (inside[1 : before + 1][::-1], inside[::-1][1 : after + 1]),
        "replicate": (inside[:1].repeat(before), inside[-1:].repeat(after)),
        "circular": (inside[size - before :], inside[:after]),
    }[mode]
    padded = np.concatenate([low, inside, high])
    return padded[max(-lo, 0) : max(len(padded) + min(hi, 0), 0)]


def _block_diagonal(tap: np.ndarray, groups: int) -> np.ndarray:
    """One tap's (K, C/g) weights as the (K, C) channel matrix, zero between groups."""
    k, c_per_group = tap.shape
    same_group = np.kron(np.eye(groups), np.ones((k // groups, c_per_group)))
    return np.tile(tap, (1, groups)) * same_group
