"""The float64 oracles against each other, against PyTorch, and against sums done by hand.

All random data are small whole numbers: every sum is then exact in float64 whatever its order, so
the checks ask for equality and need no tolerance.
"""

from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from tritonconv.reference.matrix import (
    apply,
    coordinates,
    is_circulant,
    is_doubly_block_toeplitz,
    is_toeplitz,
    matrix,
    nonzeros,
)
from tritonconv.reference.textbook import Geometry, conv, dgrad, output_size, wgrad


def geometry(rank, stride=1, padding=0, dilation=1, groups=1, flip=False, padding_mode="zeros"):
    """A Geometry from per-axis tuples, or from single values for every axis."""

    def per_axis(value):
        return value if isinstance(value, tuple) else (value,) * rank

    pads = tuple(p if isinstance(p, tuple) else (p, p) for p in per_axis(padding))
    return Geometry(per_axis(stride), pads, per_axis(dilation), groups, flip, padding_mode)


@dataclass(frozen=True)
class Case:
    """Sizes of one problem: x (n, c, *size), w (*period, k, c / groups, *taps)."""

    size: tuple[int, ...]
    taps: tuple[int, ...]
    geometry: Geometry
    period: tuple[int, ...] = ()
    n: int = 2
    c: int = 2
    k: int = 3

    def draw(self, seed=0):
        """x, w and dy of whole numbers in [-4, 4]."""
        rng = np.random.default_rng(seed)
        c_per_group = self.c // self.geometry.groups
        out_size = output_size(self.size, self.taps, self.geometry)
        shapes = (
            (self.n, self.c, *self.size),
            (*self.period, self.k, c_per_group, *self.taps),
            (self.n, self.k, *out_size),
        )
        return [rng.integers(-4, 5, shape).astype(np.float64) for shape in shapes]


