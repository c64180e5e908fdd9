"""Run a case of pooling, forward and backward, and compare it with the definition in float64."""

import math
from typing import Any

import numpy as np
import torch

from ..ops.pool import lp_pool as lp_pool_op
from ..ops.pool import max_pool, sum_pool
from ..pool_problem import INTEGERS
from ..reference import pooling, pooling_gradients
from .pool_strategies import PoolCase
from .tolerances import ROUNDOFF, SPREAD, assert_within


def assert_pool_agrees(case: PoolCase, device: torch.device | str = "cpu") -> None:
    """Values, taps and every gradient of one case, within what its dtype and windows allow."""
    x, dy = case.tensors(device)
    x.requires_grad_(case.dtype not in INTEGERS)
    parameters = case.parameters(device)
    if parameters is not None:
        parameters.requires_grad_()
    {"max": _check_max, "sum": _check_sum, "lp": _check_lp}[case.kind](case, x, dy, parameters)


def _check_max(case: PoolCase, x: torch.Tensor, dy: torch.Tensor, _: Any) -> None:
    y, taps = max_pool(x, *case.arguments)
    exact, exact_taps = pooling.max_pool(_numbers(x, case), case.windows)
    np.testing.assert_array_equal(_numbers(y, case), exact)
    np.testing.assert_array_equal(taps.cpu().numpy(), exact_taps)
    if x.requires_grad:
        (dx,) = torch.autograd.grad(y, x, dy)
        gradient = pooling_gradients.max_pool_gradient
        exact, size = (
            gradient(g, exact_taps, case.windows) for g in (_float64(dy), _float64(dy.abs()))
        )
        assert_within(dx, exact, _allowed(case, exact, size), "dx")


def _check_sum(
    case: PoolCase, x: torch.Tensor, dy: torch.Tensor, weights: torch.Tensor | None
) -> None:
    number = case.reduction.exponent
    y = sum_pool(x, weights, case.divisor, number, *case.arguments)
    values, w = _float64(x), None if weights is None else _float64(weights)

    def definition(values: np.ndarray) -> np.ndarray:
        return _sum(case, values, w)

    exact, size = definition(values), definition(np.abs(values))
    assert_within(y, exact, _allowed(case, exact, size), "y")
    leaves = [x] if weights is None else [x, weights]
    dx, *rest = torch.autograd.grad(y, leaves, dy)
    # The definition is linear in x, so the gradient is its transposed matrix.
    matrix = pooling.as_matrix(case.windows, definition)
    shape = case.input_shape

    def transposed(g: np.ndarray) -> np.ndarray:
        return (g.reshape(*shape[:2], -1) @ matrix).reshape(shape)

    exact, size = transposed(_float64(dy)), transposed(np.abs(_float64(dy)))
    assert_within(dx, exact, _allowed(case, exact, size, rounded_twice=True), "dx")
    if rest and w is not None and case.divisor in ("none", "weights"):
        gradient = pooling_gradients.weighted_pool_gradient
        normalize = case.divisor == "weights"
        _, exact = gradient(_float64(dy), values, case.windows, w, normalize)
        _, size = gradient(np.abs(_float64(dy)), np.abs(values), case.windows, w, False)
        terms = math.prod(case.output_shape)
        scale = 2 / (float(np.min(w)) if normalize else 1)
        error = scale * size * (4 * ROUNDOFF[case.dtype] + SPREAD * math.sqrt(terms) * _unit(case))
        assert_within(rest[0], exact, error + 1e-30, "dw")


def _sum(case: PoolCase, x: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """The definition of a sum with weights and any divisor."""
    if weights is None:
        if case.divisor in ("padded", "valid"):
            return pooling.avg_pool(x, case.windows, case.divisor == "padded")
        number = case.reduction.exponent if case.divisor == "fixed" else 1.0
        return pooling.avg_pool(x, case.windows, True, number)
    total = pooling.weighted_pool(x, case.windows, weights, case.divisor == "weights")
    if case.divisor in ("none", "weights"):
        return total
    # An average of ones says what everything else is divided by.
    if case.divisor == "fixed":
        return total / case.reduction.exponent
    ones = np.ones((1, 1, *case.input_shape[2:]))
    counted = pooling.avg_pool(ones, case.windows, case.divisor == "padded")
    plain = pooling.avg_pool(ones, case.windows, True, 1.0)
    return np.where(
        plain == 0, 0, total * np.where(plain == 0, 0, counted) / np.where(plain == 0, 1, plain)
    )


def _check_lp(
    case: PoolCase, x: torch.Tensor, dy: torch.Tensor, exponents: torch.Tensor | None
) -> None:
    y = lp_pool_op(x, exponents, case.exponents[0], *case.arguments)
    values, g = _float64(x), _float64(dy)
    p = np.array(case.exponents) if case.reduction.by_channel else case.exponents[0]
    exact = pooling.lp_pool(values, case.windows, p)
    powers = np.array(case.exponents).reshape(-1, *[1] * case.rank)
    # Each power is an exponential of a logarithm, and the root steepens what p < 1 leaves.
    few = 8 * (1 + powers) * (1 + 1 / powers) + SPREAD * math.sqrt(math.prod(case.kernel_size))
    relative = ROUNDOFF[case.dtype] + few * _unit(case)
    assert_within(y, exact, relative * np.abs(exact) + _smallest(case), "y")
    leaves = [x] if exponents is None else [x, exponents]
    dx, *rest = torch.autograd.grad(y, leaves, dy)
    gradient = pooling_gradients.lp_pool_gradient
    exact_dx, exact_dp = gradient(g, values, case.windows, p)
    size, size_dp = gradient(np.abs(g), np.abs(values), case.windows, p)
    # Backward reads y as it was rounded, to the power p - 1.
    relative = 2 * ROUNDOFF[case.dtype] * (1 + np.abs(powers - 1)) + few * _unit(case)
    assert_within(dx, exact_dx, relative * size + _smallest(case), "dx")
    if rest:
        each = np.abs(g) * exact / powers
        each = each.sum(axis=(0, *range(2, each.ndim)))
        total = each if np.ndim(p) else each.sum()
        unit = 4 * ROUNDOFF[case.dtype] + np.max(few) * _unit(case)
        error = unit * (2 * total + (np.asarray(p) + 2) * np.abs(size_dp))
        assert_within(rest[0].reshape(np.shape(exact_dp)), exact_dp, error + 1e-30, "dp")


def _allowed(
    case: PoolCase, exact: np.ndarray, size: np.ndarray, rounded_twice: bool = False
) -> np.ndarray:
    """Of a sum over windows, or over the windows that hold an element, as in `allowed_error`."""
    terms = math.prod(case.kernel_size)
    relative = SPREAD * math.sqrt(terms) * _unit(case)
    if rounded_twice and case.divisor == "weights":
        relative += ROUNDOFF[case.dtype]  # dy is divided, and stored, before it is spread
    return ROUNDOFF[case.dtype] * np.abs(exact) + 2 * relative * size + _smallest(case)


def _unit(case: PoolCase) -> float:
    return ROUNDOFF[torch.float64 if case.dtype == torch.float64 else torch.float32]


def _smallest(case: PoolCase) -> float:
    return float(torch.finfo(case.dtype).smallest_normal)


def _numbers(values: torch.Tensor, case: PoolCase) -> np.ndarray:
    if case.dtype in INTEGERS:
        return values.detach().cpu().numpy()
    return _float64(values)


def _float64(values: torch.Tensor) -> np.ndarray:
    return values.detach().to("cpu", torch.float64).numpy()
