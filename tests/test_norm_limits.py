"""Gradients of norms at the ends of a dtype: infinite, largest, tiny and zero elements.

Every one is finite, and the definition, torch's functions and the kernels agree on it.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tritonconv import functional as F
from tritonconv.reference import pooling, pooling_gradients
from tritonconv.testing.agreement import kernel_device
from tritonconv.testing.tolerances import ROUNDOFF

from .test_pool_beyond import (
    _path,  # noqa: F401 (the fixture behind `both_paths`)
    both_paths,
)

INF = math.inf
DTYPES = (torch.float16, torch.float32, torch.float64)
POWERS = (0.5, 1, 2, 3, 7.5, INF, -INF)
overflowing = pytest.mark.filterwarnings("ignore:overflow encountered")
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)

# Windows, and their gradients for each of POWERS, by hand. "max" is the dtype's largest number.
TABLE = {
    # n infinite elements: n^((1-p)/p) each; of p = inf the first wins, of -inf the least.
    "one": ((INF, 1.0), [(1, 0)] * 6 + [(0, 1)]),
    "two": (
        (INF, -INF, 3.0),
        [(2, -2, 0), (1, -1, 0)]
        + [(2 ** (1 / p - 1), -(2 ** (1 / p - 1)), 0) for p in (2, 3, 7.5)]
        + [(1, 0, 0), (0, 0, 1)],
    ),
    "three": (
        (-INF, -INF, -INF, 0.0),
        [(-3, -3, -3, 0), (-1, -1, -1, 0)]
        + [(*[-(3 ** (1 / p - 1))] * 3, 0) for p in (2, 3, 7.5)]
        + [(-1, 0, 0, 0), (0, 0, 0, 0)],
    ),
    # Finite elements whose norm is not: 2^(1/p - 1) each.
    "large": (
        ("max", "-max"),
        [(2 ** (1 / p - 1), -(2 ** (1 / p - 1))) for p in POWERS[:5]] + [(1, 0)] * 2,
    ),
    # Unequal ones: y is max (1 + 2^-p)^(1/p).
    "unequal": (
        ("max", "max/2"),
        [
            ((1 + 2**-p) ** (1 / p - 1), 2 ** (1 - p) * (1 + 2**-p) ** (1 / p - 1))
            for p in POWERS[:5]
        ]
        + [(1, 0), (0, 1)],
    ),
    "zero": ((0.0, "max"), [(0, 1)] * 6 + [(0, 0)]),
}


def numbers(window, dtype):
    """The window's elements as a tensor (1, 1, T)."""
    most = torch.finfo(dtype).max
    words = {"max": most, "-max": -most, "max/2": most / 2}
    return torch.tensor([[[words.get(v, v) for v in window]]], dtype=dtype)


def limits(dtype):
    """What the definition takes: 16-bit numbers are computed in float32."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.finfo(wide).tiny, torch.finfo(dtype).max


def by_definition(x, p):
    """The oracle's gradient."""
    values = x.detach().cpu().double().numpy()
    size = values.shape[2:]
    windows = pooling.PoolWindows(size, size, size, ((0, 0),), (1,))
    ones = np.ones((*values.shape[:2], 1))
    return pooling_gradients.lp_pool_gradient(ones, values, windows, p, limits(x.dtype))


def gradient(x, p):
    """The library's, on the device of the kernels."""
    x = x.to(kernel_device()).requires_grad_()
    y = F.lp_pool1d(x, p, x.shape[-1])
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    return dx.cpu()


def expected_of(name, p):
    """By hand."""
    return TABLE[name][1][POWERS.index(p)]


@overflowing
@every_dtype
@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("name", TABLE)
def test_definition_by_hand(name, p, dtype):
    x = numbers(TABLE[name][0], dtype)
    with np.errstate(over="ignore"):
        dx, dp = by_definition(x, p)
    np.testing.assert_allclose(dx[0, 0], expected_of(name, p), rtol=1e-12, atol=0)
    assert np.isfinite(dp)


@overflowing
@both_paths
@every_dtype
@pytest.mark.parametrize("p", POWERS)
def test_table_by_hand(p, dtype, path):
    """One launch for all windows of a length, as channels."""
    for length in {len(window) for window, _ in TABLE.values()}:
        names = [name for name, (window, _) in TABLE.items() if len(window) == length]
        x = torch.cat([numbers(TABLE[name][0], dtype) for name in names], 1)
        found = gradient(x, p)
        expected = torch.tensor([expected_of(name, p) for name in names], dtype=torch.float64)
        relative = (1 + abs(p if math.isfinite(p) else 1)) * 8 * ROUNDOFF[dtype]
        torch.testing.assert_close(found[0].double(), expected, rtol=relative, atol=0)