CASES = {
    "1d": Case((7,), (3,), geometry(1)),
    "1d-same": Case((7,), (3,), geometry(1, padding=1)),
    "1d-flip": Case((7,), (3,), geometry(1, padding=1, flip=True)),
    "1d-stride-over-filter": Case((11,), (2,), geometry(1, stride=4, padding=1)),
    "1d-padding-over-data": Case((2,), (3,), geometry(1, stride=2, padding=((5, 4),))),
    "1d-crop": Case((9,), (2,), geometry(1, padding=((-2, -1),))),
    "1d-size-one": Case((1,), (1,), geometry(1), n=1, c=1, k=1),
    "1d-tiled": Case((9,), (3,), geometry(1, padding=1, dilation=2), period=(3,)),
    "1d-unshared": Case((6,), (3,), geometry(1, stride=2, padding=((1, 0),)), period=(3,)),
    "1d-period-over-output": Case((5,), (3,), geometry(1, flip=True), period=(4,)),
    "2d": Case((5, 6), (3, 2), geometry(2)),
    "2d-uneven": Case(
        (7, 6), (3, 2), geometry(2, stride=(2, 3), padding=((0, 2), (1, 3)), dilation=(2, 1))
    ),
    "2d-groups": Case((4, 5), (3, 3), geometry(2, padding=1, groups=2, flip=True), c=4, k=6),
    "2d-depthwise": Case((5, 4), (3, 2), geometry(2, stride=(1, 2), groups=3), c=3, k=6),
    "2d-size-one": Case((1, 6), (1, 3), geometry(2, padding=(0, 2)), n=1),
    "2d-empty-batch": Case((4, 4), (3, 3), geometry(2, padding=1), n=0),
    "2d-tiled": Case((5, 6), (2, 3), geometry(2, padding=1), period=(2, 3)),
    "2d-tiled-groups": Case(
        (6, 5),
        (3, 2),
        geometry(2, stride=(1, 2), padding=((2, 1), (0, 1)), groups=2, flip=True),
        period=(3, 1),
        c=4,
        k=4,
    ),
    "2d-unshared": Case((4, 5), (2, 2), geometry(2), period=(3, 4)),
    "3d": Case((3, 4, 3), (2, 3, 2), geometry(3, padding=(0, 1, 1))),
    "3d-uneven": Case(
        (4, 5, 3),
        (2, 2, 3),
        geometry(3, stride=(2, 1, 3), padding=((1, 0), (0, 1), 2), dilation=(1, 2, 1), groups=2),
        c=2,
        k=4,
    ),
    "3d-tiled-flip": Case(
        (3, 3, 4), (2, 1, 3), geometry(3, padding=1, flip=True), period=(2, 1, 3)
    ),
}
BORDERS = ("reflect", "replicate", "circular")
# Pads as large as the mode allows, on both sides at once; a cropped high end, in every mode.
CASES |= {
    f"{name}-{mode}": Case(size, taps, geo(padding_mode=mode), period)
    for mode in BORDERS
    for name, size, taps, geo, period in [
        ("1d", (5,), (3,), partial(geometry, 1, padding=((1, 2),)), ()),
        ("1d-crop", (7,), (3,), partial(geometry, 1, stride=2, padding=((3, -2),)), ()),
        ("1d-tiled-flip", (4,), (2,), partial(geometry, 1, padding=3, flip=True), (3,)),
        ("1d-stride-over-filter", (6,), (2,), partial(geometry, 1, stride=4, padding=5), ()),
        ("2d", (3, 4), (3, 2), partial(geometry, 2, padding=((2, 1), (0, 3)), dilation=2), ()),
        ("2d-unshared", (3, 2), (2, 3), partial(geometry, 2, padding=(0, 1)), (2, 2)),
        ("3d", (2, 3, 2), (2, 1, 2), partial(geometry, 3, stride=(2, 1, 1), padding=1), ()),
    ]
}
CASES |= {
    "1d-replicate-beyond-data": Case((2,), (3,), geometry(1, padding=7, padding_mode="replicate")),
    "1d-replicate-size-one": Case((1,), (2,), geometry(1, padding=2, padding_mode="replicate")),
    "1d-circular-twice": Case((3,), (3,), geometry(1, padding=3, padding_mode="circular")),
    "1d-circular-size-one": Case((1,), (3,), geometry(1, padding=1, padding_mode="circular")),
    "1d-crop-for-the-transpose": Case((9,), (2,), geometry(1, stride=4, padding=((0, -3),))),
    "2d-groups-circular": Case(
        (3, 4), (2, 3), geometry(2, padding=1, groups=2, padding_mode="circular"), c=4, k=6
    ),
    "2d-empty-batch-reflect": Case(
        (4, 4), (3, 3), geometry(2, padding=1, padding_mode="reflect"), n=0
    ),
}
EMPTY_OUTPUT = {
    "filter-too-long": Case((2, 9), (3, 3), geometry(2)),
    "filter-far-too-long": Case((1,), (9,), geometry(1, stride=2, dilation=3), period=(2,)),
    "all-cropped": Case((3,), (1,), geometry(1, padding=((-5, 0),))),
    "all-cropped-reflect": Case(
        (3,), (2,), geometry(1, padding=((1, -5),), padding_mode="reflect")
    ),
}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
every_case_and_empty = pytest.mark.parametrize(
    "case", (CASES | EMPTY_OUTPUT).values(), ids=(CASES | EMPTY_OUTPUT).keys()
)


def inner(a, b):
    """Sum of products of two arrays of one shape."""
    assert a.shape == b.shape
    return np.vdot(a, b)


def torch_pad(x, geo):
    """x with its padding, by torch.nn.functional.pad; the crops after it."""
    if geo.padding_mode == "zeros":
        return torch.nn.functional.pad(x, [p for pair in reversed(geo.padding) for p in pair])
    pads = [max(p, 0) for pair in reversed(geo.padding) for p in pair]
    x = torch.nn.functional.pad(x, pads, mode=geo.padding_mode)
    for axis, (_, high) in enumerate(geo.padding):
        x = x.narrow(2 + axis, 0, x.shape[2 + axis] + min(high, 0))
    return x


def torch_conv(x, w, geo):
    """conv through torch.nn.functional: one shared convolution per residue of the period."""
    rank = geo.rank
    function = (torch.conv1d, torch.conv2d, torch.conv3d)[rank - 1]
    padded = torch_pad(x, geo)
    if w.ndim == rank + 2:
        w = w.reshape(*[1] * rank, *w.shape)
    if geo.flip:
        w = w.flip(tuple(range(-rank, 0)))
    y = None
    for residue in product(*map(range, w.shape[:rank])):
        shared = function(
            padded, w[residue], stride=geo.stride, dilation=geo.dilation, groups=geo.groups
        )
        mask = torch.ones(shared.shape[2:], dtype=shared.dtype)
        for axis, (r, t) in enumerate(zip(residue, w.shape[:rank], strict=True)):
            hit = torch.arange(shared.shape[2 + axis]) % t == r
            mask *= hit.reshape([-1 if a == axis else 1 for a in range(rank)])
        y = shared * mask if y is None else y + shared * mask
    return y


