"""The kinds of convolution beyond torch's, against compositions of torch's, in float64."""

import inspect
import itertools
import re

import pytest
import torch
from torch.nn.functional import pad

from tritonconv import ProblemError, functional
from tritonconv.functional import (
    causal_conv1d,
    conv1d,
    conv2d,
    factor_separable,
    separable_conv2d,
    tiled_conv1d,
    tiled_conv2d,
    unshared_conv2d,
)

from .test_functional import (
    CONV,
    RANKS,
    TORCH,
    assert_equal,
    assert_equal_gradients,
    draw,
    operands,
)

ACTIVATIONS = {
    "relu": torch.relu,
    "leaky_relu": lambda z: torch.nn.functional.leaky_relu(z, 0.01),
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
# torch.nn.functional.pad's names for the padding modes.
MODES = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "replicate",
    "circular": "circular",
}


def family(name):
    """The functions of one kind, by their rank."""
    return {rank: getattr(functional, f"{name}{rank}d") for rank in RANKS}


SEPARABLE, DEPTHWISE = family("separable_conv"), family("depthwise_separable_conv")
UNSHARED, TILED = family("unshared_conv"), family("tiled_conv")
UNSHARED_TRANSPOSE = family("unshared_conv_transpose")


def extended(x, pairs, mode="zeros"):
    """x with its border written out."""
    return pad(x, [side for pair in reversed(pairs) for side in pair], MODES[mode])


