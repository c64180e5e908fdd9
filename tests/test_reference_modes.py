"""The oracles' padding modes and epilogue, by hand, against PyTorch, and on random geometries."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tritonconv.reference.matrix import (
    apply,
    coordinates,
    is_circulant,
    is_doubly_block_circulant,
    is_doubly_block_toeplitz,
    matrix,
)
from tritonconv.reference.textbook import (
    ACTIVATIONS,
    Geometry,
    activation_gradient,
    conv,
    dgrad,
    epilogue,
    output_size,
    wgrad,
)

from .test_reference import BORDERS, Case, geometry, inner, torch_conv

TORCH_ACTIVATIONS = {
    "none": lambda z: z * 1,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}

# -- padding modes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "read", "returned"),
    [
        ("zeros", [0, 0, 1, 2, 3, 4, 0, 0], [4, 8, 16, 32]),
        # What left input 2 arrived at positions 1, 3 and 7, and so on.
        ("reflect", [3, 2, 1, 2, 3, 4, 3, 2], [4, 2 + 8 + 128, 1 + 16 + 64, 32]),
        ("replicate", [1, 1, 1, 2, 3, 4, 4, 4], [1 + 2 + 4, 8, 16, 32 + 64 + 128]),
        ("circular", [3, 4, 1, 2, 3, 4, 1, 2], [4 + 64, 8 + 128, 1 + 16, 2 + 32]),
    ],
)
def test_borders_by_hand(mode, read, returned):
    x = np.array([[[1, 2, 3, 4]]])
    dy = np.array([[[1, 2, 4, 8, 16, 32, 64, 128]]])
    one = np.ones((1, 1, 1))
    geo = geometry(1, padding=2, padding_mode=mode)

    np.testing.assert_array_equal(conv(x, one, geo), [[read]])
    np.testing.assert_array_equal(dgrad(dy, one, (4,), geo), [[returned]])
    np.testing.assert_array_equal(wgrad(dy, x, (1, 1, 1), geo), [[[np.dot(read, dy[0, 0])]]])
    np.testing.assert_array_equal(apply(matrix((1, 4), one, geo), x), [read])


@pytest.mark.parametrize("mode", BORDERS)
def test_a_cropped_high_end_leaves_the_low_border_alone(mode):
    x = np.array([[[1, 2, 3, 4, 5]]])
    one = np.ones((1, 1, 1))

    whole = conv(x, one, geometry(1, padding=((2, 0),), padding_mode=mode))
    geo = geometry(1, padding=((2, -3),), padding_mode=mode)
    np.testing.assert_array_equal(conv(x, one, geo), whole[..., :-3])
    # Inputs 0 and 1 are read by their own positions; the border reads the same as before.
    sources = {"reflect": [2, 1, 0, 1], "replicate": [0, 0, 0, 1], "circular": [3, 4, 0, 1]}[mode]
    expected = np.bincount(sources, [1, 2, 4, 8], minlength=5)
    dy = np.array([[[1, 2, 4, 8]]])
    np.testing.assert_array_equal(dgrad(dy, one, (5,), geo), [[expected]])


@pytest.mark.parametrize(
    ("mode", "size", "pads", "most"),
    [
        ("reflect", 4, (3, 4), 3),
        ("reflect", 1, (1, 0), 0),
        ("circular", 4, (5, 0), 4),
        ("replicate", 0, (0, 1), 0),
    ],
)
def test_too_little_to_fill_the_padding_from_is_refused(mode, size, pads, most):
    geo = Geometry((1,), (pads,), (1,), padding_mode=mode)
    x, w, dy = np.ones((1, 1, size)), np.ones((1, 1, 1)), np.ones((1, 1, size + sum(pads)))

    for call in (
        lambda: conv(x, w, geo),
        lambda: dgrad(dy, w, (size,), geo),
        lambda: wgrad(dy, x, w.shape, geo),
        lambda: matrix((1, size), w, geo),
        lambda: coordinates((1, size), w, geo),
        lambda: output_size((size,), (1,), geo),
    ):
        with pytest.raises(ValueError, match=f"{mode} padding .* size {size} .* at most {most}"):
            call()


@st.composite
def cases(draw):
    """A small 1-D or 2-D problem in any padding mode; its output may be empty."""
    rank = draw(st.integers(1, 2))
    mode = draw(st.sampled_from(("zeros", *BORDERS)))

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    size = each(1, 4)
    most = [{"reflect": n - 1, "circular": n}.get(mode, 5) for n in size]
    pads = tuple((draw(st.integers(0, m)), draw(st.integers(-1, m))) for m in most)
    groups = draw(st.integers(1, 2))
    flip = draw(st.booleans())
    return Case(
        size,
        each(1, 3),
        Geometry(each(1, 3), pads, each(1, 2), groups, flip, mode),
        period=draw(st.sampled_from(((), each(1, 3)))),
        n=draw(st.integers(1, 2)),
        c=2 * groups,
        k=groups * draw(st.integers(1, 2)),
    )


# No kernel runs here, so more examples than elsewhere are cheap.
@settings(max_examples=5 * settings.default.max_examples)
@given(case=cases(), seed=st.integers(0, 99))
def test_every_route_gives_the_same(case, seed):
    x, w, dy = case.draw(seed)
    geo, image = case.geometry, x.shape[1:]
    m = matrix(image, w, geo)
    rows, columns, values = coordinates(image, w, geo)
    dense = np.zeros_like(m)
    dense[rows, columns] = values
    y = conv(x, w, geo)

    np.testing.assert_array_equal(dense, m)
    np.testing.assert_array_equal(y, apply(m, x, dy.shape[1:]))
    np.testing.assert_array_equal(dgrad(dy, w, case.size, geo), apply(m.T, dy, image))
    assert inner(w, wgrad(dy, x, w.shape, geo)) == inner(y, dy)
    if y.size:  # torch refuses an empty output
        tx, tw = (torch.from_numpy(a).requires_grad_() for a in (x, w))
        ty = torch_conv(tx, tw, geo)
        tdx, tdw = torch.autograd.grad(ty, (tx, tw), torch.from_numpy(dy))
        np.testing.assert_array_equal(y, ty.detach().numpy())
        np.testing.assert_array_equal(dgrad(dy, w, case.size, geo), tdx.numpy())
        np.testing.assert_array_equal(wgrad(dy, x, w.shape, geo), tdw.numpy())


# -- the matrix of an input that wraps around -------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("taps", "dilation"), [(1, 1), (3, 1), (3, 2), (5, 1)])
def test_circular_padding_makes_the_matrix_circulant(taps, dilation, flip):
    w = np.arange(1.0, 1 + taps).reshape(1, 1, taps)
    half = dilation * (taps - 1) // 2

    def m(mode):
        return matrix((1, 7), w, geometry(1, 1, half, dilation, 1, flip, padding_mode=mode))

    assert is_circulant(m("circular"))
    assert is_circulant(m("circular").T)
    if taps > 1:
        assert not any(is_circulant(m(mode)) for mode in ("zeros", "reflect", "replicate"))


def test_2d_circular_padding_makes_the_matrix_doubly_block_circulant():
    w = np.arange(1.0, 10).reshape(1, 1, 3, 3)
    m = matrix((1, 4, 5), w, geometry(2, padding=1, padding_mode="circular"))

    assert is_doubly_block_circulant(m, (4, 5))
    assert is_doubly_block_circulant(m.T, (4, 5))
    # Blocks of another size, or blocks that wrap around on one axis only, are not.
    assert not is_doubly_block_circulant(m, (5, 4))
    assert not is_doubly_block_circulant(m[:-1], (4, 5))
    for mode in ("zeros", "reflect", "replicate"):
        other = matrix((1, 4, 5), w, geometry(2, padding=1, padding_mode=mode))
        assert not is_doubly_block_circulant(other, (4, 5))
    band = np.eye(4) + 2 * np.eye(4, k=1)
    wrapped = band + 2 * np.eye(4, k=-3)
    assert is_doubly_block_circulant(np.kron(wrapped, wrapped), (4, 4))
    for mixed in (np.kron(wrapped, band), np.kron(band, wrapped)):
        assert is_doubly_block_toeplitz(mixed, (4, 4), (4, 4))
        assert not is_doubly_block_circulant(mixed, (4, 4))


def test_circular_convolution_is_a_product_of_spectra():
    x, w, _ = Case((6, 5), (3, 3), geometry(2), c=1, k=1).draw()
    geo = geometry(2, padding=((2, 0), (2, 0)), flip=True, padding_mode="circular")

    spectrum = np.fft.fft2(x) * np.fft.fft2(w[:, 0], s=(6, 5))
    np.testing.assert_allclose(conv(x, w, geo), np.fft.ifft2(spectrum).real, atol=1e-12)


def test_coordinates_reach_sizes_that_the_dense_matrix_does_not():
    # The dense matrix would have 12,288 columns and 16,384 rows: 1.6 GB.
    geo = geometry(2, padding=1, padding_mode="reflect")
    x, w, _ = Case((64, 64), (3, 3), geo, n=1, c=3, k=4).draw()
    rows, columns, values = coordinates((3, 64, 64), w, geo)

    y = np.bincount(rows, values * x.ravel()[columns])
    np.testing.assert_array_equal(y.reshape(1, 4, 64, 64), conv(x, w, geo))


# -- the epilogue -----------------------------------------------------------------------------


def test_untied_bias_by_hand():
    z = np.zeros((2, 2, 5))
    bias = [[1, 10], [2, 20], [3, 30]]
    expected = [[1, 2, 3, 1, 2], [10, 20, 30, 10, 20]]

    np.testing.assert_array_equal(epilogue(z, bias), [expected, expected])
    x, w = np.zeros((2, 1, 5)), np.ones((2, 1, 1))
    np.testing.assert_array_equal(conv(x, w, geometry(1), bias), [expected, expected])


@pytest.mark.parametrize("period", [(1, 1), (2, 1), (1, 3), (2, 2), (4, 3)])
def test_untied_bias_repeats_on_each_axis(period):
    rng = np.random.default_rng(0)
    z, bias = rng.standard_normal((2, 3, 4, 3)), rng.standard_normal((*period, 3))
    expected = z.copy()
    for n, k, i, j in np.ndindex(z.shape):
        expected[n, k, i, j] += bias[i % period[0], j % period[1], k]

    np.testing.assert_array_equal(epilogue(z, bias), expected)
    if period == (1, 1):
        np.testing.assert_array_equal(epilogue(z, bias[0, 0]), expected)


@pytest.mark.parametrize("name", TORCH_ACTIVATIONS)
def test_activations_and_their_gradients_equal_torch(name):
    z = np.concatenate([np.linspace(-6, 6, 97), [-50.0, -0.0, 1e-300, 50.0]])
    tz = torch.from_numpy(z).requires_grad_()
    ty = TORCH_ACTIVATIONS[name](tz)
    (slope,) = torch.autograd.grad(ty.sum(), tz)

    # A few roundings of numbers up to 1; torch's own erf and exp are that far off.
    close = {"rtol": 1e-14, "atol": 4e-15}
    np.testing.assert_allclose(epilogue(z, activation=name), ty.detach().numpy(), **close)
    np.testing.assert_allclose(activation_gradient(name, z), slope.numpy(), **close)


def test_every_activation_is_compared_with_torch():
    assert set(ACTIVATIONS) == set(TORCH_ACTIVATIONS)


def test_activations_keep_their_precision_in_the_tails():
    with np.errstate(over="raise", invalid="raise"):
        gelu = epilogue([-10.0], activation="gelu")
        sigmoid = epilogue([-40.0, -1000.0, 1000.0], activation="sigmoid")
        slope = activation_gradient("sigmoid", [40.0])

    # Phi(-10) and 1 / (1 + exp(40)), from tables.
    np.testing.assert_allclose(gelu, [-7.619853024160527e-23], rtol=1e-13)
    np.testing.assert_allclose(sigmoid, [4.248354255291589e-18, 0, 1], rtol=1e-15)
    np.testing.assert_allclose(slope, [4.248354255291589e-18], rtol=1e-15)


def test_bias_and_residual_come_before_the_activation():
    z = np.array([[[1.0, -4.0, 2.0]]])
    residual = np.array([[[-3.0, 5.0, 0.5]]])

    # z + e = (-2, 1, 2.5); the untied bias gives the middle one half a unit more.
    np.testing.assert_array_equal(epilogue(z, [1.0], residual, "relu"), [[[0, 2, 3.5]]])
    np.testing.assert_array_equal(
        epilogue(z, [[1.0], [1.5]], residual, "leaky_relu"), [[[-0.01, 2.5, 3.5]]]
    )
    np.testing.assert_array_equal(epilogue(z, residual=residual), z + residual)
    np.testing.assert_array_equal(z, [[[1.0, -4.0, 2.0]]])  # not written to


def test_epilogue_of_a_transposed_convolution():
    # The (N, C, *I) result takes a bias (C,): here c = 2, while k = 3.
    geo = geometry(1, stride=2, padding=((1, 0),))
    x, w, dy = (np.asarray(a) for a in Case((6,), (3,), geo).draw())
    bias, residual = np.array([0.5, -1.5]), 0.25 * x
    expected = F.conv_transpose1d(
        torch.from_numpy(dy), torch.from_numpy(w), torch.from_numpy(bias), stride=2
    )[..., 1:7]

    got = epilogue(dgrad(dy, w, (6,), geo), bias, residual, "relu")
    np.testing.assert_array_equal(got, F.relu(expected + torch.from_numpy(residual)).numpy())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: epilogue(z, np.ones(3)), r"bias must have shape \(2,\) or"),
        (lambda z: epilogue(z, np.float64(1)), r"bias must have shape \(2,\) or"),
        (lambda z: epilogue(z, np.ones((1, 1, 2))), r"\(1 periods, 2\), got \(1, 1, 2\)"),
        # One channel would be spread over both.
        (lambda z: epilogue(z, np.ones((3, 1))), r"\(1 periods, 2\), got \(3, 1\)"),
        (lambda z: epilogue(z, np.ones((5, 2))), r"periods from 1 to \(4,\), got \(5,\)"),
        (lambda z: epilogue(z, np.ones((0, 2))), r"periods from 1 to \(4,\), got \(0,\)"),
        (lambda z: epilogue(z, residual=z[:1]), r"residual must have shape \(2, 2, 4\)"),
        (lambda z: epilogue(z, activation="swish"), "one of none, relu, .*, got 'swish'"),
        (lambda z: activation_gradient("swish", z), "one of none, relu, .*, got 'swish'"),
    ],
    ids=[
        "channels",
        "scalar",
        "axes",
        "untied-channels",
        "period",
        "empty",
        "residual",
        "activation",
        "gradient",
    ],
)
def test_epilogue_refuses_misfits_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((2, 2, 4)))
