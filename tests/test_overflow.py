"""Element 2^31 and beyond: right with 64-bit offsets, and 32-bit ones are seen to overflow.

The tensors are sparse in memory: pages that nothing touches take none.
"""

import dataclasses

import pytest
import torch
import triton.language as tl
from triton.runtime.errors import InterpreterError

from autotune import Config
from tritonconv.device import INTERPRETER
from tritonconv.kernels.sum_splits import sum_splits
from tritonconv.launch import Launch, Slot, interpreting
from tritonconv.ops._run import OPERANDS
from tritonconv.planning import make_plan
from tritonconv.problem import ConvArguments, Pass, dgrad_problem, fprop_problem, wgrad_problem
from tritonconv.testing.interpreter import checked_interpreter
from tritonconv.variants import VARIANTS

pytestmark = pytest.mark.skipif(
    not interpreting(), reason="overflow checks exist only in Triton's interpreter"
)
# Three images: the stride fits 32 bits, the third image's offset does not.
FAR = 2**30 + 64


def arguments_for(weight):
    """Padding that keeps the images' size."""
    return ConvArguments([1, 1], [weight.shape[-1] // 2] * 4, [1, 1], 1)


@pytest.fixture(scope="module")
def far_apart():
    """Three 1x4x4 images, 2^30 + 64 elements apart in one allocation; the rest is untouched."""
    torch.use_deterministic_algorithms(False)
    memory = torch.empty(2 * FAR + 64, dtype=torch.float16)
    images = memory.as_strided((3, 1, 4, 4), (FAR, 16, 4, 1))
    images.copy_(torch.arange(48.0).reshape(3, 1, 4, 4) / 8)
    return images


WEIGHT = torch.arange(9.0).reshape(1, 1, 3, 3).half() / 4
ONE_TAP = WEIGHT[..., 2:, 2:].clone()


def weight_for(variant):
    """A filter that the variant takes."""
    return ONE_TAP if variant.kinds == ("pointwise",) else WEIGHT


def has(variant, which):
    """Whether it has this pass of one of the images."""
    weight = weight_for(variant)
    image = torch.ones(1, 1, 4, 4, dtype=torch.float16)
    problem = fprop_problem(image, weight, None, arguments_for(weight))
    return variant.supports(problem, which) is None


CASES = [
    pytest.param(variant, which, id=f"{variant.name}-{which.value}")
    for variant in VARIANTS
    for which in Pass
    if has(variant, which)
]


def run(variant, which, far, index=None):
    """One pass whose operand or result is far apart; `index` overrides the kernel's width."""
    near = torch.ones(3, 1, 4, 4, dtype=torch.float16)
    weight = weight_for(variant)
    arguments = arguments_for(weight)
    if which is Pass.FPROP:
        problem, a, b = fprop_problem(far, weight, None, arguments), far, weight
    elif which is Pass.DGRAD:
        problem, a, b = dgrad_problem(far, weight, near.shape, arguments), far, weight
    else:
        problem, a, b = wgrad_problem(near, far, weight.shape, arguments), near, far
    plan = make_plan(problem, which, INTERPRETER, variant=variant)
    if index is not None:
        launches = tuple(
            dataclasses.replace(launch, arguments={**launch.arguments, "INDEX": index})
            for launch in plan.launches
        )
        plan = dataclasses.replace(plan, launches=launches)
    result = torch.full(problem.result_shape(which), float("nan"), dtype=torch.float16)
    first, second, written = OPERANDS[which]
    tensors: dict[Slot, torch.Tensor] = {first: a, second: b, written: result}
    with checked_interpreter():
        plan.run(tensors)
    return result


@pytest.mark.parametrize(("variant", "which"), CASES)
def test_beyond_2_to_the_31(variant, which, far_apart):
    got = run(variant, which, far_apart)
    x, w = (
        far_apart.double().contiguous().requires_grad_(),
        weight_for(variant).double().requires_grad_(),
    )
    if which is Pass.FPROP:
        want = torch.nn.functional.conv2d(x, w, padding=w.shape[-1] // 2)
    elif which is Pass.DGRAD:
        want = torch.nn.functional.conv_transpose2d(x, w, padding=w.shape[-1] // 2)
    else:
        torch.nn.functional.conv2d(x, w, padding=w.shape[-1] // 2).sum().backward()
        want = w.grad
    torch.testing.assert_close(got.double(), want.detach(), rtol=2**-10, atol=0)


@pytest.mark.parametrize(("variant", "which"), CASES)
def test_32_bit_offsets_would_have_overflowed(variant, which, far_apart):
    with pytest.raises(InterpreterError, match="overflow"):
        run(variant, which, far_apart, index=tl.int32)


def sum_far_partials(index):
    """Three partial sums of 2^30 + 64 values each; one program adds the first block of them."""
    torch.use_deterministic_algorithms(False)
    workspace = torch.empty(2 * FAR + 64, dtype=torch.float32)
    for split in range(3):
        workspace[split * FAR : split * FAR + 16] = torch.arange(16.0) * 10**split
    result = torch.full((16,), float("nan"))
    arguments = {
        "workspace_ptr": Slot.WORKSPACE,
        "dst_ptr": Slot.WEIGHT,
        "size": FAR,
        "splits": 3,
        "INDEX": index,
        "SOFT_BF16": False,
        "BLOCK": 16,
    }
    with checked_interpreter():
        Launch(sum_splits, 1, arguments, Config.of(1, 1)).run(
            {Slot.WORKSPACE: workspace, Slot.WEIGHT: result}
        )
    return result


def test_sum_of_splits_beyond_2_to_the_31():
    assert torch.equal(sum_far_partials(tl.int64), torch.arange(16.0) * 111)
    with pytest.raises(InterpreterError, match="overflow"):
        sum_far_partials(tl.int32)


def test_a_small_tensor_keeps_32_bit_offsets():
    x = torch.ones(2, 1, 4, 4, dtype=torch.float16)
    plan = make_plan(fprop_problem(x, WEIGHT, None, arguments_for(WEIGHT)), Pass.FPROP, INTERPRETER)
    assert plan.launches[0].arguments["INDEX"] is tl.int32
