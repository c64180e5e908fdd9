"""Every variant, pass and dtype against the textbook's sums; outputs poisoned with NaN."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tritonconv.checks import ConvArguments
from tritonconv.planning import make_plan
from tritonconv.problem import Pass, fprop_problem
from tritonconv.testing.agreement import (
    assert_agrees,
    kernel_device,
    planning_device,
    problem_of_case,
    run_variant,
)
from tritonconv.testing.strategies import ConvCase, conv_cases
from tritonconv.variants import VARIANTS

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check(variant, which, case):
    """One pass by one variant agrees with the textbook."""
    x, w, dy = tensors = case.tensors(kernel_device())
    problem = problem_of_case(case, which, tensors)
    a, b = {Pass.FPROP: (x, w), Pass.DGRAD: (dy, w), Pass.WGRAD: (dy, x)}[which]
    assert_agrees(case, which, run_variant(variant, problem, which, a, b), problem)


def supported(variant, dtype):
    """Whether the variant takes this dtype at all; asked of a small problem."""
    case = dataclasses.replace(BASE, dtype=dtype)
    problem = problem_of_case(case, Pass.FPROP, case.tensors())
    return variant.supports(problem, Pass.FPROP) is None


BASE = ConvCase(
    input_shape=(2, 4, 5, 6),
    weight_shape=(6, 2, 3, 2),
    output_shape=(2, 6, 3, 5),
    stride=(2, 1),
    padding=(1, 1, 0, 1),
    dilation=(1, 2),
    groups=2,
    flip=False,
    dtype=torch.float32,
    layouts=("contiguous", "contiguous", "contiguous"),
    seed=0,
)
MATRIX = [
    pytest.param(variant, which, dtype, id=f"{variant.name}-{which.value}-{str(dtype)[6:]}")
    for variant in VARIANTS
    for which in Pass
    for dtype in DTYPES
    if supported(variant, dtype)
]


def test_every_dtype_has_a_variant_for_every_pass():
    covered = {(which, dtype) for _, which, dtype in (p.values for p in MATRIX)}
    assert covered == {(which, dtype) for which in Pass for dtype in DTYPES}


@pytest.mark.parametrize(("variant", "which", "dtype"), MATRIX)
@given(data=st.data())
def test_agrees_with_the_textbook(variant, which, dtype, data):
    check(variant, which, data.draw(conv_cases(dtypes=(dtype,))))


@pytest.mark.parametrize(("variant", "which", "dtype"), MATRIX)
def test_grouped_strided_dilated_padded(variant, which, dtype):
    check(variant, which, dataclasses.replace(BASE, dtype=dtype))


# Sizes that no small draw reaches: tiles with a tail in every direction, and several splits.
LARGER = {
    "many channels, channels-last": dict(
        input_shape=(1, 72, 3, 11),
        weight_shape=(40, 72, 1, 3),
        output_shape=(1, 40, 3, 9),
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        dilation=(1, 1),
        groups=1,
        layouts=("channels_last", "channels_last", "channels_last"),
    ),
    "many positions": dict(
        input_shape=(3, 2, 11, 43),
        weight_shape=(3, 2, 3, 3),
        output_shape=(3, 3, 11, 43),
        stride=(1, 1),
        padding=(1, 1, 1, 1),
        dilation=(1, 1),
        groups=1,
    ),
    "more taps than bits in a mask": dict(
        input_shape=(1, 2, 6, 9),
        weight_shape=(2, 2, 5, 7),
        output_shape=(1, 2, 3, 4),
        stride=(2, 2),
        padding=(2, 2, 1, 3),
        dilation=(1, 1),
        groups=1,
    ),
    "depthwise, channels-last": dict(
        input_shape=(2, 40, 6, 7),
        weight_shape=(40, 1, 3, 3),
        output_shape=(2, 40, 3, 4),
        stride=(2, 2),
        padding=(1, 1, 1, 1),
        dilation=(1, 1),
        groups=40,
        layouts=("channels_last", "contiguous", "channels_last"),
    ),
}


@pytest.mark.parametrize("which", Pass, ids=lambda w: w.value)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
@pytest.mark.parametrize("name", LARGER)
def test_tails_and_splits(name, variant, which):
    if name.startswith("depthwise") and variant.name == "implicit_gemm":
        name, groups = "depthwise, channels-last", 4
        change = dict(LARGER[name], weight_shape=(40, 10, 3, 3), groups=groups)
    else:
        change = LARGER[name]
    dtype = torch.float16 if "channels-last" in name else torch.float32
    check(variant, which, dataclasses.replace(BASE, dtype=dtype, **change))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_split_sums_are_right_and_the_same_every_time(variant):
    """Planned for many multiprocessors, wgrad splits its sum; the interpreter has one."""
    case = dataclasses.replace(
        BASE,
        input_shape=(8, 2, 40, 64),
        weight_shape=(3, 2, 1, 1),
        output_shape=(8, 3, 40, 64),
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        dilation=(1, 1),
        groups=1,
        dtype=torch.bfloat16,
    )
    x, _, dy = tensors = case.tensors(kernel_device())
    problem = problem_of_case(case, Pass.WGRAD, tensors)
    device = dataclasses.replace(planning_device(), multiprocessors=64)
    plan = make_plan(problem, Pass.WGRAD, device, variant=variant)
    splits = plan.launches[0].arguments["splits"]
    assert len(plan.launches) == 2 and splits > 1
    assert plan.workspace == splits * problem.weight_elements
    first, second = (run_variant(variant, problem, Pass.WGRAD, dy, x, device) for _ in range(2))
    assert torch.equal(first, second)
    assert_agrees(case, Pass.WGRAD, first, problem)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_bfloat16_keeps_zeros_specials_and_ties(variant):
    """What rounding must not spoil: 0, the smallest normal, infinity, NaN, ties to even."""
    smallest, one_digit = 2.0**-126, 1 + 2.0**-7
    values = [0.0, smallest, float("inf"), float("nan"), 1 + 2.0**-8, one_digit + 2.0**-8]
    x = torch.tensor(values, device=kernel_device())
    # Two channels whose sum is the value: 1 + 2^-8 is a tie in bfloat16, and no bfloat16 itself.
    low = torch.where(x.isfinite() & (x > 0.5), torch.full_like(x, 2.0**-8), torch.zeros_like(x))
    pair = torch.stack([x - low, low])[None].bfloat16()
    w = torch.ones(1, 2, 1, dtype=torch.bfloat16, device=x.device)
    problem = fprop_problem(pair, w, None, ConvArguments([1], [0, 0], [1], 1))
    y = run_variant(variant, problem, Pass.FPROP, pair, w).float().flatten()
    expected = [0.0, smallest, float("inf"), float("nan"), 1.0, 1 + 2.0**-6]
    torch.testing.assert_close(y.cpu(), torch.tensor(expected), rtol=0, atol=0, equal_nan=True)
