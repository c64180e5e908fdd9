"""Convolution's own mathematics, through the kernels."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonconv import functional as F
from tritonconv.problem import Pass
from tritonconv.reference import textbook
from tritonconv.reference.matrix import apply, matrix
from tritonconv.testing import properties
from tritonconv.testing.agreement import kernel_device, problem_of_case, run_variant
from tritonconv.testing.examples import kinds_of, modes_of
from tritonconv.testing.strategies import conv_cases
from tritonconv.variants import VARIANTS

DIRECT = VARIANTS[-1]
EXACT = 1e-12
# Each example of these properties makes three launches and more.
FEW = max(settings().max_examples // 2, 4)
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def normal(*shape):
    """Random float64 values where kernels run; the seed is the shape's."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(kernel_device())


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
@settings(max_examples=FEW)
@given(data=st.data())
def test_linear_in_input_and_weight(variant, data):
    dtype = torch.float64 if variant is DIRECT else torch.float32
    kinds = kinds_of(variant, Pass.FPROP, dtype)
    case = data.draw(conv_cases(dtypes=(dtype,), kinds=kinds, largest_output=2))
    x, w, _ = tensors = case.tensors(kernel_device())
    x, w = x.clone(), w.clone()
    other = x.flip(1)

    def conv(x, w):
        problem = problem_of_case(case, Pass.FPROP, (x, w, tensors[2]))
        return run_variant(variant, problem, Pass.FPROP, x, w)

    tolerance = EXACT if variant is DIRECT else 1e-5
    properties.assert_linear(conv, x, other, w, tolerance)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
@settings(max_examples=FEW)
@given(data=st.data())
def test_three_passes_are_one_trilinear_form(variant, data):
    """A pass that the variant does not have is taken from the last one, which has them all."""
    dtype = torch.float64 if variant is DIRECT else torch.float32
    kinds = kinds_of(variant, Pass.FPROP, dtype)
    modes = modes_of(variant, Pass.FPROP, dtype)
    case = data.draw(
        conv_cases(dtypes=(dtype,), kinds=kinds, padding_modes=modes, largest_output=2)
    )
    x, w, dy = tensors = case.tensors(kernel_device())
    operands = {Pass.FPROP: (x, w, dy), Pass.DGRAD: (dy, w, x), Pass.WGRAD: (dy, x, w)}
    forms = []
    for which, (a, b, other) in operands.items():
        problem = problem_of_case(case, which, tensors)
        able = DIRECT if variant.supports(problem, which) else variant
        forms.append((run_variant(able, problem, which, a, b).double() * other).sum())
    properties.assert_adjoint(tuple(forms), 1e-11 if variant is DIRECT else 1e-4)


