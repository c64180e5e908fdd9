"""Depthwise separable convolution in one kernel: its numbers, where it runs, and its gradients."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import triton.language as tl
from hypothesis import given
from hypothesis import strategies as st
from torch.library import opcheck
from triton.runtime.errors import InterpreterError

import tritonconv
from tritonconv.checks import PADDING_MODES
from tritonconv.device import INTERPRETER, TARGETS
from tritonconv.errors import ProblemError
from tritonconv.launch import interpreting
from tritonconv.ops import separable
from tritonconv.problem import Pass
from tritonconv.reference import textbook
from tritonconv.separable import declines, default_config, fused_plan, separable_problem
from tritonconv.testing.agreement import kernel_device, planning_device
from tritonconv.testing.interpreter import checked_interpreter, counted_launches
from tritonconv.testing.strategies import LAYOUTS, conv_cases, extras_for, laid_out
from tritonconv.testing.tolerances import allowed_error, assert_within

ROOT = Path(__file__).parent.parent
OP = torch.ops.tritonconv.depthwise_separable
HALVES = (torch.float16, torch.bfloat16)
KERNEL = "depthwise_pointwise"


# -- the kernel ------------------------------------------------------------------------------


def fused(tensors, rest, device=None, index=None):
    """The fused kernel's result, wherever it would pay; `index` overrides the kernel's width."""
    problem = separable_problem(*tensors, *rest)
    aligned = all(t.data_ptr() % 16 == 0 for t in tensors if t is not None)
    plan = fused_plan(problem, device or planning_device(), aligned=aligned)
    if index is not None:
        (launch,) = plan.launches
        launch = dataclasses.replace(launch, arguments={**launch.arguments, "INDEX": index})
        plan = dataclasses.replace(plan, launches=(launch,))
    return separable._run_plan(plan, *tensors)


def check(tensors, rest):
    """The fused kernel agrees with the textbook's two sums.

    Its depthwise step may be off by what `allowed_error` gives a convolution that is stored, and
    never in tf32, for it uses no matrix unit. The pointwise step passes that on, times the
    magnitude of its weights, and adds its own error.
    """
    problem = separable_problem(*tensors, *rest)
    stride, padding, dilation, flip, mode = rest
    x, depthwise, pointwise, bias = (
        None if t is None else t.detach().cpu().double().numpy() for t in tensors
    )
    pairs = tuple(itertools.pairwise(padding))[::2]
    first = textbook.Geometry(
        tuple(stride), pairs, tuple(dilation), x.shape[1], flip, padding_mode=mode
    )
    rank = len(stride)
    second = textbook.Geometry((1,) * rank, ((0, 0),) * rank, (1,) * rank)
    hidden = textbook.conv(x, depthwise, first)
    magnitude = textbook.conv(np.abs(x), np.abs(depthwise), first)
    exactly = dataclasses.replace(problem.depthwise, precision="ieee")
    error = allowed_error(exactly, Pass.FPROP, hidden, magnitude)

    exact = textbook.conv(hidden, pointwise, second, bias)
    positive = None if bias is None else np.abs(bias)
    magnitude = textbook.conv(np.abs(hidden) + error, np.abs(pointwise), second, positive)
    allowed = allowed_error(problem.pointwise, Pass.FPROP, exact, magnitude)
    allowed += textbook.conv(error, np.abs(pointwise), second)
    assert_within(fused(tensors, rest), exact, allowed)


@st.composite
def draw_calls(draw, dtype):
    """Tensors and arguments of any depthwise convolution, followed by any pointwise one."""
    case = draw(
        conv_cases(dtypes=(dtype,), kinds=("depthwise",), padding_modes=PADDING_MODES, crops=True)
    )
    x, depthwise, _ = case.tensors(kernel_device())
    columns = draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(case.seed)
    shape = (columns, depthwise.shape[0], *[1] * case.rank)
    pointwise = torch.randn(shape, generator=generator).to(kernel_device(), dtype)
    pointwise = laid_out(pointwise, draw(st.sampled_from(LAYOUTS)))
    y_shape = (x.shape[0], columns, *case.output_shape[2:])
    bias = draw(extras_for(y_shape, dtype, kernel_device())).bias
    a = case.arguments
    return (
        (x, depthwise, pointwise, bias),
        (a.stride, a.padding, a.dilation, a.flip, a.padding_mode),
    )


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
@given(data=st.data())
def test_agrees_with_the_textbook(dtype, data):
    check(*data.draw(draw_calls(dtype)))


def tensors_of(x, depthwise, columns, dtype=torch.float32, layout="channels_last", integers=False):
    """(input, depthwise weight, pointwise weight, bias) for these shapes and output channels."""
    generator = torch.Generator().manual_seed(0)
    shapes = (x, depthwise, (columns, depthwise[0], *[1] * (len(x) - 2)), (columns,))
    make = (
        (lambda s: torch.randint(-2, 3, s, generator=generator))
        if integers
        else (lambda s: torch.randn(s, generator=generator))
    )
    first, *others = (make(s).to(kernel_device(), dtype) for s in shapes)
    return (laid_out(first, layout), *others)


def rest_of(rank, stride=1, padding=1, dilation=1, flip=False, mode="zeros"):
    return [stride] * rank, [padding] * 2 * rank, [dilation] * rank, flip, mode


# Sizes that no small draw reaches: several tiles, their tails, and what decides the tile's form.
LARGER = {
    "two tiles of columns, two steps": (
        tensors_of((2, 72, 5, 9), (72, 1, 3, 3), 136, torch.bfloat16),
        rest_of(2),
    ),
    "many positions": (
        tensors_of((3, 5, 11, 43), (5, 1, 3, 3), 7, layout="contiguous"),
        rest_of(2),
    ),
    "many positions in vectors": (tensors_of((3, 8, 11, 23), (8, 1, 3, 3), 40), rest_of(2)),
    "two filters a channel": (
        tensors_of((1, 24, 6, 7), (48, 1, 3, 3), 16, torch.float16),
        rest_of(2, 2),
    ),
    "positions that no tap of a run reads": (
        tensors_of((1, 16, 20, 23), (16, 1, 2, 2), 8, torch.float16),
        rest_of(2, 4, 2, 2),
    ),
    "a long row of taps": (
        tensors_of((2, 8, 31), (8, 1, 9), 8, torch.float16),
        rest_of(1, 1, 4, flip=True),
    ),
    "a volume with a border that folds": (
        tensors_of((1, 8, 4, 5, 5), (8, 1, 3, 3, 3), 8),
        rest_of(3, mode="circular"),
    ),
}


@pytest.mark.parametrize("name", LARGER)
def test_tiles_and_tails(name):
    check(*LARGER[name])


def test_no_images():
    tensors = tensors_of((0, 8, 5, 5), (8, 1, 3, 3), 4)
    assert OP(*tensors, *rest_of(2)).shape == (0, 4, 5, 5)


@pytest.fixture
def far_apart():
    """Three 8x2x2 images, channels-last, that lie 2^30 + 64 elements apart."""
    torch.use_deterministic_algorithms(False)
    distance = 2**30 + 64
    images = torch.empty(2 * distance + 64, dtype=torch.float16).as_strided(
        (3, 8, 2, 2), (distance, 1, 16, 8)
    )
    return images.copy_(torch.arange(96.0).reshape(3, 8, 2, 2) / 8)


@pytest.mark.skipif(not interpreting(), reason="overflow checks exist only in the interpreter")
def test_beyond_2_to_the_31(far_apart):
    _, *weights = tensors_of((3, 8, 2, 2), (8, 1, 3, 3), 4, torch.float16, integers=True)
    with checked_interpreter():
        got = fused((far_apart, *weights), rest_of(2), INTERPRETER)
        with pytest.raises(InterpreterError, match="overflow"):
            fused((far_apart, *weights), rest_of(2), INTERPRETER, index=tl.int32)
    assert torch.equal(got, fused((far_apart.contiguous(), *weights), rest_of(2)))


# -- where it runs ---------------------------------------------------------------------------


def described(x, depthwise, columns, dtype=torch.bfloat16, layout=torch.channels_last):
    """The problem of a 3x3 (or as shaped) convolution over tensors without memory."""
    empty = [
        torch.empty(s, dtype=dtype, device="meta")
        for s in (x, depthwise, (columns, depthwise[0], 1, 1))
    ]
    empty[0] = empty[0].contiguous(memory_format=layout)
    return separable_problem(*empty, None, *rest_of(2, padding=depthwise[-2] // 2))


LARGE, SMALL = (32, 64, 56, 56), (1, 64, 7, 7)


@pytest.mark.parametrize("target", TARGETS)
def test_taken_where_it_saves_more_than_it_costs(target):
    device = TARGETS[target]
    assert declines(described(LARGE, (64, 1, 3, 3), 128), device) is None
    for problem, reason in (
        (described(LARGE, (64, 1, 3, 3), 136), "136 output channels take more than one tile"),
        (described(LARGE, (64, 1, 7, 7), 64), "49 taps of 64 sums would take longer"),
        (described(LARGE, (64, 1, 3, 3), 64, layout=torch.contiguous_format), "value by value"),
        (described(LARGE, (128, 1, 3, 3), 64), "value by value"),
        (described((32, 8, 56, 56), (8, 1, 1, 17), 128), "a row of 17 taps"),
        (described(SMALL, (64, 1, 3, 3), 64), "1 tiles leave most of"),
    ):
        assert reason in declines(problem, device)


def test_the_tile_holds_all_columns_and_no_size_chooses_it():
    device = TARGETS["sm_90"]
    widths = [
        default_config(described(LARGE, (64, 1, 3, 3), k), device)["BLOCK_N"]
        for k in (1, 32, 33, 64, 65, 128)
    ]
    assert widths == [32, 32, 64, 64, 128, 128]
    large, small = (described(size, (64, 1, 3, 3), 64) for size in (LARGE, SMALL))
    assert default_config(large, device) == default_config(small, device)
    index = [fused_plan(p, device).launches[0].arguments["INDEX"] for p in (large, small)]
    assert index == [tl.int32, tl.int32]
    huge = described((4, 64, 4096, 4096), (64, 1, 3, 3), 64)
    assert fused_plan(huge, device).launches[0].arguments["INDEX"] is tl.int64


def kernels_of(call, *arguments):
    """The names of the kernels that a call launches."""
    with counted_launches() as launches:
        call(*arguments)
    return [launch.kernel.__name__ for launch in launches]


def test_explain_shows_the_one_kernel_or_says_why_there_are_two():
    shapes = (2, 8, 6, 7), (8, 1, 3, 3), 4
    one = tritonconv.explain(OP, *tensors_of(*shapes, torch.bfloat16), *rest_of(2))
    assert [plan.variant for plan in one.plans] == [KERNEL]
    two = tritonconv.explain(OP, *tensors_of(*shapes, torch.bfloat16, "contiguous"), *rest_of(2))
    name, reason = two.plans[0].rejected[0]
    assert name == KERNEL and "value by value" in reason
    assert [plan.problem.out_channels for plan in two.plans] == [8, 4]


def test_one_launch_or_two_convolutions():
    shapes = (2, 8, 6, 7), (8, 1, 3, 3), 4
    tensors = tensors_of(*shapes, torch.bfloat16)
    assert kernels_of(OP, *tensors, *rest_of(2)) == [KERNEL]
    assert kernels_of(separable.depthwise_separable, *tensors, None, "none", *rest_of(2)) == [
        KERNEL
    ]
    with_residual = (*tensors, torch.zeros_like(OP(*tensors, *rest_of(2))), "relu", *rest_of(2))
    assert KERNEL not in kernels_of(separable.depthwise_separable, *with_residual)
    for other in (
        tensors_of(*shapes, torch.bfloat16, "contiguous"),
        tensors_of(*shapes, torch.float64),
    ):
        assert KERNEL not in kernels_of(OP, *other, *rest_of(2))


def test_memory_formats_are_those_of_the_two_convolutions():
    for layout, shape in itertools.product(LAYOUTS, ((2, 8, 5, 5), (2, 8, 1, 1))):
        tensors = tensors_of(shape, (8, 1, 3, 3), 4, layout=layout, integers=True)
        first, second = separable.two_arguments(8, *rest_of(2))
        x, depthwise, pointwise, bias = tensors
        hidden = torch.ops.tritonconv.conv(x, depthwise, None, *first)
        want = torch.ops.tritonconv.conv(hidden, pointwise, bias, *second)
        for got in (fused(tensors, rest_of(2)), OP(*tensors, *rest_of(2))):
            assert got.stride() == want.stride() and torch.equal(got, want)


# -- the op ----------------------------------------------------------------------------------


@pytest.fixture
def aten(aten_path, monkeypatch):
    """CPU tensors take ATen in both steps."""
    monkeypatch.setattr(separable, "interpreting", lambda: False)
    separable._PLANS.clear()
    yield
    separable._PLANS.clear()


def by_torch(x, depthwise, pointwise, bias, *rest):
    """Two of torch's own convolutions, for symmetric zero padding in two dimensions."""
    stride, padding, dilation, flip, mode = rest
    assert mode == "zeros" and not flip
    hidden = torch.nn.functional.conv2d(
        x, depthwise, None, stride, padding[::2], dilation, x.shape[1]
    )
    return torch.nn.functional.conv2d(hidden, pointwise, bias)


