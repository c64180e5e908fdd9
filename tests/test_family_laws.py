"""What holds between the members of the family, through the kernels, mostly in float64."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st

from tritonconv import functional as F
from tritonconv.checks import PADDING_MODES
from tritonconv.epilogue import ACTIVATIONS
from tritonconv.problem import Pass
from tritonconv.reference import textbook
from tritonconv.reference.matrix import matrix
from tritonconv.testing import properties
from tritonconv.testing.agreement import kernel_device, problem_of_case, run_variant
from tritonconv.testing.examples import kinds_of
from tritonconv.testing.strategies import KINDS, conv_cases
from tritonconv.variants import VARIANTS

EXACT = 1e-12
FEW = max(settings().max_examples // 3, 3)
OPS = torch.ops.tritonconv
DIRECT = VARIANTS[-1]
SHARED = [v for v in VARIANTS if {"shared", "tiled"} <= set(v.kinds)]


def by_rank(name):
    """The functions of a family, by rank."""
    return {rank: getattr(F, f"{name}{rank}d") for rank in (1, 2, 3)}


CONV, TILED, UNSHARED = (by_rank(n) for n in ("conv", "tiled_conv", "unshared_conv"))


def normal(*shape):
    """Random float64 values where kernels run; the seed is the shape's."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(kernel_device())


def same(a, b):
    """Bit for bit."""
    assert torch.equal(a, b), f"off by {(a.double() - b.double()).abs().max().item():.3g}"


def close(a, b):
    """To the last digits of float64."""
    torch.testing.assert_close(a, b, rtol=EXACT, atol=EXACT)


# -- one operator with a weight period -------------------------------------------------------


def all_passes(variant, case, weight):
    """Each pass that the variant has of a case with another weight of the same meaning; of dw only
    what tells apart no bank from one bank: its values in order."""
    x, _, dy = case.tensors(kernel_device())
    other = dataclasses.replace(case, weight_shape=tuple(weight.shape))
    for which in Pass:
        a, b = {Pass.FPROP: (x, weight), Pass.DGRAD: (dy, weight), Pass.WGRAD: (dy, x)}[which]
        problem = problem_of_case(other, which, (x, weight, dy))
        if variant.supports(problem, which) is None:
            yield which, run_variant(variant, problem, which, a, b)


@pytest.mark.parametrize("variant", SHARED, ids=lambda v: v.name)
@settings(max_examples=FEW)
@given(data=st.data())
def test_tiled_with_period_one_is_convolution(variant, data):
    dtype = torch.float64 if variant is DIRECT else torch.float16
    case = data.draw(conv_cases(dtypes=(dtype,), kinds=("shared",), largest_output=3))
    w = case.tensors(kernel_device())[1].contiguous()
    banked = w.reshape(*[1] * case.rank, *w.shape)
    pairs = zip(all_passes(variant, case, w), all_passes(variant, case, banked), strict=True)
    for (_, plain), (_, tiled) in pairs:
        same(tiled.reshape(plain.shape), plain)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_tiled_with_the_outputs_period_is_unshared(rank):
    x, w = normal(2, 2, *[4] * rank), normal(*[3] * rank, 3, 2, *[2] * rank)
    dy = normal(2, 3, *[3] * rank)
    results = []
    for conv in (TILED[rank], UNSHARED[rank]):
        leaves = [t.clone().requires_grad_() for t in (x, w)]
        y = conv(*leaves)
        results.append((y.detach(), *torch.autograd.grad(y, leaves, dy)))
    for tiled, unshared in zip(*results, strict=True):
        same(tiled, unshared)


@settings(max_examples=FEW)
@given(case=conv_cases(dtypes=(torch.float64,), kinds=("shared",), largest_output=3))
def test_unshared_with_equal_banks_is_convolution(case):
    x, w, _ = case.tensors(kernel_device())
    arguments = vars(case.arguments).values()
    sizes = case.output_shape[2:]
    banks = w.expand(*sizes, *w.shape)
    close(OPS.conv(x, banks, None, *arguments), OPS.conv(x, w, None, *arguments))


