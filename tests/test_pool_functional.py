"""The pooling functions against torch's of the same names, wherever torch's are right."""

import random
from functools import partial

import pytest
import torch
from torch.nn import functional as theirs

from tritonconv import functional as ours

RANKS = (1, 2, 3)
ADAPTIVE_SIZES = {
    1: [3, (5,), None, 9, 1],
    2: [(2, 3), (None, 4), 5, (1, 7), None],
    3: [(2, 3, 1), (None, 2, 5), 2, (4, 1, 3)],
}


def draw(*shape, dtype=torch.float64, seed=0):
    """A tensor of normal numbers."""
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def whole(*shape, seed=0):
    """A tensor of whole numbers from -3 to 3, many of them equal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, shape, generator=generator).double()


def check(ours, theirs, leaves, tolerance=1e-12):
    """Two functions of the leaves give equal tensors with equal gradients."""
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    got, expected = ours(*leaves), theirs(*leaves)
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    dy = draw(*expected.shape, seed=4)
    for a, b in zip(
        torch.autograd.grad(got, leaves, dy), torch.autograd.grad(expected, leaves, dy), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def geometries(rank, count, *, dilated=False, padded=True):
    """`count` times (input size, options) that torch takes, backward too, each axis of its own."""
    rng, found = random.Random(rank), []
    while len(found) < count:
        kernel = tuple(rng.randint(1, 4 - rank // 3) for _ in range(rank))
        stride = tuple(rng.randint(1, 4) for _ in range(rank))
        dilation = tuple(rng.randint(1, 2) if dilated else 1 for _ in range(rank))
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        # Half of the reach is torch's limit, but its backward refuses above half of the kernel, and
        # in 3-D of an image below the kernel.
        padding = tuple(rng.randint(0, k // 2) if padded else 0 for k in kernel)
        least = [max(r - 2 * p, 1) for r, p in zip(reach, padding, strict=True)]
        if rank == 3:
            least = [max(n, k) for n, k in zip(least, kernel, strict=True)]
        size = tuple(n + rng.randint(0, 8 - 2 * rank) for n in least)
        options = {"kernel_size": kernel, "stride": stride, "ceil_mode": rng.random() < 0.5}
        if padded:
            options["padding"] = padding
        if dilated:
            options["dilation"] = dilation
        found.append((size, options))
    return found


def check_max(rank, size, options):
    """Values, indices and gradients of max pooling, with ties."""
    x = whole(2, 3, *size, seed=sum(size)).requires_grad_()
    name = f"max_pool{rank}d"
    want, at = getattr(theirs, name)(x, **options, return_indices=True)
    got, found = getattr(ours, name)(x, **options, return_indices=True)
    assert torch.equal(got, want)
    some = want.isfinite()
    # torch's index of a window without elements may lie anywhere.
    assert torch.equal(found[some], at[some]) and (found[~some] == -1).all()
    assert found.dtype == torch.int64
    alone = getattr(ours, name)(x, **options)
    assert torch.equal(alone, want)
    if some.all():
        dy = draw(*want.shape)
        (expected,) = torch.autograd.grad(want, x, dy)
        for y in (got, alone):
            (dx,) = torch.autograd.grad(y, x, dy)
            torch.testing.assert_close(dx, expected, rtol=1e-13, atol=1e-13)


def torchs_avg(rank):
    """torch's average pooling; its 1-D function has no divisor, its 2-D function has."""

    def lifted(x, kernel_size, stride, padding=(0,), divisor_override=None, **rest):
        args = [(1, *kernel_size), (1, *stride), (0, *padding)]
        y = theirs.avg_pool2d(x.unsqueeze(2), *args, divisor_override=divisor_override, **rest)
        return y.squeeze(2)

    return lifted if rank == 1 else getattr(theirs, f"avg_pool{rank}d")


def check_avg(rank, size, options):
    """Average pooling, divided in each way."""
    for more in (
        {},
        {"count_include_pad": False},
        {"divisor_override": 5},
        {"count_include_pad": False, "divisor_override": -2},
    ):
        check(
            lambda x, more=more: getattr(ours, f"avg_pool{rank}d")(x, **options, **more),
            lambda x, more=more: torchs_avg(rank)(x, **options, **more),
            [draw(2, 3, *size, seed=sum(size))],
        )


def torchs_lp(rank):
    """torch's norm; its 1-D function takes no tuples."""

    def single(x, norm_type, kernel_size, stride, ceil_mode):
        return theirs.lp_pool1d(x, norm_type, *kernel_size, *stride, ceil_mode=ceil_mode)

    return single if rank == 1 else getattr(theirs, f"lp_pool{rank}d")


