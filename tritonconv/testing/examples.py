"""One example of each kind of problem, and what a variant says of it."""

import dataclasses
from functools import cache
from typing import Any

import torch

from ..checks import PADDING_MODES
from ..problem import Pass
from ..variants import Variant
from .agreement import problem_of_case
from .strategies import ConvCase

CONTIGUOUS = ("contiguous", "contiguous", "contiguous")


def case_of(x: tuple[int, ...], w: tuple[int, ...], y: tuple[int, ...], **options: Any) -> ConvCase:
    """A case in float32 with these shapes; stride 1, no padding and so on unless stated."""
    rank = len(x) - 2
    usual = {
        "stride": (1,) * rank,
        "padding": (0, 0) * rank,
        "dilation": (1,) * rank,
        "groups": 1,
        "flip": False,
        "dtype": torch.float32,
        "layouts": CONTIGUOUS,
        "seed": 0,
    }
    return ConvCase(x, w, y, **(usual | options))


# One of each kind, with everything uneven that the kind allows.
EXAMPLES = {
    "shared": case_of(
        (2, 4, 5, 6),
        (6, 2, 3, 2),
        (2, 6, 3, 5),
        stride=(2, 1),
        padding=(1, 1, 0, 1),
        dilation=(1, 2),
        groups=2,
    ),
    "tiled": case_of((2, 2, 5, 5), (2, 3, 3, 2, 2, 2), (2, 3, 4, 4)),
    "unshared": case_of(
        (3, 4, 5, 6),
        (3, 5, 6, 2, 3, 2),
        (3, 6, 3, 5),
        stride=(2, 1),
        padding=(1, 1, 0, 1),
        dilation=(1, 2),
        groups=2,
    ),
    "depthwise": case_of(
        (2, 5, 6, 7), (5, 1, 3, 3), (2, 5, 3, 7), stride=(2, 1), padding=(1, 1, 1, 1), groups=5
    ),
    "pointwise": case_of((2, 6, 3, 5), (4, 3, 1, 1), (2, 4, 3, 5), groups=2),
    "stem": case_of((1, 3, 9, 9), (5, 3, 3, 3), (1, 5, 5, 5), stride=(2, 2), padding=(1, 1, 1, 1)),
}


@cache
def refusal(
    variant: Variant, which: Pass, kind: str, dtype: torch.dtype, padding_mode: str = "zeros"
) -> str | None:
    """Why the variant does not take the example of a kind, or None."""
    case = dataclasses.replace(EXAMPLES[kind], dtype=dtype, padding_mode=padding_mode)
    problem = problem_of_case(case, which, case.tensors())
    return variant.supports(problem, which)


def kinds_of(
    variant: Variant, which: Pass, dtype: torch.dtype, padding_mode: str = "zeros"
) -> tuple[str, ...]:
    """The kinds that the variant is made for and takes."""
    return tuple(
        k for k in variant.kinds if refusal(variant, which, k, dtype, padding_mode) is None
    )


def modes_of(variant: Variant, which: Pass, dtype: torch.dtype) -> tuple[str, ...]:
    """The padding modes that it takes for each of those kinds."""
    kinds = kinds_of(variant, which, dtype)
    return tuple(m for m in PADDING_MODES if kinds_of(variant, which, dtype, m) == kinds)
