"""How far a floating-point convolution may be from the exact one."""

import math

import numpy as np
import torch

from ..problem import ConvProblem, Pass

# Unit roundoff of the formats that products and results are rounded to.
ROUNDOFF = {
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
    torch.float32: 2.0**-24,
    torch.float64: 2.0**-53,
}
TF32_ROUNDOFF = 2.0**-11
# Rounding errors of a sum add up like a random walk; this many standard deviations cover it.
SPREAD = 6.0
# gelu's, at the square root of 2; the other activations' are at most 1.1.
STEEPEST = 1.13
# Each is an exponential or an error function, and a few operations around it.
ACTIVATION_ROUNDINGS = 8


def reduction_length(problem: ConvProblem, which: Pass) -> int:
    """The most products that one element of the result sums."""
    taps = math.prod(problem.filter_size)
    if which is Pass.FPROP:
        return taps * (problem.in_channels // problem.groups)
    if which is Pass.DGRAD:
        return taps * (problem.out_channels // problem.groups)
    return problem.batch * math.prod(problem.output_size)


def allowed_error(
    problem: ConvProblem, which: Pass, exact: np.ndarray, magnitude: np.ndarray
) -> np.ndarray:
    """The largest |result - exact| of each element; both arrays are float64.

    |error| <= u_out |exact|  +  (SPREAD sqrt(L) u_acc + 2 u_in) * magnitude  +  smallest number

    where `magnitude` is the same pass of the operands' absolute values, L the reduction length,
    u_out the roundoff of the result's format, u_acc that of the accumulator (float32, or float64
    for float64), and u_in that of the operands where the matrix units round them (tf32), else 0.
    Source: Higham, Accuracy and Stability of Numerical Algorithms, sections 2.2 and 2.8.
    """
    result = ROUNDOFF[problem.dtype] * np.abs(exact)
    return result + _of_the_sum(problem, which, exact, magnitude) + _smallest(problem)


def allowed_error_activated(
    problem: ConvProblem, which: Pass, pre: np.ndarray, magnitude: np.ndarray, value: np.ndarray
) -> np.ndarray:
    """`allowed_error` of value = activation(pre): the sum's error, steepened by the activation's
    largest slope, the activation's own few roundings, and the result's."""
    own = ACTIVATION_ROUNDINGS * ROUNDOFF[_accumulator(problem)] * (np.abs(pre) + np.abs(value))
    result = ROUNDOFF[problem.dtype] * np.abs(value)
    of_the_sum = STEEPEST * _of_the_sum(problem, which, pre, magnitude)
    return result + own + of_the_sum + _smallest(problem)


def _of_the_sum(
    problem: ConvProblem, which: Pass, exact: np.ndarray, magnitude: np.ndarray
) -> np.ndarray:
    length = max(reduction_length(problem, which), 1)
    relative = SPREAD * math.sqrt(length) * ROUNDOFF[_accumulator(problem)]
    if problem.precision == "tf32":
        relative += 2 * TF32_ROUNDOFF
    return relative * (magnitude + np.abs(exact))


def _accumulator(problem: ConvProblem) -> torch.dtype:
    return torch.float64 if problem.dtype == torch.float64 else torch.float32


def _smallest(problem: ConvProblem) -> float:
    return float(torch.finfo(problem.dtype).smallest_normal)


def assert_within(
    got: torch.Tensor, exact: np.ndarray, allowed: np.ndarray, what: str = "result"
) -> None:
    """Raise AssertionError naming the worst element unless |got - exact| <= allowed everywhere."""
    values = got.detach().to("cpu", torch.float64).numpy()
    assert values.shape == exact.shape, f"{what}: shape {values.shape}, expected {exact.shape}"
    error = np.abs(values - exact)
    # NaN compares false: an element that was never written fails.
    good = error <= allowed
    if not good.all():
        worst = np.unravel_index(np.argmin(good), good.shape)
        raise AssertionError(
            f"{what}: {(~good).sum()} of {good.size} elements off; at {tuple(map(int, worst))} "
            f"got {values[worst]!r}, expected {exact[worst]!r} +- {allowed[worst]:.3g}"
        )
