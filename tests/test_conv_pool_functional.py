"""Convolution, activation and pooling as one function, against its three stages in torch."""

import itertools
import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as theirs

from tritonconv import explain
from tritonconv import functional as F
from tritonconv.conv_pool import POOLS
from tritonconv.ops.conv_pool import _PLANS
from tritonconv.testing.agreement import kernel_device

from .test_functional import assert_equal, draw

LAYER = {1: F.conv_pool1d, 2: F.conv_pool2d, 3: F.conv_pool3d}
CONV = {1: theirs.conv1d, 2: theirs.conv2d, 3: theirs.conv3d}
ACTIVATE = {
    None: lambda z: z,
    "relu": torch.relu,
    "leaky_relu": theirs.leaky_relu,
    "tanh": torch.tanh,
    "gelu": theirs.gelu,
}
GEMM, DIRECT = "conv_pool_gemm", "conv_pool_direct"


@pytest.fixture
def two_kernels(monkeypatch):
    """A function after whose call no layer is one kernel."""

    def forbid():
        monkeypatch.setattr("tritonconv.ops.conv_pool.supports", lambda problem: "two")
        _PLANS.clear()

    yield forbid
    _PLANS.clear()


@pytest.fixture(autouse=True)
def _exact_products():
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


# -- the three stages ------------------------------------------------------------------------


def per_axis(value, axes):
    """An int or one an axis, as a list."""
    value = [value] if isinstance(value, int) else list(value)
    return value * axes if len(value) == 1 else value


def pairs_of(padding, rank):
    """An int or pairs, as pairs (low, high)."""
    return [(padding, padding)] * rank if isinstance(padding, int) else padding


def windows_of(z, pool, size, step):
    """z (N, K, *O) as (.., members): a last axis of what is pooled into one, in the taps' order."""
    axes = [1] if pool == "maxout" else list(range(2, z.dim()))
    size, step = (per_axis(v, len(axes)) for v in (size, step))
    dims = z.dim()
    for axis, length, stride in zip(axes, size, step, strict=True):
        z = z.unfold(axis, length, stride)
    return z.flatten(dims)


def stages(x, w, bias=None, *, activation="relu", pool="max", pool_size=2, **options):
    """What the layers compute, by torch's functions alone; differentiable."""
    step, mode = options.pop("pool_stride", None), options.pop("padding_mode", "zeros")
    padding, rank = options.pop("padding", 0), w.dim() - 2
    flat = [p for pair in reversed(pairs_of(padding, rank)) for p in pair]
    single = x.dim() == rank + 1
    x = x.unsqueeze(0) if single else x
    x = theirs.pad(x, flat, mode="constant" if mode == "zeros" else mode)
    untied = bias is not None and bias.dim() > 1
    z = CONV[rank](x, w, None if untied else bias, **options)
    z = ACTIVATE[activation](z + untied_at(bias, z.shape[2:]) if untied else z)
    windows = windows_of(z, pool, pool_size, pool_size if step is None else step)
    y = {
        "max": lambda: windows.max(-1).values,  # the first of equals has the gradient
        "maxout": lambda: windows.max(-1).values,
        "avg": lambda: windows.mean(-1),
        "l2": lambda: torch.linalg.vector_norm(windows, dim=-1),
    }[pool]()
    return y.squeeze(0) if single else y


# name: (input, weight, pool_size of a window, options); every axis of its own
CASES = {
    "1-D": ((2, 4, 11), (8, 2, 3), 3, {"groups": 2, "padding": ((2, 1),)}),
    "1-D strided": ((3, 2, 12), (4, 2, 3), (2,), {"stride": 2, "dilation": 2, "padding": 1}),
    "2-D": ((2, 3, 7, 6), (4, 3, 3, 2), (2, 3), {"padding": ((1, 0), (0, 2))}),
    "2-D strided": (
        (1, 4, 8, 9),
        (8, 1, 2, 3),
        (3, 2),
        {"stride": (1, 2), "dilation": (2, 1), "groups": 4, "padding": ((0, 1), (2, 0))},
    ),
    "2-D reflect": (
        (2, 2, 5, 7),
        (4, 2, 3, 3),
        2,
        {"padding": ((1, 2), (1, 1)), "padding_mode": "reflect"},
    ),
    "2-D channels-last": ((2, 8, 5, 7), (8, 8, 3, 3), 2, {"padding": 1}),
    "2-D single": ((3, 6, 5), (4, 3, 3, 3), (2, 1), {"padding": 1}),
    "3-D": (
        (1, 2, 4, 3, 5),
        (4, 2, 2, 1, 2),
        (1, 2, 2),
        {"padding": ((1, 0), (0, 1), (0, 0)), "stride": (2, 1, 1)},
    ),
    "3-D channels-last": ((2, 4, 3, 4, 2), (4, 2, 1, 3, 2), (2, 1, 1), {"groups": 2}),
}
ACTIVATIONS = ("relu", "tanh", "gelu", None)


