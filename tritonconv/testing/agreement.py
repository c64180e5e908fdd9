"""Run one pass of a case by one variant, and compare it with the textbook's sums in float64."""

from typing import Any

import numpy as np
import torch

from ..device import INTERPRETER, Device, cuda_device
from ..epilogue import Extras
from ..launch import Slot, interpreting
from ..ops._run import OPERANDS
from ..planning import make_plan
from ..problem import ConvProblem, Pass, dgrad_problem, fprop_problem, wgrad_problem
from ..reference import textbook
from ..variants import Variant
from .strategies import ConvCase
from .tolerances import allowed_error, allowed_error_activated, assert_within


def kernel_device() -> torch.device:
    """Where kernels are tested: the GPU, or the CPU with Triton's interpreter."""
    return torch.device("cuda" if torch.cuda.is_available() and not interpreting() else "cpu")


def planning_device() -> Device:
    """The same, as plans are made for it."""
    return INTERPRETER if interpreting() else cuda_device(torch.cuda.current_device())


def problem_of_case(
    case: ConvCase, which: Pass, tensors: tuple[torch.Tensor, ...], extras: Extras | None = None
) -> ConvProblem:
    """The problem of one pass over (x, w, dy), with an epilogue if `extras` has one."""
    x, w, dy = tensors
    if which is Pass.FPROP:
        return fprop_problem(x, w, None, case.arguments, extras)
    if which is Pass.DGRAD:
        return dgrad_problem(dy, w, x.shape, case.arguments, extras)
    return wgrad_problem(dy, x, w.shape, case.arguments)


def run_variant(
    variant: Variant,
    problem: ConvProblem,
    which: Pass,
    a: torch.Tensor,
    b: torch.Tensor,
    device: Device | None = None,
) -> torch.Tensor:
    """One pass by one variant, whatever the planner would choose; NaN where nothing is written.

    `device` is what to plan for, by default where the kernels run.
    """
    return run_fused_variant(variant, problem, which, (a, b), Extras(), device)[0]


def run_fused_variant(
    variant: Variant,
    problem: ConvProblem,
    which: Pass,
    operands: tuple[torch.Tensor, torch.Tensor],
    extras: Extras,
    device: Device | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`run_variant` with the operands of an epilogue; the number before the activation as well,
    if it is to be kept."""
    aligned = all(t.data_ptr() % 16 == 0 for t in (*operands, *extras[:2]) if t is not None)
    device = device or planning_device()
    plan = make_plan(problem, which, device, aligned=aligned, variant=variant)
    shape, strides = problem.result_shape(which), problem.result_strides(which)

    def poisoned() -> torch.Tensor:
        empty = torch.empty_strided(shape, strides, dtype=problem.dtype, device=operands[0].device)
        return empty.fill_(float("nan"))

    first, second, written = OPERANDS[which]
    tensors: dict[Slot, torch.Tensor] = {
        first: operands[0],
        second: operands[1],
        written: poisoned(),
    }
    for slot, tensor in (
        (Slot.BIAS, extras.bias),
        (Slot.RESIDUAL, extras.residual),
        (Slot.PRE, poisoned() if extras.keep_pre else None),
    ):
        if tensor is not None:
            tensors[slot] = tensor
    plan.run(tensors)
    return tensors[written], tensors.get(Slot.PRE)


def oracle(case: ConvCase, which: Pass, x: Any, w: Any, dy: Any) -> np.ndarray:
    """The textbook's sums in float64 over arrays or tensors."""
    x, w, dy = (_float64(t) for t in (x, w, dy))
    if which is Pass.FPROP:
        return textbook.conv(x, w, case.geometry)
    if which is Pass.DGRAD:
        return textbook.dgrad(dy, w, case.input_shape[2:], case.geometry)
    return textbook.wgrad(dy, x, case.weight_shape, case.geometry)


def assert_agrees(case: ConvCase, which: Pass, got: torch.Tensor, problem: ConvProblem) -> None:
    """`got` is the pass of `case`, within the tolerance that its dtype and length allow."""
    tensors = case.tensors()
    exact = oracle(case, which, *tensors)
    magnitude = oracle(case, which, *(t.abs() for t in tensors))
    allowed = allowed_error(problem, which, exact, magnitude)
    assert_within(got, exact, allowed, which.value)


def assert_agrees_fused(variant: Variant, case: ConvCase, which: Pass, extras: Extras) -> None:
    """One pass by one variant with an epilogue is the textbook's, and so is the number before the
    activation if it is kept."""
    device = kernel_device()
    x, w, dy = tensors = case.tensors(device)
    problem = problem_of_case(case, which, tensors, extras)
    operands = (x, w) if which is Pass.FPROP else (dy, w)
    got, got_pre = run_fused_variant(variant, problem, which, operands, extras)
    bias, residual = (None if t is None else _float64(t) for t in extras[:2])
    sums = oracle(case, which, *tensors)
    magnitude = textbook.epilogue(
        oracle(case, which, *(t.abs() for t in tensors)),
        None if bias is None else np.abs(bias),
        None if residual is None else np.abs(residual),
    )
    pre = textbook.epilogue(sums, bias, residual)
    value = textbook.epilogue(sums, bias, residual, extras.activation)
    allowed = allowed_error_activated(problem, which, pre, magnitude, value)
    assert_within(got, value, allowed, f"{which.value} and {extras.activation}")
    assert (got_pre is not None) == extras.keep_pre
    if got_pre is not None:
        allowed = allowed_error(problem, which, pre, magnitude)
        assert_within(got_pre, pre, allowed, "the number before the activation")


def _float64(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        return values.detach().to("cpu", torch.float64).numpy()
    return np.asarray(values, dtype=np.float64)
