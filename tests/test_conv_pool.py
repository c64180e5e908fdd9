"""Convolution, activation and pooling in one kernel: its numbers, and where it runs."""

import dataclasses
import itertools
from functools import partial

import numpy as np
import pytest
import torch
import triton.language as tl
from hypothesis import given
from hypothesis import strategies as st
from triton.runtime.errors import InterpreterError

from tritonconv.checks import PADDING_MODES, ConvArguments
from tritonconv.conv_pool import (
    POOLS,
    WITH_TAPS,
    ConvPoolProblem,
    PoolStage,
    conv_pool_problem,
)
from tritonconv.conv_pool_planning import (
    DIRECT,
    GEMM,
    fused_plan,
    gemm_config,
    gemm_configs,
    gemm_launch,
    gemm_refuses,
    supports,
)
from tritonconv.device import INTERPRETER, TARGETS
from tritonconv.epilogue import ACTIVATIONS
from tritonconv.errors import ProblemError
from tritonconv.launch import Plan, Slot, interpreting
from tritonconv.problem import Pass
from tritonconv.reference import textbook
from tritonconv.testing.agreement import kernel_device, planning_device
from tritonconv.testing.interpreter import checked_interpreter
from tritonconv.testing.strategies import LAYOUTS, conv_cases, laid_out
from tritonconv.testing.tolerances import allowed_error_activated, assert_within
from tritonconv.variants.base import Flags

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
NOBODY = 255
ONE_CHANNEL = "one channel a filter would leave matrix units idle"


# -- the kernel ------------------------------------------------------------------------------


def run_plan(problem: ConvPoolProblem, plan: Plan, x, w, bias):
    """(y, taps or None) of a plan, whose results were NaN and an impossible winner before."""

    def new(dtype, value):
        shape, strides = problem.output_shape, problem.output_strides
        return torch.empty_strided(shape, strides, dtype=dtype, device=x.device).fill_(value)

    y = new(x.dtype, float("nan"))
    taps = new(problem.tap_dtype, NOBODY) if problem.keep_taps else None
    slots = {Slot.INPUT: x, Slot.WEIGHT: w, Slot.BIAS: bias, Slot.OUTPUT: y, Slot.TAPS: taps}
    plan.run({slot: tensor for slot, tensor in slots.items() if tensor is not None})
    return y, taps


def fused(tensors, activation, arguments, pool, device=None, kernel=None):
    """(problem, y, taps) of one kernel: this one, or else the GEMM wherever it can."""
    problem = conv_pool_problem(*tensors, activation, arguments, pool)
    assert supports(problem) is None
    aligned = all(t.data_ptr() % 16 == 0 for t in tensors if t is not None)
    device = device or planning_device()
    if kernel is None:
        kernel = GEMM if gemm_refuses(problem, device) in (None, ONE_CHANNEL) else DIRECT
    plan = fused_plan(problem, device, aligned=aligned, kernel=kernel)
    return problem, *run_plan(problem, plan, *tensors)


def units_of(z, pool):
    """z (N, K, *O) as (N, channels, *U, members): the values that are pooled into one."""
    step = pool.size if pool.stride is None else pool.stride
    if pool.pool == "maxout":
        channels = np.lib.stride_tricks.sliding_window_view(z, pool.size[0], 1)
        return channels[:, :: step[0]]
    for axis, size in enumerate(pool.size, start=2):
        # Each axis in turn becomes the units', and the members' go to the end.
        whole = np.lib.stride_tricks.sliding_window_view(z, size, axis)
        z = whole.take(range(0, whole.shape[axis], step[axis - 2]), axis)
    return z.reshape(*z.shape[: len(pool.size) + 2], -1)


def pooled(units, pool):
    """The pool of the last axis; numpy's maximum is NaN if a member is."""
    return {
        "max": lambda u: u.max(-1),
        "maxout": lambda u: u.max(-1),
        "avg": lambda u: u.mean(-1),
        "l2": lambda u: np.sqrt((u * u).sum(-1)),
    }[pool](units)


