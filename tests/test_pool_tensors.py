"""The tensors of pooling: layouts, strides, sizes 0 and 1, dtypes, NaN and infinity, gradients of
gradients."""

import numpy as np
import pytest
import torch
from torch.nn import functional as theirs

from tritonconv import functional as F
from tritonconv.layout import dense_strides, is_channels_last
from tritonconv.testing.tolerances import ROUNDOFF, SPREAD, assert_within

from .test_pool_beyond import (
    INF,
    NAN,
    SIZES,
    _path,  # noqa: F401 (the fixture behind `both_paths`)
    both_paths,
    laid_out,
    norm,
    pool,
)
from .test_pool_functional import RANKS, draw, whole

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
# Of images at least 2 wide; each keeps dtype and memory format.
FUNCTIONS = {
    "max": lambda x: pool("max_pool", x.dim() - 2)(x, 2, 1, ceil_mode=True),
    "avg": lambda x: pool("avg_pool", x.dim() - 2)(x, 2, 1, 1),
    "l2": lambda x: pool("l2_pool", x.dim() - 2)(x, 2, 1),
    "lp": lambda x: pool("lp_pool", x.dim() - 2)(x, x.new_tensor([1.5, 3, 0.7, 2]), 2, 2),
    "inf": lambda x: pool("lp_pool", x.dim() - 2)(x, -INF, 2, 2),
    "weighted": lambda x: pool("weighted_pool", x.dim() - 2)(x, 2, 1, "same", sigma=1.0),
    "adaptive max": lambda x: pool("adaptive_max_pool", x.dim() - 2)(x, 2),
    "adaptive avg": lambda x: pool("adaptive_avg_pool", x.dim() - 2)(x, 2),
}
every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=list(FUNCTIONS))


def layouts(x):
    """The same numbers in other strides: a dense one first, then what is not."""
    shape, last = x.shape, dense_strides(x.shape, True)
    wider = torch.full([n + 2 for n in shape], NAN, dtype=x.dtype)
    inner = wider[tuple(slice(1, n + 1) for n in shape)]
    strided = torch.full([*shape[:-1], 2 * shape[-1]], NAN, dtype=x.dtype)[..., ::2]
    turned = torch.empty(shape[::-1], dtype=x.dtype).permute(*range(len(shape) - 1, -1, -1))
    found = {"channels-last": torch.empty_strided(shape, last, dtype=x.dtype)}
    found |= {"slice": inner, "step": strided, "reversed axes": turned}
    return {name: tensor.copy_(x) for name, tensor in found.items()}


@both_paths
@every_function
@pytest.mark.parametrize("rank", RANKS)
def test_layouts(rank, function, path):
    """Strides change no number; channels-last stays so, in the result and in the gradient."""
    x = draw(2, 4, *SIZES[rank])
    expected = function(x.requires_grad_())
    assert expected.is_contiguous()
    dy = draw(*expected.shape, seed=1)
    (dx,) = torch.autograd.grad(expected, x, dy)
    assert dx.is_contiguous()
    for name, other in layouts(x.detach()).items():
        if path == "kernels" and name == "reversed axes" and rank == 3:
            continue  # one launch less; it differs from "slice" in nothing that kernels see
        y = function(other.requires_grad_())
        torch.testing.assert_close(y, expected, rtol=1e-13, atol=1e-13)
        last = is_channels_last(other.shape, other.stride())
        assert y.stride() == dense_strides(y.shape, last), name
        laid = torch.empty_strided(y.shape, y.stride(), dtype=y.dtype).copy_(dy)
        (other_dx,) = torch.autograd.grad(y, other, laid)
        torch.testing.assert_close(other_dx, dx, rtol=1e-13, atol=1e-13)
        if last:
            assert is_channels_last(other_dx.shape, other_dx.stride()), name