@given(case=conv_cases(dtypes=(torch.float64,), kinds=("shared",), ranks=(1, 2), largest_output=3))
def test_operator_is_its_matrix(case):
    """Kernels against the (doubly block) Toeplitz matrix, a third derivation."""
    x, w, dy = case.tensors(kernel_device())
    image = x[:1].clone()
    problem = problem_of_case(case, Pass.FPROP, (image, w, dy))
    y = run_variant(DIRECT, problem, Pass.FPROP, image, w).cpu()
    m = matrix(case.input_shape[1:], w.cpu().numpy(), case.geometry)
    expected = apply(m, image.cpu().numpy(), case.output_shape[1:])
    torch.testing.assert_close(y, torch.from_numpy(expected), rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_translation_equivariance(rank):
    x, w = normal(1, 2, *[5] * rank), normal(2, 2, *[2] * rank)
    shift = (1,) + (0,) * (rank - 2) + (2,) if rank > 1 else (2,)
    properties.assert_translation_equivariant(CONV[rank], x, w, shift, EXACT)


def test_strided_convolution_moves_by_whole_strides_only():
    x, w = normal(1, 1, 12), normal(1, 1, 3)
    y = F.conv1d(x, w, stride=2)
    by_two = F.conv1d(torch.roll(x, 2, 2), w, stride=2)
    torch.testing.assert_close(by_two[..., 1:], y[..., :-1], rtol=EXACT, atol=EXACT)
    by_one = F.conv1d(torch.roll(x, 1, 2), w, stride=2)
    assert not torch.allclose(by_one[..., 1:], y[..., :-1])


def test_not_equivariant_to_rotation_or_scaling():
    """Section 9.2: convolution commutes with shifts, not with turns or zooms."""
    x = normal(1, 1, 6, 6)
    w = torch.tensor([[0.0, 0.0], [-1.0, 1.0]], dtype=torch.float64, device=x.device)[None, None]
    turned = F.conv2d(torch.rot90(x, 1, (2, 3)), w)
    assert not torch.allclose(turned, torch.rot90(F.conv2d(x, w), 1, (2, 3)))
    zoomed = F.conv2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), w)
    then_zoomed = F.conv2d(x, w).repeat_interleave(2, 2).repeat_interleave(2, 3)
    size = min(zoomed.shape[2], then_zoomed.shape[2])
    assert not torch.allclose(zoomed[..., :size, :size], then_zoomed[..., :size, :size])
    # The same turn of image and filter together does commute: the counter-example is the filter.
    both = F.conv2d(torch.rot90(x, 1, (2, 3)), torch.rot90(w, 1, (2, 3)))
    torch.testing.assert_close(both, torch.rot90(F.conv2d(x, w), 1, (2, 3)), rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_full_true_convolution_commutes(rank):
    x, w = normal(1, 1, *[4] * rank), normal(1, 1, *[3] * rank)

    def conv(x, w):
        return CONV[rank](x, w, padding="full", mode="convolution")

    properties.assert_commutative(conv, x, w, EXACT)
    # Cross-correlation does not: the flip is what buys it.
    with pytest.raises(AssertionError, match="off by"):
        properties.assert_commutative(lambda x, w: CONV[rank](x, w, padding="full"), x, w, EXACT)


@pytest.mark.parametrize("rank", [1, 2])
def test_tiled_bank_is_used_cyclically(rank):
    """Output position o of a tiled convolution is that of an ordinary one with bank o mod t."""
    x, w = normal(1, 2, *[5] * rank), normal(*[2] * rank, 3, 2, *[2] * rank)
    ones, pads = [1] * rank, [0] * (2 * rank)
    y = torch.ops.tritonconv.conv(x, w, None, ones, pads, ones, 1)
    for bank in itertools.product(range(2), repeat=rank):
        shared = torch.ops.tritonconv.conv(x, w[bank], None, ones, pads, ones, 1)
        at = (slice(None), slice(None), *(slice(b, None, 2) for b in bank))
        torch.testing.assert_close(y[at], shared[at], rtol=EXACT, atol=EXACT)


def test_properties_catch_a_wrong_convolution():
    """The checks themselves: each refuses an implementation that breaks its law."""
    x, w = normal(1, 1, 6), normal(1, 1, 2)

    def squared(x, w):
        return F.conv1d(x, w) ** 2

    def clocked(x, w):
        y = F.conv1d(x, w)
        return y * torch.arange(y.shape[-1], dtype=y.dtype, device=y.device)

    with pytest.raises(AssertionError):
        properties.assert_linear(squared, x, x.flip(2), w, EXACT)
    with pytest.raises(AssertionError):
        properties.assert_translation_equivariant(clocked, x, w, (1,), EXACT)
    one = torch.ones(())
    with pytest.raises(AssertionError):
        properties.assert_adjoint((one, one, 2 * one), EXACT)
    with pytest.raises(AssertionError):
        properties.assert_adjoint((one, one, one * float("nan")), EXACT)
    assert textbook.output_size((6,), (2,), textbook.Geometry((1,), ((0, 0),), (1,))) == (5,)