def exact_stages(tensors, activation, arguments):
    """(sums with bias, the same of absolute values, their activation) in float64."""
    x, w, bias = (None if t is None else t.detach().cpu().double().numpy() for t in tensors)
    pairs = tuple(itertools.pairwise(arguments.padding))[::2]
    geometry = textbook.Geometry(
        tuple(arguments.stride),
        pairs,
        tuple(arguments.dilation),
        arguments.groups,
        arguments.flip,
        arguments.padding_mode,
    )
    sums = textbook.epilogue(textbook.conv(x, w, geometry), bias)
    positive = None if bias is None else np.abs(bias)
    magnitude = textbook.epilogue(textbook.conv(np.abs(x), np.abs(w), geometry), positive)
    return sums, magnitude, textbook.epilogue(sums, activation=activation)


def check(tensors, activation, arguments, pool, device=None, kernel=None):
    """The kernel agrees with the textbook's sums, and its winners hold what it says they do.

    A pool of values that are off is off by no more than the pool of what they are off by: the
    largest for a maximum, the mean, or by the triangle inequality the norm.
    """
    problem, y, taps = fused(tensors, activation, arguments, pool, device, kernel)
    sums, magnitude, z = exact_stages(tensors, activation, arguments)
    error = units_of(allowed_error_activated(problem.conv, Pass.FPROP, sums, magnitude, z), pool)
    units = units_of(z, pool)
    exact, allowed = pooled(units, pool.pool), pooled(error, pool.pool)
    assert_within(y, exact, allowed)
    if taps is not None:
        number = taps.cpu().numpy().astype(np.int64)[..., None]
        assert number.max(initial=0) < problem.members
        won = np.take_along_axis(units, number, -1)[..., 0]
        assert (won >= exact - 2 * allowed).all()


@st.composite
def draw_calls(draw, dtype):
    """Tensors and arguments of any convolution with one bank and of any pool that fits it."""
    case = draw(conv_cases(dtypes=(dtype,), kinds=("shared",), padding_modes=PADDING_MODES))
    x, w, _ = case.tensors(kernel_device())
    kind = draw(st.sampled_from(POOLS))
    if kind == "maxout":
        pieces = draw(st.sampled_from((1, 2, 4, 8)))
        # As many filters again, so that a group's are whole maxout units.
        w, size = w.repeat_interleave(pieces, 0), [pieces]
        w = w * torch.linspace(-1, 1, len(w)).reshape(-1, *[1] * (w.dim() - 1)).to(w)
    else:
        size = [draw(st.integers(1, min(o, 3))) for o in case.output_shape[2:]]
    bias = None
    if draw(st.booleans()):
        bias = torch.randn(len(w), generator=torch.Generator().manual_seed(case.seed)).to(w)
    keep = kind in WITH_TAPS and draw(st.booleans())
    activation = draw(st.sampled_from(ACTIVATIONS))
    return (x, w, bias), activation, case.arguments, PoolStage(kind, size, keep)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_agrees_with_the_textbook(dtype, data):
    check(*data.draw(draw_calls(dtype)))


@st.composite
def draw_any_calls(draw, dtype):
    """As `draw_calls`, of any filters, biases, groups, pieces and steps that do not overlap."""
    kinds = ("shared", "tiled", "depthwise")
    case = draw(conv_cases(dtypes=(dtype,), kinds=kinds, padding_modes=PADDING_MODES))
    x, w, _ = case.tensors(kernel_device())
    kind, rank = draw(st.sampled_from(POOLS)), x.dim() - 2
    if kind == "maxout":
        pieces = draw(st.sampled_from([n for n in range(1, len(w) + 1) if len(w) % n == 0]))
        if w.dim() > rank + 2:
            pieces = w.shape[rank]
        size = [pieces]
    else:
        size = [draw(st.integers(1, min(o, 3))) for o in case.output_shape[2:]]
    k, bias = w.shape[w.dim() - rank - 2], None
    if draw(st.booleans()):
        period = [draw(st.integers(1, o)) for o in case.output_shape[2:]]
        bias = torch.randn(*period, k, generator=torch.Generator().manual_seed(case.seed)).to(w)
    step = [s + draw(st.integers(0, 1)) for s in size]
    keep = kind in WITH_TAPS and draw(st.booleans())
    activation = draw(st.sampled_from(ACTIVATIONS))
    return (x, w, bias), activation, case.arguments, PoolStage(kind, size, keep, step)