ELEMENTS = st.sampled_from((0, "tiny", "-tiny", 1, -1, "max", "-max", INF, -INF))


@overflowing
@both_paths
@every_dtype
@given(st.lists(st.tuples(*[ELEMENTS] * 3), min_size=4, max_size=4))
def test_every_gradient_is_finite(dtype, path, windows):
    """And the definition's, but for roundings of y."""
    info = torch.finfo(dtype)
    words = {"max": info.max, "-max": -info.max, "tiny": info.tiny, "-tiny": -info.tiny}
    x = torch.tensor([[[words.get(v, v) for v in w] for w in windows]], dtype=dtype)
    for p in POWERS:
        found = gradient(x, p)
        assert found.isfinite().all(), (p, x, found)
        with np.errstate(all="ignore"):
            exact, _ = by_definition(x, p)
        relative = (2 + abs(p if math.isfinite(p) else 1)) * 8 * ROUNDOFF[dtype]
        # A power of a tiny ratio takes its error from the logarithm's size.
        relative += 1e3 * ROUNDOFF[torch.float64 if dtype == torch.float64 else torch.float32]
        np.testing.assert_allclose(found, exact, rtol=relative, atol=info.tiny)


@overflowing
@both_paths
@every_dtype
def test_gradients_of_learned_exponents_are_finite(dtype, path):
    """What is infinite does not change with its exponent, and the others still learn."""
    x = torch.tensor([[[INF, 1, 2, 2], [-INF, INF, 0, 0], [5, 0, 1, 1]]], dtype=dtype)
    x = torch.cat([x, numbers(("max", "max", 3.0, 4.0), dtype)], 1)
    x = x.to(kernel_device()).requires_grad_()
    for value in (0.5, 2.0, 3.0):
        p = torch.full((4,), value, dtype=torch.float64 if dtype == DTYPES[2] else torch.float32)
        p = p.to(x.device).requires_grad_()
        y = F.lp_pool1d(x, p, 2)
        dx, dp = torch.autograd.grad(y, (x, p), torch.ones_like(y))
        assert dx.isfinite().all() and dp.isfinite().all()
        assert dp[1] == 0 and dp[0] < 0 and dp[2] < 0 and dp[3] < 0
        with np.errstate(all="ignore"):
            exact = [by_definition(x[:, c : c + 1, 2:], value)[1] for c in (0, 2, 3)]
        torch.testing.assert_close(
            dp.cpu().double()[[0, 2, 3]], torch.tensor(exact), rtol=0.01, atol=0
        )


@every_dtype
@pytest.mark.usefixtures("aten_passes")
@pytest.mark.parametrize("p", [0.5, 1, 2, 3, 7.5])
def test_derivatives_of_gradients_are_finite(p, dtype):
    """By each input, with the slopes of the table by dy."""
    for window in ((INF, -INF, 3.0), ("max", "max", "max"), ("max", 0.0, INF)):
        x, power = numbers(window, dtype).requires_grad_(), torch.tensor(float(p)).requires_grad_()
        power = power.to(torch.float64 if dtype == torch.float64 else torch.float32)
        y = F.lp_pool1d(x, power, 3)
        dy = torch.ones_like(y).requires_grad_()
        (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
        with np.errstate(all="ignore"):
            exact, _ = by_definition(x, p)
        torch.testing.assert_close(
            dx.double(), torch.from_numpy(exact), rtol=64 * ROUNDOFF[dtype], atol=0
        )
        found = torch.autograd.grad(dx.abs().sum(), (x, dy, power))
        assert all(g.isfinite().all() for g in found), (window, found)
        torch.testing.assert_close(found[1][0, 0, 0], dx.abs().sum().detach())


@pytest.mark.usefixtures("aten_path")
@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, 3.0])
def test_transforms_see_the_same_gradient(p):
    x = numbers((INF, -INF, 3.0), torch.float32)
    expected = gradient(x, p)
    found = torch.func.grad(lambda x: F.lp_pool1d(x, p, 3).sum())(x)
    torch.testing.assert_close(found, expected)
    batched = torch.func.vmap(torch.func.grad(lambda x: F.lp_pool1d(x, p, 3).sum()))(x[None])
    torch.testing.assert_close(batched[0], expected)
