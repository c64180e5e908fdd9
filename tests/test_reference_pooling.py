"""The float64 oracles of pooling against sums done by hand, their matrices, and their slopes.

`test_reference_pooling_torch` asks PyTorch. Small whole numbers must agree exactly; what divides or
takes powers, up to the rounding of a few operations.
"""

from functools import partial

import numpy as np
import pytest

from tritonconv.reference.pooling import (
    PoolWindows,
    as_matrix,
    avg_pool,
    gaussian_weights,
    indices,
    lp_pool,
    max_pool,
    max_unpool,
    weighted_pool,
)
from tritonconv.reference.pooling_channels import cross_channel, cross_channel_gradient, maxout
from tritonconv.reference.pooling_gradients import (
    avg_pool_gradient,
    lp_pool_gradient,
    max_pool_gradient,
    max_unpool_gradient,
    weighted_pool_gradient,
)

INF, NAN = float("inf"), float("nan")

equal = np.testing.assert_array_equal
close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)


def windows_of(size, kernel, stride=1, padding=0, dilation=1, ceil_mode=False):
    """PoolWindows from per-axis tuples, or from single values for every axis."""

    def per_axis(value):
        return value if isinstance(value, tuple) else (value,) * len(size)

    pads = tuple(p if isinstance(p, tuple) else (p, p) for p in per_axis(padding))
    return PoolWindows(
        size, per_axis(kernel), per_axis(stride), pads, per_axis(dilation), ceil_mode
    )


def row(*values):
    """One image of one channel and one axis."""
    return np.array(values).reshape(1, 1, -1)