def operands(name, dtype=torch.float32, device=None):
    """(x, w, bias) of a case."""
    x_shape, w_shape, _, _ = CASES[name]
    x, w = draw(*x_shape, dtype=dtype, seed=1), draw(*w_shape, dtype=dtype, seed=2)
    bias = draw(w_shape[0], dtype=dtype, seed=3)
    if "channels-last" in name:
        last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        x, w = (t.contiguous(memory_format=last) for t in (x, w))
    return [t.to(device or kernel_device()) for t in (x, w, bias)]


def options_of(name, pool, activation="relu", **more):
    """The keywords of a case, for this pool."""
    _, _, size, options = CASES[name]
    size = 2 if pool == "maxout" else size
    return {"pool": pool, "activation": activation, "pool_size": size, **options, **more}


def layer_of(weight, options):
    """The library's function, and the three stages."""
    return partial(LAYER[weight.dim() - 2], **options), partial(stages, **options)


def variants(function, *args):
    """The kernels of a call."""
    return [plan.variant for plan in explain(function, *args).plans]


def kernel_of(name):
    """Of a case: one has a single channel a filter."""
    return [DIRECT if name == "2-D strided" else GEMM]


def check(leaves, options):
    """Values and gradients are those of the stages in float64."""
    ours, reference = layer_of(leaves[1], options)
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    exact = [leaf.detach().cpu().double().requires_grad_() for leaf in leaves]
    got, expected = ours(*leaves), reference(*exact)
    assert got.dtype == leaves[0].dtype
    dtype = got.dtype
    assert_equal(got.cpu(), expected.to(dtype))
    dy = draw(*expected.shape, dtype=dtype, seed=4)
    found = torch.autograd.grad(got, leaves, dy.to(got.device))
    want = torch.autograd.grad(expected, exact, dy.double())
    for name, a, b in zip(("input", "weight", "bias"), found, want, strict=False):
        assert_equal(a.cpu(), b.to(dtype), f"gradient of {name}")


# -- by one kernel ---------------------------------------------------------------------------


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("name", CASES)
def test_one_kernel(name, pool):
    leaves = operands(name)
    # Each activation with each pool, in one case or another.
    turn = list(CASES).index(name) + POOLS.index(pool)
    options = options_of(name, pool, ACTIVATIONS[turn % 4])
    assert variants(layer_of(leaves[1], options)[0], *leaves) == kernel_of(name)
    check(leaves, options)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("activation", ["leaky_relu", "gelu", None])
def test_one_kernel_without_a_bias(pool, activation):
    leaves = operands("1-D strided")[:2]
    options = options_of("1-D strided", pool, activation)
    assert variants(layer_of(leaves[1], options)[0], *leaves) == [GEMM]
    check(leaves, options)


@pytest.mark.parametrize(("pool", "activation"), [("max", "tanh"), ("avg", "relu")])
def test_only_the_gradients_that_are_wanted(pool, activation):
    options = options_of("1-D", pool, activation)
    full = [t.requires_grad_() for t in operands("1-D")]
    ours, _ = layer_of(full[1], options)
    expected = torch.autograd.grad(ours(*full).sum(), full)
    for wanted in range(3):
        leaves = operands("1-D")
        leaves[wanted].requires_grad_()
        ours(*leaves).sum().backward()
        assert torch.equal(leaves[wanted].grad, expected[wanted])
        assert [leaf.grad is not None for leaf in leaves] == [i == wanted for i in range(3)]


