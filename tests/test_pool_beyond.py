"""Pooling that torch has not, or has wrong: paddings, dilations, norms, weights, channels, layouts.

What is expected is put together from torch's padding, convolution, reductions and autograd.
"""

import itertools
import math

import pytest
import torch
from torch.nn import functional as theirs

from tritonconv import functional as F
from tritonconv.testing.tolerances import ROUNDOFF

from .test_pool_functional import RANKS, check, draw, whole

INF, NAN = float("inf"), float("nan")
SIZES = {1: (7,), 2: (5, 6), 3: (3, 4, 5)}
both_paths = pytest.mark.parametrize("path", ["kernels", "aten"])


@pytest.fixture(autouse=True)
def _path(request):
    """With the parameter "aten" passes are computed by torch's functions, else by the kernels."""
    spec = getattr(request.node, "callspec", None)
    if spec is not None and spec.params.get("path") == "aten":
        request.getfixturevalue("aten_passes")


def pool(name, rank):
    """A function by its name and rank."""
    return getattr(F, f"{name}{rank}d")


def laid_out(x, pads, kernel, stride=1, dilation=1, fill=0.0):
    """Windows (N, C, *O, taps) of x with `fill` around it, by slices."""
    rank = x.dim() - 2
    flat = [p for low, high in reversed(pads) for p in (low, high)]
    x = theirs.pad(x, flat, value=fill)
    sizes = [(n - dilation * (kernel - 1) - 1) // stride + 1 for n in x.shape[2:]]
    taps = []
    for f in itertools.product(range(kernel), repeat=rank):
        cut = [
            slice(t * dilation, t * dilation + (o - 1) * stride + 1, stride)
            for t, o in zip(f, sizes, strict=True)
        ]
        taps.append(x[(slice(None), slice(None), *cut)])
    return torch.stack(taps, -1)


def norm(elements, p):
    """The p-norm along the last axis, as it is written; for autograd, away from 0."""
    return (elements.abs() ** p).sum(-1) ** (1 / p)


# -- padding ---------------------------------------------------------------------------------


def same_pads(size, kernel, stride, dilation, odd_low):
    """(low, high) with which there are ceil(size / stride) windows."""
    windows = math.ceil(size / stride)
    total = max((windows - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return (total - total // 2, total // 2) if odd_low else (total // 2, total - total // 2)


@pytest.mark.usefixtures("aten_passes")
@pytest.mark.parametrize("rank", RANKS)
def test_words_pad_for_any_stride(rank):
    x = draw(1, 2, *SIZES[rank])
    for word, k, s, d in itertools.product(
        ("same", "same_lower"), (1, 2, 3, 5), (1, 2, 3, 4), (1, 2)
    ):
        pads = [same_pads(n, k, s, d, word == "same_lower") for n in x.shape[2:]]
        geometry = (pads, k, s, d)
        y = pool("max_pool", rank)(x, k, s, word, d)
        assert list(y.shape[2:]) == [math.ceil(n / s) for n in x.shape[2:]]
        assert torch.equal(y, laid_out(x, *geometry, fill=-INF).amax(-1))
        mean = pool("avg_pool", rank)(x, k, s, word, count_include_pad=False, dilation=d)
        elements = laid_out(torch.ones_like(x), *geometry).sum(-1)
        expected = laid_out(x, *geometry).sum(-1) / elements
        torch.testing.assert_close(mean, expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(y, pool("max_pool", rank)(x, k, s, pads, d))


@both_paths
@pytest.mark.parametrize("rank", RANKS)
def test_padding_beyond_the_window(rank, path):
    """Pairs may be wider than the windows, of which some then have no element."""
    x, pads = whole(1, 2, *(2, 3, 2)[:rank]), [(4, 2), (0, 3), (1, 4)][:rank]
    elements = laid_out(torch.ones_like(x), pads, 2).sum(-1)
    assert (elements == 0).any() and (elements == 2**rank).any()
    y, at = pool("max_pool", rank)(x, 2, 1, pads, return_indices=True)
    assert torch.equal(y, laid_out(x, pads, 2, fill=-INF).amax(-1))
    assert torch.equal(at == -1, elements == 0)
    assert torch.equal(
        x.flatten(2).gather(2, at.clamp(min=0).flatten(2)).view_as(y)[at >= 0], y[at >= 0]
    )
    total = laid_out(x, pads, 2).sum(-1)
    avg, sums = pool("avg_pool", rank), {"divisor_override": 3}
    torch.testing.assert_close(avg(x, 2, 1, pads), total / 2**rank)
    torch.testing.assert_close(avg(x, 2, 1, pads, **sums), total / 3)
    valid = avg(x, 2, 1, pads, count_include_pad=False)
    torch.testing.assert_close(valid, total / elements.clamp(min=1))
    torch.testing.assert_close(
        pool("l2_pool", rank)(x, 2, 1, padding=pads), laid_out(x, pads, 2).square().sum(-1).sqrt()
    )
    for p in (INF, -INF, 0.5):
        y = pool("lp_pool", rank)(x, p, 2, 1, padding=pads)
        assert (y[elements == 0] == 0).all() and y.isfinite().all()
    one = torch.ones([2] * rank, dtype=x.dtype)
    torch.testing.assert_close(pool("weighted_pool", rank)(x, 2, 1, pads, weights=one), valid)


@pytest.mark.parametrize("name", ["max_pool", "avg_pool", "l2_pool"])
def test_windows_without_elements_have_no_gradient(name):
    x = draw(1, 1, 3).requires_grad_()
    y = pool(name, 1)(x, 2, 1, padding=((3, 3),))
    dy = torch.full_like(y, NAN)
    dy[..., 2:6] = 1.0  # of the 8 windows those at -1, 0, 1, 2
    (dx,) = torch.autograd.grad(y, x, dy)
    assert dx.isfinite().all() and (dx != 0).any()


# -- dilation --------------------------------------------------------------------------------


@both_paths
@pytest.mark.parametrize("rank", RANKS)
def test_dilation_of_average_and_norm(rank, path):
    x = draw(2, 2, *[n + 2 for n in SIZES[rank]])
    none = [(0, 0)] * rank
    check(
        lambda x: pool("avg_pool", rank)(x, 2, 2, dilation=3),
        lambda x: laid_out(x, none, 2, 2, 3).mean(-1),
        [x],
    )
    check(
        lambda x: pool("lp_pool", rank)(x, 2.5, 2, 2, dilation=3),
        lambda x: norm(laid_out(x, none, 2, 2, 3), 2.5),
        [x],
    )
    y = pool("avg_pool", rank)(torch.ones_like(x), 3, 2, 2, dilation=2)
    inside = laid_out(torch.ones_like(x), [(2, 2)] * rank, 3, 2, 2).mean(-1)
    torch.testing.assert_close(y, inside)  # the padding counts


# -- norms -----------------------------------------------------------------------------------


@both_paths
def test_partial_windows(path):
    """The last windows have fewer elements, which is no reason to count more."""
    root = math.sqrt(2)
    y = F.l2_pool1d(torch.ones(1, 1, 5), 2, ceil_mode=True)
    torch.testing.assert_close(y, torch.tensor([[[root, root, 1.0]]]))
    y = F.lp_pool2d(torch.ones(1, 3, 3), 2, 2, ceil_mode=True)
    torch.testing.assert_close(y, torch.tensor([[[2.0, root], [root, 1.0]]]))
    y = F.lp_pool3d(torch.ones(1, 1, 1, 3), 1.0, (1, 1, 2), ceil_mode=True)
    assert y.tolist() == [[[[2.0, 1.0]]]]
    y = F.l2_pool1d(torch.ones(1, 1, 2), 3, 1, padding="same")
    torch.testing.assert_close(y, torch.full((1, 1, 2), root))


@both_paths
@pytest.mark.parametrize("p", [1, 2, 3, 0.5])
def test_float16_neither_overflows_nor_vanishes(p, path):
    for value in (300.0, 1e-5, 60000.0 / 4 ** (1 / p), 6e-8):
        x = torch.full((1, 2, 4), value, dtype=torch.float16).requires_grad_()
        y = F.lp_pool1d(x, p, 4)
        expected = (x.detach()[..., :1].double() * 4 ** (1 / p)).half()
        assert torch.equal(y, expected) and y.isfinite().all() and (y > 0).all()
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
        # (|x| / y)^(p-1), of the y that was rounded
        slope = (x.double() / y.double()) ** (p - 1)
        torch.testing.assert_close(dx.double(), slope, rtol=2**-10, atol=0)
    x = torch.tensor([[[300.0, -300.0, 1e-5, 0.0]]], dtype=torch.float16)
    assert F.l2_pool1d(x, 2).tolist() == [[[424.25, x[0, 0, 2].item()]]]


@both_paths
def test_extreme_numbers_of_each_dtype(path):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for value in (torch.finfo(dtype).max / 4, torch.finfo(dtype).tiny):
            x = torch.tensor([[[value, -value]]], dtype=dtype)
            for p in (2, 3, 0.7):
                y = F.lp_pool1d(x, p, 2).double()
                expected = x.double()[..., :1] * 2 ** (1 / p)
                torch.testing.assert_close(y, expected, rtol=3 * ROUNDOFF[dtype], atol=0)


@both_paths
@pytest.mark.parametrize("p", [0.3, 0.9, 1.0, 2.0, 3.0, 4.7])
@pytest.mark.parametrize("rank", RANKS)
def test_any_exponent_of_any_sign(rank, p, path):
    x, none = draw(2, 2, *SIZES[rank]), [(0, 0)] * rank
    check(
        lambda x: pool("lp_pool", rank)(x, p, 2, 1),
        lambda x: norm(laid_out(x, none, 2), p),
        [x],
        1e-11,
    )


@both_paths
@pytest.mark.parametrize("p", [0.5, 1, 1.5, 2, 3])
def test_gradient_at_zero_is_zero(p, path):
    x = torch.tensor([[[0.0, 0.0, 3.0, 0.0, -0.0, -4.0]]], dtype=torch.float64).requires_grad_()
    y = F.lp_pool1d(x, p, 2)
    assert y.tolist() == [[[0.0, 3.0, 4.0]]]
    (dx,) = torch.autograd.grad(y, x, torch.tensor([[[5.0, 6.0, 7.0]]], dtype=torch.float64))
    assert dx.tolist() == [[[0.0, 0.0, 6.0, 0.0, 0.0, -7.0]]]


@both_paths
@pytest.mark.parametrize("rank", RANKS)
def test_infinite_exponents_are_extremes(rank, path):
    x, windows = draw(2, 2, *SIZES[rank]), [(0, 0)] * rank
    for p, extreme in ((INF, torch.amax), (-INF, torch.amin)):
        check(
            lambda x, p=p: pool("lp_pool", rank)(x, p, 2, 1),
            lambda x, extreme=extreme: extreme(laid_out(x, windows, 2).abs(), -1),
            [x],
        )
    x = torch.tensor([[[-3.0, 1.0, 2.0]]])  # the last window is partial
    assert F.lp_pool1d(x, INF, 2, ceil_mode=True).tolist() == [[[3.0, 2.0]]]
    assert F.lp_pool1d(x, -INF, 2, ceil_mode=True).tolist() == [[[1.0, 2.0]]]


@both_paths
def test_nan_and_infinity_in_norms(path):
    x = torch.tensor([[[NAN, 1.0, INF, -2.0, NAN, INF, 1.0, 2.0]]])
    for p in (1, 2, 0.5, 3, INF):
        y = F.lp_pool1d(x, p, 2).squeeze()
        assert y[0].isnan() and y[1] == INF and y[2].isnan() and y[3].isfinite()


@both_paths
@pytest.mark.parametrize("shape", [(), (1,), (3,)], ids=["scalar", "one", "channels"])
@pytest.mark.parametrize("rank", RANKS)
def test_learned_exponents(rank, shape, path):
    """Values and both gradients of the formula."""
    x = draw(2, 3, *SIZES[rank])
    p = torch.tensor([0.7, 2.0, 3.4], dtype=torch.float64)[: math.prod(shape)].view(shape)
    none = [(0, 0)] * rank

    def formula(x, p):
        elements = laid_out(x, none, 2)
        p = p.view(-1, *[1] * rank)
        return (elements.abs() ** p.unsqueeze(-1)).sum(-1) ** (1 / p)

    check(lambda x, p: pool("lp_pool", rank)(x, p, 2, 1), formula, [x, p], 1e-11)


@both_paths
def test_learned_exponents_of_zeros_and_of_half_precision(path):
    x = torch.tensor([[[0.0, 0.0, 0.0, 2.0]]], dtype=torch.float16).requires_grad_()
    p = torch.tensor(0.5).requires_grad_()
    y = F.lp_pool1d(x, p, 2)
    dx, dp = torch.autograd.grad(y, (x, p), torch.ones_like(y))
    assert y.tolist() == [[[0.0, 2.0]]] and dx.tolist() == [[[0.0, 0.0, 0.0, 1.0]]]
    assert dp == 0 and dp.dtype == torch.float32


# -- weights ---------------------------------------------------------------------------------


@both_paths
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("rank", RANKS)
def test_weighted_average_and_its_weights(rank, normalize, path):
    """Normalised over the elements; gradients of the image and of the weights."""
    x, w = draw(2, 3, *SIZES[rank]), draw(*[2] * rank, seed=1).abs() + 0.1
    pads = [(2, 1), (0, 2), (1, 0)][:rank]

    def formula(x, w):
        total = (laid_out(x, pads, 2, 1, 2) * w.flatten()).sum(-1)
        parts = (laid_out(torch.ones_like(x), pads, 2, 1, 2) * w.flatten()).sum(-1)
        parts = torch.where(parts == 0, 1, parts) if normalize else 1
        return total / parts

    weighted = pool("weighted_pool", rank)
    check(
        lambda x, w: weighted(x, 2, 1, pads, weights=w, normalize=normalize, dilation=2),
        formula,
        [x, w],
    )


@both_paths
def test_gaussian_weights_fall_with_the_distance_in_pixels(path):
    x = draw(1, 2, 7, 9)
    w = torch.tensor(
        [[math.exp(-(r**2) / 2 - (2 * s) ** 2 / 8) for s in (-1, 0, 1)] for r in (-0.5, 0.5)],
        dtype=x.dtype,
    )
    y = F.weighted_pool2d(x, (2, 3), 1, sigma=(1.0, 2.0), dilation=(1, 2))
    expected = theirs.conv2d(x.view(2, 1, 7, 9), w[None, None] / w.sum(), dilation=(1, 2))
    torch.testing.assert_close(y, expected.view_as(y))
    raw = F.weighted_pool2d(x, (2, 3), 1, sigma=(1, 2), normalize=False, dilation=(1, 2))
    torch.testing.assert_close(raw, expected.view_as(y) * w.sum())
    # One sigma is that of every axis, and the odd window's middle has weight 1.
    impulse = torch.zeros(1, 1, 5, 5)
    impulse[..., 2, 2] = 1
    y = F.weighted_pool2d(impulse, 5, sigma=1e-3)
    assert y.item() == 1
    y = F.weighted_pool2d(impulse, 3, 1, sigma=1.5, normalize=False)
    torch.testing.assert_close(y[0, 0, 0], torch.tensor([math.exp(-k / 4.5) for k in (2, 1, 2)]))


@both_paths
def test_weights_that_sum_to_zero(path):
    x = torch.tensor([[[3.0, 5.0, 7.0]]], requires_grad=True)
    w = torch.tensor([1.0, -1.0])
    y = F.weighted_pool1d(x, 2, 1, ((0, 1),), weights=w)
    assert y.tolist() == [[[0.0, 0.0, 7.0]]]
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert dx.tolist() == [[[0.0, 0.0, 1.0]]]
    assert F.weighted_pool1d(x, 2, 1, weights=w, normalize=False).tolist() == [[[-2.0, -2.0]]]


# -- channels --------------------------------------------------------------------------------


def dense(shape, order):
    """Random numbers whose axes lie in memory in this order, outermost first."""
    back = [order.index(axis) for axis in range(len(shape))]
    return draw(*[shape[axis] for axis in order]).permute(back)


@both_paths
@pytest.mark.parametrize("dim", [0, 1, 2, -1])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)], ids=["contiguous", "last"])
def test_maxout_along_any_axis(order, dim, path):
    x = dense((4, 6, 4, 8), order)
    pieces = 2 if dim != 1 else 3
    check(
        lambda x: F.maxout(x, pieces, dim),
        lambda x: x.unflatten(dim, (-1, pieces)).amax(dim % 4 + 1),
        [x],
    )
    y = F.maxout(x, pieces, dim)
    assert sorted(range(4), key=y.stride().__getitem__) == sorted(
        range(4), key=x.stride().__getitem__
    )


@both_paths
def test_pooling_across_channels(path):
    x = draw(2, 7, 3)
    for kind, reduce in (
        ("max", lambda w: w.amax(-1)),
        ("avg", lambda w: w.mean(-1)),
        ("l2", lambda w: w.square().sum(-1).sqrt()),
    ):
        for size, stride, dim in ((3, None, 1), (2, 3, 1), (3, 1, -2), (2, 1, 2)):
            check(
                lambda x, o=(size, stride, kind, dim): F.cross_channel_pool(x, *o),
                lambda x, r=reduce, o=(dim, size, stride or size): r(x.unfold(*o)),
                [x],
            )
    for shape, dim in (((4,), 0), ((4, 2), 0), ((2, 3, 1, 2, 4), 4), ((1, 4, 0), 1), ((0, 4), 1)):
        x = whole(*shape).to(torch.int32)
        assert torch.equal(F.maxout(x, 2, dim), x.unflatten(dim, (2, 2)).amax(dim + 1))
    assert F.cross_channel_pool(torch.ones(3, 4), 4, dim=1).shape == (3, 1)
