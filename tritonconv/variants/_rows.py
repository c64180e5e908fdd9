"""What kernels whose rows are positions are told of them (`kernels/_rows.py`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..problem import ConvProblem
from .base import (
    Flags,
    axis_arguments,
    epilogue_arguments,
    stride_arguments,
    vector_width,
)


@dataclass(frozen=True)
class Rows:
    """Positions (n, d, h, w) as rows of a GEMM, and each tensor's strides along them.

    Neighbouring axes along which every tensor steps evenly are merged, so dense tensors have one
    or two left; `axes` is what the kernels are told: 1 (w), 2 (n and w) or 4.
    """

    size: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    axes: int

    @classmethod
    def of(cls, size: Sequence[int], *strides: Sequence[int]) -> "Rows":
        """The rows of tensors with these strides (n, d, h, w)."""
        merged: list[tuple[int, ...]] = []
        for length, *steps in zip(size, *strides, strict=True):
            if length == 1:
                continue
            if merged and list(merged[-1][1:]) == [length * step for step in steps]:
                merged[-1] = (merged[-1][0] * length, *steps)
            else:
                merged.append((length, *steps))
        kept, one = max(len(merged), 1), (1, *[0] * len(strides))
        if kept == 2:
            merged[1:1] = [one, one]
        found, *found_steps = zip(*[one] * (4 - len(merged)), *merged, strict=True)
        return cls(found, tuple(found_steps), kept if kept < 3 else 4)


def merged_rows(
    problem: ConvProblem, *strides: tuple[int, ...]
) -> tuple[Rows, list[tuple[int, ...]]]:
    """The output's positions as rows, and the strides (n, c, d, h, w) of each tensor along them.

    An untied bias needs every coordinate of a position: then nothing is merged.
    """
    size = (problem.batch, *problem.output_size)
    steps = tuple((s[0], *s[2:]) for s in strides)
    untied = problem.epilogue.bias_kind == "untied"
    rows = Rows(size, steps, 4) if untied else Rows.of(size, *steps)
    channels = [s[1] for s in strides]
    return rows, [(n, c, *s) for (n, *s), c in zip(rows.strides, channels, strict=True)]


def run_width(
    problem: ConvProblem, strides: Sequence[int], sizes: Sequence[int], flags: Flags
) -> int:
    """Elements in a vector along the channels if they are contiguous, else along the rows.

    Strides and sizes are (n, c, d, h, w).
    """
    if not flags.aligned:
        return 1
    return vector_width(problem, strides, sizes, 1 if strides[1] == 1 else 4)


def result_arguments(
    problem: ConvProblem,
    rows: Rows,
    dst: tuple[int, ...],
    residual: tuple[int, ...],
    columns: int,
    flags: Flags,
) -> dict[str, Any]:
    """The arguments with which a kernel finishes a result of these rows and `columns` a group."""
    batch, *size = rows.size
    return {
        "batch": batch,
        **axis_arguments("row", size),
        **epilogue_arguments(problem),
        **stride_arguments("d", dst),
        **stride_arguments("e", residual),
        "AXES": rows.axes,
        "DST_UNIT": dst[1] == 1,
        "DST_ROW_UNIT": dst[4] == 1,
        "DST_VECTOR": run_width(problem, dst, (batch, columns, *size), flags),
    }