@pytest.mark.parametrize("dtype", (*DTYPES, torch.float64))
@given(data=st.data())
def test_the_direct_kernel_agrees_with_the_textbook(dtype, data):
    check(*data.draw(draw_any_calls(dtype)), kernel=DIRECT)


def tensors_of(x, w, dtype=torch.float32, layout="channels_last", integers=False):
    """(input, weight, bias) of these shapes."""
    generator = torch.Generator().manual_seed(0)

    def new(shape):
        if integers:
            values = torch.randint(-2, 3, shape, generator=generator)
        else:
            values = torch.randn(shape, generator=generator)
        return values.to(kernel_device(), dtype)

    weight_layout = "contiguous" if layout in ("contiguous", "sliced") else "channels_last"
    return laid_out(new(x), layout), laid_out(new(w), weight_layout), new((w[0],))


def conv_of(rank, stride=1, padding=1, dilation=1, groups=1, mode="zeros"):
    return ConvArguments(
        [stride] * rank, [padding] * 2 * rank, [dilation] * rank, groups, False, mode
    )


# Sizes that no small draw reaches: tiles, their tails, vectors, and what decides the tile's form.
LARGER = {
    "two tiles of columns, two steps": (
        tensors_of((1, 72, 5, 6), (136, 72, 3, 3), torch.bfloat16),
        "relu",
        conv_of(2),
        PoolStage("max", [2, 2], True),
    ),
    "many windows, a remainder": (
        tensors_of((3, 5, 9, 15), (7, 5, 3, 3), layout="contiguous"),
        "none",
        conv_of(2),
        PoolStage("max", [2, 2], True),
    ),
    "windows of two rows in vectors": (
        tensors_of((2, 8, 8, 7), (16, 8, 3, 3), torch.float16),
        "tanh",
        conv_of(2, 1, 2, 2),
        PoolStage("l2", [2, 1]),
    ),
    "places that hold nothing": (
        tensors_of((2, 8, 11, 13), (8, 8, 3, 3), torch.float16),
        "leaky_relu",
        conv_of(2),
        PoolStage("max", [3, 3], True),
    ),
    "places that hold nothing, averaged": (
        tensors_of((1, 8, 11, 13), (8, 8, 1, 1), torch.float16, "expanded"),
        "gelu",
        conv_of(2, padding=0),
        PoolStage("avg", [3, 3]),
    ),
    "places that hold nothing in a norm": (
        tensors_of((1, 8, 16), (8, 8, 3), torch.bfloat16),
        "none",
        conv_of(1),
        PoolStage("l2", [5]),
    ),
    "windows of 32": (
        tensors_of((1, 4, 9, 17), (8, 4, 3, 3), layout="sliced"),
        "silu",
        conv_of(2),
        PoolStage("max", [4, 8], True),
    ),
    "a volume with a border that folds": (
        tensors_of((1, 8, 4, 5, 5), (8, 8, 3, 3, 3)),
        "sigmoid",
        conv_of(3, mode="circular"),
        PoolStage("max", [2, 2, 2], True),
    ),
    "more taps than bits": (
        tensors_of((2, 4, 13, 12), (8, 4, 6, 6)),
        "relu",
        conv_of(2, 2, 2),
        PoolStage("avg", [2, 2]),
    ),
    "groups": (
        tensors_of((2, 16, 9, 9), (32, 8, 3, 3), torch.bfloat16),
        "relu",
        conv_of(2, 2, groups=2, mode="reflect"),
        PoolStage("max", [1, 2], True),
    ),
    "maxout of two tiles of columns": (
        tensors_of((1, 8, 5, 6), (256 + 32, 8, 3, 3), torch.bfloat16),
        "none",
        conv_of(2),
        PoolStage("maxout", [4], True),
    ),
    "maxout of groups, contiguous": (
        tensors_of((2, 6, 9, 9), (96, 3, 3, 3), torch.float16, "contiguous"),
        "relu",
        conv_of(2, groups=2),
        PoolStage("maxout", [16], True),
    ),
    "maxout of as many as there may be": (
        tensors_of((2, 8, 9), (64, 8, 3)),
        "tanh",
        conv_of(1),
        PoolStage("maxout", [32]),
    ),
}


@pytest.mark.parametrize("name", LARGER)
def test_tiles_and_tails(name):
    check(*LARGER[name])