def derivatives(call, tensors, rest):
    """First derivatives of a linear function of the result, and second ones of a linear function
    of those."""
    tensors = [t.detach().clone().requires_grad_() for t in tensors]
    y = call(*tensors, *rest)
    numbers = torch.arange(y.numel(), device=y.device, dtype=y.dtype).reshape(y.shape) % 3 - 1
    numbers.requires_grad_()
    first = torch.autograd.grad(y, tensors, numbers, create_graph=True)
    # The derivative with respect to the bias is constant in all tensors.
    total = sum((g * (torch.ones_like(g).cumsum(-1) % 3)).sum() for g in first)
    return y, *first, *torch.autograd.grad(total, [*tensors[:3], numbers])


@pytest.fixture
def ieee():
    """float32 is multiplied as it is, not in tf32."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.mark.parametrize("path", [None, "aten"])
def test_first_and_second_derivatives_are_exact_over_integers(path, request, ieee):
    """Small integers are summed without rounding, whichever kernel does it."""
    if path:
        request.getfixturevalue(path)
    tensors = tensors_of((2, 8, 5, 6), (8, 1, 3, 3), 4, integers=True)
    rest = rest_of(2, 2)
    got = derivatives(OP, tensors, rest)
    want = derivatives(by_torch, [t.double() for t in tensors], rest)
    assert type(got[0].grad_fn).__name__.startswith("_Separable") == (path is None)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a.double(), b)


def test_only_what_is_asked_for_is_computed(monkeypatch):
    """The depthwise result is computed again for the gradient of the pointwise weight alone."""
    tensors = tensors_of((1, 8, 4, 4), (8, 1, 3, 3), 4, integers=True)
    want = derivatives(by_torch, [t.double() for t in tensors], rest_of(2))[1:5]
    called = []
    for name in ("conv", "conv_dgrad", "conv_wgrad"):
        op = getattr(separable, name)
        monkeypatch.setattr(
            separable, name, lambda *a, name=name, op=op: called.append(name) or op(*a)
        )
    passes = (
        ["conv_dgrad", "conv_dgrad"],
        ["conv_dgrad", "conv_wgrad"],
        ["conv", "conv_wgrad"],
        [],
    )
    for position, expected in enumerate(passes):
        leaves = [t.detach().requires_grad_(i == position) for i, t in enumerate(tensors)]
        y = OP(*leaves, *rest_of(2))
        numbers = torch.arange(y.numel(), device=y.device).reshape(y.shape) % 3 - 1
        called.clear()
        (got,) = torch.autograd.grad(y, leaves[position], numbers.to(y.dtype))
        assert called == expected and torch.equal(got.double(), want[position])


def test_gradcheck_in_float64(aten):
    tensors = [t.requires_grad_() for t in tensors_of((1, 2, 4, 3), (4, 1, 2, 2), 3, torch.float64)]
    assert torch.autograd.gradcheck(lambda *t: OP(*t, *rest_of(2, 2, flip=True)), tensors)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_opcheck(rank, aten):
    sizes, ones = [5, 4, 3][:rank], [2] * rank
    tensors = tensors_of((2, 3, *sizes), (6, 1, *ones), 5)
    leaves = [t.requires_grad_() for t in tensors]
    results = opcheck(OP.default, (*leaves, *rest_of(rank, 2, mode="replicate")))
    assert set(results.values()) == {"SUCCESS"} and len(results) >= 4


def test_opcheck_on_the_kernel():
    leaves = [t.requires_grad_() for t in tensors_of((1, 8, 3, 3), (8, 1, 3, 3), 4)]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    results = opcheck(OP.default, (*leaves, *rest_of(2)), test_utils=checks)
    assert set(results.values()) == {"SUCCESS"}


def test_compiled_whole_with_its_gradients():
    """The graph keeps the op, forward and backward, so that the one kernel still runs."""
    tensors = tensors_of((1, 8, 3, 4), (8, 1, 3, 3), 4, integers=True)
    leaves = [t.requires_grad_() for t in tensors]

    def step(*leaves):
        return OP(*leaves, *rest_of(2)).square().sum()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    want = torch.autograd.grad(step(*leaves), leaves)
    with counted_launches() as launches:
        got = torch.autograd.grad(compiled(*leaves), leaves)
    assert launches[0].kernel.__name__ == KERNEL
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


def test_the_entry_is_compiled_whole():
    tensors = tensors_of((1, 8, 3, 4), (8, 1, 3, 3), 4)
    entry = separable.depthwise_separable
    compiled = torch.compile(entry, fullgraph=True, backend="aot_eager")
    arguments = (*tensors, None, "none", *rest_of(2))
    torch.testing.assert_close(compiled(*arguments), entry(*arguments))


def test_torch_func(aten):
    x, *weights = tensors_of((3, 2, 4, 4), (4, 1, 3, 3), 3, torch.float64)

    def loss(x, *weights):
        return OP(x[None], *weights, *rest_of(2)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss, argnums=(1, 2)), (0, None, None, None))
    for n, got in enumerate(zip(*each(x, *weights), strict=True)):
        leaves = [w.clone().requires_grad_() for w in weights[:2]]
        want = torch.autograd.grad(loss(x[n], *leaves, weights[2]), leaves)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_autocast(aten):
    x, *weights = tensors_of((1, 8, 4, 4), (8, 1, 3, 3), 4)
    with torch.autocast("cpu", torch.bfloat16):
        y = OP(x.bfloat16(), *weights, *rest_of(2))
    halves = [t.bfloat16() for t in (x, *weights)]
    assert torch.equal(y, OP(*halves, *rest_of(2)))


def test_the_entry_composes_what_the_kernel_does_not_end_with(aten):
    tensors = tensors_of((2, 3, 5, 4), (6, 1, 3, 3), 4, torch.float64)
    plain = by_torch(*tensors, *rest_of(2))
    residual = torch.randn(plain.shape, generator=torch.Generator().manual_seed(1)).double()
    for e, name, want in (
        (None, "none", plain),
        (None, "tanh", plain.tanh()),
        (residual, "relu", (plain + residual).relu()),
    ):
        got = separable.depthwise_separable(*tensors, e, name, *rest_of(2))
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


REFUSED = {
    "no channels": ({"x": (1, 0, 4, 4)}, "input: expected at least one channel"),
    "axes": ({"x": (4, 4)}, "input: expected 3, 4 or 5 axes"),
    "not depthwise": ({"depthwise": (8, 2, 3, 3)}, r"depthwise_weight: expected shape \[m \* 4, 1"),
    "too few filters": ({"depthwise": (6, 1, 3, 3)}, r"got \[6, 1, 3, 3\]"),
    "no filters": ({"depthwise": (0, 1, 3, 3)}, r"depthwise_weight: .* got \[0, 1, 3, 3\]"),
    "rank of the filter": ({"depthwise": (4, 1, 3)}, "depthwise_weight: .* filters of 2 axes"),
    "empty filter": ({"depthwise": (4, 1, 0, 3)}, "depthwise_weight: expected a non-empty filter"),
    "middle": ({"pointwise": (5, 3, 1, 1)}, r"pointwise_weight: expected shape \['K', 4, 1, 1\]"),
    "no point": ({"pointwise": (5, 4, 3, 1)}, r"pointwise_weight: .* got \[5, 4, 3, 1\]"),
    "no columns": ({"pointwise": (0, 4, 1, 1)}, "pointwise_weight: expected at least one output"),
    "bias": ({"bias": (4,)}, r"bias: expected shape \[5\]"),
    "window": ({"x": (1, 4, 1, 1), "padding": 0}, "input: its padded size 1"),
    "border": ({"padding": 4, "mode": "reflect"}, "padding: expected at most 3"),
    "dtype": ({"dtype": torch.float64}, "pointwise_weight: expected dtype torch.float32"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_the_name_of_the_argument(name):
    changes, message = REFUSED[name]
    shapes = {"x": (1, 4, 4, 4), "depthwise": (4, 1, 3, 3), "pointwise": (5, 4, 1, 1), "bias": (5,)}
    tensors = {n: torch.zeros(changes.get(n, s)) for n, s in shapes.items()}
    if "dtype" in changes:
        tensors["pointwise"] = tensors["pointwise"].to(changes["dtype"])
    options = {n: changes[n] for n in ("padding", "mode") if n in changes}
    with pytest.raises(ProblemError, match=message):
        OP(*tensors.values(), *rest_of(2, **options))


# -- without a GPU ---------------------------------------------------------------------------

COMPILED = """
import json, sys, warnings
import torch
from tritonconv.device import TARGETS
from tritonconv.separable import default_configs, fused_launch, separable_problem
from tritonconv.testing.compilation import compile_launch
from tritonconv.variants.base import Flags