def check_lp(rank, size, options):
    """Norms of whole windows: any even p, and odd p of positive numbers."""
    options = {**options, "ceil_mode": False}
    mine, reference = getattr(ours, f"lp_pool{rank}d"), torchs_lp(rank)
    for p, x in (
        (1, draw(2, 3, *size).abs() + 0.1),
        (2, draw(2, 3, *size)),
        (3, draw(2, 3, *size).abs() + 0.1),
        (4.0, draw(2, 3, *size)),
    ):
        mine_p, reference_p = partial(mine, norm_type=p), partial(reference, norm_type=p)
        check(partial(mine_p, **options), partial(reference_p, **options), [x], 1e-11)


# -- by torch's own functions, as on a CPU ---------------------------------------------------


@pytest.mark.usefixtures("aten_passes")
@pytest.mark.parametrize("rank", RANKS)
def test_max_of_many_geometries(rank):
    for size, options in geometries(rank, 60, dilated=True):
        check_max(rank, size, options)


@pytest.mark.usefixtures("aten_passes")
@pytest.mark.parametrize("rank", RANKS)
def test_average_of_many_geometries(rank):
    for size, options in geometries(rank, 30):
        check_avg(rank, size, options)


@pytest.mark.usefixtures("aten_passes")
@pytest.mark.parametrize("rank", RANKS)
def test_norm_of_many_geometries(rank):
    for size, options in geometries(rank, 20, padded=False):
        check_lp(rank, size, options)


@pytest.mark.usefixtures("aten_path")
@pytest.mark.parametrize("rank", RANKS)
def test_where_torch_computes_it_itself(rank):
    """Without kernels a plain call is torch's own; a dilation or a divisor of ours is not."""
    for size, options in geometries(rank, 12, dilated=True):
        check_max(rank, size, options)
    for size, options in geometries(rank, 6):
        check_avg(rank, size, options)


@pytest.mark.usefixtures("aten_path")
def test_what_torch_refuses_beyond_its_documentation():
    """Its backward takes less padding than its forward; in 3-D it wants an image as large as the
    kernel. So these must not go there."""
    x = draw(2, 3, 5).requires_grad_()
    ours.max_pool1d(x, 2, 1, 1, 2).sum().backward()  # padding up to half of the kernel: it may
    assert x.grad.sum() == 2 * 3 * 5
    x.grad = None
    ours.max_pool1d(x, 2, 1, 2, 3).sum().backward()
    assert x.grad.sum() == 2 * 3 * 6
    small = draw(1, 1, 2, 3, 1).requires_grad_()
    ours.avg_pool3d(small, (2, 3, 3), 1, (1, 0, 1)).sum().backward()
    assert torch.equal(small.grad, torch.full_like(small, 1 / 9))


# -- by the kernels --------------------------------------------------------------------------


@pytest.mark.parametrize("rank", RANKS)
def test_max_by_kernels(rank):
    for size, options in geometries(rank, 9, dilated=True):
        check_max(rank, size, options)


@pytest.mark.parametrize("rank", RANKS)
def test_average_by_kernels(rank):
    for size, options in geometries(rank, 5):
        check_avg(rank, size, options)


@pytest.mark.parametrize("rank", RANKS)
def test_norm_by_kernels(rank):
    for size, options in geometries(rank, 3, padded=False):
        check_lp(rank, size, options)


# -- spellings -------------------------------------------------------------------------------


@pytest.mark.usefixtures("aten_passes")
@pytest.mark.parametrize("rank", RANKS)
def test_spellings_of_one_pooling(rank):
    """Ints, tuples and lists; positional arguments in torch's order; the default stride."""
    x = draw(2, 2, *(6, 5, 7)[:rank])
    for name, rest in (("max_pool", (2, False)), ("avg_pool", (False, False))):
        mine, reference = (getattr(m, f"{name}{rank}d") for m in (ours, theirs))
        expected = reference(x, 3, 2, 1, *rest)
        for many in (lambda n: n, lambda n: (n,), lambda n: [n] * rank):
            got = mine(x, many(3), many(2), many(1), *rest)
            torch.testing.assert_close(got, expected)
        for unset in (None, (), []):
            torch.testing.assert_close(mine(x, 3, unset), reference(x, 3))
    l2, lp = getattr(ours, f"l2_pool{rank}d"), getattr(theirs, f"lp_pool{rank}d")
    torch.testing.assert_close(l2(x, 3, 2), lp(x, 2.0, 3, 2))
    assert torch.equal(l2(x, 3, 2, True), getattr(ours, f"lp_pool{rank}d")(x, 2, 3, 2, True))


