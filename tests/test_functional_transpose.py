"""conv_transpose1d, 2d and 3d against torch's functions, and as adjoints of convolutions."""

import itertools

import pytest
import torch

from tritonconv import functional
from tritonconv.functional import conv_transpose1d, conv_transpose2d

from .test_functional import CONV, RANKS, assert_equal, assert_equal_gradients, draw

TRANSPOSE = {rank: getattr(functional, f"conv_transpose{rank}d") for rank in RANKS}
TORCH = {rank: getattr(torch.nn.functional, f"conv_transpose{rank}d") for rank in RANKS}
MODULE = {rank: getattr(torch.nn, f"ConvTranspose{rank}d") for rank in RANKS}


def operands(rank, groups=1, batch=2):
    """x (batch, 4, *size), w (4, 6 / groups, *taps) and bias (6,); each axis different."""
    size, taps = (4, 3, 2)[:rank], (3, 2, 1)[-rank:]
    return (
        draw(batch, 4, *size),
        draw(4, 6 // groups, *taps, seed=1),
        draw(6, seed=2),
    )


# -- torch's own options ---------------------------------------------------------------------

# (stride, padding, output_padding, dilation): output padding stays below stride or dilation.
STEPS = [
    (s, p, extra, d)
    for s, p, d in itertools.product((1, 2, 3), (0, 1), (1, 2, 3))
    for extra in range(max(s, d))
]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("rank", RANKS)
def test_as_torch(aten_path, rank, groups):
    """Every stride, padding, output padding and dilation up to 3, with a bias."""
    x, w, bias = operands(rank, groups)
    for stride, padding, extra, dilation in STEPS:
        options = (stride, padding, extra, groups, dilation)
        smallest = min(
            (i - 1) * stride - 2 * padding + dilation * (f - 1) + 1 + extra
            for i, f in zip(x.shape[2:], w.shape[2:], strict=True)
        )
        if smallest > 0:
            expected = TORCH[rank](x, w, bias, *options)
            assert_equal(TRANSPOSE[rank](x, w, bias, *options), expected, str(options))


@pytest.mark.parametrize(
    "options", [(2, 0, 1), (1, 0, 0, 2), ((3, 2, 1), (1, 0, 0), (2, 1, 2), 2, (1, 2, 3))], ids=str
)
@pytest.mark.parametrize("rank", RANKS)
def test_gradients(aten_path, rank, options):
    options = [v[:rank] if isinstance(v, tuple) else v for v in options]
    leaves = operands(rank, options[3] if len(options) > 3 else 1)
    assert_equal_gradients(
        lambda *t: TRANSPOSE[rank](*t, *options), lambda *t: TORCH[rank](*t, *options), leaves
    )


@pytest.mark.parametrize("rank", RANKS)
def test_unbatched_and_no_bias(aten_path, rank):
    x, w, _ = operands(rank)
    assert_equal(TRANSPOSE[rank](x[0], w, stride=2), TORCH[rank](x[0], w, stride=2))


def test_in_kernels():
    """Also output padding beyond the stride, which the kernels see as a convolution that crops."""
    x, w, bias = operands(2, batch=1)
    for options in ((2, 1, 1), (1, 0, 2, 2, 3)):
        groups = options[3] if len(options) > 3 else 1
        w = draw(4, 6 // groups, 3, 2, seed=1)
        assert_equal(conv_transpose2d(x, w, bias, *options), TORCH[2](x, w, bias, *options))


# -- sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", RANKS)
def test_output_size(aten_path, rank):
    """Each of the sizes that torch's module takes, spelled as it takes them."""
    x, w, bias = operands(rank)
    stride, padding, dilation = 3, 1, 2
    module = MODULE[rank](4, 6, tuple(w.shape[2:]), stride, padding, dilation=dilation).double()
    module.weight.data, module.bias.data = w, bias
    least = module(x).shape[2:]
    for extra in itertools.product(range(stride), repeat=rank):
        size = [n + more for n, more in zip(least, extra, strict=True)]
        expected = module(x, output_size=size)
        for spelled in (size, torch.Size((2, 6, *size)), (6, *size)):
            got = TRANSPOSE[rank](
                x, w, bias, stride, padding, dilation=dilation, output_size=spelled
            )
            assert_equal(got, expected, str(spelled))


def test_one_output_size_for_every_axis(aten_path):
    x, w = draw(1, 2, 2, 3), draw(2, 2, 3, 2)
    got = conv_transpose2d(x, w, stride=(4, 3), output_size=8)
    assert_equal(got, TORCH[2](x, w, None, (4, 3), 0, (1, 0)))


@pytest.mark.parametrize("rank", RANKS)
def test_pairs_crop(aten_path, rank):
    """Each side by its own number; the same, cut out of the whole."""
    x, w, bias = operands(rank)
    pairs = ((0, 2), (1, 0), (1, 1))[:rank]
    whole = TORCH[rank](x, w, bias, 3)
    for axis, (low, high) in enumerate(pairs):
        whole = whole.narrow(2 + axis, low, whole.shape[2 + axis] - low - high)
    assert_equal(TRANSPOSE[rank](x, w, bias, 3, pairs), whole)


def test_words_by_hand(aten_path):
    """Two samples, three ones each, two apart: 1 1 1+2 2 2; "same" has two outputs a sample."""
    x, w = torch.tensor([[[1.0, 2.0]]]), torch.ones(1, 1, 3)

    def values(padding, **options):
        return conv_transpose1d(x, w, stride=2, padding=padding, **options).flatten().tolist()

    assert values("valid") == [1, 1, 3, 2, 2]
    assert values("full") == [3]
    assert values("same") == [1, 1, 3, 2]
    assert values("same_lower") == [1, 3, 2, 2]
    assert values("valid", output_size=6) == [1, 1, 3, 2, 2, 0]
    # Four apart there is a gap, which "same" keeps.
    assert conv_transpose1d(x, w, None, 4, "same").flatten().tolist() == [1, 1, 1, 0, 2, 2, 2, 0]


# -- adjoints --------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["valid", "same", "same_lower", "full", 1, ((1, 2),)])
@pytest.mark.parametrize("rank", RANKS)
def test_the_adjoint_of_the_convolution(aten_path, rank, padding):
    """<conv(a), x> = <a, conv_transpose(x)> for every size of a; with no size asked for, that of
    the smallest, or for "same" the largest."""
    w = draw(4, 3, *(3, 2, 4)[:rank], seed=1)
    for size, stride, dilation in itertools.product((7, 8, 9), (1, 2, 3), (1, 2)):
        options = {"stride": stride, "padding": padding, "dilation": dilation}
        if size + 2 * (padding == 1) <= dilation * 3 and padding in ("valid", 1):
            continue
        a = draw(1, 3, *[size] * rank, seed=2).requires_grad_()
        y = CONV[rank](a, w, **options)
        x = draw(*y.shape, seed=3)
        (expected,) = torch.autograd.grad(y, a, x)
        got = TRANSPOSE[rank](x, w, output_size=a.shape[2:], **options)
        assert_equal(got, expected, f"size {size}, {options}")
        usual = TRANSPOSE[rank](x, w, **options)
        assert CONV[rank](usual, w, **options).shape == y.shape


@pytest.mark.parametrize("mode", ["cross_correlation", "convolution"])
@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("rank", RANKS)
def test_borders_go_back_to_where_they_came_from(aten_path, rank, padding_mode, mode):
    """The adjoint in every padding mode: nothing is cropped, it is added at its source."""
    options = {
        "stride": 2,
        "padding": ((2, 1), (1, 0), (0, 1))[:rank],
        "padding_mode": padding_mode,
    }
    w, a = draw(4, 3, *(3, 2, 2)[:rank], seed=1), draw(1, 3, *(6, 5, 3)[:rank]).requires_grad_()
    y = CONV[rank](a, w.flip(tuple(range(2, rank + 2))) if mode == "convolution" else w, **options)
    x = draw(*y.shape, seed=3)
    (expected,) = torch.autograd.grad(y, a, x)
    assert_equal(TRANSPOSE[rank](x, w, output_size=a.shape[2:], mode=mode, **options), expected)


def test_borders_by_hand():
    """In the kernels: a filter of two ones, whose second tap at the end reads the first sample."""
    x, w = torch.tensor([[[1.0, 2.0, 4.0]]]), torch.ones(1, 1, 2)
    got = conv_transpose1d(x, w, padding=((0, 1),), padding_mode="circular")
    assert got.flatten().tolist() == [5.0, 3.0, 6.0]


# -- what is added ---------------------------------------------------------------------------


@pytest.mark.parametrize("rank", RANKS)
def test_untied_bias_residual_and_activation(aten_path, rank):
    x, w, _ = operands(rank)
    sums = TORCH[rank](x, w, None, 2)
    bias = draw(*[2] * rank, 6, seed=4)
    where = torch.meshgrid(*(torch.arange(n) % 2 for n in sums.shape[2:]), indexing="ij")
    assert_equal_gradients(
        lambda x, w, b, e: TRANSPOSE[rank](x, w, b, 2, activation="silu", residual=e),
        lambda x, w, b, e: torch.nn.functional.silu(
            TORCH[rank](x, w, None, 2) + b[where].movedim(-1, 0) + e
        ),
        (x, w, bias, draw(*sums.shape, seed=5)),
    )