# What the direct kernel's vectors, tiles and tails are, and sizes beyond a tile of each form.
DIRECT_LARGER = {
    "vectors of channels": (
        tensors_of((2, 16, 19, 17), (20, 16, 2, 2), torch.float16),
        conv_of(2),
        PoolStage("max", [2, 2], True),
        {"BLOCK_M": 128, "VECTOR": 8, "DST_VECTOR": 1},
    ),
    "vectors of columns": (
        tensors_of((2, 96, 19, 9), (96, 1, 3, 3), torch.bfloat16),
        conv_of(2, groups=96),
        PoolStage("l2", [2, 2]),
        {"BLOCK_M": 64, "VECTOR": 8, "DST_VECTOR": 8},
    ),
    "rows of planes": (
        tensors_of((1, 3, 40, 30), (6, 1, 2, 2), layout="contiguous"),
        conv_of(2, padding=0, groups=3),
        PoolStage("avg", [2, 2]),
        {"BLOCK_M": 256, "BLOCK_N": 1, "VECTOR": 1},
    ),
    "doubles in vectors, maxout": (
        tensors_of((1, 4, 13, 12), (96, 4, 1, 1), torch.float64),
        conv_of(2, padding=0),
        PoolStage("maxout", [3], True),
        {"BLOCK_M": 128, "BLOCK_N": 8, "VECTOR": 2},
    ),
    "doubles by planes": (
        tensors_of((1, 3, 11, 12), (33, 3, 2, 1), torch.float64, "sliced"),
        conv_of(2),
        PoolStage("max", [2, 1], True),
        {"BLOCK_M": 128, "BLOCK_N": 8, "VECTOR": 1},
    ),
}


@pytest.mark.parametrize("name", DIRECT_LARGER)
def test_direct_tiles_and_tails(name):
    tensors, arguments, pool, constants = DIRECT_LARGER[name]
    problem = conv_pool_problem(*tensors, "relu", arguments, pool)
    (launch,) = fused_plan(problem, planning_device(), kernel=DIRECT).launches
    assert launch.programs > 1
    found = {key: {**launch.arguments, **dict(launch.config.constants)}[key] for key in constants}
    assert found == constants
    check(tensors, "relu", arguments, pool, kernel=DIRECT)


@pytest.mark.parametrize("pool", POOLS)
def test_every_config_computes_the_same(pool):
    """Over integers, whose sums are exact, and a unit's members are combined in one order."""
    tensors = tensors_of((1, 8, 9, 13), (40, 8, 3, 3), torch.bfloat16, integers=True)
    pool = PoolStage(pool, [8] if pool == "maxout" else [2, 3], pool in WITH_TAPS)
    problem = conv_pool_problem(*tensors, "relu", conv_of(2), pool)
    plan = fused_plan(problem, planning_device())
    units = units_of(exact_stages(tensors, "relu", conv_of(2))[2], pool)
    want = torch.from_numpy(pooled(units, pool.pool)).bfloat16()
    configs = gemm_configs(problem)
    assert len(configs) == 6
    seen = []
    for config in configs:
        launch = gemm_launch(problem, config, Flags(True, interpreting(), 1))
        y, taps = run_plan(problem, dataclasses.replace(plan, launches=(launch,)), *tensors)
        seen.append(y.cpu())
        assert torch.equal(seen[-1], seen[0]), config
        if taps is not None:
            assert (taps.cpu().numpy() == units.argmax(-1)).all(), config
    # A mean and a root of float32 may be rounded once more than those of float64.
    torch.testing.assert_close(seen[0], want, rtol=0 if pool.keep_taps else 2**-7, atol=0)