def test_no_images():
    x, w, bias = operands("2-D")
    for pool in POOLS:
        leaves = [t.detach().requires_grad_() for t in (x[:0], w, bias)]
        y = layer_of(w, options_of("2-D", pool))[0](*leaves)
        assert y.shape[0] == 0 and y.shape[2:] == ((6, 7) if pool == "maxout" else (3, 2))
        y.sum().backward()
        assert all(leaf.grad.abs().sum() == 0 for leaf in leaves)
        assert leaves[0].grad.shape == x[:0].shape


def integers(*shape, seed):
    """Whole numbers from -2 to 2, many of them equal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-2, 3, shape, generator=generator).float()


@st.composite
def whole_layers(draw, pool):
    """(operands, options) of whole numbers, whose sums are exact, and means too: windows of a power
    of two."""
    rank = draw(st.integers(1, 3))

    def each(low, high):
        return [draw(st.integers(low, high)) for _ in range(rank)]

    groups, filters = draw(st.sampled_from((1, 2))), each(1, 3 - rank // 3)
    stride, dilation = each(1, 2), each(1, 2)
    pads = list(zip(each(0, 2), each(0, 2), strict=True))
    windows = [draw(st.sampled_from((1, 2, 4) if rank == 1 else (1, 2))) for _ in range(rank)]
    size = []
    for f, s, d, p, t in zip(filters, stride, dilation, pads, windows, strict=True):
        least = (t - 1) * s + d * (f - 1) + 1 - sum(p)
        size.append(max(least, 1) + draw(st.integers(0, 4 - rank)))
    k = groups * 4
    x = integers(draw(st.integers(1, 2)), 2 * groups, *size, seed=draw(st.integers(0, 99)))
    w = integers(k, 2, *filters, seed=draw(st.integers(0, 99)))
    bias = integers(k, seed=1) if draw(st.booleans()) else None
    options = {
        "stride": stride,
        "padding": pads,
        "dilation": dilation,
        "groups": groups,
        "activation": draw(st.sampled_from(("relu", None))),
        "pool": pool,
        "pool_size": draw(st.sampled_from((1, 2, 4))) if pool == "maxout" else windows,
    }
    return [x, w, bias][: 2 if bias is None else 3], options


@pytest.mark.parametrize("pool", POOLS)
@given(data=st.data())
def test_one_kernel_is_its_stages_bit_for_bit(pool, data):
    """Ties included, of which the first wins, forward and backward."""
    exact, options = data.draw(whole_layers(pool))
    leaves = [t.to(kernel_device()).requires_grad_() for t in exact]
    exact = [t.double().requires_grad_() for t in exact]
    ours, reference = layer_of(exact[1], options)
    assert variants(ours, *leaves) == [GEMM]
    got, expected = ours(*leaves), reference(*exact)
    dy = integers(*expected.shape, seed=7)
    found = torch.autograd.grad(got, leaves, dy.to(got.device))
    want = torch.autograd.grad(expected, exact, dy.double())
    for a, b in zip((got, *found), (expected, *want), strict=True):
        if pool == "l2":  # a root is seldom whole
            assert_equal(a.cpu(), b.float())
        else:
            assert torch.equal(a.cpu().double(), b)


@pytest.mark.parametrize("pool", ["max", "maxout"])
@pytest.mark.parametrize("name", ["1-D", "2-D", "2-D channels-last"])
def test_winners_are_the_same_by_one_kernel_or_two(name, pool, two_kernels):
    x, w, bias = (t.round() for t in operands(name))
    options = options_of(name, pool, None)
    rank, groups = w.dim() - 2, options.get("groups", 1)
    pairs = pairs_of(options["padding"], rank)
    size = per_axis(options["pool_size"], 1 if pool == "maxout" else rank)
    ones, pads = [1] * rank, [p for pair in pairs for p in pair]
    rest = (ones, pads, ones, groups, False, "zeros", "none", pool, size, size)
    call = partial(torch.ops.tritonconv.conv_pool, x, w, bias, *rest)
    one = call(True)
    assert call()[1].numel() == 0
    two_kernels()
    two = call(True)
    z = stages(x.cpu(), w.cpu(), bias.cpu(), **{**options, "pool": "max", "pool_size": 1})
    want = windows_of(z, pool, size, size).max(-1)
    for y, taps in (one, two):
        assert torch.equal(y.cpu(), want.values) and torch.equal(taps.cpu().long(), want.indices)
        assert taps.dtype == torch.uint8 and taps.stride() == y.stride()
    assert one[0].stride() == two[0].stride()


# -- by multiply-adds ------------------------------------------------------------------------

# name: (input, weight, why it is no matrix product, options)
DIRECT_CASES = {
    "float64": ((1, 2, 5, 6), (4, 2, 2, 3), "float64 has no tl.dot", {"padding": 1}),
    "untied bias": ((2, 2, 5, 4), (4, 2, 2, 2), "an untied bias differs within a window", {}),
    "35 members": ((1, 1, 6, 9), (2, 1, 2, 2), "35 values", {"pool_size": (5, 7), "padding": 1}),
    "289 members": ((1, 1, 17, 18), (1, 1, 1, 1), "289 values", {"pool_size": 17}),
    "one channel a filter": (
        (2, 4, 7, 7),
        (8, 1, 2, 3),
        "one channel a filter",
        {"pool_size": 3, "groups": 4, "padding": 1, "padding_mode": "reflect"},
    ),
    "a filter a channel": (
        (1, 8, 6, 5),
        (8, 1, 3, 3),
        "one channel a filter",
        {"groups": 8, "padding": 1, "stride": (1, 2), "channels_last": True},
    ),
    "a gap": (
        (1, 2, 8, 5),
        (4, 1, 2, 1),
        "one channel a filter",
        {"groups": 2, "pool_size": (1, 2), "pool_stride": (2, 3)},
    ),
    "dilated": (
        (1, 3, 9, 6),
        (3, 1, 3, 2),
        "one channel a filter",
        {"groups": 3, "dilation": (2, 1), "padding": 1, "padding_mode": "circular"},
    ),
}
MAXOUT_CASES = {
    "3 pieces": ((1, 2, 4, 3), (6, 2, 2, 2), "3 pieces do not fill", {"pool_size": 3}),
    "groups": ((1, 4, 4, 3), (8, 1, 2, 2), "8 pieces lie in", {"pool_size": 8, "groups": 4}),
    "straddling": ((1, 4, 4, 3), (12, 2, 2, 2), "4 pieces lie in", {"pool_size": 4, "groups": 2}),
    "gap": ((1, 2, 4, 3), (8, 2, 2, 2), "channels between two", {"pool_size": 2, "pool_stride": 3}),
}


def direct_case(name, pool):
    """(leaves, options, why it is no matrix product)."""
    cases = DIRECT_CASES if pool != "maxout" else MAXOUT_CASES
    x_shape, w_shape, reason, options = cases[name]
    options = dict(options)
    dtype = torch.float64 if name == "float64" else torch.float32
    bias_shape = (2, 1, w_shape[0]) if name == "untied bias" else w_shape[:1]
    shapes = (x_shape, w_shape, bias_shape)
    leaves = [draw(*s, dtype=dtype, seed=i) for i, s in enumerate(shapes)]
    if options.pop("channels_last", False):
        leaves[:2] = (t.contiguous(memory_format=torch.channels_last) for t in leaves[:2])
    turn = len(name) + POOLS.index(pool)
    options |= {"pool": pool, "activation": ACTIVATIONS[turn % 4]}
    return [t.to(kernel_device()) for t in leaves], options, reason


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        *itertools.product(DIRECT_CASES, ("max", "avg", "l2")),
        *itertools.product(MAXOUT_CASES, ("maxout",)),
    ],
)
def test_one_kernel_without_matrices(name, pool):
    leaves, options, reason = direct_case(name, pool)
    (plan,) = explain(layer_of(leaves[1], options)[0], *leaves).plans
    assert plan.variant == DIRECT and len(plan.launches) == 1
    ((kernel, said),) = plan.rejected
    assert kernel == GEMM and said.startswith(reason)
    check(leaves, options)


@pytest.mark.parametrize("pool", POOLS)
def test_filters_that_take_turns(pool):
    """A weight period: position o has the bank o mod period, and a window meets several."""
    x, w, bias = (
        draw(*s, dtype=torch.float32, seed=i).to(kernel_device())
        for i, s in enumerate(((1, 2, 5, 7), (2, 3, 4, 2, 2, 2), (4,)))
    )
    size = [2] if pool == "maxout" else [2, 3]
    rest = ([1, 1], [0, 1, 0, 0], [1, 1], 1, False, "zeros", "tanh", pool, size, size)
    leaves = [t.requires_grad_() for t in (x, w, bias)]
    exact = [t.detach().cpu().double().requires_grad_() for t in leaves]

    def ours(*tensors):
        return torch.ops.tritonconv.conv_pool(*tensors, *rest)[0]

    def reference(x, w, bias):
        x = theirs.pad(x, (0, 0, 0, 1))
        banks = [[theirs.conv2d(x, filters, bias) for filters in row] for row in w]
        z = torch.zeros_like(banks[0][0])
        for i, j in itertools.product(range(2), range(3)):
            turn = torch.zeros_like(z)
            turn[:, :, i::2, j::3] = 1
            z = z + turn * banks[i][j]
        windows = windows_of(torch.tanh(z), pool, size, size)
        return {
            "avg": lambda: windows.mean(-1),
            "l2": lambda: torch.linalg.vector_norm(windows, dim=-1),
        }.get(pool, lambda: windows.max(-1).values)()

    assert variants(ours, *leaves) == [DIRECT]
    y, want = ours(*leaves), reference(*exact)
    assert_equal(y.cpu(), want.float())
    dy = draw(*want.shape, dtype=torch.float32, seed=4)
    found = torch.autograd.grad(y, leaves, dy.to(y.device))
    for a, b in zip(found, torch.autograd.grad(want, exact, dy.double()), strict=True):
        assert_equal(a.cpu(), b.float())


@pytest.mark.parametrize("size", [16, 17])
def test_numbers_beyond_a_byte(size):
    """256 members are the last whose winner's number fits in one."""
    x = draw(1, 1, size, size, dtype=torch.float32).to(kernel_device())
    w = torch.ones(1, 1, 1, 1, device=x.device)
    rest = ([1, 1], [0] * 4, [1, 1], 1, False, "zeros", "none", "max", [size] * 2, [size] * 2)
    for at in (0, size * size - 1):
        x.flatten()[at] = 99 + at
        y, taps = torch.ops.tritonconv.conv_pool(x, w, None, *rest, True)
        assert taps.dtype == (torch.uint8 if size == 16 else torch.int32)
        assert taps.item() == at and y.item() == 99 + at