def whole(shape, seed=0):
    """Small whole numbers: they tie often, and their sums are exact."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float64)


def apart(shape, seed=0):
    """Distinct numbers at least 0.1 away from zero and from each other, in magnitude too."""
    rng = np.random.default_rng(seed)
    count = int(np.prod(shape))
    signs = rng.choice([-1, 1], count)
    return (signs * (0.2 + 0.1 * rng.permutation(count))).reshape(shape)


def slope(function, x, dy, step=1e-6):
    """Gradient of sum(function(x) dy) by central differences."""
    gradient = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        moved = x.copy()
        moved[at] = x[at] + step
        above = function(moved)
        moved[at] = x[at] - step
        gradient[at] = ((above - function(moved)) * dy).sum() / (2 * step)
    return gradient


# Windows that touch every rule: pads beyond the kernel and the data, overhang, gaps, empty windows.
GEOMETRIES = {
    "1d": windows_of((7,), 3, stride=2, padding=1),
    "1d-gaps": windows_of((6,), 2, stride=3, padding=((1, 0),), ceil_mode=True),
    "1d-empty-windows": windows_of((2,), 2, padding=((3, 4),)),
    "1d-dilation-straddles": windows_of((1,), 2, padding=1, dilation=2),
    "1d-adaptive": PoolWindows((7,), adaptive=(3,)),
    "1d-adaptive-enlarges": PoolWindows((2,), adaptive=(5,)),
    "2d": windows_of((4, 5), (2, 3), stride=(2, 1), padding=((1, 0), (0, 2)), dilation=(1, 2)),
    "2d-ceil": windows_of((5, 4), (2, 3), stride=(3, 2), padding=(0, 1), ceil_mode=True),
    "2d-adaptive": PoolWindows((5, 4), adaptive=(3, 3)),
    "3d": windows_of((2, 3, 3), (2, 1, 2), stride=(1, 2, 1), padding=(1, 0, (0, 1))),
    "3d-adaptive": PoolWindows((3, 2, 4), adaptive=(2, 1, 3)),
}
every_geometry = pytest.mark.parametrize("windows", GEOMETRIES.values(), ids=GEOMETRIES.keys())


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        (windows_of((7,), 3, stride=2), (3,)),
        (windows_of((8,), 3, stride=2), (3,)),
        (windows_of((8,), 3, stride=2, ceil_mode=True), (4,)),
        # The third window would start at 6 = I + lo, in the high padding.
        (windows_of((5,), 2, stride=3, padding=1), (2,)),
        (windows_of((5,), 2, stride=3, padding=1, ceil_mode=True), (2,)),
        (windows_of((5,), 2, stride=3, padding=((0, 3),), ceil_mode=True), (2,)),
        (windows_of((5,), 2, stride=3, padding=((2, 1),), ceil_mode=True), (3,)),
        (windows_of((6,), 3, stride=2, dilation=2), (1,)),
        (windows_of((6,), 3, stride=2, dilation=2, ceil_mode=True), (2,)),
        (windows_of((2,), 3, stride=2), (0,)),
        (windows_of((2,), 3, stride=2, ceil_mode=True), (1,)),
        (windows_of((1,), 9, stride=2, ceil_mode=True), (0,)),
        (windows_of((0,), 1, ceil_mode=True), (0,)),
        (windows_of((4, 9), (2, 3), stride=(2, 4), padding=((1, 1), 0)), (3, 2)),
        (PoolWindows((7, 0), adaptive=(3, 2)), (3, 2)),
    ],
)
def test_output_size_by_hand(windows, expected):
    assert windows.output_size == expected
    assert list(windows.positions()) == list(np.ndindex(*expected))


def test_taps_and_counts_by_hand():
    windows = windows_of((5,), 3, stride=2, padding=((1, 0),), dilation=2, ceil_mode=True)
    # Windows at -1 and 1 with taps 2 apart; the last of the second overhangs with position 5.
    assert windows.output_size == (2,)
    assert [windows.taps_at((o,)) for o in range(2)] == [
        [(1, (1,)), (2, (3,))],
        [(0, (1,)), (1, (3,))],
    ]
    assert [windows.count_at((o,)) for o in range(2)] == [3, 2]
    # One element of high padding, and position 5 counts.
    padded = windows_of((5,), 3, stride=2, padding=((1, 1),), dilation=2, ceil_mode=True)
    assert [padded.count_at((o,)) for o in range(2)] == [3, 3]


def test_flat_taps_are_row_major_in_the_kernel():
    windows = windows_of((2, 2), (2, 3), padding=(1, (2, 0)))

    assert windows.box == (2, 3)
    assert windows.taps_at((0, 0)) == [(5, (0, 0))]
    assert windows.taps_at((1, 1)) == [(1, (0, 0)), (2, (0, 1)), (4, (1, 0)), (5, (1, 1))]
    assert windows.count_at((0, 0)) == 6


def test_adaptive_windows_by_hand():
    windows = PoolWindows((7, 2), adaptive=(3, 4))
    # 0..2, 2..4, 4..6 of seven; 0, 0..0, 1, 1 of two.
    assert windows.box == (3, 1)
    rows = [sorted({i[0] for _, i in windows.taps_at((o, 0))}) for o in range(3)]
    columns = [[i[1] for _, i in windows.taps_at((0, o))] for o in range(4)]
    assert rows == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    assert columns == [[0] * 3, [0] * 3, [1] * 3, [1] * 3]

    uneven = PoolWindows((5, 5), adaptive=(4, 2))
    # Two of five a window along the first axis, three along the second: 0..2 and 2..4.
    assert uneven.box == (2, 3)
    assert uneven.taps_at((3, 1)) == [
        (0, (3, 2)), (1, (3, 3)), (2, (3, 4)), (3, (4, 2)), (4, (4, 3)), (5, (4, 4)),
    ]  # fmt: skip
    assert uneven.count_at((3, 1)) == 6
    # With a divisor of the size some windows are shorter than the box.
    assert PoolWindows((4,), adaptive=(3,)).taps_at((0,)) == [(0, (0,)), (1, (1,))]
    assert PoolWindows((0,), adaptive=(2,)).box == (1,)
    assert PoolWindows((3,), adaptive=(0,)).output_size == (0,)


def test_max_pool_by_hand():
    x = row(3, 1, 4, 1, 5)
    y, taps = max_pool(x, windows_of((5,), 2, stride=2, padding=1))
    equal(y, row(3, 4, 5))
    equal(taps, row(1, 1, 1))
    equal(indices(taps, windows_of((5,), 2, stride=2, padding=1)), row(0, 2, 4))

    image = np.array([[[[1, 2, 3], [9, 5, 6]]]])
    windows = windows_of((2, 3), 2)
    y, taps = max_pool(image, windows)
    equal(y, [[[[9, 6]]]])
    equal(taps, [[[[2, 3]]]])
    equal(indices(taps, windows), [[[[3, 5]]]])


def test_ties_go_to_the_first_tap_and_nan_to_the_last_nan():
    windows = windows_of((4,), 4)
    for values, winner in [
        ((2, 7, 7, 7), 1),
        ((NAN, 7, 9, 1), 0),
        ((2, NAN, NAN, INF), 2),
        ((INF, 3, NAN, 1), 2),
        ((-INF,) * 4, 0),
    ]:
        y, taps = max_pool(row(*values), windows)
        equal(y, row(values[winner]))
        equal(taps, row(winner))
    # -inf in the first element after the padding is still an element.
    y, taps = max_pool(row(-INF, -INF), windows_of((2,), 3, padding=((2, 0),)))
    equal(y, row(-INF, -INF))
    equal(taps, row(2, 1))


def test_windows_without_an_element():
    windows = windows_of((2,), 2, padding=((3, 4),))  # at -3, -2, -1, 0, 1, 2, 3, 4
    x = row(-5.0, -8.0)

    y, taps = max_pool(x, windows)
    equal(y, row(-INF, -INF, -5, -5, -8, -INF, -INF, -INF))
    equal(taps, row(0, 0, 1, 0, 0, 0, 0, 0))
    equal(indices(taps, windows), row(-1, -1, 0, 0, 1, -1, -1, -1))
    equal(max_pool_gradient(np.ones((1, 1, 8)), taps, windows), row(2, 1))
    equal(avg_pool(x, windows, False), row(0, 0, -5, -6.5, -8, 0, 0, 0))
    equal(avg_pool(x, windows), row(0, 0, -2.5, -6.5, -4, 0, 0, 0))
    equal(avg_pool(x, windows, divisor_override=4), row(0, 0, -1.25, -3.25, -2, 0, 0, 0))
    equal(weighted_pool(x, windows, np.ones(2), True), row(0, 0, -5, -6.5, -8, 0, 0, 0))
    for p in (1, 2.5, INF, -INF):
        equal(lp_pool(x, windows, p)[..., [0, 1, 5, 6, 7]], np.zeros((1, 1, 5)))
        dx, dp = lp_pool_gradient(np.ones((1, 1, 8)), x, windows, p)
        assert np.isfinite(dx).all() and np.isfinite(dp)

    adaptive = PoolWindows((0, 3), adaptive=(1, 2))
    equal(max_pool(np.zeros((1, 1, 0, 3)), adaptive)[0], np.full((1, 1, 1, 2), -INF))
    equal(avg_pool(np.zeros((1, 1, 0, 3)), adaptive), np.zeros((1, 1, 1, 2)))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_integers_stay_integers(dtype):
    info = np.iinfo(dtype)
    # Neighbours that float64 cannot tell apart, at the dtype's end.
    x = np.array([[[info.max - 1, info.max, info.min]]], dtype)
    y, taps = max_pool(x, windows_of((3,), 2, stride=2, padding=((0, 3),)))

    assert (y.dtype, taps.dtype) == (dtype, np.int64)
    equal(y, np.array([[[info.max, info.min, info.min]]], dtype))
    equal(taps, row(1, 0, 0))


def test_avg_pool_by_hand():
    x = row(1, 2, 3, 4, 5)
    windows = windows_of((5,), 3, stride=2, padding=((1, 1),), ceil_mode=True)
    equal(avg_pool(x, windows), row(1, 3, 3))
    equal(avg_pool(x, windows, count_include_pad=False), row(1.5, 3, 4.5))
    equal(avg_pool(x, windows, divisor_override=-2), row(-1.5, -4.5, -4.5))
    # The last window has 4, 5 and an overhang of one: two count, with the padding or without.
    overhang = windows_of((5,), 3, stride=3, ceil_mode=True)
    equal(avg_pool(x, overhang), row(2, 4.5))
    equal(avg_pool(x, overhang, count_include_pad=False), row(2, 4.5))
    equal(avg_pool_gradient(row(3, 2), overhang), row(1, 1, 1, 1, 1))
    equal(avg_pool_gradient(row(3, 2), overhang, True, -0.5), row(-6, -6, -6, -4, -4))


def test_weighted_pool_by_hand():
    x, weights = row(1.0, 2.0, 4.0), np.array([1.0, 2.0, 1.0])
    windows = windows_of((3,), 3, padding=1)
    equal(weighted_pool(x, windows, weights, normalize=False), row(4, 9, 10))
    equal(weighted_pool(x, windows, weights, normalize=True), row(4 / 3, 9 / 4, 10 / 3))
    # At both ends the weights that are left sum to zero.
    signed = np.array([-1.0, 1.0, -1.0])
    equal(weighted_pool(x, windows, signed, normalize=True), row(0, 3, 0))
    dx, dw = weighted_pool_gradient(row(5.0, 1.0, 5.0), x, windows, signed, normalize=True)
    equal(dx, row(1, -1, 1))
    equal(dw, [2, 1, -1])  # (x - 3) / -1


def test_gaussian_weights_by_hand():
    close(gaussian_weights((3,), 1.0), [np.exp(-0.5), 1, np.exp(-0.5)])
    close(gaussian_weights((2,), 0.5), [np.exp(-0.5)] * 2)
    close(gaussian_weights((3,), 6.0, (3,)), [np.exp(-1 / 8), 1, np.exp(-1 / 8)])
    # Distances (1/2, 1), (1/2, 0), (1/2, 1) with sigmas 1/2 and 2.
    w = gaussian_weights((2, 3), (0.5, 2.0))
    close(w, [[np.exp(-0.625), np.exp(-0.5), np.exp(-0.625)]] * 2)


def test_lp_pool_by_hand():
    x, windows = row(3.0, -4.0, 0.0), windows_of((3,), 2)
    close(lp_pool(x, windows, 1), row(7, 4))
    close(lp_pool(x, windows, 2), row(5, 4))
    close(lp_pool(x, windows, 0.5), row(7 + 2 * np.sqrt(12), 4))
    equal(lp_pool(x, windows, INF), row(4, 4))
    equal(lp_pool(x, windows, -INF), row(3, 0))
    equal(lp_pool(row(0.0, 0.0), windows_of((2,), 2), 3), row(0))

    both = np.concatenate([x, x], axis=1)
    close(lp_pool(both, windows, np.array([1, INF])), [[[7, 4], [4, 4]]])
    # Gradients: 3/5, -4/5 of the first window, -1 of the second.
    dx, dp = lp_pool_gradient(row(5.0, 2.0), x, windows, 2)
    close(dx, row(3, -4 - 2, 0))
    # dp of one element is zero; of (3, 4): 5 ((9 ln 3 + 16 ln 4) / 50 - ln(25) / 4).
    close(dp, 5 * 5 * ((9 * np.log(3) + 16 * np.log(4)) / 50 - np.log(25) / 4))


def test_lp_pool_leaves_no_range():
    windows = windows_of((2,), 2)
    for scale in (1e-320, 1e-300, 1e300):
        close(lp_pool(row(3 * scale, 4 * scale), windows, 2) / scale, row(5), rtol=1e-3)
        close(lp_pool(row(3 * scale, 4 * scale), windows, 900) / scale, row(4), rtol=1e-3)
        dx, _ = lp_pool_gradient(row(1.0), row(3 * scale, 4 * scale), windows, 2)
        close(dx, row(0.6, 0.8), rtol=1e-3)
    equal(lp_pool(row(INF, 1.0), windows, 3), row(INF))
    for p in (1, 2, INF, -INF):
        equal(lp_pool(row(NAN, INF), windows, p), row(NAN))


@pytest.mark.parametrize("p", [0.5, 1, 2, 3.5])
def test_lp_gradient_is_zero_at_zeros(p):
    dx, dp = lp_pool_gradient(row(2.0, 3.0), row(0.0, 0.0, 2.0), windows_of((3,), 2), p)
    equal(dx, row(0, 0, 3))
    equal(dp, 0)


def test_lp_gradient_of_infinite_powers_goes_to_the_first_winner():
    x, windows, dy = row(-3.0, 3.0, 1.0, -1.0), windows_of((4,), 4), row(2.0)
    for p, expected in [(INF, row(-2, 0, 0, 0)), (-INF, row(0, 0, 2, 0))]:
        dx, dp = lp_pool_gradient(dy, x, windows, p)
        equal(dx, expected)
        equal(dp, 0)


def test_channels_by_hand():
    x = np.array([[1, 5], [4, 2], [0, 3], [-1, 9]])  # four channels of two positions
    equal(maxout(x, 2, axis=0), [[4, 5], [0, 9]])
    equal(maxout(x, 2, axis=1), [[5], [4], [3], [9]])
    assert maxout(x, 2).dtype == x.dtype
    equal(cross_channel(x, 2, 1, "max", axis=0), [[4, 5], [4, 3], [0, 9]])
    equal(cross_channel(x, 3, 2, "avg", axis=0), [[5 / 3, 10 / 3]])
    equal(cross_channel(x, 1, 3, "lp", axis=-2), [[1, 5], [1, 9]])
    close(cross_channel(x[..., np.newaxis], 2, 2, "lp", axis=0, p=1), [[[5], [7]], [[1], [12]]])

    dy = np.array([[10, 20], [30, 40]])
    equal(cross_channel_gradient(dy, x, 2, 2, "max", 0), [[0, 20], [10, 0], [30, 0], [0, 40]])
    equal(cross_channel_gradient(dy, x, 2, 2, "avg", 0), [[5, 10], [5, 10], [15, 20], [15, 20]])
    equal(cross_channel_gradient(dy, x, 2, 2, "lp", 0, 1), [[10, 20], [10, 20], [0, 40], [-30, 40]])


def test_max_unpool_by_hand():
    z = max_unpool(row(7, 8, 9), row(4, 1, 4), (5,))
    equal(z, row(0, 8, 0, 0, 9))
    equal(max_unpool_gradient(row(1, 2, 3, 4, 5), row(4, 1, 4)), row(5, 2, 5))
    equal(max_unpool([[[[6]]]], [[[[5]]]], (2, 3)), [[[[0, 0, 0], [0, 0, 6]]]])


@every_geometry
def test_max_pool_gradient_is_the_slope(windows):
    x = apart((2, 2, *windows.input_size))
    y, taps = max_pool(x, windows)
    dy = np.where(np.isfinite(y), whole(y.shape, seed=1), 0.0)

    def forward(moved):
        return np.where(np.isfinite(y), max_pool(moved, windows)[0], 0.0)

    np.testing.assert_allclose(max_pool_gradient(dy, taps, windows), slope(forward, x, dy), 0, 1e-7)


@every_geometry
@pytest.mark.parametrize(("include", "divisor"), [(True, None), (False, None), (True, 3)])
def test_avg_pool_is_a_matrix_and_its_gradient_the_transpose(windows, include, divisor):
    def forward(x):
        return avg_pool(x, windows, include, divisor)

    m = as_matrix(windows, forward)
    check_linear(windows, m, forward, lambda dy: avg_pool_gradient(dy, windows, include, divisor))
    if divisor is None and not include:
        close(m.sum(1)[m.any(1)], 1)


@every_geometry
@pytest.mark.parametrize("normalize", [True, False])
def test_weighted_pool_is_a_matrix_and_its_gradients_the_slopes(windows, normalize):
    weights = np.abs(apart(windows.box, seed=3))
    x = whole((2, 2, *windows.input_size))
    dy = whole((2, 2, *windows.output_size), seed=1)

    def forward(x, weights):
        return weighted_pool(x, windows, weights, normalize)

    def backward(dy):
        nothing = np.zeros((*dy.shape[:2], *windows.input_size))
        return weighted_pool_gradient(dy, nothing, windows, weights, normalize)[0]

    shared = partial(forward, weights=weights)
    check_linear(windows, as_matrix(windows, shared), shared, backward)
    dw = weighted_pool_gradient(dy, x, windows, weights, normalize)[1]
    np.testing.assert_allclose(dw, slope(partial(forward, x), weights, dy), 1e-6, 1e-6)


def check_linear(windows, m, forward, backward):
    """forward is the matrix and backward its transpose, for every image and channel."""
    x, dy = (whole((2, 3, *size), 5) for size in (windows.input_size, windows.output_size))
    close(forward(x).reshape(6, -1), x.reshape(6, -1) @ m.T)
    close(backward(dy).reshape(6, -1), dy.reshape(6, -1) @ m)


@every_geometry
@pytest.mark.parametrize("p", [0.7, 1.0, 2.0, 3.3, INF, -INF])
def test_lp_gradients_are_the_slopes(windows, p):
    x = apart((2, 2, *windows.input_size))
    dy = whole((2, 2, *windows.output_size), seed=1)
    dx, dp = lp_pool_gradient(dy, x, windows, p)

    expected = slope(lambda x: lp_pool(x, windows, p), x, dy)
    np.testing.assert_allclose(dx, expected, 1e-6, 1e-6)
    if np.isfinite(p):
        expected = slope(lambda p: lp_pool(x, windows, p), np.array(p), dy)
        np.testing.assert_allclose(dp, expected, 1e-6, 1e-6)
        assert dp.shape == ()


def test_each_channel_has_its_own_power():
    windows = GEOMETRIES["2d"]
    x, dy = apart((2, 3, *windows.input_size)), whole((2, 3, *windows.output_size), seed=1)
    powers = np.array([1.5, INF, 3.0])
    dx, dp = lp_pool_gradient(dy, x, windows, powers)

    assert dp.shape == (3,)
    for c in range(3):
        alone = slice(c, c + 1)
        one = lp_pool_gradient(dy[:, alone], x[:, alone], windows, powers[c])
        equal(dx[:, alone], one[0])
        equal(dp[c], one[1])
        equal(lp_pool(x, windows, powers)[:, alone], lp_pool(x[:, alone], windows, powers[c]))


@pytest.mark.parametrize(("kind", "p"), [("max", 2), ("avg", 2), ("lp", 2), ("lp", 1.5)])
def test_cross_channel_gradient_is_the_slope(kind, p):
    x = apart((2, 5, 3))
    dy = whole((2, 2, 3), seed=1)
    expected = slope(lambda x: cross_channel(x, 3, 2, kind, p=p), x, dy)
    dx = cross_channel_gradient(dy, x, 3, 2, kind, p=p)
    np.testing.assert_allclose(dx, expected, 1e-6, 1e-6)


@every_geometry
def test_shapes_and_empty_batches(windows):
    for outer in ((0, 2), (2, 0)):
        x = np.zeros((*outer, *windows.input_size))
        shape = (*outer, *windows.output_size)
        y, taps = max_pool(x, windows)
        assert y.shape == taps.shape == indices(taps, windows).shape == shape
        assert avg_pool(x, windows).shape == lp_pool(x, windows, 2).shape == shape
        assert max_pool_gradient(y, taps, windows).shape == x.shape
        assert lp_pool_gradient(y, x, windows, 2)[0].shape == x.shape


@every_geometry
def test_poolings_agree_where_they_must(windows):
    x = np.abs(apart((2, 2, *windows.input_size)))
    elements = np.zeros(windows.output_size)
    for o in windows.positions():
        elements[o] = len(windows.taps_at(o))

    mean = avg_pool(x, windows, count_include_pad=False)
    close(weighted_pool(x, windows, np.ones(windows.box), True), mean)
    close(lp_pool(x, windows, 1), mean * elements)
    close(avg_pool(x, windows, divisor_override=1), mean * elements)
    equal(lp_pool(x, windows, INF), np.maximum(max_pool(x, windows)[0], 0))
    # The winner is the element that its index names.
    y, taps = max_pool(x, windows)
    found = indices(taps, windows)
    named = np.take_along_axis(x.reshape(4, -1), np.maximum(found, 0).reshape(4, -1), 1)
    equal(y, np.where(elements > 0, named.reshape(y.shape), -INF))
    equal(found == -1, np.broadcast_to(elements == 0, found.shape))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PoolWindows(()), "1, 2 or 3 sizes"),
        (lambda: PoolWindows((3,), (2,), (1,), ((0, 0),), (1, 1)), "dilation must have one entry"),
        (lambda: windows_of((3,), 0), "must be at least 1"),
        (lambda: windows_of((3,), 1, padding=((0, -1),)), "padding must be at least 0"),
        (lambda: PoolWindows((3, 3), adaptive=(2,)), "adaptive must be 2 sizes"),
        (lambda: max_pool(np.ones((1, 1, 4)), windows_of((3,), 1)), r"x must have shape .*\(3,\)"),
        (lambda: indices(np.zeros((1, 1, 2), int), windows_of((3,), 1)), "taps must have shape"),
        (lambda: avg_pool(row(1), windows_of((1,), 1), True, 0), "divisor_override must not be 0"),
        (
            lambda: weighted_pool(row(1), windows_of((1,), 1), np.ones(2), True),
            r"weights must have shape \(1,\), got \(2,\)",
        ),
        (lambda: lp_pool(row(1), windows_of((1,), 1), 0), "p must be positive, inf or -inf, got 0"),
        (lambda: lp_pool(row(1), windows_of((1,), 1), -2), "p must be positive"),
        (lambda: lp_pool(row(1), windows_of((1,), 1), NAN), "p must be positive"),
        (lambda: lp_pool(row(1), windows_of((1,), 1), np.ones(2)), "p must be one number or 1"),
        (lambda: gaussian_weights((3,), 0.0), "sigma must be positive"),
        (lambda: gaussian_weights((3,), (1.0, 1.0)), "one or 1"),
        (lambda: maxout(np.ones((1, 3)), 2), "must be a multiple of pieces=2"),
        (lambda: cross_channel(np.ones((1, 3)), 2, 1, "sum"), "one of max, avg, lp, got 'sum'"),
        (
            lambda: cross_channel_gradient(np.ones((1, 2)), np.ones((1, 3)), 2, 1, "sum"),
            "one of max, avg, lp, got 'sum'",
        ),
        (lambda: max_unpool(row(1), row(1, 2), (3,)), "indices must have y's shape"),
        (lambda: max_unpool(row(1), row(3), (3,)), r"must lie in 0\.\.2"),
        (lambda: max_unpool(row(1), row(-1), (3,)), r"must lie in 0\.\.2"),
        (
            lambda: avg_pool_gradient(np.ones((1, 1, 2)), windows_of((3,), 1)),
            r"dy must have shape .*\(3,\)",
        ),
        (
            lambda: lp_pool_gradient(np.ones((2, 1, 3)), row(1, 2, 3), windows_of((3,), 1), 2),
            r"dy must have N and C \(1, 1\), got \(2, 1\)",
        ),
    ],
)
def test_misfits_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
