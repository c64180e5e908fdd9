"""Depthwise convolution: each channel has filters of its own, so nothing is shared but windows."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
import triton.language as tl

from autotune import Config

from ..device import Device
from ..gemm_view import GemmView, gemm_view
from ..kernels.depthwise_gather import depthwise_gather
from ..kernels.depthwise_wgrad import depthwise_wgrad
from ..launch import Launch
from ..problem import ConvProblem, Pass
from .base import (
    Flags,
    ceil_div,
    gather_arguments,
    has_second_tile,
    soft_bf16,
    split_count,
    sum_launch,
    vector_width,
    wgrad_arguments,
)
from .implicit_gemm import ImplicitGemm

# Registers a thread can give to weights (or wgrad's sums), and to a strip's sums as well.
HELD_WORDS = 72
MOST_WORDS = 120
# Taps whose weights are kept for all of a program, and so unrolled; more are taken row by row.
HELD_TAPS = 9
# Taps that a program of wgrad sums.
SUMMED_TAPS = 16
LONGEST_STRIP = 8
# Channels of a tile where they are contiguous; each position costs about as much as 16 more.
WIDTHS = (64, 32, 16)
POSITION = 16
# Taps along the strips beyond which unrolling them makes more code than a cache holds.
LONGEST_FILTER = 32
# Tiles a program takes: enough that its weights cost little, few enough to fill the GPU evenly.
MOST_STEPS = 8
PROGRAMS = 8
ONE = (1, 1, 1)
# Arguments of every gather and wgrad that mean nothing here.
UNUSED = {f"{name}_{axis}" for name in ("period", "stride_bank") for axis in "dhw"}
UNUSED_IN_WGRAD = UNUSED | {"stride_wg", "stride_wc", "src_channels"}


class Depthwise:
    """Plain multiply-adds over strips of positions that share the values they read."""

    name = "depthwise"
    kinds: tuple[str, ...] = ("depthwise",)

    def supports(self, problem: ConvProblem, which: Pass) -> str | None:
        """One input channel a group, one filter bank; in dgrad nothing folds at the border."""
        if problem.groups != problem.in_channels:
            return f"{problem.in_channels} channels in {problem.groups} groups are not depthwise"
        if problem.period != ONE:
            return "it keeps one bank's weights in registers, and a weight period has several"
        if which is Pass.DGRAD and problem.padding_mode != "zeros":
            return f"with {problem.padding_mode} padding a strip is read by its images as well"
        return None

    def declines(self, problem: ConvProblem, which: Pass, device: Device) -> str | None:
        """So many results a channel that matrix units pay, or taps too many to unroll."""
        core = ImplicitGemm()
        if core.supports(problem, which) is None and core.declines(problem, which, device) is None:
            per_channel = problem.out_channels // problem.groups
            return f"{per_channel} results a channel keep matrix units busy"
        taps = problem.filter_size[_axes(problem, which)[2]]
        if taps > LONGEST_FILTER:
            return f"{taps} taps in a row are too many to unroll"
        return None

    def default_configs(self, problem: ConvProblem, which: Pass) -> Sequence[Config]:
        """Channels-last: three widths. By plane: strips, or single positions for 1-D signals."""
        by_plane = _by_plane(problem, which)
        taps = _taps_at_once(_exchanged(problem, _axes(problem, which)), which)
        vector = 1 if by_plane else _vector(problem, taps)
        words = vector * _words(problem)
        strip = LONGEST_STRIP
        while strip > 1 and (taps + strip) * words > MOST_WORDS:
            strip //= 2
        if by_plane:
            return [Config.of(4, 1, BLOCK_M=128, BLOCK_N=1, STRIP=s) for s in (strip, 1)]
        rows = (64 if has_second_tile(problem) else 128) * vector
        return [Config.of(4, 1, BLOCK_M=rows // n, BLOCK_N=n, STRIP=strip) for n in WIDTHS]

    def configs(self, problem: ConvProblem, which: Pass, device: Device) -> Sequence[Config]:
        """The default table, with shorter and longer strips and with more warps."""
        found = []
        for base in self.default_configs(problem, which):
            for warps in (base.num_warps, 2 * base.num_warps):
                for strip in sorted({1, 2, 4, 8, base["STRIP"]}):
                    rows = base["BLOCK_M"] * warps // base.num_warps
                    constants = {"BLOCK_M": rows, "BLOCK_N": base["BLOCK_N"], "STRIP": strip}
                    found.append(Config.of(warps, 1, **constants))
        return found

    def default_config(self, problem: ConvProblem, which: Pass, device: Device) -> Config:
        """Strips where there is more than one position, and the width that wastes least."""
        table = self.default_configs(problem, which)
        dgrad = which is Pass.DGRAD
        if _by_plane(problem, which):
            sizes = problem.input_size if dgrad else problem.output_size
            return table[0 if sizes[_axes(problem, which)[2]] > 1 else 1]
        channels = problem.in_channels if dgrad else problem.out_channels

        def cost(config: Config) -> int:
            return ceil_div(channels, config["BLOCK_N"]) * (config["BLOCK_N"] + POSITION)

        return min(table, key=cost)

    def launches(
        self, problem: ConvProblem, which: Pass, config: Config, flags: Flags
    ) -> tuple[Launch, ...]:
        """One launch; wgrad adds the summing pass where it splits."""
        problem = _exchanged(problem, _axes(problem, which))
        view = gemm_view(problem, which)
        constants = {
            **dict(config.constants),
            **_layout(problem, which, flags),
            "groups": problem.groups,
            "MULTIPLIED": problem.out_channels != problem.in_channels,
            "ACC": tl.float64 if problem.dtype == torch.float64 else tl.float32,
            "SOFT_BF16": soft_bf16(problem, flags),
        }
        if which is Pass.WGRAD:
            part = _rows_of_taps(problem)
            tiles = ceil_div(problem.out_channels, config["BLOCK_N"])
            tiles *= ceil_div(math.prod(problem.filter_size[:2]), part)
            splits = split_count(tiles, view.depth, config["BLOCK_M"], flags.multiprocessors)
            arguments = wgrad_arguments(problem, splits) | constants | {"TAP_ROWS": part}
            arguments = {k: v for k, v in arguments.items() if k not in UNUSED_IN_WGRAD}
            launch = Launch(depthwise_wgrad, tiles * splits, arguments, config)
            return (launch, sum_launch(problem, splits, flags)) if splits > 1 else (launch,)
        tiles_n = ceil_div(view.columns * problem.groups, config["BLOCK_N"])
        tiles_n *= math.prod(view.classes)
        tiles_m = ceil_div(_strips(problem, view, config["STRIP"]), config["BLOCK_M"])
        steps = tiles_m * tiles_n // (PROGRAMS * flags.multiprocessors)
        steps = max(min(steps, MOST_STEPS), 1)
        arguments = gather_arguments(problem, which) | constants
        arguments |= {"steps": steps, "HELD": _is_held(problem, view)}
        arguments = {k: v for k, v in arguments.items() if k not in UNUSED}
        return (Launch(depthwise_gather, ceil_div(tiles_m, steps) * tiles_n, arguments, config),)


# -- which axis is which ----------------------------------------------------------------------


def _by_plane(problem: ConvProblem, which: Pass) -> bool:
    """Whether a tile is the positions of one channel, because channels are not contiguous."""
    strides = problem.input_strides if which is Pass.FPROP else problem.output_strides
    return problem.in_channels == 1 or strides[1] != 1


def _axes(problem: ConvProblem, which: Pass) -> tuple[int, int, int]:
    """The problem's axes in the order in which the kernels take them: the last one has the strips,
    the one before it the tile's neighbours.

    Where channels are planes the neighbours' axis must be the contiguous one.
    """
    sizes = problem.input_size if which is Pass.DGRAD else problem.output_size
    left = [0, 1, 2]
    inner = max(left, key=lambda axis: (sizes[axis] > 1, axis))
    if _by_plane(problem, which):
        left.remove(inner)
    # The more taps, the more a strip shares.
    strips = max(left, key=lambda axis: (sizes[axis] > 1, problem.filter_size[axis], axis))
    left.remove(strips)
    return (left[0], inner if len(left) == 1 else left[1], strips)


def _exchanged(problem: ConvProblem, axes: tuple[int, int, int]) -> ConvProblem:
    """The same convolution with its (D, H, W) axes in another order."""

    def exchange(values: Sequence[Any], at: int = 0) -> Any:
        """`values` with the three entries from `at` on reordered."""
        return (*values[:at], *(values[at + axis] for axis in axes), *values[at + 3 :])

    epilogue = problem.epilogue
    bias, residual = epilogue.bias_strides, epilogue.residual_strides
    return dataclasses.replace(
        problem,
        input_size=exchange(problem.input_size),
        output_size=exchange(problem.output_size),
        filter_size=exchange(problem.filter_size),
        stride=exchange(problem.stride),
        dilation=exchange(problem.dilation),
        padding=exchange(problem.padding),
        input_strides=exchange(problem.input_strides, 2),
        output_strides=exchange(problem.output_strides, 2),
        weight_strides=exchange(problem.weight_strides, 5),
        epilogue=dataclasses.replace(
            epilogue,
            bias_period=exchange(epilogue.bias_period),
            bias_strides=None if bias is None else exchange(bias),
            residual_strides=None if residual is None else exchange(residual, 2),
        ),
    )


def _strips(problem: ConvProblem, view: GemmView, strip: int) -> int:
    """Strips of the largest residue class, all images together."""
    sizes = problem.input_size if view.which is Pass.DGRAD else problem.output_size
    d, h, w = (ceil_div(size, r) for size, r in zip(sizes, view.residues, strict=True))
    return problem.batch * d * h * ceil_div(w, strip)


# -- registers and vectors --------------------------------------------------------------------


def _words(problem: ConvProblem) -> int:
    """Registers of one sum."""
    return problem.accumulator_bytes // 4


def _unrolled(problem: ConvProblem, view: GemmView) -> int:
    """Taps of the residue class that has the most along every axis."""
    steps = zip(problem.filter_size, view.tap_step, strict=True)
    return math.prod(ceil_div(taps, step) for taps, step in steps)


def _is_held(problem: ConvProblem, view: GemmView) -> bool:
    """Whether a program of fprop or dgrad keeps all its weights in registers."""
    several = view.which is Pass.DGRAD and problem.out_channels != problem.in_channels
    return not several and _unrolled(problem, view) <= HELD_TAPS


def _taps_at_once(problem: ConvProblem, which: Pass) -> int:
    """Taps whose weights, or in wgrad whose sums, a thread keeps in registers at a time.

    All of them where they are few, else those of a row, in wgrad of some rows.
    """
    view = gemm_view(problem, which)
    row = ceil_div(problem.filter_size[2], view.tap_step[2])
    if which is Pass.WGRAD:
        return row * _rows_of_taps(problem)
    return _unrolled(problem, view) if _is_held(problem, view) else row


def _rows_of_taps(problem: ConvProblem) -> int:
    """Rows of taps that a program of wgrad sums, so that all programs have about as many."""
    rows = math.prod(problem.filter_size[:2])
    return ceil_div(rows, ceil_div(rows, max(SUMMED_TAPS // problem.filter_size[2], 1)))


def _vector(problem: ConvProblem, taps: int) -> int:
    """Channels a thread: 16 bytes of them, or as many as leave room for a strip."""
    vector = 16 // problem.dtype.itemsize
    while vector > 1 and taps * vector * _words(problem) > HELD_WORDS:
        vector //= 2
    return vector


def _layout(problem: ConvProblem, which: Pass, flags: Flags) -> dict[str, Any]:
    """The constexpr flags on which axis is contiguous, and in how wide vectors."""
    x = (problem.input_strides, problem.input_shape_3d)
    y = (problem.output_strides, problem.output_shape_3d)
    by_plane = _by_plane(problem, which)
    whole = flags.aligned and not by_plane

    def width(strides: Sequence[int], sizes: Sequence[int], alone: bool = True) -> int:
        return vector_width(problem, strides, sizes, 1) if whole and alone else 1

    # The source of several results a channel is read value by value.
    alone = problem.out_channels == problem.in_channels
    if which is Pass.WGRAD:
        found = {"GRAD_VECTOR": width(*y), "SRC_VECTOR": width(*x, alone)}
        return found | ({"GRAD_UNIT": False, "SRC_UNIT": False} if by_plane else {})
    src, dst = (y, x) if which is Pass.DGRAD else (x, y)
    found = {"SRC_VECTOR": width(*src, alone), "DST_VECTOR": width(*dst)}
    return found | ({"SRC_UNIT": False} if by_plane else {})
