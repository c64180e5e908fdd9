"""Stem convolutions: few input channels, so that taps and channels share an axis of the GEMM."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from autotune import Config

from ..device import Device
from ..gemm_view import GemmView, gemm_view
from ..kernels.stem_gemm import stem_gemm
from ..kernels.stem_wgrad import stem_wgrad
from ..launch import Launch
from ..problem import ConvProblem, Pass
from ._rows import merged_rows, result_arguments, run_width
from .base import Flags, ceil_div, gather_arguments, split_count, sum_launch, wgrad_arguments
from .implicit_gemm import (
    SMALLEST,
    WIDTHS,
    ImplicitGemm,
    gemm_constants,
    gemm_tiles,
    matrix_advantage_of,
)
from .pointwise import ALIGNED, ONE, result_tiles, width_for

# A word has a bit for each tap of each axis, one for the lanes beyond the last, and a sign.
MOST_BITS = 30
# Terms in a step of patches that are read one by one.
NARROW_DEPTH = 32


class Stem(ImplicitGemm):
    """The tiles of `implicit_gemm`, with steps over as many taps as fit in place of one tap."""

    name = "stem"
    kinds: tuple[str, ...] = ("stem",)

    def supports(self, problem: ConvProblem, which: Pass) -> str | None:
        """fprop and wgrad of ordinary convolutions."""
        if which is Pass.DGRAD:
            return "dgrad sums over output channels: those fill its steps"
        if problem.period != ONE:
            return "a weight period has a GEMM for each bank"
        return super().supports(problem, which)

    def declines(self, problem: ConvProblem, which: Pass, device: Device) -> str | None:
        """Enough channels for the steps of `implicit_gemm`, or too few for any matrix unit."""
        channels, depth = problem.in_channels // problem.groups, _depth(problem)
        if 2 * channels > depth:
            return f"{channels} channels a group fill most of a step of {depth} by themselves"
        if problem.filter_size == ONE:
            return "its one tap has no other to share a step with"
        sides = (problem.out_channels // problem.groups, _lanes(problem))
        useful = math.prod(min(side, SMALLEST) / SMALLEST for side in sides)
        advantage = matrix_advantage_of(problem, device)
        if useful * advantage < 1:
            return (
                f"its {sides[0]} channels and {sides[1]} lanes a group fill {useful:.1%} of a "
                f"{SMALLEST} x {SMALLEST} matrix tile; that loses more than the matrix units' "
                f"factor of {advantage} gains"
            )
        return None

    def default_configs(self, problem: ConvProblem, which: Pass) -> Sequence[Config]:
        """Two heights for fprop, one tile for wgrad; widths follow from channels and taps.

        Triton lays out all tiles of one shape alike. Patches that are read one by one must differ
        in shape from what is read or written in vectors, or neighbouring threads would no longer
        read neighbours.
        """
        per_k, depth = problem.out_channels // problem.groups, _depth(problem)
        wide = _patch_constants(problem, which, ALIGNED)["SRC_VECTOR"] > 1
        depth = depth if wide else NARROW_DEPTH
        if which is Pass.FPROP:
            found, width = _gather_arguments(problem, ALIGNED), width_for(per_k)
            if wide:
                # What a step costs beside its lanes is about as much as 32 of them.
                depth = min((depth, depth // 2), key=lambda k: _steps(problem, k) * (k + 32))
            elif not found["DST_UNIT"]:
                width = max(width, WIDTHS[1])
            return result_tiles(problem, width, depth, found, wide)
        # The positions of a step are decoded for each tile: that costs as much as 64 lanes.
        widths = WIDTHS if wide or per_k <= WIDTHS[1] else WIDTHS[:-1]
        lanes = _lanes(problem)
        width = min(widths, key=lambda n: (ceil_div(lanes, n) * (n + 64), -n))
        height = 128 if per_k > WIDTHS[1] or (width == WIDTHS[1] and not wide) else 64
        return [Config.of(8, 3, BLOCK_M=height, BLOCK_N=width, BLOCK_K=depth)]

    def launches(
        self, problem: ConvProblem, which: Pass, config: Config, flags: Flags
    ) -> tuple[Launch, ...]:
        """One launch; wgrad adds the summing pass where it splits."""
        view = _view(problem, which)
        tiles = gemm_tiles(view, config)
        shared = gemm_constants(problem, config, flags) | _patch_constants(problem, which, flags)
        if which is Pass.WGRAD:
            splits = split_count(tiles, view.depth, config["BLOCK_K"], flags.multiprocessors)
            arguments = _wgrad_arguments(problem, splits, flags) | shared
            launch = Launch(stem_wgrad, tiles * splits, arguments, config)
            return (launch, sum_launch(problem, splits, flags)) if splits > 1 else (launch,)
        arguments = _gather_arguments(problem, flags) | shared
        return (Launch(stem_gemm, tiles, arguments, config),)


def _depth(problem: ConvProblem) -> int:
    """Terms of the sum in one step."""
    return 32 if problem.dtype == torch.float32 else 64


def _lanes(problem: ConvProblem) -> int:
    """Channels x taps of one group."""
    return math.prod(problem.weight_shape_3d[4:])


def _steps(problem: ConvProblem, depth: int) -> int:
    """Steps of fprop's sum, as `add_lines` in `kernels/stem_gemm.py` takes them."""
    t, lines, s = problem.filter_size
    whole, rest = divmod(s * (problem.in_channels // problem.groups), depth)
    return t * (whole * lines + (ceil_div(lines, min(depth // rest, lines)) if rest else 0))


def _view(problem: ConvProblem, which: Pass) -> GemmView:
    """The pass as one GEMM a group, its taps counted among the columns of wgrad."""
    view = gemm_view(problem, which)
    if which is Pass.WGRAD:
        view = replace(view, groups=problem.groups, columns=_lanes(problem))
    return view


def _gather_arguments(problem: ConvProblem, flags: Flags) -> dict[str, Any]:
    """The arguments of `stem_gemm`, beside the constants."""
    found = gather_arguments(problem, Pass.FPROP)
    dst, columns = problem.output_strides, found["dst_channels"]
    residual = problem.epilogue.residual_strides or dst
    rows, (dst, residual) = merged_rows(problem, dst, residual)
    found |= {
        "images": problem.batch,
        **result_arguments(problem, rows, dst, residual, columns, flags),
        "WEIGHT_VECTOR": _weight_vector(problem, found) if flags.aligned else 1,
    }
    unused = ("reduce_channels", "TAP_STEP", "TAP_DELTA", "DGRAD", "SRC_UNIT")
    return _without(found, unused)


def _wgrad_arguments(problem: ConvProblem, splits: int, flags: Flags) -> dict[str, Any]:
    """The arguments of `stem_wgrad`, beside the constants."""
    found = wgrad_arguments(problem, splits)
    rows, (grad,) = merged_rows(problem, problem.output_strides)
    batch, *size = rows.size
    sizes = (batch, found["grad_channels"], *size)
    # Along the rows a vector may cross from one line of an image to the next.
    found["GRAD_VECTOR"] = run_width(problem, grad, sizes, flags)
    return _without(found, ("src_channels", "SRC_UNIT"))


def _without(arguments: dict[str, Any], unused: Sequence[str]) -> dict[str, Any]:
    """The arguments less those, and less what belongs to a weight period."""
    return {
        name: value
        for name, value in arguments.items()
        if name not in unused and not name.startswith(("period", "stride_bank"))
    }


def _patch_constants(problem: ConvProblem, which: Pass, flags: Flags) -> dict[str, Any]:
    """What `kernels/_patches.py` is told."""
    padded = any(low > 0 or high > 0 for low, high in problem.padding)
    vector = _patch_vector(problem, padded) if flags.aligned else 1
    mask = "compare" if padded else "none"
    short = sum(problem.filter_size) <= MOST_BITS
    if padded and which is Pass.WGRAD and problem.padding_mode == "zeros" and vector == 1 and short:
        mask = "bits"
    return {
        "CHANNELS": problem.in_channels // problem.groups,
        "MASK": mask,
        "CHANNELS_FAST": problem.input_strides[1] == 1,
        "SRC_VECTOR": vector,
    }


def _patch_vector(problem: ConvProblem, padded: bool) -> int:
    """Lanes of a patch that are neighbours in memory, and aligned, at every window and tap.

    They may belong to several taps of a line if no window leaves the image, else to one.
    """
    stride_n, stride_c, *strides = problem.input_strides
    stride_s = strides[2] * problem.dilation[2]
    run, steps = _run(problem, stride_c, stride_s, joined=not padded)
    if problem.batch > 1:
        steps.append(stride_n)
    if problem.groups > 1:
        steps.append(problem.in_channels // problem.groups * stride_c)
    for axis, stride in enumerate(strides):
        steps.append(stride * problem.padding[axis][0])
        if padded and problem.padding_mode != "zeros" and problem.input_size[axis] > 1:
            # A border that folds may lead to any position.
            steps.append(stride)
        if problem.output_size[axis] > 1:
            steps.append(stride * problem.stride[axis])
        if problem.filter_size[axis] > 1 and axis < 2:
            steps.append(stride * problem.dilation[axis])
    return math.gcd(16 // problem.dtype.itemsize, run, *steps)


def _weight_vector(problem: ConvProblem, found: dict[str, Any]) -> int:
    """Lanes of a filter that are neighbours in memory, and aligned."""
    run, steps = _run(problem, found["stride_wm"], found["stride_ws"], joined=True)
    steps += [found[name] for name in ("weight_base", "stride_wn", "stride_wg")]
    for size, name in zip(problem.filter_size, ("stride_wt", "stride_wr"), strict=False):
        if size > 1:
            steps.append(found[name])
    return math.gcd(16 // problem.dtype.itemsize, run, *steps)


def _run(problem: ConvProblem, stride_c: int, stride_s: int, joined: bool) -> tuple[int, list[int]]:
    """Lanes of one line in a row in memory, and the steps from one such run to the next.

    A line is ordered (w, c) if the channels of x are contiguous, else (c, w). `joined`: whether
    a run may go on from one tap to the next.
    """
    channels, taps = problem.in_channels // problem.groups, problem.filter_size[2]
    if problem.input_strides[1] == 1:
        run = channels if stride_c == 1 or channels == 1 else 1
        if joined and stride_s == run == channels:
            return run * taps, []
        return run, [stride_s] if taps > 1 else []
    run = taps if joined and stride_s == 1 else 1
    return run, [stride_c] if channels > 1 else []