def test_unshared_is_not_translation_equivariant():
    """Hypothesis finds a counter-example, an image and banks; the kernels confirm it."""
    geometry = textbook.Geometry((1,), ((0, 0),), (1,))

    def by_textbook(x, w):
        return torch.from_numpy(textbook.conv(x.numpy(), w.numpy(), geometry))

    def moves_along(values, conv=by_textbook, device="cpu"):
        values = torch.tensor(values, dtype=torch.float64, device=device)
        x, w = values[:5].reshape(1, 1, 5), values[5:].reshape(4, 1, 1, 2)
        try:
            properties.assert_translation_equivariant(conv, x, w, (1,), EXACT)
        except AssertionError:
            return False
        return True

    small = st.lists(st.integers(-1, 1), min_size=13, max_size=13)
    found = find(small, lambda values: not moves_along(values), settings=settings(database=None))
    # The smallest one: a single pixel meets a single weight, which its neighbour's bank lacks.
    assert any(found[:5]) and any(found[5:]) and sum(map(abs, found)) <= 3, found
    equal = [*found[:5], *[1, -1] * 4]
    for values, expected in ((found, False), (equal, True)):
        assert moves_along(values, F.unshared_conv1d, kernel_device()) == expected


@pytest.mark.parametrize(("stride", "period"), [(1, 2), (2, 2), (1, 3)])
def test_tiled_is_equivariant_to_shifts_by_stride_times_period_only(stride, period):
    size = stride * period
    x, w = normal(1, 2, 6 * size + 1), normal(period, 2, 2, 2)
    y = F.tiled_conv1d(x, w, stride=stride)
    for shift in range(1, size + 1):
        moved = F.tiled_conv1d(torch.roll(x, shift, 2), w, stride=stride)
        outputs = shift // stride
        inside, before = moved[..., outputs + 1 :], y[..., 1 : y.shape[-1] - outputs]
        if shift == size:
            close(inside, before)
        else:
            assert (inside - before).abs().max() > 0.1


# -- transposed ------------------------------------------------------------------------------


@settings(max_examples=FEW)
@given(
    case=conv_cases(
        dtypes=(torch.float64,),
        ranks=(1, 2),
        padding_modes=PADDING_MODES,
        crops=True,
        largest_output=3,
    )
)
def test_dgrad_is_the_transposed_matrix(case):
    """Shared, tiled and unshared, with every border: three derivations of one operator."""
    _, w, dy = case.tensors(kernel_device())
    dy = dy[:1].clone()
    shape = (1, *case.input_shape[1:])
    dx = OPS.conv_dgrad(dy, w, shape, *vars(case.arguments).values())
    m = torch.from_numpy(matrix(case.input_shape[1:], w.cpu().numpy(), case.geometry))
    close(dx.cpu().flatten(), m.T @ dy.cpu().flatten())