@pytest.mark.parametrize("kernel", [GEMM, DIRECT])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_ties_and_nan(layout, kernel):
    """The first of equals wins, an infinity among them; NaN wins over all, the last NaN."""
    nan, inf = float("nan"), float("inf")
    rows = [
        [0, 0, 0, 0, 0, 0],
        [-1, 3, 3, -inf, 3, 0],
        [-inf] * 6,
        [1, inf, 0, 0, inf, nan],
        [2, nan, inf, nan, 1, 0],
        [nan] * 6,
        [0, 0, 0, 0, 0, 1],
        [-3, -2, -1, -1, -2, -3],
    ]
    x = laid_out(torch.tensor(rows).reshape(1, 1, -1).to(kernel_device()), layout)
    w = torch.ones(1, 1, 1, device=x.device)
    pool = PoolStage("max", [6], True)
    # A batch of one: what is expanded has no second image, but its stride is 0.
    one = partial(fused, kernel=kernel)
    _, y, taps = one((x, w, None), "none", conv_of(1, padding=0), pool)
    want = torch.tensor([0, 3, -inf, nan, nan, nan, 1, -1])
    torch.testing.assert_close(y.flatten().cpu(), want, rtol=0, atol=0, equal_nan=True)
    assert taps.flatten().tolist() == [0, 1, 0, 5, 3, 5, 5, 2]
    plain = one((x, w, None), "none", conv_of(1, padding=0), PoolStage("max", [6]))[1]
    torch.testing.assert_close(plain, y, rtol=0, atol=0, equal_nan=True)
    # The same over channels, each of whose values is its filter's bias.
    zero = torch.zeros(1, 1, 1, device=x.device)
    for row, number in zip(rows, [0, 1, 0, 1, 3, 3, 0, 2], strict=True):
        bias = torch.tensor([float(value) for value in row[:4]], device=x.device)
        for keep in (True, False):
            pool = PoolStage("maxout", [4], keep)
            tensors = (zero, zero.new_zeros(4, 1, 1), bias)
            _, y, taps = one(tensors, "none", conv_of(1, padding=0), pool)
            torch.testing.assert_close(y, bias.max().view(1, 1, 1), rtol=0, atol=0, equal_nan=True)
            assert taps.item() == number if keep else taps is None


@pytest.mark.parametrize("kernel", [GEMM, DIRECT])
def test_norms_neither_overflow_nor_vanish(kernel):
    x = torch.tensor([3e30, 4e30, 3e-30, 4e-30, 0, 0, 1e-42, 0, 3e38, 0, 1, float("inf")])
    x = x.reshape(1, 1, -1).to(kernel_device())
    w = torch.ones(1, 1, 1, device=x.device)
    pool = PoolStage("l2", [2])
    y = fused((x, w, None), "none", conv_of(1, padding=0), pool, kernel=kernel)[1]
    want = torch.tensor([5e30, 5e-30, 0, 1e-42, 3e38, float("inf")])
    torch.testing.assert_close(y.flatten().cpu(), want, rtol=1e-6, atol=0)


def test_norms_of_doubles_neither_overflow_nor_vanish():
    x = torch.tensor([3e300, 4e300, 4e-300, 3e-300, 0, 3e305, 1e-320, 0, 3, 4], dtype=torch.float64)
    x = x.reshape(1, 1, -1).to(kernel_device())
    pool = PoolStage("l2", [2])
    y = fused((x, torch.ones_like(x[..., :1]), None), "none", conv_of(1, padding=0), pool)[1]
    want = torch.tensor([5e300, 5e-300, 3e305, 1e-320, 5], dtype=torch.float64)
    torch.testing.assert_close(y.flatten().cpu(), want, rtol=1e-14, atol=0)


@pytest.mark.parametrize("kernel", [GEMM, DIRECT])
def test_no_images(kernel):
    tensors = tensors_of((0, 8, 5, 5), (8, 8, 3, 3))
    pool = PoolStage("max", [2, 2], True)
    problem, y, taps = fused(tensors, "relu", conv_of(2), pool, kernel=kernel)
    assert y.shape == taps.shape == (0, 8, 2, 2) and problem.output_shape == y.shape