# -- by two kernels, and by torch ------------------------------------------------------------


@pytest.mark.usefixtures("aten_path")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("name", CASES)
def test_on_a_cpu(name, pool, dtype):
    for activation in ACTIVATIONS:
        leaves = operands(name, dtype, "cpu")
        check(leaves, options_of(name, pool, activation))


# name: (case, options, how the reason goes on)
FALLBACKS = {
    "overlap": ("2-D", {"pool_size": 3, "pool_stride": 2}, "windows of 3x3 at steps of 2x2: only"),
    "overlap, mean": ("1-D", {"pool": "avg", "pool_stride": 1}, "windows of 3 at steps of 1"),
    "overlap, norm": ("3-D", {"pool": "l2", "pool_stride": 1}, "windows of 1x2x2 at steps of 1x1x"),
    "maxout, overlap": ("1-D", {"pool": "maxout", "pool_stride": 1}, "2 channels at steps of 1"),
}


@pytest.mark.parametrize("name", FALLBACKS)
def test_two_kernels_and_why(name):
    case, more, reason = FALLBACKS[name]
    leaves = operands(case)
    options = options_of(case, more.get("pool", "max"), "tanh") | more
    plans = explain(layer_of(leaves[1], options)[0], *leaves).plans
    assert len(plans) == 2 and plans[1].variant == "window_reduce"
    kernel, said = plans[0].rejected[0]
    assert kernel == "one kernel" and said.startswith(f"pooling {reason}")
    check(leaves, options)


