"""Pointwise convolution: a 1x1 filter inside the image is a plain GEMM over positions."""

from collections.abc import Sequence
from typing import Any

import torch

from autotune import Config

from ..gemm_view import gemm_view
from ..kernels.pointwise_gemm import pointwise_gemm
from ..kernels.pointwise_wgrad import pointwise_wgrad
from ..launch import Launch, Slot
from ..problem import ConvProblem, Pass
from ._rows import merged_rows, result_arguments, run_width
from .base import (
    Flags,
    axis_arguments,
    has_second_tile,
    index_dtype,
    split_count,
    stride_arguments,
    sum_launch,
    vector_width,
)
from .implicit_gemm import WIDTHS, ImplicitGemm, gemm_constants, gemm_tiles

ONE = (1, 1, 1)
ALIGNED = Flags(aligned=True, interpreting=False, multiprocessors=1)


class Pointwise(ImplicitGemm):
    """The tiles of `implicit_gemm` without taps and windows and, in dense tensors, positions."""

    name = "pointwise"
    kinds: tuple[str, ...] = ("pointwise",)

    def supports(self, problem: ConvProblem, which: Pass) -> str | None:
        """One tap, always inside the image; in dgrad each position of x has its own of y."""
        if problem.filter_size != ONE:
            return f"a filter of {problem.filter_size} has more than one tap"
        if problem.period != ONE:
            return "a weight period has a GEMM for each bank"
        sizes = list(zip(problem.input_size, problem.output_size, problem.stride, strict=True))
        if any(low > 0 for low, _ in problem.padding) or any((o - 1) * s >= i for i, o, s in sizes):
            return "some windows lie outside the image"
        if which is Pass.DGRAD and any(i != o or (o > 1 and s > 1) for i, o, s in sizes):
            return "some positions of the image lie in no window"
        return super().supports(problem, which)

    def default_configs(self, problem: ConvProblem, which: Pass) -> Sequence[Config]:
        """Two heights; the width follows from the channels."""
        width = width_for(gemm_view(problem, which).columns)
        depth = 32 if problem.dtype == torch.float32 else 64
        if which is Pass.WGRAD:
            found = _wgrad_arguments(problem, 1, ALIGNED)
            wide = min(found["GRAD_VECTOR"], found["SRC_VECTOR"]) > 1
            return two_heights(width, depth if wide else depth // 2, 8, wide)
        found = _gather_arguments(problem, which, ALIGNED)
        wide = min(found["SRC_VECTOR"], found["WEIGHT_VECTOR"]) > 1
        return result_tiles(problem, width, depth if wide else depth // 2, found, wide)

    def launches(
        self, problem: ConvProblem, which: Pass, config: Config, flags: Flags
    ) -> tuple[Launch, ...]:
        """One launch; wgrad adds the summing pass where it splits."""
        view = gemm_view(problem, which)
        tiles = gemm_tiles(view, config)
        shared = gemm_constants(problem, config, flags)
        if which is Pass.WGRAD:
            splits = split_count(tiles, view.depth, config["BLOCK_K"], flags.multiprocessors)
            arguments = _wgrad_arguments(problem, splits, flags) | shared
            launch = Launch(pointwise_wgrad, tiles * splits, arguments, config)
            return (launch, sum_launch(problem, splits, flags)) if splits > 1 else (launch,)
        arguments = _gather_arguments(problem, which, flags) | shared
        return (Launch(pointwise_gemm, tiles, arguments, config),)


def width_for(columns: int) -> int:
    """The narrowest tile that holds all columns, or the widest there is."""
    return next((n for n in WIDTHS if n >= columns), WIDTHS[-1])


def result_tiles(
    problem: ConvProblem, width: int, depth: int, found: dict[str, Any], wide: bool
) -> list[Config]:
    """Tiles for fprop or dgrad with the arguments `found`; `wide`: its operands are in vectors.

    A residual or an untied bias is a second tile beside the accumulator, and one more to be turned
    if the result is not stored by channel.
    """
    second = has_second_tile(problem)
    if second and not found["DST_UNIT"]:
        width = min(width, WIDTHS[-2])
    largest = wide and found["DST_VECTOR"] > 1 and not second
    return two_heights(width, depth, 4 if wide else 8, largest)


def two_heights(width: int, depth: int, warps: int, largest: bool) -> list[Config]:
    """Tiles of 64 and 128 rows with at least that many warps; `largest`: 128 x 128 fits too."""
    heights = [m for m in (64, 128) if largest or m + width < 256]
    return [
        Config.of(8 if m + width >= 192 else warps, 3, BLOCK_M=m, BLOCK_N=width, BLOCK_K=depth)
        for m in heights
    ]


def _gather_arguments(problem: ConvProblem, which: Pass, flags: Flags) -> dict[str, Any]:
    """The arguments of `pointwise_gemm`, beside the constants of every GEMM."""
    dgrad = which is Pass.DGRAD
    per_k = problem.out_channels // problem.groups
    per_c = problem.in_channels // problem.groups
    stride_k, stride_c = problem.weight_strides[3:5]
    reduction, columns, stride_m, stride_n = (
        (per_k, per_c, stride_k, stride_c) if dgrad else (per_c, per_k, stride_c, stride_k)
    )
    src, dst = _stepped(problem), problem.output_strides
    if dgrad:
        src, dst = dst, src
    rows, (src, dst, residual) = merged_rows(
        problem, src, dst, problem.epilogue.residual_strides or dst
    )
    batch, *size = rows.size
    result = result_arguments(problem, rows, dst, residual, columns, flags)
    src_vector = run_width(problem, src, (batch, reduction, *size), flags)
    src_unit, reduce_unit = src[1] == 1, stride_m == 1
    weight_vector = 1
    if flags.aligned:
        strides = (stride_m, stride_n, stride_k * per_k)
        sizes = (reduction, columns, problem.groups)
        weight_vector = vector_width(problem, strides, sizes, 0 if reduce_unit else 1)
    # Which of the vectors run along the rows, the summed channels and the columns.
    along_rows = (
        1 if src_unit else src_vector,
        1 if result["DST_UNIT"] else result["DST_VECTOR"],
    )
    along_reduction = (src_vector if src_unit else 1, weight_vector if reduce_unit else 1)
    along_columns = (
        result["DST_VECTOR"] if result["DST_UNIT"] else 1,
        1 if reduce_unit else weight_vector,
    )
    return {
        **result,
        "src_ptr": Slot.OUTPUT if dgrad else Slot.INPUT,
        "weight_ptr": Slot.WEIGHT,
        "dst_ptr": Slot.INPUT if dgrad else Slot.OUTPUT,
        "reduce_channels": reduction,
        "dst_channels": columns,
        **stride_arguments("s", src),
        "stride_wg": stride_k * per_k,
        "stride_wm": stride_m,
        "stride_wn": stride_n,
        "SRC_UNIT": src_unit,
        "SRC_ROW_UNIT": src[4] == 1,
        "SRC_VECTOR": src_vector,
        "WEIGHT_REDUCE_UNIT": reduce_unit,
        "WEIGHT_DST_UNIT": not reduce_unit and stride_n == 1,
        "WEIGHT_VECTOR": weight_vector,
        "ROW_VECTOR": max(along_rows),
        "REDUCE_VECTOR": max(along_reduction),
        "COLUMN_VECTOR": max(along_columns),
        "INDEX": index_dtype(problem),
    }


def _wgrad_arguments(problem: ConvProblem, splits: int, flags: Flags) -> dict[str, Any]:
    """The arguments of `pointwise_wgrad`, beside the constants of every GEMM."""
    per_k = problem.out_channels // problem.groups
    per_c = problem.in_channels // problem.groups
    stride_k, stride_c = problem.weight_strides[3:5]
    rows, (grad, src) = merged_rows(problem, problem.output_strides, _stepped(problem))
    batch, *size = rows.size
    grad_vector = run_width(problem, grad, (batch, per_k, *size), flags)
    src_vector = run_width(problem, src, (batch, per_c, *size), flags)
    grad_unit, src_unit = grad[1] == 1, src[1] == 1
    return {
        "grad_ptr": Slot.OUTPUT,
        "src_ptr": Slot.INPUT,
        "dst_ptr": Slot.WORKSPACE if splits > 1 else Slot.WEIGHT,
        "batch": batch,
        "grad_channels": per_k,
        "src_channels": per_c,
        **axis_arguments("row", size),
        "groups": problem.groups,
        "splits": splits,
        **stride_arguments("g", grad),
        **stride_arguments("s", src),
        "stride_wg": stride_k * per_k,
        "stride_wk": stride_k,
        "stride_wc": stride_c,
        "stride_split": problem.weight_elements,
        "AXES": rows.axes,
        "GRAD_UNIT": grad_unit,
        "GRAD_ROW_UNIT": grad[4] == 1,
        "GRAD_VECTOR": grad_vector,
        "SRC_UNIT": src_unit,
        "SRC_ROW_UNIT": src[4] == 1,
        "SRC_VECTOR": src_vector,
        "ROW_VECTOR": max(1 if grad_unit else grad_vector, 1 if src_unit else src_vector),
        "DST_UNIT": stride_c == 1,
        "INDEX": index_dtype(problem),
    }


def _stepped(problem: ConvProblem) -> tuple[int, ...]:
    """The strides of x from one window to the next."""
    n, c, *steps = problem.input_strides
    return (n, c, *(step * s for step, s in zip(steps, problem.stride, strict=True)))