# -- unpooling -------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", RANKS)
def test_unpooling_lays_elements_where_pooling_found_them(rank):
    torch.use_deterministic_algorithms(False)  # torch's unpooling has no such algorithm
    names = ("indices", "kernel_size", "stride", "padding", "output_size")
    for size, kernel, stride, padding in (
        ((6, 4, 8)[:rank], 2, None, 0),
        ((7, 6, 5)[:rank], 3, 2, 1),  # windows overlap: an element may come back twice
        ((5, 4, 6)[:rank], 1, 3, 0),
    ):
        x = whole(2, 3, *size, seed=3)
        y, at = getattr(theirs, f"max_pool{rank}d")(x, kernel, stride, padding, return_indices=True)
        mine, reference = (getattr(m, f"max_unpool{rank}d") for m in (ours, theirs))
        for wanted in (list(size), [2, 3, *size], x.shape):
            options = dict(zip(names, (at, kernel, stride, padding, wanted), strict=True))
            check(partial(mine, **options), partial(reference, **options), [y])
        alone = (y[0], at[0], kernel, stride, padding, size)
        assert torch.equal(mine(*alone), reference(*alone))
    # The default size, and both ways around.
    x = draw(1, 2, *(4, 6, 2)[:rank])
    y, at = getattr(ours, f"max_pool{rank}d")(x, 2, return_indices=True)
    back = getattr(ours, f"max_unpool{rank}d")(y, at, 2)
    assert back.shape == x.shape and torch.equal(back[back != 0], x[back != 0])
    assert torch.equal(getattr(ours, f"max_pool{rank}d")(back, 2), y.clamp(min=0))


def test_unpooling_leaves_out_what_belongs_nowhere():
    x = draw(1, 2, 3).to(torch.float32)
    y, at = ours.max_pool1d(x, 2, 2, ((3, 0),), return_indices=True)
    assert at[0, 0, 0] == -1 and y[0, 0, 0] == -torch.inf
    back = ours.max_unpool1d(y, at, 2, 2, output_size=5)
    expected = torch.zeros(1, 2, 5).scatter(2, at[..., 1:], y[..., 1:])
    assert torch.equal(back, expected)


# -- adaptive and global ---------------------------------------------------------------------


def check_adaptive(rank, sizes):
    """Values, indices and gradients of both, batched and not."""
    x = whole(2, 3, *(7, 5, 6)[:rank], seed=1)
    for wanted in sizes:
        size = x.shape[2:] if wanted is None else wanted  # torch's has no None for all
        name = f"adaptive_max_pool{rank}d"
        mine, reference = getattr(ours, name), getattr(theirs, name)
        got, found = mine(x, wanted, return_indices=True)
        want, at = reference(x, size, return_indices=True)
        assert torch.equal(got, want) and torch.equal(found, at)
        assert torch.equal(mine(x[0], wanted), want[0])
        of_size = partial(mine, output_size=wanted), partial(reference, output_size=size)
        check(*of_size, [x])
        name = f"adaptive_avg_pool{rank}d"
        mine, reference = getattr(ours, name), getattr(theirs, name)
        of_size = partial(mine, output_size=wanted), partial(reference, output_size=size)
        check(*of_size, [x])


@pytest.mark.usefixtures("aten_passes")
@pytest.mark.parametrize("rank", RANKS)
def test_adaptive(rank):
    check_adaptive(rank, ADAPTIVE_SIZES[rank])


@pytest.mark.parametrize("rank", RANKS)
def test_adaptive_by_kernels(rank):
    check_adaptive(rank, ADAPTIVE_SIZES[rank][:2])


@pytest.mark.parametrize("rank", RANKS)
def test_global(rank):
    x, axes = draw(2, 3, *(5, 4, 3)[:rank]), tuple(range(2, 2 + rank))
    check(ours.global_max_pool, lambda x: x.amax(axes, keepdim=True), [x])
    check(ours.global_avg_pool, lambda x: x.mean(axes, keepdim=True), [x])

    def norm(x, p=2.0):
        return x.abs().pow(p).sum(axes, keepdim=True).pow(1 / p)

    check(ours.global_lp_pool, norm, [x])
    check(lambda x: ours.global_lp_pool(x, 3.5), lambda x: norm(x, 3.5), [x])
    assert torch.equal(ours.global_lp_pool(x, torch.inf), x.abs().amax(axes, keepdim=True))