def position_by_position(x, w, bias=None, stride=1, dilation=1, groups=1):
    """A convolution of one window for each output: w (*period, K, C/g, *filter), no padding."""
    rank = x.dim() - 2
    reach = [dilation * (f - 1) + 1 for f in w.shape[-rank:]]
    sizes = [(i - r) // stride + 1 for i, r in zip(x.shape[2:], reach, strict=True)]
    found = []
    for position in itertools.product(*(range(n) for n in sizes)):
        window = x
        for axis, (o, r) in enumerate(zip(position, reach, strict=True)):
            window = window.narrow(2 + axis, o * stride, r)
        bank = w[tuple(o % t for o, t in zip(position, w.shape[:rank], strict=True))]
        found.append(TORCH[rank](window, bank, bias, 1, 0, dilation, groups).flatten(1))
    return torch.stack(found, 2).unflatten(2, sizes)


# -- signatures ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", functional.__all__)
def test_exports(name):
    """Documented, with the same options by the same names as its siblings of other rank."""
    function = getattr(functional, name)
    assert all(f"{part}:" in function.__doc__ for part in ("Args", "Returns", "Raises", "Source"))
    parameters = inspect.signature(function).parameters
    explained = function.__doc__.split("Args:")[1].split("Returns:")[0]
    assert all(re.search(rf"\b{p}(, \w+)*: ", explained) for p in parameters)
    if name[-2] in "123":
        siblings = inspect.signature(getattr(functional, f"{name[:-2]}1d"))
        assert siblings == inspect.signature(function)
    if "pool" in name or name in ("factor_separable", "causal_conv1d", "maxout"):
        return
    keywords = {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert "output_size" not in keywords or keywords.pop("output_size") is None
    assert keywords == {
        "mode": "cross_correlation",
        "padding_mode": "zeros",
        "activation": None,
        "residual": None,
    }


# -- what every convolution can do -----------------------------------------------------------

BORDERED = {1: (4,), 2: (4, 3), 3: (4, 3, 5)}
PAIRS = {1: ((2, 1),), 2: ((1, 2), (0, 2)), 3: ((1, 0), (0, 1), (2, 1))}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rank", RANKS)
def test_padding_modes(aten_path, rank, mode):
    """Another padding at each side, and its gradients."""
    assert_equal_gradients(
        lambda *t: CONV[rank](*t, 2, PAIRS[rank], padding_mode=mode),
        lambda x, w, b: TORCH[rank](extended(x, PAIRS[rank], mode), w, b, 2),
        operands(rank, size=BORDERED[rank], taps=(2, 3, 1)[:rank], batch=1),
    )


@pytest.mark.parametrize("mode", MODES)
def test_padding_modes_in_kernels(mode):
    x, w, bias = operands(2, size=BORDERED[2], taps=(2, 3), batch=1)
    got = conv2d(x, w, bias, padding=PAIRS[2], padding_mode=mode)
    assert_equal(got, TORCH[2](extended(x, PAIRS[2], mode), w, bias))


@pytest.mark.parametrize("rank", RANKS)
def test_untied_bias(aten_path, rank):
    """b[o mod period, k], with periods that divide the output's size and others."""
    x, w, _ = operands(rank, size=BORDERED[rank], taps=(1,) * rank)
    bias = draw(*(3, 1, 5)[:rank], 4, seed=6)
    at_positions = [torch.arange(n) % t for n, t in zip(BORDERED[rank], bias.shape, strict=False)]
    where = torch.meshgrid(*at_positions, indexing="ij")
    assert_equal_gradients(
        CONV[rank], lambda x, w, b: TORCH[rank](x, w) + b[where].movedim(-1, 0), (x, w, bias)
    )


@pytest.mark.parametrize("path", ["aten_path", "kernels"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_of_the_sum_with_a_residual(path, activation, request):
    if path == "aten_path":
        request.getfixturevalue("aten_path")
    residual = draw(1, 4, 4, seed=7)
    assert_equal_gradients(
        lambda x, w, b, e: conv1d(x, w, b, activation=activation, residual=e),
        lambda x, w, b, e: ACTIVATIONS[activation](TORCH[1](x, w, b) + e),
        (*operands(1, batch=1), residual),
    )


# -- unshared and tiled ----------------------------------------------------------------------

SIZES, TAPS = {1: (7,), 2: (5, 4), 3: (3, 4, 3)}, {1: (2,), 2: (2, 2), 3: (2, 1, 2)}
OUTPUTS = {1: (6,), 2: (4, 3), 3: (2, 4, 2)}
PERIODS = {1: (4,), 2: (2, 3), 3: (2, 3, 1)}


@pytest.mark.parametrize("kind", ["unshared", "tiled"])
@pytest.mark.parametrize("rank", RANKS)
def test_filters_that_differ_by_position(aten_path, rank, kind):
    """Both kinds, their gradients too; the periods divide the output's size or do not."""
    function, banks = {"unshared": (UNSHARED, OUTPUTS), "tiled": (TILED, PERIODS)}[kind]
    x, w = draw(2, 4, *SIZES[rank]), draw(*banks[rank], 6, 2, *TAPS[rank], seed=1)
    assert_equal_gradients(
        lambda *t: function[rank](*t, groups=2),
        lambda *t: position_by_position(*t, groups=2),
        (x, w, draw(6, seed=2)),
    )


@pytest.mark.parametrize("rank", RANKS)
def test_unshared_with_options(aten_path, rank):
    """Stride, dilation, padding of one side and the flip, and a bias for every unit."""
    size = (6, 7, 5)[:rank]
    outputs = tuple((n + 1 - 3) // 2 + 1 for n in size)
    x, w = draw(1, 2, *size), draw(*outputs, 3, 2, *[2] * rank, seed=1)
    bias = draw(*outputs, 3, seed=2)
    pairs = ((0, 1),) * rank
    got = UNSHARED[rank](x, w, bias, 2, pairs, 2, mode="convolution", padding_mode="replicate")
    flipped = w.flip(tuple(range(-rank, 0)))
    sums = position_by_position(extended(x, pairs, "replicate"), flipped, None, 2, 2)
    assert_equal(got, sums + bias.movedim(-1, 0))


@pytest.mark.parametrize("rank", RANKS)
def test_unshared_transpose_is_the_adjoint(aten_path, rank):
    """The vector-Jacobian product of the unshared convolution. Its stride leaves a remainder, which
    output_size or output_padding makes up for."""
    x = draw(1, 4, *[6] * rank).requires_grad_()
    w = draw(*[3] * rank, 6, 2, *[2] * rank, seed=1)
    options = {"stride": 2, "padding": ((1, 0),) * rank, "groups": 2}
    y = UNSHARED[rank](x, w, **options)
    dy = draw(*y.shape, seed=2)
    (expected,) = torch.autograd.grad(y, x, dy)
    transpose, bias = UNSHARED_TRANSPOSE[rank], draw(4, seed=3)
    assert_equal(transpose(dy, w, output_size=x.shape[2:], **options), expected)
    got = transpose(dy, w, bias, output_padding=1, activation="tanh", **options)
    assert_equal(got, torch.tanh(expected + bias.reshape(-1, *[1] * rank)))


def test_filters_that_differ_by_position_in_kernels():
    x, w = draw(1, 2, 3, 4), draw(2, 3, 2, 2, 2, 2, seed=1)
    expected = position_by_position(x, w)
    assert_equal(unshared_conv2d(x, w), expected)
    assert_equal(tiled_conv2d(x, w[:, :2]), position_by_position(x, w[:, :2]))
    got = UNSHARED_TRANSPOSE[2](expected, w)
    torch.testing.assert_close((got * x).sum(), expected.square().sum())


def test_a_tile_in_words():
    """By hand: outputs take turns between the sum of neighbours and their difference."""
    x = torch.tensor([[[1.0, 2.0, 4.0, 7.0]]])
    w = torch.tensor([[1.0, 1.0], [-1.0, 1.0]]).reshape(2, 1, 1, 2)
    assert tiled_conv1d(x, w).flatten().tolist() == [3.0, 2.0, 11.0]


@pytest.mark.parametrize("name", ["conv", "conv_transpose", "unshared_conv", "tiled_conv"])
def test_residual_of_one_image(aten_path, name):
    """Without a batch in the input there is none in the residual either."""
    function = getattr(functional, f"{name}2d")
    banks = {"unshared_conv": (2, 3), "tiled_conv": (2, 1)}.get(name, ())
    x, w = draw(4, 3, 4), draw(*banks, 4, 4, 2, 2, seed=1)
    sums = function(x[None], w)[0]
    residual = draw(*sums.shape, seed=2)
    got = function(x, w, activation="tanh", residual=residual)
    assert_equal(got, torch.tanh(sums + residual))


# -- separable -------------------------------------------------------------------------------


def product(filters):
    """The filter (C, 1, *sizes) whose factors they are."""
    whole = filters[0]
    for factor in filters[1:]:
        whole = whole.unsqueeze(-1) * factor.reshape(len(factor), *[1] * (whole.dim() - 1), -1)
    return whole.unsqueeze(1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rank", RANKS)
def test_separable(aten_path, rank, mode):
    """The depthwise convolution with the outer product, gradients of the factors too."""
    filters = [draw(4, size, seed=axis) for axis, size in enumerate((2, 3, 1)[:rank])]
    steps = (2, 1, 3)[:rank]

    def ours(x, bias, e, *filters):
        options = {"padding_mode": mode, "activation": "silu", "residual": e}
        return SEPARABLE[rank](x, filters, bias, steps, PAIRS[rank], **options)

    def theirs(x, bias, e, *filters):
        padded = extended(x, PAIRS[rank], mode)
        return ACTIVATIONS["silu"](TORCH[rank](padded, product(filters), bias, steps, 0, 1, 4) + e)

    x, bias = draw(2, 4, *BORDERED[rank], seed=4), draw(4, seed=5)
    residual = draw(*SEPARABLE[rank](x, filters, None, steps, PAIRS[rank]).shape, seed=6)
    leaves = [t.requires_grad_() for t in (x, bias, residual, *filters)]
    got, expected = ours(*leaves), theirs(*leaves)
    assert_equal(got, expected)
    dy = draw(*expected.shape, seed=7)
    results = (torch.autograd.grad(y, leaves, dy) for y in (got, expected))
    for place, (a, b) in enumerate(zip(*results, strict=True)):
        assert_equal(a, b, f"gradient {place}")


def test_separable_spelled_otherwise(aten_path):
    """A word, dilation, the textbook's flip, one image."""
    x, filters = draw(3, 5, 6), (draw(3, 2, seed=1), draw(3, 3, seed=2))
    options = {"stride": 2, "padding": "same", "dilation": 2, "mode": "convolution"}
    got = separable_conv2d(x, filters, **options)
    assert_equal(got, conv2d(x, product(filters), groups=3, **options))


def test_separable_shrinks_first(aten_path, monkeypatch):
    """The axis that leaves the fewest numbers comes first; what is added comes in the last pass."""
    passes = []

    def recorded(input, weight, bias, residual, activation, *rest):
        passes.append((list(weight.shape[2:]), bias is not None, activation))
        return input.new_zeros(
            *input.shape[:2],
            *(
                (n - f) // s + 1
                for n, f, s in zip(input.shape[2:], weight.shape[2:], rest[0], strict=True)
            ),
        )

    monkeypatch.setattr("tritonconv.functional.separable.convolve", recorded)
    x, filters = draw(1, 2, 8, 8, 8), [draw(2, size) for size in (2, 3, 1)]
    y = SEPARABLE[3](x, filters, draw(2), (1, 2, 4), activation="relu")
    assert y.shape == (1, 2, 7, 3, 2)
    assert passes == [
        ([1, 1, 1], False, "none"),
        ([1, 3, 1], False, "none"),
        ([2, 1, 1], True, "relu"),
    ]


def test_separable_in_kernels():
    x, filters = draw(1, 2, 4, 5), (draw(2, 2, seed=1), draw(2, 3, seed=2))
    got = separable_conv2d(x, filters, padding=1, padding_mode="replicate")
    padded = extended(x, ((1, 1), (1, 1)), "replicate")
    assert_equal(got, TORCH[2](padded, product(filters), groups=2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", RANKS)
def test_factor_separable(rank, dtype):
    """The product is the filter, the factors of one filter have one length, and the sign is in the
    last of them; a filter of zeros has factors of zeros."""
    filters = [draw(4, size, seed=axis) for axis, size in enumerate((3, 2, 4)[:rank])]
    filters[0][2] = 0
    weight = product(filters).to(dtype)
    found = factor_separable(weight, tol=1e-6 if dtype.itemsize > 2 else 1e-2)
    assert [tuple(f.shape) for f in found] == [tuple(f.shape) for f in filters]
    assert all(f.dtype == dtype and f.is_contiguous() and not f.requires_grad for f in found)
    # Every factor is rounded once, as the weight was; singular vectors are off by some ulps.
    rounding = max(4 * torch.finfo(dtype).eps, 64 * torch.finfo(torch.float64).eps)
    error = (product([f.double() for f in found]) - weight).abs().amax()
    assert error <= rounding * weight.abs().amax()
    lengths = torch.stack([f.double().norm(dim=1) for f in found])
    torch.testing.assert_close(lengths, lengths[:1].expand_as(lengths), rtol=rounding, atol=0)
    assert (lengths[:, 2] == 0).all()
    assert all(f[c, 0] > 0 for f in found[:-1] for c in (0, 1, 3))


def test_factors_of_known_filters():
    """Sobel's and a Gaussian's, by hand. Rounding does not choose between the two signs of an
    antisymmetric factor."""
    smooth, slope = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0])
    weight = torch.stack((torch.outer(smooth, slope), torch.outer(slope, smooth)))[:, None]
    column, row = factor_separable(weight)
    balance = (3.0**0.25, 3.0**-0.25)  # lengths sqrt(6) and sqrt(2), made equal
    assert_close = torch.testing.assert_close
    assert_close(column, torch.stack((smooth / balance[0], -slope * balance[0])))
    assert_close(row, torch.stack((slope * balance[0], -smooth / balance[0])))
    assert torch.equal(column, factor_separable(weight.clone())[0])


# -- depthwise separable ---------------------------------------------------------------------


@pytest.mark.parametrize("rank", RANKS)
def test_depthwise_separable(aten_path, rank):
    """Two filters a channel, then every channel with every other."""
    depthwise = draw(6, 1, *TAPS[rank], seed=1)
    pointwise = draw(5, 6, *[1] * rank, seed=2)

    def ours(x, d, p, bias):
        return DEPTHWISE[rank](x, d, p, bias, 2, 1, padding_mode="replicate", activation="gelu")

    def theirs(x, d, p, bias):
        hidden = TORCH[rank](extended(x, ((1, 1),) * rank, "replicate"), d, None, 2, groups=3)
        return ACTIVATIONS["gelu"](TORCH[rank](hidden, p, bias))

    leaves = (draw(2, 3, *SIZES[rank]), depthwise, pointwise, draw(5, seed=3))
    assert_equal_gradients(ours, theirs, leaves)
    assert_equal(ours(leaves[0][0], *leaves[1:]), theirs(*leaves)[0], "of one image")


# -- causal ----------------------------------------------------------------------------------


def streamed(x, lengths, *args, residual=None, **options):
    """causal_conv1d a chunk at a time."""
    state, found = None, []
    extra = [None] * len(lengths) if residual is None else residual.split(lengths, -1)
    for chunk, e in zip(x.split(lengths, -1), extra, strict=True):
        y, state = causal_conv1d(chunk, *args, state=state, residual=e, **options)
        found.append(y)
    return torch.cat(found, -1), state


@pytest.mark.parametrize("activation", [None, "silu"])
def test_causal(aten_path, activation):
    """Zeros before the signal, none after it; all of it at once and in chunks, gradients too."""
    x, w, bias = draw(2, 4, 9), draw(6, 2, 3, seed=1), draw(6, seed=2)
    options = {"dilation": 2, "groups": 2, "activation": activation}

    def expected(x, w, b, e):
        z = TORCH[1](pad(x, (4, 0)), w, b, 1, 0, 2, 2) + e
        return z if activation is None else ACTIVATIONS[activation](z)

    leaves = (x, w, bias, draw(2, 6, 9, seed=3))
    for lengths in ([9], [1] * 9, [2, 1, 5, 1], [6, 3]):
        assert_equal_gradients(
            lambda x, w, b, e, n=lengths: streamed(x, n, w, b, residual=e, **options)[0],
            expected,
            leaves,
        )
        assert torch.equal(streamed(x, lengths, w, bias, **options)[1], x[:, :, 5:])


def test_causal_state(aten_path):
    """Zeros where the signal has been shorter, nothing for one tap, memory of its own."""
    x, w = draw(1, 2, 2), draw(3, 2, 4, seed=1)
    _, state = causal_conv1d(x, w)
    assert torch.equal(state, pad(x, (1, 0)))
    _, state = causal_conv1d(x[:, :, :1], w, state=state)
    assert torch.equal(state, torch.cat((x, x[:, :, :1]), 2))
    y, state = causal_conv1d(x, w[:, :, :1])
    assert y.shape == (1, 3, 2) and state.shape == (1, 2, 0)
    longer = draw(1, 1, 5)
    _, state = causal_conv1d(longer, draw(1, 1, 6))
    state.zero_()
    assert longer.all()


def test_streaming_in_kernels_is_exact():
    """Bit for bit, in float32: the order of a sum does not depend on the chunk's length."""
    x, w, bias = (t.float() for t in (draw(4, 7), draw(4, 4, 3, seed=1), draw(4, seed=2)))
    whole, last = causal_conv1d(x, w, bias, 2, activation="gelu")
    for lengths in ([1] * 7, [3, 4]):
        got, state = streamed(x, lengths, w, bias, 2, activation="gelu")
        assert torch.equal(got, whole) and torch.equal(state, last)
    assert whole.shape == (4, 7) and last.shape == (4, 4)


# -- gradients, tracing, autocast ------------------------------------------------------------

SMALL = {
    "conv": ((1, 2, 3, 3), (2, 2, 2, 2)),
    "conv_transpose": ((1, 2, 2, 2), (2, 2, 2, 2)),
    "unshared_conv": ((1, 2, 2, 3), (2, 2, 2, 2, 2, 2)),
    "unshared_conv_transpose": ((1, 2, 2, 1), (2, 1, 2, 2, 2, 2)),
    "tiled_conv": ((1, 2, 3, 3), (2, 1, 2, 2, 2, 2)),
    "separable_conv": ((1, 2, 3, 3), (2, 2), (2, 1)),
    "depthwise_separable_conv": ((1, 2, 3, 2), (2, 1, 2, 2), (2, 2, 1, 1)),
    "causal_conv1d": ((1, 2, 3), (2, 2, 2)),
}


def small(name):
    """A call of the function on tensors alone, and such tensors."""
    tensors = [draw(*shape, seed=seed) for seed, shape in enumerate((*SMALL[name], (2,)))]
    options = {"activation": "gelu"}
    if name == "causal_conv1d":
        return lambda x, w, b: causal_conv1d(x, w, b, **options), tensors
    function = getattr(functional, f"{name}2d")
    options |= {"padding": ((1, 0), (0, 0)), "padding_mode": "replicate"}
    if name.startswith("unshared_conv"):
        options |= {"stride": 1 if name == "unshared_conv" else 2}
    if name == "separable_conv":
        return lambda x, v, h, b: function(x, (v, h), b, **options), tensors
    return lambda *t: function(*t, **options), tensors


@pytest.mark.parametrize("name", SMALL)
def test_gradcheck(aten_passes, name):
    """First and second derivatives in every tensor, by the library's own autograd functions."""
    function, tensors = small(name)
    tensors = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


@pytest.mark.parametrize("name", SMALL)
def test_traced_whole(aten_path, name):
    """torch.compile takes each function in one piece, for any size."""
    function, tensors = small(name)
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)
    for a, b in zip(_flat(compiled(*tensors)), _flat(function(*tensors)), strict=True):
        assert_equal(a, b)


def _flat(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("name", ["separable_conv", "depthwise_separable_conv"])
def test_autocast_makes_dtypes_equal(aten_path, name):
    function, tensors = small(name)
    mixed = [tensors[0].bfloat16(), *(t.float() for t in tensors[1:])]
    with pytest.raises(ProblemError, match=r"dtype torch\.bfloat16, that of input"):
        function(*mixed)
    with torch.autocast("cpu", torch.bfloat16):
        assert function(*mixed).dtype == torch.bfloat16