@every_case
def test_conv_and_gradients_equal_torch(case):
    x, w, dy = case.draw()
    tx, tw = (torch.from_numpy(a).requires_grad_() for a in (x, w))
    ty = torch_conv(tx, tw, case.geometry)
    tdx, tdw = torch.autograd.grad(ty, (tx, tw), torch.from_numpy(dy))

    np.testing.assert_array_equal(conv(x, w, case.geometry), ty.detach().numpy())
    np.testing.assert_array_equal(dgrad(dy, w, case.size, case.geometry), tdx.numpy())
    np.testing.assert_array_equal(wgrad(dy, x, w.shape, case.geometry), tdw.numpy())


@every_case_and_empty
def test_conv_equals_its_matrix_and_dgrad_the_transpose(case):
    x, w, dy = case.draw(seed=1)
    m = matrix(x.shape[1:], w, case.geometry)

    np.testing.assert_array_equal(conv(x, w, case.geometry), apply(m, x, dy.shape[1:]))
    np.testing.assert_array_equal(
        dgrad(dy, w, case.size, case.geometry), apply(m.T, dy, x.shape[1:])
    )


@every_case_and_empty
def test_coordinates_are_the_matrix_without_its_zeros(case):
    x, w, _ = case.draw(seed=4)
    m = matrix(x.shape[1:], w, case.geometry)
    rows, columns, values = coordinates(x.shape[1:], w, case.geometry)

    dense = np.zeros_like(m)
    dense[rows, columns] = values
    np.testing.assert_array_equal(dense, m)
    assert (np.diff(rows * m.shape[1] + columns) > 0).all()  # in order, each pair once
    # Without weights of zero, and without any that cancel, nothing but the connections is kept.
    positive = matrix(x.shape[1:], np.abs(w) + 1, case.geometry)
    assert len(values) == nonzeros(positive)


@every_case_and_empty
def test_both_gradients_are_adjoints_of_conv(case):
    x, w, dy = case.draw(seed=2)
    value = inner(conv(x, w, case.geometry), dy)

    assert inner(x, dgrad(dy, w, case.size, case.geometry)) == value
    assert inner(w, wgrad(dy, x, w.shape, case.geometry)) == value


@pytest.mark.parametrize("name", ["1d-flip", "1d-period-over-output", "2d-tiled", "2d-depthwise"])
def test_wgrad_equals_bumping_each_weight(name):
    case = CASES[name]
    x, w, dy = case.draw(seed=3)
    base = conv(x, w, case.geometry)
    bumped = np.zeros_like(w)
    for index in np.ndindex(w.shape):
        moved = w.copy()
        moved[index] += 1  # conv is linear in w, so a step of 1 gives the exact slope
        bumped[index] = inner(conv(x, moved, case.geometry) - base, dy)

    np.testing.assert_array_equal(wgrad(dy, x, w.shape, case.geometry), bumped)


def test_edge_detection_by_hand():
    x = np.array([[[[1, 1, 5, 5], [2, 2, 2, 9]]]])
    w = np.array([[[[-1, 1]]]])

    expected = [[[[0, 4, 0], [0, 0, 7]]]]
    np.testing.assert_array_equal(conv(x, w, geometry(2)), expected)
    np.testing.assert_array_equal(conv(x, w, geometry(2, flip=True)), [[[[0, -4, 0], [0, 0, -7]]]])
    np.testing.assert_array_equal(
        conv(x, w, geometry(2, padding=(0, (1, 0)))), [[[[1, 0, 4, 0], [2, 0, 0, 7]]]]
    )
    np.testing.assert_array_equal(conv(x, w, geometry(2), bias=[0.5]), np.add(expected, 0.5))