warnings.simplefilter("ignore")
device = TARGETS[sys.argv[1]]
flags = Flags(aligned=True, interpreting=False, multiprocessors=device.multiprocessors)
for dtype, columns in ((torch.bfloat16, (32, 64, 128)), (torch.float32, (128,))):
    for k in columns:
        shapes = ((32, 64, 56, 56), (64, 1, 3, 3), (k, 64, 1, 1), (k,))
        x, *weights = (torch.empty(s, dtype=dtype, device="meta") for s in shapes)
        x = x.contiguous(memory_format=torch.channels_last)
        problem = separable_problem(x, *weights, [1, 1], [1] * 4, [1, 1], False, "zeros")
        config = next(c for c in default_configs(problem, device) if c["BLOCK_N"] >= k)
        code = compile_launch(fused_launch(problem, config, flags), dtype, device)
        matrix = sum(v for n, v in code.opcodes.items() if "MMA" in n or "mfma" in n)
        wide = code.wide_loads
        print(json.dumps([str(dtype), str(config), code.spills, code.shared, matrix, wide]))
"""


@pytest.mark.parametrize("target", TARGETS)
def test_compiles_fits_and_does_not_spill(target):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    paths = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p]
    environment["PYTHONPATH"] = os.pathsep.join([*paths, str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, target],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 4
    for dtype, config, spills, shared, matrix, wide in lines:
        assert spills == 0, (dtype, config, spills)
        assert shared <= TARGETS[target].shared_memory, (dtype, config, shared)
        assert matrix and wide >= 6, (dtype, config, matrix, wide)
