"""Pooling's own mathematics, through the kernels."""

import itertools
import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tritonconv import functional as F
from tritonconv.testing import properties
from tritonconv.testing.agreement import kernel_device

EXACT = 1e-13


class Case(NamedTuple):
    """An image and its windows; `options` are of every windowed function."""

    rank: int
    size: tuple[int, ...]
    options: dict
    channels: int = 3

    def image(self, seed=0):
        """Normal numbers, a few of them equal to others."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(2, self.channels, *self.size, dtype=torch.float64, generator=generator)
        x[1, 0] = x[0, 0].round()
        return x.to(kernel_device())

    def pool(self, name, *args, **more):
        """The function of this name as one of the image alone."""
        function = getattr(F, f"{name}{self.rank}d")
        return lambda x: function(x, *args, **self.options, **more)

    def elements(self):
        """How many elements each window has."""
        ones = torch.ones(1, 1, *self.size, dtype=torch.float64, device=kernel_device())
        return self.pool("avg_pool", divisor_override=1)(ones)


@st.composite
def cases(draw, padded=True):
    """Windows that lie on the image or over its border, or, a few, beside it."""
    rank = draw(st.integers(1, 3))

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, stride, dilation = each(1, 4 - rank // 2), each(1, 3), each(1, 2)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    pads = [each(0, 3) if padded else (0,) * rank for _ in (0, 1)]
    spare = each(0, 3)
    size = tuple(
        max(r - low - high, 1) + more
        for r, low, high, more in zip(reach, *pads, spare, strict=True)
    )
    options = {"kernel_size": kernel, "stride": stride, "dilation": dilation}
    options["padding"] = tuple(zip(*pads, strict=True))
    options["ceil_mode"] = padded and draw(st.booleans())
    return Case(rank, size, options)


@given(cases())
def test_maximum_commutes_with_monotone_functions(case):
    properties.assert_commutes_with_monotone(case.pool("max_pool"), case.image())
    lowest = case.pool("max_pool")((5 * case.image()).to(torch.int16))
    some = lowest > torch.iinfo(torch.int16).min
    doubled = case.pool("max_pool")((5 * case.image()).to(torch.int16) * 2 + 1)
    assert torch.equal(doubled[some], lowest[some] * 2 + 1)


@given(cases(), st.sampled_from([{}, {"count_include_pad": False}, {"divisor_override": 3}]))
def test_average_is_linear(case, divided):
    pool = case.pool("avg_pool", **divided)
    properties.assert_pool_linear(pool, case.image(), case.image(1), EXACT)


@given(cases())
def test_weighted_average_is_linear(case):
    for normalize in (True, False):
        pool = case.pool("weighted_pool", sigma=0.8, normalize=normalize)
        properties.assert_pool_linear(pool, case.image(), case.image(1), EXACT)


@given(cases(), st.sampled_from([1, 1.5, 2, 3, math.inf]), st.floats(-1e3, 1e3))
def test_norms_are_norms(case, p, factor):
    pool = case.pool("lp_pool", p)
    properties.assert_norm(pool, case.image(), case.image(1), factor, EXACT)


@given(cases())
def test_l2_is_a_norm(case):
    properties.assert_norm(case.pool("l2_pool"), case.image(), case.image(1), -2.5, EXACT)


@given(cases())
def test_large_exponents_approach_the_largest(case):
    """max|x| <= ||x||_p <= n^(1/p) max|x| of n elements, and the norm falls with p."""
    x = case.image()
    largest, n = case.pool("lp_pool", math.inf)(x), case.elements().clamp(min=1)
    before = case.pool("lp_pool", 1)(x)
    for p in (4, 64, 5000):
        y = case.pool("lp_pool", p)(x)
        assert (largest * (1 - EXACT) <= y).all() and (y <= before * (1 + EXACT)).all()
        assert (y <= n ** (1 / p) * largest * (1 + EXACT)).all()
        before = y
    torch.testing.assert_close(before, largest, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("name", "args"),
    [("max_pool", ()), ("avg_pool", ()), ("l2_pool", ()), ("lp_pool", (0.7,))],
    ids=["max", "avg", "l2", "lp"],
)
@given(cases(padded=False))
def test_pooling_moves_by_strides(name, args, case):
    stride = case.options["stride"]
    size = tuple(n + s for n, s in zip(case.size, stride, strict=True))
    case = case._replace(size=size)
    properties.assert_moves_by_strides(case.pool(name, *args), case.image(), stride)


@given(cases())
def test_average_of_ones_is_one(case):
    x = torch.ones(1, 2, *case.size, device=kernel_device())
    y, n = case.pool("avg_pool", count_include_pad=False)(x), case.elements()
    assert torch.equal(y, (n > 0).float().expand_as(y))
    with_pad = case.pool("avg_pool")(x)
    assert (with_pad <= 1).all()


@given(cases())
def test_equal_weights_give_the_average(case):
    x = case.image()
    weights = x.new_full(case.options["kernel_size"], 0.3)
    y = case.pool("weighted_pool", weights=weights)(x)
    expected = case.pool("avg_pool", count_include_pad=False)(x)
    torch.testing.assert_close(y, expected, rtol=EXACT, atol=EXACT)
    wide = case.pool("weighted_pool", sigma=1e9)(x)
    torch.testing.assert_close(wide, expected, rtol=EXACT, atol=EXACT)


@given(cases())
def test_the_mean_lies_between_the_extremes(case):
    x = case.image()
    top, bottom = case.pool("max_pool")(x), -case.pool("max_pool")(-x)
    mean = case.pool("avg_pool", count_include_pad=False)(x)
    some = case.elements().expand_as(mean) > 0
    assert (bottom[some] - EXACT <= mean[some]).all() and (mean[some] <= top[some] + EXACT).all()


@given(st.integers(1, 3), st.data())
def test_adaptive_windows_of_equal_size_are_plain_ones(rank, data):
    kernel = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    windows = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    case = Case(rank, tuple(k * n for k, n in zip(kernel, windows, strict=True)), {})
    x = case.image()
    for kind in ("max", "avg"):
        adaptive = case.pool(f"adaptive_{kind}_pool", output_size=windows)(x)
        assert torch.equal(adaptive, case.pool(f"{kind}_pool", kernel_size=kernel)(x))


@given(st.integers(1, 4), st.integers(1, 3), st.sampled_from([0, 1, 2, -1]), st.data())
def test_maxout_does_not_depend_on_the_order_of_its_pieces(pieces, groups, dim, data):
    shape = [2, 3, 2]
    shape[dim] = pieces * groups
    x = torch.randn(shape, generator=torch.Generator().manual_seed(pieces)).to(kernel_device())
    orders = [data.draw(st.permutations(range(pieces))) for _ in range(groups)]
    order = [k * pieces + j for k, of_group in enumerate(orders) for j in of_group]
    permuted = x.index_select(dim, torch.tensor(order, device=x.device))
    assert torch.equal(F.maxout(permuted, pieces, dim), F.maxout(x, pieces, dim))


@pytest.mark.usefixtures("aten_path")
def test_pooling_is_nearly_invariant_to_small_shifts():
    """Of a photograph moved by one pixel, fewer maxima change than pixels that a stride keeps."""
    reason = 'needs pip install "tritonconv[demo]"'
    datasets = pytest.importorskip("sklearn.datasets", reason=reason)
    pixels = torch.tensor(datasets.load_sample_image("china.jpg"))  # (H, W, 3), uint8
    x = pixels.permute(2, 0, 1).double().mean(0)[None, None].round()

    for kernel, stride in ((3, 2), (4, 4), (8, 4), (8, 8)):
        pooled = properties.changed_share(lambda x, o=(kernel, stride): F.max_pool2d(x, *o), x)
        kept = properties.changed_share(lambda x, s=stride: x[..., ::s, ::s], x)
        measured = f"{kernel}x{kernel}/{stride}: {pooled:.1%} of maxima, {kept:.1%} of pixels"
        assert pooled < 0.6 * kept, measured
    # The longer the window, the fewer of its maxima leave it.
    shares = [
        properties.changed_share(lambda x, k=kernel: F.max_pool2d(x, k, 4), x)
        for kernel in (1, 2, 4, 8, 16)
    ]
    assert all(a > b for a, b in itertools.pairwise(shares)), shares
