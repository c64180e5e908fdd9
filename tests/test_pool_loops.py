"""Pooling by views on a CPU: what it computes is what the windows laid out give, or it declines."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tritonconv import functional as F
from tritonconv.pool_problem import PoolArguments, Reduction
from tritonconv.reference import pool_loops, pool_windows
from tritonconv.reference.pool_geometry import Windows

from .test_pool_functional import draw

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
POWERS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 8.0)


@st.composite
def geometries(draw):
    """Windows of one to three axes, padded, dilated, with gaps and rests."""
    rank = draw(st.integers(1, 3))

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, stride, dilation, pads = each(1, 3), each(1, 4), each(1, 2), each(0, 2) + each(0, 2)
    pads = tuple(pads[axis + rank * end] for axis in range(rank) for end in (0, 1))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = tuple(r + more for r, more in zip(reach, each(0, 3), strict=True))
    return Windows(size, PoolArguments(kernel, stride, pads, dilation, draw(st.booleans())))


def laid_out(function, *args):
    """The same with every window gathered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool_loops, "fits", lambda windows: False)
        return function(*args)


def image(windows, dtype=torch.float64, seed=0):
    """Normal numbers, some of them 0 and some of them equal."""
    x = draw(2, 3, *windows.input_size, seed=seed)
    x[0] = x[0].round()
    return x.to(dtype)


@given(geometries(), st.booleans())
def test_the_largest_and_its_gradient(windows, nan):
    x = image(windows)
    if nan:
        x.flatten()[::3] = math.nan
    for values in (x, (4 * image(windows)).to(torch.int16)):
        y, taps = pool_windows.max_pool(values, windows)
        expected, where = laid_out(pool_windows.max_pool, values, windows)
        torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(taps, where)
    for dtype in DTYPES:
        dy = draw(*y.shape, seed=1).to(dtype)
        dy.flatten()[:1] = math.inf
        found = pool_windows.max_pool_gradient(dy, taps, windows)
        expected = laid_out(pool_windows.max_pool_gradient, dy, taps, windows)
        torch.testing.assert_close(found, expected, equal_nan=True)


@given(geometries(), st.sampled_from(POWERS), st.sampled_from((torch.float32, torch.float64)))
def test_norms_and_their_gradients(windows, p, dtype):
    x = image(windows, dtype)
    y = pool_loops.lp_pool(x, p, windows)
    expected = laid_out(pool_windows.lp_pool, x, p, windows)
    assert y is not None
    torch.testing.assert_close(y, expected)
    largest = laid_out(pool_windows.max_pool, x.abs(), windows)[0]
    assert (y >= largest).all()
    dy = draw(*y.shape, seed=1).to(dtype)
    found = pool_loops.lp_pool_gradient(dy, x, y, p, windows)
    assert found is not None
    torch.testing.assert_close(
        found, laid_out(pool_windows.lp_pool_gradient, dy, x, expected, p, windows)
    )


@given(geometries(), st.booleans())
def test_gradients_of_sums(windows, weighted):
    weights = draw(*windows.kernel, seed=2).abs() if weighted else None
    dy = draw(2, 3, *windows.sizes, seed=1)
    args = (dy, weights, windows, Reduction("sum", "padded", weighted))
    found = pool_windows.sum_pool_gradient(*args)
    torch.testing.assert_close(found, laid_out(pool_windows.sum_pool_gradient, *args))


PAIRS = Windows((4,), PoolArguments((2,), (2,), (0, 0), (1,)))


@pytest.mark.parametrize(
    "values",
    [
        (1, 2, 1e-30, 1e-30),
        (1, 2, 1e20, 1e20),
        (1, 2, math.inf, 1),
        (1, 2, math.nan, 1),
        (0, 0, 0, 1e-30),
    ],
    ids=str,
)
def test_declines_powers_that_float32_does_not_hold(values):
    x = torch.tensor([[values]], dtype=torch.float32)
    assert pool_loops.lp_pool(x, 3.0, PAIRS) is None
    y = pool_windows.lp_pool(x, 3.0, PAIRS)
    assert pool_loops.lp_pool_gradient(torch.ones(1, 1, 2), x, y, 3.0, PAIRS) is None
    # So it says the same as without.
    exact = x.double().abs().view(1, 1, 2, 2)
    exact = (exact**3).sum(-1) ** (1 / 3)
    torch.testing.assert_close(y.double(), exact, rtol=1e-6, atol=0, equal_nan=True)


def test_takes_windows_of_nothing_but_zeros():
    x = torch.tensor([[[0.0, 0.0, 3.0, -4.0]]])
    y = pool_loops.lp_pool(x, 2.0, PAIRS)
    assert y is not None and y.tolist() == [[[0.0, 5.0]]]
    dx = pool_loops.lp_pool_gradient(torch.ones(1, 1, 2), x, y, 2.0, PAIRS)
    assert dx is not None
    torch.testing.assert_close(dx, torch.tensor([[[0.0, 0.0, 0.6, -0.8]]]))


@pytest.mark.parametrize("dy", [math.inf, math.nan, 1e30])
def test_declines_gradients_that_are_not_plain(dy):
    x, y = torch.tensor([[[0.0, 1.0, 3.0, -4.0]]]), torch.tensor([[[1.0, 5.0]]])
    assert pool_loops.lp_pool_gradient(torch.full((1, 1, 2), dy), x, y, 2.0, PAIRS) is None


def test_declines_norms_whose_powers_lose_digits():
    """1e-42 has few left in float32, and below p = 1 a power grows as its element vanishes."""
    x = torch.tensor([[[1e-16, 1e-21, 1.0, 1.0]]])
    y, dy = pool_windows.lp_pool(x, 3.0, PAIRS), torch.ones(1, 1, 2)
    assert pool_loops.lp_pool_gradient(dy, x, y, 3.0, PAIRS) is None
    dx = pool_windows.lp_pool_gradient(dy, x, y, 3.0, PAIRS)
    torch.testing.assert_close(dx[0, 0, 1].item(), 1e-10, rtol=1e-5, atol=0)
    ones = torch.ones(1, 1, 4)
    assert pool_loops.lp_pool_gradient(dy, ones, 4 * dy, 0.5, PAIRS) is None


def test_elements_that_no_window_reads_have_no_gradient():
    """Whatever they are."""
    x = torch.tensor([[[3.0, 4.0, math.nan, 3.0, -4.0, math.inf]]]).requires_grad_()
    y = pool_windows.lp_pool(
        x.detach(), 2.0, gaps := Windows((6,), PoolArguments((2,), (3,), (0, 0), (1,)))
    )
    dx = pool_windows.lp_pool_gradient(torch.ones_like(y), x.detach(), y, 2.0, gaps)
    assert dx[..., [0, 1, 3, 4]].isfinite().all() and not dx[..., [2, 5]].any()


@pytest.mark.usefixtures("aten_path")
@pytest.mark.parametrize("last", [False, True])
def test_maxout_alone_is_maxout_with_a_gradient(last):
    for shape, dim, pieces in (((2, 6, 3, 4), 1, 3), ((2, 6, 3, 4), 3, 2), ((4, 2, 1, 2), 0, 4)):
        x = draw(*shape)
        x = x.to(memory_format=torch.channels_last) if last else x
        alone, recorded = F.maxout(x, pieces, dim), F.maxout(x.requires_grad_(), pieces, dim)
        assert torch.equal(alone, recorded) and alone.stride() == recorded.stride()
