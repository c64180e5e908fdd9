"""The float64 oracles of pooling against PyTorch's own poolings and autograd, in float64."""

from collections import Counter
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tritonconv.reference.pooling import (
    PoolWindows,
    avg_pool,
    gaussian_weights,
    indices,
    lp_pool,
    max_pool,
    max_unpool,
    weighted_pool,
)
from tritonconv.reference.pooling_gradients import (
    avg_pool_gradient,
    lp_pool_gradient,
    max_pool_gradient,
    max_unpool_gradient,
    weighted_pool_gradient,
)

from .test_reference_pooling import INF, apart, close, equal, whole, windows_of

MAX = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
AVG = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
UNPOOL = (F.max_unpool1d, F.max_unpool2d, F.max_unpool3d)
ADAPTIVE_MAX = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)
ADAPTIVE_AVG = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """PyTorch's threads take longer to meet than such small images take to pool."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def leaf(x):
    return torch.from_numpy(x).requires_grad_()


def check_max(windows, x, function, dy_seed=1):
    """max_pool, its indices and its gradient against a function of a tensor."""
    tx = leaf(x)
    ty, tindices = function(tx)
    y, taps = max_pool(x, windows)
    equal(y, ty.detach().numpy())
    found, some = indices(taps, windows), np.isfinite(y)
    equal(found[some], tindices.numpy()[some])
    if some.all():  # PyTorch's index of an empty window may lie outside the input
        dy = whole(y.shape, dy_seed)
        (tdx,) = torch.autograd.grad(ty, tx, torch.from_numpy(dy))
        equal(max_pool_gradient(dy, taps, windows), tdx.numpy())


def check_avg(windows, x, function, include=True, divisor=None):
    """avg_pool and its gradient against a function of a tensor."""
    tx = leaf(x)
    ty = function(tx)
    y = avg_pool(x, windows, include, divisor)
    close(y, ty.detach().numpy())
    dy = whole(y.shape, 1)
    (tdx,) = torch.autograd.grad(ty, tx, torch.from_numpy(dy))
    close(avg_pool_gradient(dy, windows, include, divisor), tdx.numpy())


def test_every_small_geometry_equals_torch():
    checked = Counter()
    for size, k, s, pad, d, ceil_mode in product(
        range(1, 7), range(1, 5), range(1, 5), range(3), (1, 2), (False, True)
    ):
        if 2 * pad > k:  # PyTorch takes no more
            continue
        windows = windows_of((size,), k, s, pad, d, ceil_mode)
        pool = partial(MAX[0], kernel_size=k, stride=s, padding=pad, ceil_mode=ceil_mode)
        pool = partial(pool, dilation=d, return_indices=True)
        x = whole((1, 2, size), seed=size)
        if windows.output_size == (0,):
            with pytest.raises(RuntimeError, match="output size"):
                pool(torch.from_numpy(x))
            checked["none"] += 1
            continue
        check_max(windows, x, pool)
        checked["max"] += 1
        for include in (True, False) if d == 1 else ():
            arguments = (k, s, pad, ceil_mode, include)
            check_avg(windows, x, lambda x, a=arguments: AVG[0](x, *a), include)
            checked["avg"] += 1
    assert checked == {"max": 602, "avg": 690, "none": 166}


def test_the_last_nan_wins_as_in_torch():
    x = whole((1, 3, 4, 5), seed=2)
    x[0, 1, 1::2, ::2] = x[0, 2] = np.nan
    windows = windows_of((4, 5), (3, 3), 1)
    ty, found = MAX[1](torch.from_numpy(x), 3, 1, return_indices=True)
    y, taps = max_pool(x, windows)
    equal(y, ty.numpy())
    equal(indices(taps, windows), found.numpy())


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_larger_ranks_equal_torch(ceil_mode):
    for size, k, s, pad, d in [
        ((5, 6), (3, 2), (2, 1), (1, 0), (1, 2)),
        ((4, 7), (2, 4), (3, 3), (1, 2), (1, 1)),
        ((3, 4, 5), (2, 3, 2), (1, 2, 2), (1, 1, 0), (1, 1, 2)),
        ((4, 2, 3), (3, 1, 2), (2, 1, 2), (0, 0, 1), (1, 1, 1)),
    ]:
        windows = windows_of(size, k, s, pad, d, ceil_mode)
        x, rank = whole((2, 2, *size)), len(size) - 1
        check_max(windows, x, lambda x, f=MAX[rank], a=(k, s, pad, d, ceil_mode): f(x, *a, True))
        if max(d) > 1:
            continue
        for include, divisor in ((True, None), (False, None), (True, 5)):
            a = (k, s, pad, ceil_mode, include, divisor)
            check_avg(windows, x, lambda x, f=AVG[rank], a=a: f(x, *a), include, divisor)


@pytest.mark.parametrize(("lo", "hi"), [(0, 2), (3, 1), (1, 5)])
def test_uneven_padding_equals_torch_of_the_padded_image(lo, hi):
    for k, s, d in product((1, 2, 3), (1, 2, 5), (1, 2)):
        windows, x = windows_of((6,), k, s, ((lo, hi),), d), whole((2, 2, 6))
        padded = F.pad(torch.from_numpy(x), (lo, hi), value=-INF)
        equal(max_pool(x, windows)[0], F.max_pool1d(padded, k, s, dilation=d).numpy())
        if d == 1:
            check_avg(windows, x, lambda x, a=(k, s): F.avg_pool1d(F.pad(x, (lo, hi)), *a))


def test_adaptive_windows_equal_torch():
    sizes = [((size,), (out,)) for size in range(1, 9) for out in range(1, 9)]
    sizes += [((5, 7), (3, 2)), ((2, 6), (4, 6)), ((4, 5, 3), (2, 3, 1)), ((3, 2, 7), (1, 2, 4))]
    for size, out in sizes:
        windows, x, rank = PoolWindows(size, adaptive=out), whole((2, 2, *size)), len(size) - 1
        check_max(windows, x, lambda x, f=ADAPTIVE_MAX[rank], o=out: f(x, o, return_indices=True))
        check_avg(windows, x, lambda x, f=ADAPTIVE_AVG[rank], o=out: f(x, o))


@pytest.mark.parametrize("p", [2, 3])
def test_lp_pool_equals_torch(p):
    x = np.abs(apart((2, 2, 5, 6)))
    windows = windows_of((5, 6), (2, 3), (1, 2))
    tx = leaf(x)
    ty = F.lp_pool2d(tx, p, (2, 3), (1, 2))
    close(lp_pool(x, windows, p), ty.detach().numpy())
    dy = whole(ty.shape, 1)
    (tdx,) = torch.autograd.grad(ty, tx, torch.from_numpy(dy))
    close(lp_pool_gradient(dy, x, windows, p)[0], tdx.numpy())


def test_weighted_pool_equals_torch_convolution():
    x, weights = whole((2, 3, 5, 4)), gaussian_weights((3, 2), (0.8, 1.5))
    windows = windows_of((5, 4), (3, 2), (2, 1), 1)
    tx, tw = leaf(x), leaf(weights)
    ones = torch.ones_like(tx)

    def convolved(images):
        bank = tw.expand(3, 1, 3, 2)
        return F.conv2d(images, bank, stride=(2, 1), padding=1, groups=3)

    for normalize, ty in ((False, convolved(tx)), (True, convolved(tx) / convolved(ones))):
        close(weighted_pool(x, windows, weights, normalize), ty.detach().numpy())
        dy = whole(ty.shape, 1)
        tdx, tdw = torch.autograd.grad(ty, (tx, tw), torch.from_numpy(dy))
        dx, dw = weighted_pool_gradient(dy, x, windows, weights, normalize)
        close(dx, tdx.numpy())
        close(dw, tdw.numpy())


@pytest.mark.parametrize("size", [(7,), (4, 6), (2, 4, 5)])
def test_max_unpool_equals_torch(size):
    rank = len(size)
    windows, x = windows_of(size, 2, 2), apart((2, 2, *size))
    y, taps = max_pool(x, windows)
    found = indices(taps, windows)
    # PyTorch calls its unpooling indeterminate, since equal indices may meet; here none do.
    torch.use_deterministic_algorithms(False)
    ty = leaf(y)
    tz = UNPOOL[rank - 1](ty, torch.from_numpy(found), 2, output_size=list(size))
    z = max_unpool(y, found, size)
    equal(z, tz.detach().numpy())
    equal(z[z != 0], x[z != 0])
    dz = whole(z.shape, 1)
    (tdy,) = torch.autograd.grad(tz, ty, torch.from_numpy(dz))
    equal(max_unpool_gradient(dz, found), tdy.numpy())