@settings(max_examples=FEW)
@given(
    case=conv_cases(dtypes=(torch.float64,), padding_modes=PADDING_MODES, largest_output=3),
    data=st.data(),
)
def test_transposed_convolution_is_the_adjoint(case, data):
    """<conv(x), y> = <x, conv_transpose(y)>, with a bias on the one and a residual on the other
    that the inner products subtract again."""
    x, w, dy = case.tensors(kernel_device())
    arguments = vars(case.arguments).values()
    bias = normal(case.input_shape[1])
    y = OPS.conv(x, w, None, *arguments)
    back, _ = OPS.conv_dgrad_fused(dy, w, bias, x, x.shape, *arguments)
    alone = back - x - bias.reshape(-1, *[1] * case.rank)
    properties.assert_adjoint(((y * dy).sum(), (x * alone).sum(), (x * alone).sum()), 1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_phases_that_no_tap_reaches_are_zeros_and_the_bias(dtype):
    x = torch.ones(1, 2, 3, 3, dtype=dtype, device=kernel_device())
    w, bias = torch.ones_like(x[:, :1, :1, :1]).expand(2, 1, 1, 1), x.new_tensor([0.5])
    y = F.conv_transpose2d(x, w, bias, stride=3, output_padding=2)
    assert y.shape == (1, 1, 9, 9)
    expected = torch.full_like(y, 0.5)
    expected[..., ::3, ::3] = 2.5
    same(y, expected)


# -- separable, borders, streams -------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_separable_is_its_outer_product(rank):
    x = normal(1, 2, *[5] * rank)
    filters = [normal(2, 2 + axis % 2) for axis in range(rank)]
    whole = filters[0]
    for factor in filters[1:]:
        whole = whole[..., None] * factor.reshape(2, *[1] * (whole.dim() - 1), -1)
    y = by_rank("separable_conv")[rank](x, filters, padding=1, stride=2)
    close(y, CONV[rank](x, whole[:, None], padding=1, stride=2, groups=2))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_circular_padding_makes_equivariance_exact_on_the_torus(rank):
    x, w = normal(1, 2, *[4] * rank), normal(2, 2, *[3] * rank)
    axes = tuple(range(2, rank + 2))

    def conv(x):
        return CONV[rank](x, w, padding="same", padding_mode="circular")

    y = conv(x)
    for shift in itertools.islice(itertools.product(range(4), repeat=rank), 1, 16, 3):
        same(conv(torch.roll(x, shift, axes)), torch.roll(y, shift, axes))
    zeros = CONV[rank](torch.roll(x, 1, 2), w, padding="same")
    assert not torch.allclose(zeros, torch.roll(CONV[rank](x, w, padding="same"), 1, 2))


@pytest.mark.parametrize("mode", PADDING_MODES)
@pytest.mark.parametrize("rank", [1, 2])
def test_symmetric_filters_commute_with_flips(rank, mode):
    """Every border is the same seen from either end, reflect among them."""
    x, w = normal(1, 2, *[5] * rank), normal(2, 2, *[3] * rank)
    axes = tuple(range(2, rank + 2))
    for axis in axes:
        symmetric = w + w.flip(axis)

        def conv(x, w=symmetric):
            return CONV[rank](x, w, padding=1, padding_mode=mode)

        close(conv(x.flip(axis)), conv(x).flip(axis))
        assert not torch.allclose(conv(x.flip(axis), w), conv(x, w).flip(axis))


@settings(max_examples=FEW)
@given(cuts=st.lists(st.integers(1, 6), min_size=1, max_size=3), dilation=st.integers(1, 2))
def test_streaming_is_one_shot(cuts, dilation):
    x, w, bias = normal(1, 2, 7), normal(4, 1, 3), normal(4)
    options = {"dilation": dilation, "groups": 2, "activation": "silu"}
    whole, last = F.causal_conv1d(x, w, bias, **options)
    edges = [0, *sorted({min(c, 7) for c in cuts} | {7})]
    state, parts = None, []
    for start, stop in itertools.pairwise(edges):
        part, state = F.causal_conv1d(x[..., start:stop], w, bias, state=state, **options)
        parts.append(part)
    same(torch.cat(parts, 2), whole)
    same(state, last)


# -- epilogues -------------------------------------------------------------------------------


@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_a_fused_activation_are_those_of_the_unfused(activation, transposed):
    """First and second order, of every operand; both sides through the kernels."""
    x, w, bias = normal(1, 2, 4), normal(2, 2, 2), normal(3 if not transposed else 5, 2)
    residual = normal(1, 2, 5 if transposed else 3)
    leaves = [t.clone().requires_grad_() for t in (x, w, bias, residual)]
    function = F.conv_transpose1d if transposed else F.conv1d

    def fused(x, w, bias, residual):
        return function(x, w, bias, activation=activation, residual=residual)

    def unfused(x, w, bias, residual):
        z = function(x, w) + bias.movedim(-1, 0) + residual
        act = getattr(torch.nn.functional, activation, None)
        return z if act is None else act(z)

    results = []
    for call in (fused, unfused):
        y = call(*leaves)
        first = torch.autograd.grad(y, leaves, torch.ones_like(y), create_graph=True)
        total = sum((g * g).sum() for g in first)
        results.append((y, *first, *torch.autograd.grad(total, leaves[:2])))
    for a, b in zip(*results, strict=True):
        close(a, b)


def test_kinds_of_a_variant_are_known():
    for variant in VARIANTS:
        assert set(variant.kinds) <= set(KINDS)
        assert any(kinds_of(variant, w, torch.float32) for w in Pass), variant.name