def test_tiled_by_hand():
    x = np.array([[[1, 2, 3, 4, 5]]])
    w = np.array([[1, 10], [100, 1000]]).reshape(2, 1, 1, 2)
    dy = np.array([[[1, 2, 3, 4]]])

    # Even outputs use (1, 10), odd ones (100, 1000).
    np.testing.assert_array_equal(conv(x, w, geometry(1)), [[[21, 3200, 43, 5400]]])
    # dx[1] = 10 * 1 + 100 * 2, dx[2] = 1000 * 2 + 1 * 3, dx[3] = 10 * 3 + 100 * 4.
    np.testing.assert_array_equal(dgrad(dy, w, (5,), geometry(1)), [[[1, 210, 2003, 430, 4000]]])
    # dw[0] = (1 * 1 + 3 * 3, 1 * 2 + 3 * 4), dw[1] = (2 * 2 + 4 * 4, 2 * 3 + 4 * 5).
    np.testing.assert_array_equal(
        wgrad(dy, x, w.shape, geometry(1)), np.reshape([10, 14, 20, 26], w.shape)
    )
    np.testing.assert_array_equal(
        matrix((1, 5), w, geometry(1)),
        [[1, 10, 0, 0, 0], [0, 100, 1000, 0, 0], [0, 0, 1, 10, 0], [0, 0, 0, 100, 1000]],
    )


def test_bias_is_added_once_per_output_channel():
    x, w, _ = CASES["2d-tiled-groups"].draw()
    geo = CASES["2d-tiled-groups"].geometry
    bias = np.array([1.0, -2.0, 3.0, 0.25])

    difference = conv(x, w, geo, bias) - conv(x, w, geo)
    np.testing.assert_array_equal(
        difference, np.broadcast_to(bias[:, np.newaxis, np.newaxis], difference.shape)
    )


@pytest.mark.parametrize(("length", "taps"), [(6, 3), (3, 6), (1, 4), (5, 1)])
def test_full_convolution_commutes_and_equals_numpy(length, taps):
    rng = np.random.default_rng(length)
    a, b = (rng.integers(-4, 5, size).astype(np.float64) for size in (length, taps))

    def full(signal, filter_):
        geo = geometry(1, padding=len(filter_) - 1, flip=True)
        return conv(signal.reshape(1, 1, -1), filter_.reshape(1, 1, -1), geo).ravel()

    np.testing.assert_array_equal(full(a, b), np.convolve(a, b))
    np.testing.assert_array_equal(full(b, a), np.convolve(a, b))


@pytest.mark.parametrize(
    ("size", "taps", "geo", "expected"),
    [
        ((7,), (3,), geometry(1), (5,)),
        ((7,), (3,), geometry(1, stride=2, padding=1), (4,)),
        ((8,), (3,), geometry(1, stride=3, dilation=2), (2,)),
        ((10, 4), (1, 2), geometry(2, stride=(4, 1), padding=(0, (0, 3))), (3, 6)),
        ((2,), (3,), geometry(1, stride=5), (0,)),
        ((1,), (9,), geometry(1), (0,)),
    ],
)
def test_output_size_by_hand(size, taps, geo, expected):
    assert output_size(size, taps, geo) == expected


@pytest.mark.parametrize("padding", [0, 1, (2, 0)])
def test_1d_matrix_is_a_toeplitz_band(padding):
    geo = geometry(1, padding=(padding,))
    w = np.array([1.0, 2.0, 3.0])
    m = matrix((1, 8), w.reshape(1, 1, 3), geo)

    lo = geo.padding[0][0]
    band = sum(value * np.eye(len(m), 8, k=f - lo) for f, value in enumerate(w))
    np.testing.assert_array_equal(m, band)
    assert is_toeplitz(m)


def test_stride_and_period_break_the_toeplitz_structure():
    w = np.array([1.0, 2.0, 3.0, 4.0])

    assert not is_toeplitz(matrix((1, 8), w.reshape(1, 1, 4), geometry(1, stride=2)))
    assert not is_toeplitz(matrix((1, 8), w.reshape(2, 1, 1, 2), geometry(1)))


def test_wrapped_input_makes_the_matrix_circulant():
    m = matrix((1, 7), np.array([1.0, 2.0, 3.0]).reshape(1, 1, 3), geometry(1))
    wrap = np.eye(5)[np.arange(7) % 5]

    np.testing.assert_array_equal((m @ wrap)[0], [1, 2, 3, 0, 0])
    assert is_circulant(m @ wrap)
    assert not is_circulant(m[:, :5])
    assert not is_circulant(np.ones((3, 2)))
    assert not is_circulant(m)


