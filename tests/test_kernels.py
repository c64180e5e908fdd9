"""Every variant, pass and dtype against the textbook's sums; outputs poisoned with NaN."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tritonconv.checks import PADDING_MODES, ConvArguments
from tritonconv.planning import make_plan
from tritonconv.problem import Pass, fprop_problem
from tritonconv.testing.agreement import (
    assert_agrees,
    assert_agrees_fused,
    kernel_device,
    planning_device,
    problem_of_case,
    run_variant,
)
from tritonconv.testing.examples import EXAMPLES, case_of, kinds_of, modes_of, refusal
from tritonconv.testing.strategies import KINDS, conv_cases, extras_for
from tritonconv.variants import VARIANTS

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
CHANNELS_LAST = ("channels_last", "channels_last", "channels_last")


def check(variant, which, case):
    """One pass by one variant agrees with the textbook."""
    x, w, dy = tensors = case.tensors(kernel_device())
    problem = problem_of_case(case, which, tensors)
    a, b = {Pass.FPROP: (x, w), Pass.DGRAD: (dy, w), Pass.WGRAD: (dy, x)}[which]
    assert_agrees(case, which, run_variant(variant, problem, which, a, b), problem)


MATRIX = [
    pytest.param(variant, which, dtype, id=f"{variant.name}-{which.value}-{str(dtype)[6:]}")
    for variant in VARIANTS
    for which in Pass
    for dtype in DTYPES
    if kinds_of(variant, which, dtype)
]


def test_every_dtype_has_a_variant_for_every_pass_of_every_kind():
    missing = [
        (which, dtype, kind, mode)
        for which in Pass
        for dtype in DTYPES
        for kind in KINDS
        for mode in PADDING_MODES
        if all(refusal(v, which, kind, dtype, mode) for v in VARIANTS)
    ]
    assert not missing


@pytest.mark.parametrize(("variant", "which", "dtype"), MATRIX)
@given(data=st.data())
def test_agrees_with_the_textbook(variant, which, dtype, data):
    kinds, modes = kinds_of(variant, which, dtype), modes_of(variant, which, dtype)
    case = data.draw(conv_cases(dtypes=(dtype,), kinds=kinds, padding_modes=modes, crops=True))
    check(variant, which, case)


@pytest.mark.parametrize(("variant", "which", "dtype"), MATRIX)
def test_example_of_each_kind(variant, which, dtype):
    for kind in kinds_of(variant, which, dtype):
        check(variant, which, dataclasses.replace(EXAMPLES[kind], dtype=dtype))


@pytest.mark.parametrize(
    ("variant", "which", "dtype"), [p for p in MATRIX if p.values[1] is not Pass.WGRAD]
)
@given(data=st.data())
def test_epilogue_agrees_with_the_textbook(variant, which, dtype, data):
    """Bias of any period, residual, every activation, and the number before it."""
    case = data.draw(conv_cases(dtypes=(dtype,), kinds=kinds_of(variant, which, dtype)))
    shape = case.output_shape if which is Pass.FPROP else case.input_shape
    extras = data.draw(extras_for(shape, dtype, kernel_device()))
    assert_agrees_fused(variant, case, which, extras)


# Sizes that no small draw reaches: tiles with a tail in every direction, and several splits.
LARGER = {
    "many channels, channels-last": (
        "shared",
        case_of((1, 72, 3, 11), (40, 72, 1, 3), (1, 40, 3, 9), layouts=CHANNELS_LAST),
    ),
    "many positions": (
        "shared",
        case_of((3, 2, 11, 43), (3, 2, 3, 3), (3, 3, 11, 43), padding=(1, 1, 1, 1)),
    ),
    "more taps than bits in a mask": (
        "shared",
        case_of((1, 2, 6, 9), (2, 2, 5, 7), (1, 2, 3, 4), stride=(2, 2), padding=(2, 2, 1, 3)),
    ),
    "grouped, channels-last": (
        "shared",
        case_of(
            (2, 40, 6, 7),
            (40, 10, 3, 3),
            (2, 40, 3, 4),
            stride=(2, 2),
            padding=(1, 1, 1, 1),
            groups=4,
            layouts=CHANNELS_LAST,
        ),
    ),
    "depthwise, channels-last": (
        "depthwise",
        case_of(
            (2, 40, 6, 19),
            (40, 1, 3, 3),
            (2, 40, 3, 10),
            stride=(2, 2),
            padding=(1, 1, 1, 1),
            groups=40,
            layouts=("channels_last", "contiguous", "channels_last"),
        ),
    ),
    "depthwise, many positions": (
        "depthwise",
        case_of((3, 5, 9, 70), (5, 1, 5, 5), (3, 5, 9, 70), padding=(2, 2, 2, 2), groups=5),
    ),
    "unshared, many images": (
        "unshared",
        case_of((35, 5, 3, 4), (2, 3, 20, 5, 2, 2), (35, 20, 2, 3)),
    ),
    "unshared, channels-last": (
        "unshared",
        case_of((3, 40, 3, 3), (2, 2, 24, 40, 2, 2), (3, 24, 2, 2), layouts=CHANNELS_LAST),
    ),
    "pointwise, channels-last": (
        "pointwise",
        case_of((3, 72, 5, 9), (40, 72, 1, 1), (3, 40, 5, 9), layouts=CHANNELS_LAST),
    ),
    "pointwise, many positions": (
        "pointwise",
        case_of((2, 24, 12, 16), (72, 24, 1, 1), (2, 72, 12, 16)),
    ),
    "stem, channels-last": (
        "stem",
        case_of(
            (2, 3, 23, 23),
            (40, 3, 7, 7),
            (2, 40, 12, 12),
            stride=(2, 2),
            padding=(3, 3, 3, 3),
            layouts=CHANNELS_LAST,
        ),
    ),
    "stem": (
        "stem",
        case_of((1, 3, 31, 31), (5, 3, 7, 7), (1, 5, 13, 13), stride=(2, 2)),
    ),
}


@pytest.mark.parametrize("which", Pass, ids=lambda w: w.value)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_tails_and_splits(variant, which):
    for name, (kind, case) in LARGER.items():
        dtype = torch.float16 if "channels-last" in name else torch.float32
        if kind in kinds_of(variant, which, dtype) and not (
            kind != "shared" and "shared" in variant.kinds
        ):
            check(variant, which, dataclasses.replace(case, dtype=dtype))


LONG_CHANNELS = case_of((1, 130, 3, 3), (130, 130, 3, 3), (1, 130, 3, 3), padding=(1, 1, 1, 1))
# Sums long enough to be shared out: over the positions in wgrad, over channels and taps elsewhere.
LONG_SUMS = {
    "shared": case_of((8, 2, 40, 64), (3, 2, 1, 1), (8, 3, 40, 64)),
    "pointwise": case_of((8, 2, 40, 64), (3, 2, 1, 1), (8, 3, 40, 64)),
    "stem": case_of((4, 2, 41, 64), (3, 2, 2, 1), (4, 3, 40, 64)),
    "depthwise": case_of((8, 3, 41, 64), (3, 1, 2, 1), (8, 3, 40, 64), groups=3),
}


@pytest.mark.parametrize("which", Pass, ids=lambda w: w.value)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_split_sums_are_right_and_the_same_every_time(variant, which):
    """Planned for many multiprocessors, long sums are split; the interpreter has one."""
    device = dataclasses.replace(planning_device(), multiprocessors=64)
    kinds = [k for k in kinds_of(variant, which, torch.bfloat16) if k in LONG_SUMS]
    seen = 0
    for kind in kinds[:1]:
        case = LONG_SUMS[kind] if which is Pass.WGRAD else LONG_CHANNELS
        case = dataclasses.replace(case, dtype=torch.bfloat16)
        x, w, dy = tensors = case.tensors(kernel_device())
        problem = problem_of_case(case, which, tensors)
        if variant.supports(problem, which) is not None:
            continue
        plan = make_plan(problem, which, device, variant=variant)
        if len(plan.launches) == 1:
            continue
        seen += 1
        splits = plan.launches[0].arguments["splits"]
        assert splits > 1
        assert plan.workspace == splits * torch.Size(problem.result_shape(which)).numel()
        a, b = {Pass.FPROP: (x, w), Pass.DGRAD: (dy, w), Pass.WGRAD: (dy, x)}[which]
        first, second = (run_variant(variant, problem, which, a, b, device) for _ in range(2))
        assert torch.equal(first, second)
        assert_agrees(case, which, first, problem)
    # wgrad is always split, the other passes by the variant that is there to do it.
    assert seen or not kinds or (which is not Pass.WGRAD and variant.name != "split_k")


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_bfloat16_keeps_zeros_specials_and_ties(variant):
    """What rounding must not spoil: 0, the smallest normal, infinity, NaN, ties to even."""
    smallest, one_digit = 2.0**-126, 1 + 2.0**-7
    values = [0.0, smallest, float("inf"), float("nan"), 1 + 2.0**-8, one_digit + 2.0**-8]
    x = torch.tensor(values, device=kernel_device())
    # Two numbers whose sum is the value: 1 + 2^-8 is a tie in bfloat16, and no bfloat16 itself.
    low = torch.where(x.isfinite() & (x > 0.5), torch.full_like(x, 2.0**-8), torch.zeros_like(x))
    if variant.kinds == ("pointwise",):
        pair = torch.stack([x - low, low])[None]
        w, stride = x.new_ones(1, 2, 1), 1
    else:
        pair = torch.stack([x - low, low], -1).reshape(1, 1, -1)
        w, stride = x.new_ones(1, 1, 2), 2
    if variant.kinds == ("unshared",):
        w = w.expand(len(values), 1, 1, 2)
    pair, w = pair.bfloat16(), w.bfloat16()
    problem = fprop_problem(pair, w, None, ConvArguments([stride], [0, 0], [1], 1))
    y = run_variant(variant, problem, Pass.FPROP, pair, w).float().flatten()
    expected = [0.0, smallest, float("inf"), float("nan"), 1.0, 1 + 2.0**-6]
    torch.testing.assert_close(y.cpu(), torch.tensor(expected), rtol=0, atol=0, equal_nan=True)