@pytest.mark.usefixtures("aten_path")
@pytest.mark.parametrize("name", FALLBACKS)
def test_windows_that_no_kernel_fuses_on_a_cpu(name):
    case, more, _ = FALLBACKS[name]
    leaves = operands(case, torch.float64, "cpu")
    check(leaves, options_of(case, more.get("pool", "max"), "tanh") | more)


def untied_at(bias, size):
    """A bias (*period, K) at each of the output's positions: (K, *size)."""
    rows, columns = (torch.arange(n) % p for n, p in zip(size, bias.shape, strict=False))
    return bias[rows[:, None], columns[None]].permute(2, 0, 1)


@pytest.mark.usefixtures("aten_path")
def test_why_not_on_a_cpu():
    x, w, bias = operands("2-D", device="cpu")
    plans = explain(F.conv_pool2d, x, w, bias).plans
    assert plans[0].rejected[0] == (
        "one kernel",
        "the tensors are on the CPU, and TRITON_INTERPRET is not set",
    )
    assert [plan.backend for plan in plans] == ["aten", "aten"]


# -- the second derivative -------------------------------------------------------------------


@pytest.mark.usefixtures("aten_path")
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_gradient_of_the_gradient(pool, activation):
    leaves = [t.requires_grad_() for t in operands("1-D", torch.float64, "cpu")]
    ours, _ = layer_of(leaves[1], options_of("1-D", pool, activation))
    assert torch.autograd.gradcheck(ours, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(ours, leaves, fast_mode=True)


@pytest.mark.parametrize(
    ("pool", "activation"),
    [("max", "tanh"), ("maxout", "tanh"), ("max", "gelu"), ("avg", "tanh"), ("l2", "gelu")],
)
def test_second_derivatives_through_one_kernel(pool, activation):
    """By the winners' numbers, or the stages run again."""
    leaves = [t.requires_grad_() for t in operands("1-D")]
    exact = [t.detach().cpu().double().requires_grad_() for t in leaves]
    ours, reference = layer_of(leaves[1], options_of("1-D", pool, activation))
    assert variants(ours, *leaves) == [GEMM]

    def second(function, tensors):
        y = function(*tensors)
        v = [draw(*t.shape, seed=5 + i).to(t) for i, t in enumerate((y, *tensors))]
        first = torch.autograd.grad(y, tensors, v[0], create_graph=True)
        along = sum((g * u).sum() for g, u in zip(first, v[1:], strict=True))
        return torch.autograd.grad(along, tensors)

    for found, want in zip(second(ours, leaves), second(reference, exact), strict=True):
        assert want.abs().max() > 0.1
        assert_equal(found.cpu(), want.float())


# -- what backward keeps ---------------------------------------------------------------------


def kept(function, *leaves):
    """(result, the bytes of what autograd saves beside the leaves, the sizes of these tensors)."""
    own, found = {t.data_ptr() for t in leaves}, {}

    def pack(t):
        if t.data_ptr() not in own:
            found[t.data_ptr()] = t
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        y = function(*leaves)
    return y, sum(t.nbytes for t in found.values()), [t.numel() for t in found.values()]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_what_backward_keeps(pool, activation, two_kernels):
    """y and a byte for each of its elements, or nothing; two kernels keep all that lies between."""
    leaves = [t.requires_grad_() for t in operands("2-D channels-last")]
    ours, _ = layer_of(leaves[1], options_of("2-D channels-last", pool, activation))
    y, size, counts = kept(ours, *leaves)
    z = 2 * 8 * 5 * 7
    if pool in ("max", "maxout") and activation != "gelu":
        assert size == y.numel() * (y.element_size() + 1) and counts == [y.numel()] * 2
    else:
        assert size == 0 and counts == []
    two_kernels()
    _, more, counts = kept(ours, *leaves)
    assert more >= 4 * z and z in counts


def test_nothing_is_kept_where_no_gradient_is_wanted():
    leaves = operands("2-D")
    ours, _ = layer_of(leaves[1], options_of("2-D", "max"))
    assert kept(ours, *leaves)[1] == 0
    leaves[0].requires_grad_()
    with torch.no_grad():
        y, size, _ = kept(ours, *leaves)
    assert size == 0 and not y.requires_grad


# -- formats and dtypes ----------------------------------------------------------------------


def check_formats(name):
    """Channels-last where the convolution's result is, else contiguous; a tracer sees the same."""
    x, w, bias = operands(name)
    conv = F.conv2d if x.dim() == 4 else F.conv3d
    last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    rest = {k: v for k, v in CASES[name][3].items() if k not in ("pool_size", "padding_mode")}
    z = conv(x, w, bias, **rest)
    expected = last if z.is_contiguous(memory_format=last) else torch.contiguous_format
    assert (expected is last) == ("channels-last" in name)
    for pool, stride in itertools.product(POOLS, (None, 1)):
        ours, _ = layer_of(w, options_of(name, pool, pool_stride=stride))
        y = ours(x, w, bias)
        assert y.is_contiguous(memory_format=expected), (pool, stride)
        with FakeTensorMode() as mode:
            traced = ours(*(mode.from_tensor(t) for t in (x, w, bias)))
        assert traced.shape == y.shape and traced.stride() == y.stride(), (pool, stride)


FORMATS = ["2-D", "2-D channels-last", "3-D channels-last"]


@pytest.mark.parametrize("name", FORMATS)
def test_memory_format(name):
    check_formats(name)


@pytest.mark.usefixtures("aten_path")
@pytest.mark.parametrize("name", FORMATS)
def test_memory_format_on_a_cpu(name):
    check_formats(name)


def check_autocast(name, pool, device):
    """The layer of the operands rounded to bfloat16; gradients in the operands' own dtype."""
    leaves = [t.requires_grad_() for t in operands(name, device=device)]
    ours, _ = layer_of(leaves[1], options_of(name, pool, "tanh"))
    rounded = [t.detach().bfloat16().requires_grad_() for t in leaves]
    expected = ours(*rounded)
    with torch.autocast(leaves[0].device.type, torch.bfloat16):
        y = ours(*leaves)
    assert y.dtype == torch.bfloat16 and torch.equal(y, expected)
    found = torch.autograd.grad(y.sum(), leaves)
    want = torch.autograd.grad(expected.sum(), rounded)
    for a, b in zip(found, want, strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b.float())


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_autocast(pool):
    check_autocast("1-D", pool, kernel_device())


@pytest.mark.usefixtures("aten_path")
@pytest.mark.parametrize("pool", ["max", "avg"])
def test_autocast_on_a_cpu(pool):
    check_autocast("2-D", pool, "cpu")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("pool", POOLS)
def test_short_dtypes(pool, dtype):
    """The stages of the same numbers in float64, rounded once, and gradients from that."""
    leaves = [t.requires_grad_() for t in operands("2-D channels-last", dtype)]
    exact = [t.detach().cpu().double().requires_grad_() for t in leaves]
    ours, reference = layer_of(leaves[1], options_of("2-D channels-last", pool, "tanh"))
    assert variants(ours, *leaves) == [GEMM]
    got, expected = ours(*leaves), reference(*exact)
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(got.cpu().double(), expected, rtol=unit, atol=1e-5)
    found = torch.autograd.grad(got.sum(), leaves)
    want = torch.autograd.grad(expected.sum(), exact)
    for a, b in zip(found, want, strict=True):
        # tanh' = 1 - y**2 of a y that was rounded: off by a unit of 1, wherever it is summed.
        summed = math.sqrt(expected.numel())
        torch.testing.assert_close(a.cpu().double(), b, rtol=2 * unit, atol=unit * summed)


# -- spellings -------------------------------------------------------------------------------


def test_spellings_of_one_layer():
    """Defaults, positional arguments in conv2d's order, and words for the padding."""
    x, w, bias = operands("2-D")
    expected = stages(x, w, bias, padding=((1, 1), (0, 1)))
    for y in (
        F.conv_pool2d(x, w, bias, 1, "same"),
        F.conv_pool2d(x, w, bias, (1, 1), ((1, 1), (0, 1)), 1, 1, pool_size=[2], pool_stride=2),
        F.conv_pool2d(x, w.flip(2, 3), bias, padding="same", mode="convolution"),
        F.conv_pool2d(x[0], w, bias, padding="same", pool_size=(2, 2)).unsqueeze(0),
    ):
        assert_equal(y, expected[: len(y)])
    y = F.conv_pool2d(x, w, activation=None, pool="maxout", pool_size=(4,))
    assert_equal(y, theirs.conv2d(x, w).amax(1, keepdim=True))
    assert torch.equal(y, F.conv_pool2d(x, w, activation="none", pool="maxout", pool_size=4))