@pytest.mark.skipif(not interpreting(), reason="overflow checks exist only in the interpreter")
@pytest.mark.parametrize("kernel", [GEMM, DIRECT])
def test_beyond_2_to_the_31(kernel):
    """Three images that lie 2^30 + 64 elements apart, in memory that is never touched between."""
    torch.use_deterministic_algorithms(False)
    distance = 2**30 + 64
    x = torch.empty(2 * distance + 64, dtype=torch.float16).as_strided(
        (3, 8, 2, 2), (distance, 1, 16, 8)
    )
    x.copy_(torch.arange(96.0).reshape(3, 8, 2, 2) / 8)
    _, w, bias = tensors_of((3, 8, 2, 2), (4, 8, 3, 3), torch.float16, integers=True)
    pool = PoolStage("max", [2, 2], True)
    want = fused((x.contiguous(), w, bias), "none", conv_of(2), pool, kernel=kernel)
    with checked_interpreter():
        problem, *got = fused((x, w, bias), "none", conv_of(2), pool, INTERPRETER, kernel)
        plan = fused_plan(problem, INTERPRETER, kernel=kernel)
        (launch,) = plan.launches
        assert launch.arguments["INDEX"] is tl.int64
        launch = dataclasses.replace(launch, arguments={**launch.arguments, "INDEX": tl.int32})
        with pytest.raises(InterpreterError, match="overflow"):
            run_plan(problem, dataclasses.replace(plan, launches=(launch,)), x, w, bias)
    assert all(torch.equal(a, b) for a, b in zip(got, want[1:], strict=True))


def test_places_that_hold_nothing_count_as_rows():
    """Windows of five take eight places each: an int32 holds the positions, but not the places."""
    x = torch.empty((1 << 20, 1, 1500), dtype=torch.bfloat16, device="meta").expand(-1, -1, 1500)
    x = x.as_strided(x.shape, (0, 0, 1))
    w = torch.empty((1, 1, 1), dtype=torch.bfloat16, device="meta")
    for window, index in (([4], tl.int32), ([5], tl.int64)):
        pool = PoolStage("avg", window)
        problem = conv_pool_problem(x, w, None, "none", conv_of(1, padding=0), pool)
        (launch,) = fused_plan(problem, TARGETS["sm_90"], kernel=GEMM).launches
        assert launch.arguments["INDEX"] is index


# -- where it runs ---------------------------------------------------------------------------