def test_2d_matrix_is_doubly_block_toeplitz():
    shared = np.arange(1.0, 5.0).reshape(1, 1, 2, 2)
    m = matrix((1, 3, 4), shared, geometry(2))

    # Output (0, 0) reads the corner, output (1, 2) the opposite one.
    np.testing.assert_array_equal(m[0], [1, 2, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(m[5], [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 3, 4])
    assert is_doubly_block_toeplitz(m, (2, 3), (3, 4))
    assert not is_toeplitz(m)
    for period in ((2, 1), (1, 3)):
        tiled = np.arange(1.0, 1.0 + 4 * np.prod(period)).reshape(*period, 1, 1, 2, 2)
        assert not is_doubly_block_toeplitz(matrix((1, 3, 4), tiled, geometry(2)), (2, 3), (3, 4))


def test_nonzeros_count_the_sparse_interactions():
    dense, depthwise = np.ones((3, 3, 2)), np.ones((3, 1, 2))

    assert nonzeros(matrix((3, 5), dense, geometry(1))) == 3 * 3 * 4 * 2
    assert nonzeros(matrix((3, 5), depthwise, geometry(1, groups=3))) == 3 * 4 * 2
    # One of the two taps of the first output falls on the padding.
    assert nonzeros(matrix((3, 5), dense, geometry(1, padding=((1, 0),)))) == 3 * 3 * (5 * 2 - 1)


def test_equal_tiles_are_the_shared_convolution():
    x, w, dy = CASES["2d"].draw()
    geo = CASES["2d"].geometry
    tiled = np.broadcast_to(w, (2, 3, *w.shape))

    np.testing.assert_array_equal(conv(x, tiled, geo), conv(x, w, geo))
    # Each residue holds a part of the shared filter's gradient.
    np.testing.assert_array_equal(
        wgrad(dy, x, tiled.shape, geo).sum((0, 1)), wgrad(dy, x, w.shape, geo)
    )


def test_narrow_inputs_are_summed_in_float64():
    big = 2**24  # the first whole number whose successor float32 cannot hold
    x, ones = np.float32([[[big], [1]]]), np.ones((1, 2, 1), np.float32)

    y = conv(x, ones, geometry(1))
    assert (y.dtype, y.item()) == (np.float64, big + 1)
    dx = dgrad(np.int32([[[1]]]), np.full((1, 1, 1), big + 1), (1,), geometry(1))
    assert (dx.dtype, dx.item()) == (np.float64, big + 1)
    dw = wgrad(np.float32([[[big]], [[1]]]), np.ones((2, 1, 1), np.float32), (1, 1, 1), geometry(1))
    assert (dw.dtype, dw.item()) == (np.float64, big + 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Geometry((1,), ((0, 0),), (1, 1)), "one entry per spatial axis, got 1, 1 and 2"),
        (lambda: geometry(4), "1, 2 or 3 entries, got 4"),
        (lambda: geometry(1, stride=0), "at least 1"),
        (
            lambda: geometry(1, padding_mode="reflection"),
            "one of zeros, reflect, replicate, circular, got 'reflection'",
        ),
        (lambda: geometry(1, padding=-1, padding_mode="replicate"), "crop only with zeros"),
        (lambda: conv(np.ones((1, 2, 5)), np.ones((1, 3, 2)), geometry(1)), "x must have 1 x 3"),
        (lambda: conv(np.ones((1, 2, 5)), np.ones((3, 2)), geometry(1)), "w must have 3 axes"),
        (
            lambda: conv(np.ones((1, 2, 5)), np.ones((3, 1, 2)), geometry(1, groups=2)),
            "3 output channels must be a multiple of groups=2",
        ),
        (
            lambda: dgrad(np.ones((1, 1, 5)), np.ones((1, 2, 2)), (5,), geometry(1)),
            r"dy must have spatial size \(4,\), got \(5,\)",
        ),
        (
            lambda: wgrad(np.ones((1, 2, 4)), np.ones((1, 2, 5)), (1, 2, 2), geometry(1)),
            "dy must have 1 x 1 channels",
        ),
    ],
    ids=[
        "lengths",
        "rank",
        "stride",
        "mode",
        "low-crop",
        "channels",
        "w-rank",
        "groups",
        "dy-size",
        "dy-channels",
    ],
)
def test_misfits_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
