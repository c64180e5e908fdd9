"""tritonconv.functional against torch's functions, against F.pad, and against sums by hand."""

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from tritonconv import explain
from tritonconv.functional import conv1d, conv2d, conv3d
from tritonconv.layout import is_channels_last
from tritonconv.ops import _run

CONV = {1: conv1d, 2: conv2d, 3: conv3d}
TORCH = {
    1: torch.nn.functional.conv1d,
    2: torch.nn.functional.conv2d,
    3: torch.nn.functional.conv3d,
}
# Sums of at most 100 products of normal numbers, in both orders of summation.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
RANKS = (1, 2, 3)


def draw(*shape, dtype=torch.float64, seed=0):
    """A tensor of normal numbers."""
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def operands(rank, *, size=None, taps=None, groups=1, batch=None, dtype=torch.float64):
    """x (batch, 4, *size), w (4, 4 / groups, *taps) and bias (4,); small, each axis different."""
    size = size or {1: (6,), 2: (5, 6), 3: (3, 2, 4)}[rank]
    taps = taps or {1: (3,), 2: (3, 2), 3: (2, 1, 3)}[rank]
    batch = batch or (2 if rank < 3 else 1)
    return (
        draw(batch, 4, *size, dtype=dtype, seed=1),
        draw(4, 4 // groups, *taps, dtype=dtype, seed=2),
        draw(4, dtype=dtype, seed=3),
    )


def assert_equal(got, expected, what="result"):
    """Same shape and dtype; values within rounding of the largest, as sums have absolute errors."""
    scale = float(expected.detach().abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(
        got,
        expected,
        rtol=0,
        atol=TOLERANCE[expected.dtype] * scale,
        msg=lambda m: f"{what}: {m}",
    )


def assert_equal_gradients(ours, theirs, leaves):
    """The outputs of two functions of the leaves are equal, and so are all gradients."""
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    got, expected = ours(*leaves), theirs(*leaves)
    assert_equal(got, expected)
    dy = draw(*expected.shape, dtype=expected.dtype, seed=4)
    pairs = zip(
        ("input", "weight", "bias", "residual"),
        torch.autograd.grad(got, leaves, dy),
        torch.autograd.grad(expected, leaves, dy),
        strict=False,
    )
    for name, a, b in pairs:
        assert_equal(a, b, f"gradient of {name}")


# -- values and gradients --------------------------------------------------------------------

OPTIONS = {
    "plain": {},
    "strided": {"stride": 2, "padding": 1},
    "dilated": {"dilation": 2, "padding": 2},
    "groups": {"groups": 2, "padding": 1},
    "depthwise": {"groups": 4, "stride": 2},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
@pytest.mark.parametrize("rank", RANKS)
def test_values_and_gradients(rank, options):
    leaves = operands(rank, groups=options.get("groups", 1))
    assert_equal_gradients(
        lambda *t: CONV[rank](*t, **options), lambda *t: TORCH[rank](*t, **options), leaves
    )


@pytest.mark.parametrize("rank", RANKS)
def test_values_in_float32(rank):
    x, w, bias = operands(rank, dtype=torch.float32)
    assert_equal(CONV[rank](x, w, bias, 2, 1), TORCH[rank](x, w, bias, 2, 1))


def test_every_axis_has_its_own_options():
    """No axis reads another's stride, padding or dilation."""
    x, w, bias = operands(3, size=(4, 4, 4), taps=(1, 2, 3))
    options = {"stride": (1, 2, 3), "padding": (2, 1, 3), "dilation": (3, 2, 1)}
    assert_equal_gradients(
        lambda *t: conv3d(*t, **options), lambda *t: TORCH[3](*t, **options), (x, w, bias)
    )


@pytest.mark.parametrize("rank", RANKS)
def test_no_bias(rank):
    x, w, _ = operands(rank, batch=1)
    assert_equal_gradients(CONV[rank], TORCH[rank], (x, w))


# -- spellings -------------------------------------------------------------------------------


def spellings(rank):
    """Ways to write stride 2, padding 1, dilation 1, groups 1."""
    full = (1,) * rank
    return {
        "ints": ((2, 1, 1, 1), {}),
        "tuples": (((2,) * rank, full, full, 1), {}),
        "lists": (([2] * rank, [1] * rank, [1] * rank, 1), {}),
        "one-element tuples": (((2,), (1,), (1,)), {}),
        "sizes": ((torch.Size([2] * rank), torch.Size(full)), {}),
        "keywords": ((), {"stride": 2, "padding": (1,) * rank, "dilation": [1], "groups": 1}),
        "pairs": ((2, ((1, 1),) * rank), {}),
        "one pair": ((2,), {"padding": [[1, 1]]}),
    }


@pytest.mark.parametrize("how", spellings(1))
@pytest.mark.parametrize("rank", RANKS)
def test_spellings(rank, how):
    x, w, bias = operands(rank, batch=1)
    positional, named = spellings(rank)[how]
    assert_equal(CONV[rank](x, w, bias, *positional, **named), TORCH[rank](x, w, bias, 2, 1))


def test_everything_by_keyword():
    x, w, bias = operands(2, batch=1)
    assert_equal(conv2d(input=x, weight=w, bias=bias), TORCH[2](input=x, weight=w, bias=bias))


# -- padding ---------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["valid", "same"])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_words_of_torch(rank, dilation, word):
    """Odd and even filters; torch, too, puts the odd zero at the high end."""
    taps = {1: (2,), 2: (2, 3), 3: (1, 2, 2)}[rank]
    x, w, bias = operands(rank, size={1: (6,), 2: (4, 6), 3: (4, 3, 3)}[rank], taps=taps, batch=1)
    options = {"padding": word, "dilation": dilation}
    assert_equal(CONV[rank](x, w, bias, **options), TORCH[rank](x, w, bias, **options))


def same_pads(size, taps, stride, dilation):
    """(low, high) of one axis: what an output of ceil(size / stride) lacks, the odd unit high."""
    outputs = -(-size // stride)
    lacking = max((outputs - 1) * stride + dilation * (taps - 1) + 1 - size, 0)
    return lacking // 2, lacking - lacking // 2


@pytest.mark.parametrize("word", ["same", "same_lower"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (3, 1), (2, 2), ((2, 5), (1, 2))])
def test_same_with_stride(word, stride, dilation):
    x, w, bias = operands(2, size=(6, 5), taps=(2, 3), batch=1)
    steps = (stride, stride) if isinstance(stride, int) else stride
    gaps = (dilation, dilation) if isinstance(dilation, int) else dilation
    pads = [same_pads(*axis) for axis in zip((6, 5), (2, 3), steps, gaps, strict=True)]
    if word == "same_lower":
        pads = [(high, low) for low, high in pads]
    got = conv2d(x, w, bias, stride, word, dilation)
    assert got.shape[2:] == (-(-6 // steps[0]), -(-5 // steps[1]))
    padded = pad(x, (*pads[1], *pads[0]))
    assert_equal(got, TORCH[2](padded, w, bias, stride, 0, dilation))


def test_the_odd_zero():
    """By hand: a filter of two ones adds neighbours, so the padded end keeps one value alone."""
    x = torch.tensor([[[1.0, 2.0, 4.0]]])
    w = torch.ones(1, 1, 2)
    assert conv1d(x, w, padding="same").flatten().tolist() == [3.0, 6.0, 4.0]
    assert conv1d(x, w, padding="same_lower").flatten().tolist() == [1.0, 3.0, 6.0]
    assert conv1d(x, w, padding="full").flatten().tolist() == [1.0, 3.0, 6.0, 4.0]
    assert conv1d(x, w, padding="valid").flatten().tolist() == [3.0, 6.0]


@pytest.mark.parametrize("rank", RANKS)
def test_full(rank):
    """Every position where the filter meets the input at all: dilation * (taps - 1) more."""
    x, w, bias = operands(rank, size=(3,) * rank, taps=(2,) * rank, batch=1)
    got = CONV[rank](x, w, bias, padding="full", dilation=2)
    assert got.shape[2:] == (5,) * rank
    assert_equal(got, TORCH[rank](x, w, bias, padding=2, dilation=2))


PAIRS = {
    1: ((0, 2),),
    2: ((2, 0), (1, 3)),
    3: ((0, 1), (2, 0), (1, 2)),
}


@pytest.mark.parametrize("rank", RANKS)
def test_pairs(rank):
    """Another padding at each of the sides, and its gradients."""
    flat = [side for pair in reversed(PAIRS[rank]) for side in pair]
    assert_equal_gradients(
        lambda x, w, b: CONV[rank](x, w, b, stride=2, padding=PAIRS[rank]),
        lambda x, w, b: TORCH[rank](pad(x, flat), w, b, stride=2),
        operands(rank, batch=1),
    )


# -- the textbook's convolution --------------------------------------------------------------


@pytest.mark.parametrize("rank", RANKS)
def test_convolution_flips_the_filter(rank):
    spatial = tuple(range(2, rank + 2))
    assert_equal_gradients(
        lambda x, w, b: CONV[rank](x, w, b, 2, 1, mode="convolution"),
        lambda x, w, b: TORCH[rank](x, w.flip(spatial), b, 2, 1),
        operands(rank, batch=1),
    )


def test_as_numpy_convolves():
    a, b = draw(6, seed=5), draw(4, seed=6)
    got = conv1d(a[None, None], b[None, None], padding="full", mode="convolution")
    assert_equal(got[0, 0], torch.from_numpy(np.convolve(a.numpy(), b.numpy(), "full")))


def test_an_impulse_and_a_product_of_polynomials():
    """Convolving coefficients multiplies polynomials: (1 + 2x + 3y)(4 + 5x + 6xy), rows by y."""
    first = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    second = torch.tensor([[4.0, 5.0], [0.0, 6.0]])
    product = [[4.0, 13.0, 10.0], [12.0, 21.0, 12.0], [0.0, 18.0, 0.0]]
    got = conv2d(first[None, None], second[None, None], padding="full", mode="convolution")
    assert got[0, 0].tolist() == product


@pytest.mark.parametrize("rank", RANKS)
def test_commutative(rank):
    """Under full padding signal and filter can change places; cross-correlation's cannot."""
    x, w = draw(1, 1, *(4, 3, 2)[:rank], seed=7), draw(1, 1, *(2, 4, 3)[:rank], seed=8)

    def full(a, b, mode):
        return CONV[rank](a, b, padding="full", mode=mode)

    assert_equal(full(x, w, "convolution"), full(w, x, "convolution"))
    one, other = full(x, w, "cross_correlation"), full(w, x, "cross_correlation")
    assert not torch.allclose(one, other)
    assert_equal(one, other.flip(tuple(range(2, rank + 2))))


# -- layouts ---------------------------------------------------------------------------------


def last(tensor):
    """The same values with the channels innermost."""
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1)


@pytest.mark.parametrize(
    ("rank", "dtype"),
    [(1, torch.float32), (2, torch.float32), (2, torch.float64), (3, torch.float32)],
    ids=["1-float32", "2-float32", "2-float64", "3-float32"],
)
@pytest.mark.parametrize("which", ["both", "input", "weight", "neither"])
def test_memory_formats(rank, which, dtype):
    """A result is channels-last if an operand is; on two axes torch has the same rule."""
    x, w, _ = operands(rank, dtype=dtype)
    x = last(x) if which in ("both", "input") else x
    w = last(w) if which in ("both", "weight") else w
    wanted = which != "neither"

    def results(conv):
        leaves = [t.detach().requires_grad_() for t in (x, w)]
        y = conv(*leaves, None, 1, 1)
        dy = draw(*y.shape, dtype=dtype, seed=4)
        return y, *torch.autograd.grad(y, leaves, last(dy) if wanted else dy)

    ours, theirs = results(CONV[rank]), results(TORCH[rank])
    for name, a, b in zip(("output", "dx", "dw"), ours, theirs, strict=True):
        assert_equal(a, b, name)
        assert is_channels_last(a.shape, a.stride()) == wanted, f"{name}: strides {a.stride()}"
        if rank == 2:
            assert a.is_contiguous(memory_format=torch.channels_last) == wanted, name
            assert a.stride() == b.stride(), f"{name}: {a.stride()}, torch's {b.stride()}"


VIEWS = {
    "batch expanded": lambda x, w: (x[:1].expand(2, -1, -1, -1), w),
    "channels expanded": lambda x, w: (x[:, :1].expand(-1, 4, -1, -1), w),
    "row expanded": lambda x, w: (x[:, :, :1].expand(-1, -1, 5, -1), w),
    "sliced": lambda x, w: (x[:, :, 1:, ::2], w),
    "offset": lambda x, w: (x[1:], w[:, :, :, 1:]),
    "transposed": lambda x, w: (x.transpose(2, 3), w.transpose(0, 1)),
    "permuted": lambda x, w: (
        x.permute(0, 2, 3, 1)[..., :5].permute(0, 3, 1, 2),
        w.transpose(2, 3),
    ),
    "weight expanded": lambda x, w: (x, w[:1, :1, :1].expand(4, 4, 3, -1)),
    "input negated": lambda x, w: (torch._neg_view(x), w),
    "weight negated": lambda x, w: (x, torch._neg_view(w)),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=list(VIEWS))
def test_views_are_read_in_place(view):
    """Any strides, zero ones too, and views that only promise a minus sign."""
    x, w, bias = operands(2)

    def through(conv):
        return lambda x, w, bias: conv(*view(x, w), bias, 1, 1)

    assert_equal_gradients(through(conv2d), through(TORCH[2]), (x, w, bias))


def test_bias_is_a_view():
    x, w, bias = operands(1, batch=1)
    for odd in (bias[:1].expand(4), draw(8)[::2], torch._neg_view(bias)):
        assert_equal(conv1d(x, w, odd), TORCH[1](x, w, odd))


@pytest.mark.parametrize("rank", RANKS)
def test_unbatched(rank):
    """(C, *spatial) in, (K, *spatial) out."""
    x, w, bias = operands(rank, batch=1)
    assert_equal_gradients(
        lambda x, w, b: CONV[rank](x, w, b, padding="same"),
        lambda x, w, b: TORCH[rank](x, w, b, padding="same"),
        (x[0], w, bias),
    )


# -- precision -------------------------------------------------------------------------------


def test_autocast():
    """float32 is computed in bfloat16 inside the region; the gradients come back in float32."""
    leaves = [t.requires_grad_() for t in operands(2, dtype=torch.float32, batch=1)]
    with torch.autocast("cpu", torch.bfloat16):
        y = conv2d(*leaves, padding=1)
    assert y.dtype == torch.bfloat16
    exact = TORCH[2](*(t.detach().bfloat16().double() for t in leaves), padding=1)
    # One rounding to bfloat16's eight bits, of sums that are exact but for float32's own.
    torch.testing.assert_close(y.double(), exact, rtol=2.0**-8, atol=1e-5)
    grads = torch.autograd.grad(y, leaves, torch.ones_like(y))
    assert [g.dtype for g in grads] == [torch.float32] * 3


def test_autocast_leaves_float64_alone():
    x, w, bias = operands(1, batch=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv1d(x, w, bias).dtype == torch.float64


@pytest.fixture
def conv_settings():
    """torch's own switches for the precision of a convolution, put back afterwards."""
    settings = torch.backends.cudnn.conv
    before = settings.fp32_precision
    yield settings
    settings.fp32_precision = before


@pytest.mark.parametrize(("setting", "expected"), [("tf32", "tf32"), ("ieee", "ieee")])
def test_precision_is_read_at_the_call(conv_settings, setting, expected):
    x, w, bias = operands(2, dtype=torch.float32, batch=1)

    def precision(*tensors):
        (plan,) = explain(conv2d, *tensors).plans
        return plan.problem.precision

    conv_settings.fp32_precision = "tf32" if setting == "ieee" else "ieee"
    assert precision(x, w, bias) != expected
    conv_settings.fp32_precision = setting
    assert precision(x, w, bias) == expected
    assert precision(x.double(), w.double(), bias.double()) == "ieee"


def test_a_call_after_a_change_of_precision_is_planned_again(conv_settings, monkeypatch):
    """A remembered plan is one of the precision that it was made for."""
    planned = []
    prepare = _run._prepare
    monkeypatch.setattr(_run, "_prepare", lambda *a: planned.append(a) or prepare(*a))
    _run.CALLS.clear()
    x, w, _ = operands(1, dtype=torch.float32, batch=1)
    for setting in ("ieee", "tf32", "ieee", "tf32"):
        conv_settings.fp32_precision = setting
        conv1d(x, w)
    assert len(planned) == 2
