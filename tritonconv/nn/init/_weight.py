"""What the initialisers share: their checks, and how a bank gets into a weight.

A bank is (K, L) in float64 or float32 on the CPU, a filter a row, L = C/groups * taps.
"""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ...checks import RANKS, check_tensors, shape_of
from ...errors import ProblemError


def check_weight(weight: Any) -> int:
    """Number of spatial axes of a weight (K, C/groups, *filter) whose filters can vary."""
    check_tensors({"weight": weight})
    if weight.dim() not in RANKS:
        raise ProblemError(
            "weight: expected 3, 4 or 5 axes (K, C/groups and one to three of the filter), got "
            f"{weight.dim()} in {shape_of(weight)}"
        )
    if weight.numel() == 0 or weight[0].numel() < 2:
        raise ProblemError(
            "weight: expected at least one filter of at least 2 elements, since one element "
            f"minus its mean is 0, got {shape_of(weight)}; use a larger filter"
        )
    return RANKS[weight.dim()]


def check_positive(name: str, value: Any) -> None:
    """Refuse what is no finite number above 0."""
    if not _is_number(value) or value <= 0:
        raise ProblemError(f"{name}: expected a positive number, got {value!r}")


def check_flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool):
        raise ProblemError(f"{name}: expected True or False, got {value!r}")


def check_generator(generator: Any) -> None:
    """Refuse what is neither None nor a torch.Generator; a seed is a likely mistake."""
    if not (generator is None or isinstance(generator, torch.Generator)):
        raise ProblemError(
            f"generator: expected a torch.Generator or None, got {generator!r}; for a seed, use "
            "torch.Generator().manual_seed(seed)"
        )


def numbers(name: str, value: Any) -> list[float]:
    """A number, or a sequence of at least one, as a list of floats."""
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values or not all(_is_number(v) for v in values):
        raise ProblemError(
            f"{name}: expected a finite number or a sequence of at least one, got {value!r}"
        )
    return [float(v) for v in values]


def device_of(generator: torch.Generator | None) -> torch.device:
    """Where to draw: a generator serves its own device only, and without one it is the CPU, so
    that the weight's device does not change the numbers."""
    return torch.device("cpu") if generator is None else generator.device


def centred(bank: Tensor) -> Tensor:
    """Each row minus its mean."""
    return bank - bank.mean(dim=1, keepdim=True)


def unit(bank: Tensor) -> Tensor:
    """Each row divided by its L2 norm."""
    return bank / bank.norm(dim=1, keepdim=True)


def write(weight: Tensor, bank: Tensor) -> Tensor:
    """Copy a bank into the weight, whatever its dtype, device and strides; returns the weight."""
    with torch.no_grad():
        return weight.copy_(bank.reshape(weight.shape))


def _is_number(value: Any) -> bool:
    # bool is a number to Python, but never meant as one.
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