@both_paths
def test_expanded_tensors(path):
    """One image for all, one channel for all, one row for all; and a gradient that is expanded."""
    x = draw(2, 4, 5, 6)
    for part in (x[:1].expand(3, -1, -1, -1), x[:, :1].expand(-1, 4, -1, -1), x[..., :1, :]):
        stretched = part.expand(-1, -1, 5, -1)
        for name in ("max", "l2", "adaptive avg"):
            function = FUNCTIONS[name]
            expected = function(stretched.contiguous())
            torch.testing.assert_close(function(stretched), expected, rtol=1e-13, atol=1e-13)
    x.requires_grad_()
    for function in FUNCTIONS.values():
        y = function(x)
        (dx,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        (same,) = torch.autograd.grad(y, x, torch.ones_like(y))
        assert torch.equal(dx, same)


@both_paths
@pytest.mark.parametrize("rank", RANKS)
def test_without_a_batch(rank, path):
    x = draw(2, 4, *SIZES[rank])
    for name, options in (
        ("max_pool", (2,)),
        ("avg_pool", (2,)),
        ("l2_pool", (2,)),
        ("lp_pool", (draw(4).abs(), 2)),
        ("adaptive_avg_pool", (2,)),
    ):
        function = pool(name, rank)
        torch.testing.assert_close(function(x[0], *options), function(x, *options)[0])
    y, at = pool("max_pool", rank)(x[0], 2, return_indices=True)
    assert y.shape == at.shape and y.dim() == rank + 1
    assert torch.equal(x[0].flatten(1).gather(1, at.flatten(1)).view_as(y), y)
    y = pool("weighted_pool", rank)(x[0], 2, sigma=1.0)
    torch.testing.assert_close(y, pool("weighted_pool", rank)(x, 2, sigma=1.0)[0])


@both_paths
@every_function
def test_empty_batches_and_channels(function, path):
    sizes = (4, 5)
    expected = function(draw(1, 4, *sizes)).shape[2:]
    for shape in ((0, 4), (0, 0), (2, 0)):
        if shape[1] == 0 and function is FUNCTIONS["lp"]:
            continue  # as many exponents as channels
        x = torch.empty(*shape, *sizes, requires_grad=True)
        y = function(x)
        assert y.shape == (*shape, *expected)
        (dx,) = torch.autograd.grad(y.sum(), x)
        assert dx.shape == x.shape
    y, at = F.max_pool2d(torch.empty(0, 4, *sizes), 2, return_indices=True)
    assert y.shape == at.shape == (0, 4, 2, 2)
    assert F.max_unpool2d(y, at, 2).shape == (0, 4, 4, 4)


@both_paths
@pytest.mark.parametrize("rank", RANKS)
def test_sizes_of_one(rank, path):
    """One image of one channel of one pixel, by a window of one: itself, or its size."""
    x = torch.full([1, 1, *[1] * rank], -3.0)
    options = {"kernel_size": 1, "stride": 2}
    assert torch.equal(pool("max_pool", rank)(x, **options), x)
    assert torch.equal(pool("avg_pool", rank)(x, **options), x)
    assert torch.equal(pool("lp_pool", rank)(x, 0.5, **options), -x)
    assert torch.equal(pool("weighted_pool", rank)(x, **options, sigma=1.0), x)
    assert torch.equal(pool("adaptive_max_pool", rank)(x, 1), x)
    # Windows wider than the pixel, by padding.
    y, at = pool("max_pool", rank)(x, 3, 1, 1, return_indices=True)
    assert torch.equal(y, x) and not at.any()
    assert torch.equal(pool("avg_pool", rank)(x, 3, 1, 1), x / 3**rank)
    assert pool("adaptive_avg_pool", rank)(x, 3).unique().tolist() == [-3.0]


# -- dtypes ----------------------------------------------------------------------------------


@both_paths
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers(dtype, path):
    info = torch.iinfo(dtype)
    x = torch.randint(info.min // 2, info.max // 2, (1, 2, 5, 4)).to(dtype)
    x[0, 0, 0, 0], x[0, 1, 3, 2] = info.max, info.min
    y, at = F.max_pool2d(x, 2, 1, return_indices=True)
    expected = torch.stack([x[..., r : r + 4, s : s + 3] for r in (0, 1) for s in (0, 1)], -1)
    assert y.dtype == dtype and torch.equal(y, expected.amax(-1))
    assert torch.equal(x.flatten(2).gather(2, at.flatten(2)).view_as(y), y)
    # All are the least that there is: the first element wins, and without any there is -1.
    low = torch.full((1, 1, 3), info.min, dtype=dtype)
    y, at = F.max_pool1d(low, 2, 1, ((2, 2),), return_indices=True)
    assert (y == info.min).all() and at.tolist() == [[[-1, 0, 0, 1, 2, -1]]]
    assert F.maxout(x, 2).dtype == dtype
    assert torch.equal(F.maxout(x, 2)[0, 0], torch.maximum(x[0, 0], x[0, 1]))
    assert torch.equal(F.adaptive_max_pool2d(x, 1), x.amax((2, 3), keepdim=True))


def bound(exact, magnitude, taps, dtype):
    """As `tolerances.allowed_error`: rounding of the result, and of sums in float32."""
    summed = SPREAD * taps**0.5 * ROUNDOFF[torch.float32] * magnitude
    smallest = torch.finfo(dtype).smallest_normal
    return (ROUNDOFF[dtype] * exact.abs() + summed + smallest).numpy()


@both_paths
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, path):
    """Within a rounding of the exact result; the largest exactly."""
    x = draw(2, 3, 6, 7).to(dtype).requires_grad_()
    exact = x.detach().double()
    windows = laid_out(exact, [(0, 0)] * 2, 3, 2)
    assert torch.equal(F.max_pool2d(x, 3, 2).double(), windows.amax(-1))
    w = draw(3, 3, seed=1).abs().float()
    weights = w.double().flatten() / w.double().sum()
    for y, expected, size in (
        (F.avg_pool2d(x, 3, 2), windows.mean(-1), windows.abs().mean(-1)),
        (
            F.weighted_pool2d(x, 3, 2, weights=w),
            (windows * weights).sum(-1),
            (windows.abs() * weights).sum(-1),
        ),
        (F.l2_pool2d(x, 3, 2), norm(windows, 2), norm(windows, 2)),
        # Every power has an error of p units or so, whose p-th root is taken of the sum.
        (F.lp_pool2d(x, 0.6, 3, 2), norm(windows, 0.6), 4 * norm(windows, 0.6)),
    ):
        assert y.dtype == dtype
        assert_within(y, expected.numpy(), bound(expected, size, 9, dtype))
    # A gradient sums up to four windows, in float32 and rounded once.
    dy = draw(2, 3, 2, 3, seed=2).to(dtype)
    (dx,) = torch.autograd.grad(F.avg_pool2d(x, 3, 2), x, dy)
    leaf = exact.requires_grad_()
    (expected,) = torch.autograd.grad(theirs.avg_pool2d(leaf, 3, 2), leaf, dy.double())
    (size,) = torch.autograd.grad(theirs.avg_pool2d(leaf, 3, 2), leaf, dy.double().abs())
    assert_within(dx, expected.numpy(), bound(expected, size, 4, dtype))


# -- NaN and infinity ------------------------------------------------------------------------


@both_paths
@pytest.mark.parametrize("rank", RANKS)
def test_nan_wins_as_in_torch(rank, path):
    """The last of a window's, by torch's index; the gradient goes there."""
    x = whole(2, 3, *SIZES[rank], seed=5)
    x.flatten()[::4] = NAN
    x[0, 0] = NAN
    x[1, 1, ..., 0] = INF
    x.requires_grad_()
    for options in ((2, 1), (3, 2, 1)):
        got = pool("max_pool", rank)(x, *options, return_indices=True)
        want = getattr(theirs, f"max_pool{rank}d")(x, *options, return_indices=True)
        torch.testing.assert_close(got[0], want[0], rtol=0, atol=0, equal_nan=True)
        assert torch.equal(got[1], want[1])
        dy = draw(*got[0].shape)
        (a,), (b,) = (torch.autograd.grad(y, x, dy) for y in (got[0], want[0]))
        torch.testing.assert_close(a, b)


@both_paths
def test_minus_infinity_is_an_element(path):
    """Where nothing is larger the first element is the index, not a tap in the padding."""
    x = torch.full((1, 1, 3, 3), -INF)
    y, at = F.max_pool2d(x, 2, 1, 1, return_indices=True)
    want, expected = theirs.max_pool2d(x, 2, 1, 1, return_indices=True)
    assert torch.equal(y, want) and torch.equal(at, expected)
    assert at[0, 0].tolist() == [[0, 0, 1, 2], [0, 0, 1, 2], [3, 3, 4, 5], [6, 6, 7, 8]]
    y, at = F.max_pool1d(torch.full((1, 1, 2), -INF), 2, 1, ((3, 1),), 3, return_indices=True)
    assert at.tolist() == [[[0, 1, -1]]]


@both_paths
@pytest.mark.filterwarnings("ignore:invalid value")  # inf - inf
def test_nan_and_infinity_in_sums(path):
    x = torch.tensor([[[1.0, NAN, 2.0, 3.0, INF, 4.0, -INF, INF]]])
    for y in (F.avg_pool1d(x, 2), F.weighted_pool1d(x, 2, sigma=1.0), F.adaptive_avg_pool1d(x, 4)):
        assert y[0, 0, 0].isnan() and y[0, 0, 3].isnan()
        assert y[0, 0, 1] == 2.5 and y[0, 0, 2] == INF


# -- gradients of gradients ------------------------------------------------------------------


@pytest.mark.usefixtures("aten_passes")
@every_function
@pytest.mark.parametrize("rank", RANKS)
def test_gradients_and_their_gradients(rank, function):
    """Away from ties and zeros, by finite differences, through the library's own derivatives."""
    x = torch.randperm(2 * 4 * 3**rank, generator=torch.Generator().manual_seed(rank))
    x = ((x.double() + 1) / 10 * (-1) ** x).view(2, 4, *[3] * rank)[:1].requires_grad_()
    assert torch.autograd.gradcheck(function, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, x, fast_mode=True)


@both_paths
def test_gradients_of_the_parameters_gradients(path):
    x = np.linspace(0.3, 2.0, 12).reshape(1, 2, 6)
    x = torch.from_numpy(x * np.where(np.arange(6) % 2, 1, -1)).requires_grad_()
    p = torch.tensor([1.7, 3.0], dtype=torch.float64, requires_grad=True)
    w = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    for function, other in (
        (lambda x, p: F.lp_pool1d(x, p, 2), p),
        (lambda x, w: F.weighted_pool1d(x, 3, 2, 1, weights=w), w),
        (lambda x, w: F.weighted_pool1d(x, 3, 2, 1, weights=w, normalize=False), w),
    ):
        assert torch.autograd.gradcheck(function, (x, other), fast_mode=True)
        assert torch.autograd.gradgradcheck(function, (x, other), fast_mode=True)


# -- compiled --------------------------------------------------------------------------------


@pytest.mark.usefixtures("aten_passes")
def test_symbolic_sizes():
    """Functions that compute with sizes and strides themselves, traced for any of them."""

    def pooled(x):
        return F.maxout(x, 2), F.adaptive_avg_pool2d(x, (x.shape[-2] - 1, None))

    compiled = torch.compile(pooled, fullgraph=True, dynamic=True, backend="eager")
    for shape in ((2, 4, 3, 6), (3, 8, 4, 5)):
        x = draw(*shape)
        for got, expected in zip(compiled(x), pooled(x), strict=True):
            torch.testing.assert_close(got, expected)