def described(x, w, pool, size, dtype=torch.bfloat16, bias=False, step=None):
    """The problem of a 2-D convolution with its padding, over tensors without memory."""
    x, w = (
        torch.empty(s, dtype=dtype, device="meta").contiguous(memory_format=torch.channels_last)
        for s in (x, w)
    )
    arguments = conv_of(2, padding=w.shape[-1] // 2, groups=x.shape[1] // w.shape[1])
    bias = x.new_empty((*x.shape[2:], w.shape[0])) if bias else None
    return conv_pool_problem(x, w, bias, "relu", arguments, PoolStage(pool, size, False, step))


LARGE, SMALL, FILTERS = (32, 64, 56, 56), (1, 64, 7, 7), (128, 64, 3, 3)


@pytest.mark.parametrize("target", TARGETS)
def test_which_kernel_and_why(target):
    """One of the two, whose plan names the other; the GEMM wherever it can."""
    device = TARGETS[target]
    for problem in (
        *(
            described(LARGE, FILTERS, *p)
            for p in (("max", [2, 2]), ("avg", [3, 1]), ("l2", [3, 3]))
        ),
        described(LARGE, FILTERS, "maxout", [4]),
        described(LARGE, (128, 64, 1, 1), "max", [2, 2]),
        described((32, 3, 56, 56), (64, 3, 7, 7), "max", [2, 2]),
        described((16, 64, 7, 7), FILTERS, "max", [2, 2]),
        described(LARGE, FILTERS, "max", [2, 2], step=[3, 2]),
    ):
        plan = fused_plan(problem, device)
        assert plan.variant == GEMM and len(plan.launches) == 1
        assert plan.rejected == ((DIRECT, "conv_pool_gemm comes before it"),)
    x, w = torch.empty(1, 4, 5, device="meta"), torch.empty(3, 4, 4, 3, device="meta")
    tiled = conv_pool_problem(x, w, None, "none", conv_of(1), PoolStage("max", [2]))
    for problem, reason in (
        (described(LARGE, (64, 1, 3, 3), "max", [2, 2]), ONE_CHANNEL),
        (described(SMALL, FILTERS, "max", [2, 2], torch.float64), "float64 has no tl.dot"),
        (described(SMALL, FILTERS, "max", [2, 2], bias=True), "an untied bias differs"),
        (described(SMALL, FILTERS, "max", [7, 5]), "35 values are pooled into one"),
        (described(SMALL, (96, 64, 3, 3), "maxout", [3]), "3 pieces do not fill"),
        (described(SMALL, (96, 16, 3, 3), "maxout", [16]), "16 pieces lie in more than one of 4"),
        (described(SMALL, (96, 64, 3, 3), "maxout", [2], step=[4]), "channels between two maxout"),
        (tiled, "a weight period has a GEMM for each bank"),
    ):
        plan = fused_plan(problem, device)
        assert plan.variant == DIRECT and len(plan.launches) == 1
        ((name, said),) = plan.rejected
        assert name == GEMM and said.startswith(reason), said


def test_only_what_overlaps_takes_two_kernels():
    for pool, size, step, reason in (
        ("max", [3, 2], [2, 2], "pooling windows of 3x2 at steps of 2x2: only what does not"),
        ("maxout", [4], [3], "pooling 4 channels at steps of 3: only what does not"),
        # A window alone on its axis meets no other.
        ("avg", [7, 2], [1, 3], None),
        ("l2", [2, 2], [3, 2], None),
        ("maxout", [128], [1], None),
    ):
        found = supports(described(SMALL, FILTERS, pool, size, step=step))
        assert found is None if reason is None else found.startswith(reason)


def test_filters_that_take_turns_are_no_vectors():
    """Maxout reorders the filters of a tile, so those that lie side by side no longer do."""
    x, w = torch.empty(1, 64, 8, device="meta"), torch.empty(1, 64, 96, device="meta")
    for pool, width in ((PoolStage("max", [2]), 4), (PoolStage("maxout", [4]), 1)):
        problem = conv_pool_problem(x, w.permute(2, 1, 0), None, "none", conv_of(1), pool)
        (launch,) = fused_plan(problem, TARGETS["sm_90"]).launches
        assert launch.arguments["WEIGHT_DST_UNIT"]
        assert launch.arguments["WEIGHT_VECTOR"] == width


def test_the_tile_holds_all_columns_and_no_size_chooses_its_width():
    device = TARGETS["sm_90"]
    for x in (LARGE, SMALL):
        found = [described(x, (k, 64, 3, 3), "max", [2, 2]) for k in (1, 32, 33, 64, 65, 129)]
        widths = [gemm_config(problem, device)["BLOCK_N"] for problem in found]
        assert widths == [32, 32, 64, 64, 128, 128]


def test_shapes_and_memory_formats_are_those_of_two_steps():
    for layout, (x, size) in itertools.product(
        ("contiguous", "channels_last"), (((2, 8, 7, 6), [2, 3]), ((2, 8, 3, 2), [3, 2]))
    ):
        for pool, k in (("max", 6), ("maxout", 8)):
            tensors = tensors_of(x, (k, 8, 3, 3), layout=layout)
            window = PoolStage(pool, [4] if pool == "maxout" else size)
            problem = conv_pool_problem(*tensors, "none", conv_of(2), window)
            z = torch.ops.tritonconv.conv(tensors[0], tensors[1], None, *arguments_of(conv_of(2)))
            want = z.unflatten(1, (2, 4)).amax(2) if pool == "maxout" else None
            if want is None:
                want = torch.nn.functional.max_pool2d(z, size)
                assert problem.output_strides == want.stride()
            assert problem.output_shape == want.shape


def arguments_of(conv):
    return [getattr(conv, field.name) for field in dataclasses.fields(conv)]


REFUSED = {
    "no such pool": (("min", [2, 2]), "pool: expected one of max, avg, l2, maxout, got 'min'"),
    "too few sizes": (("max", [2]), r"pool_size: expected 2 positive ints .* got \[2\]"),
    "a size of 0": (("avg", [2, 0]), r"pool_size: expected 2 positive ints .* got \[2, 0\]"),
    "maxout by window": (("maxout", [2, 2]), "pool_size: expected 1 positive int, a number"),
    "no divisor": (("maxout", [4]), "pool_size: expected a divisor of the 6 output channels"),
    "too large": (("l2", [2, 6]), r"pool_size: expected at most \[5, 5\]"),
    "no winner": (("avg", [2, 2], True), "keep_taps: expected False for pool 'avg'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_the_name_of_the_argument(name):
    pool, message = REFUSED[name]
    tensors = tensors_of((1, 4, 5, 5), (6, 4, 3, 3))
    with pytest.raises(ProblemError, match=message):
        conv_pool_problem(*tensors, "relu", conv_of(2), PoolStage(*pool))
