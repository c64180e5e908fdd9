"""The unshared kernels: every position has its own weights, and moving them is the work."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
import triton.language as tl

from autotune import Config

from ..device import Device
from ..gemm_view import gemm_view
from ..kernels.unshared_gather import unshared_gather
from ..kernels.unshared_wgrad import unshared_wgrad
from ..launch import Launch
from ..problem import ConvProblem, Pass
from .base import (
    Flags,
    axis_arguments,
    ceil_div,
    gather_arguments,
    soft_bf16,
    vector_width,
    wgrad_arguments,
)

# The fewest rows, columns and terms of a matrix instruction.
MATRIX = 16
# The smallest tile of `implicit_gemm`, in rows and columns.
GEMM_TILE = (64, 32)
# A program of four warps holds this many bytes of weights at a time.
THREADS = 128
TILE_BYTES = 8192
WIDEST = 64
LONGEST = 128


class Unshared:
    """A program a position: the images are the rows, (channel, tap) is one flat axis."""

    name = "unshared"
    kinds: tuple[str, ...] = ("unshared",)

    def supports(self, problem: ConvProblem, which: Pass) -> str | None:
        """Every period; for the input gradient no border that folds."""
        if which is Pass.DGRAD and problem.padding_mode != "zeros":
            return f"with {problem.padding_mode} padding a position of dgrad has several windows"
        return None

    def declines(self, problem: ConvProblem, which: Pass, device: Device) -> str | None:
        """Weights read several times, idle threads, tiles that `implicit_gemm` fills."""
        if problem.period != problem.output_size:
            return "several positions have the same weights, and each would read them again"
        weights = math.prod(problem.weight_shape_3d[3:]) // problem.groups
        if weights < THREADS:
            return f"the {weights} weights of a position and group leave threads idle"
        if which is not Pass.WGRAD and problem.dtype != torch.float64:
            filled = _gemm_fill(problem, which)
            if filled >= 1 / 2:
                return f"implicit_gemm fills {filled:.0%} of its tiles, with less arithmetic a row"
        programs = self._programs(problem, which, self.default_config(problem, which, device))
        if programs < device.multiprocessors:
            return f"{programs} programs leave some of {device.multiprocessors} processors idle"
        return None

    def default_configs(self, problem: ConvProblem, which: Pass) -> Sequence[Config]:
        """A tile for one image, by plain multiply-adds, and taller ones for more."""
        view = gemm_view(problem, which)
        elements = TILE_BYTES // problem.dtype.itemsize
        double = problem.dtype == torch.float64
        if which is Pass.WGRAD:
            m = _power(view.rows, MATRIX, WIDEST)
            n = _power(view.columns * math.prod(problem.filter_size), MATRIX, elements // m)
            return [
                Config.of(4, 3, BLOCK_M=m, BLOCK_N=n, BLOCK_K=k)
                for k in ((1,) if double else (1, MATRIX))
            ]
        n = _power(view.columns, MATRIX, WIDEST)
        if which is Pass.DGRAD and _dgrad_vector(problem) == 1:
            # Read one by one, a thread's weights belong to as many terms, each with its bank.
            elements //= 4
        k = _power(view.depth, MATRIX, min(LONGEST, elements // n))
        rows = (1, 4) if double else (1, MATRIX, 2 * MATRIX)
        return [Config.of(4, 3, BLOCK_M=m, BLOCK_N=n, BLOCK_K=k) for m in rows]

    def configs(self, problem: ConvProblem, which: Pass, device: Device) -> Sequence[Config]:
        """The default table, with fewer and more stages and warps."""
        table = self.default_configs(problem, which)
        return [
            Config(c.constants, warps, stages)
            for c in table
            for warps in (2, 4, 8)
            for stages in (2, 3, 4)
        ]

    def default_config(self, problem: ConvProblem, which: Pass, device: Device) -> Config:
        """The lowest tile that holds every image; wgrad sums them on matrix units if it can."""
        table = self.default_configs(problem, which)
        size = "BLOCK_K" if which is Pass.WGRAD else "BLOCK_M"
        return next((c for c in table if c[size] >= problem.batch), table[-1])

    def launches(
        self, problem: ConvProblem, which: Pass, config: Config, flags: Flags
    ) -> tuple[Launch, ...]:
        """One launch."""
        dot = config["BLOCK_K" if which is Pass.WGRAD else "BLOCK_M"] >= MATRIX
        double = problem.dtype == torch.float64
        constants = {
            **dict(config.constants),
            "DOT": dot and not double,
            "ACC": tl.float64 if double else tl.float32,
            "PRECISION": problem.precision,
            "SOFT_BF16": soft_bf16(problem, flags),
        }
        programs = self._programs(problem, which, config)
        if which is Pass.WGRAD:
            arguments = _wgrad_arguments(problem, flags) | constants
            return (Launch(unshared_wgrad, programs, arguments, config),)
        arguments = _gather_arguments(problem, which, flags) | constants
        return (Launch(unshared_gather, programs, arguments, config),)

    def _programs(self, problem: ConvProblem, which: Pass, config: Config) -> int:
        view = gemm_view(problem, which)
        if which is Pass.WGRAD:
            columns = view.columns * math.prod(problem.filter_size)
            tiles = ceil_div(view.rows, config["BLOCK_M"]) * ceil_div(columns, config["BLOCK_N"])
            return tiles * problem.groups * math.prod(problem.period)
        size = problem.input_size if which is Pass.DGRAD else problem.output_size
        tiles = ceil_div(problem.batch, config["BLOCK_M"])
        tiles *= ceil_div(view.columns, config["BLOCK_N"])
        return tiles * problem.groups * math.prod(size)


def _power(size: int, least: int, most: int) -> int:
    """The power of two that holds `size`, between `least` and `most`."""
    return min(max(1 << max(size - 1, 0).bit_length(), least), most)


def _gemm_fill(problem: ConvProblem, which: Pass) -> float:
    """The share of the smallest tile of `implicit_gemm` that is no padding; there each tap's
    channels are padded on their own."""
    view = gemm_view(problem, which)
    total = problem.out_channels if which is Pass.DGRAD else problem.in_channels
    depth = 32 if problem.dtype == torch.float32 else 64
    sizes = (view.rows, view.columns, total // problem.groups)
    blocks = (*GEMM_TILE, depth)
    return math.prod(
        n / (ceil_div(n, b) * b) if n else 0 for n, b in zip(sizes, blocks, strict=True)
    )


def _gather_arguments(problem: ConvProblem, which: Pass, flags: Flags) -> dict[str, Any]:
    """What `unshared_gather` takes, beside the config's constants."""
    x = (problem.input_strides, problem.input_shape_3d)
    y = (problem.output_strides, problem.output_shape_3d)
    if which is Pass.DGRAD:
        # Every tap has a bank of its own, so none is read as it lies.
        taken, walk = problem, {}
        order = {
            **_src_order(problem, *y, y[0][1] == 1, flags),
            "WEIGHT_FLAT": False,
            "WEIGHT_DST_UNIT": problem.weight_strides[4] == 1,
            "WEIGHT_VECTOR": _dgrad_vector(problem) if flags.aligned else 1,
        }
        dst = x
    else:
        taken, walk = _memory_order(problem)
        order = {**_flat_order(problem, flags), "WEIGHT_DST_UNIT": False}
        dst = y
    return {
        **gather_arguments(taken, which),
        **walk,
        **order,
        "groups": problem.groups,
        "TILED": problem.period != problem.output_size,
        "DST_VECTOR": _channel_vector(problem, *dst, flags),
    }


def _wgrad_arguments(problem: ConvProblem, flags: Flags) -> dict[str, Any]:
    """What `unshared_wgrad` takes, beside the config's constants."""
    taken, walk = _memory_order(problem)
    arguments = wgrad_arguments(taken, 1) | _flat_order(problem, flags) | walk
    arguments["DILATION"] = arguments.pop("TAP_DELTA")
    del arguments["splits"], arguments["stride_split"]
    return arguments


def _memory_order(problem: ConvProblem) -> tuple[ConvProblem, dict[str, Any]]:
    """A flipped filter as one that is not: its taps, numbered as they lie in memory, begin at the
    far end of the window and go backwards."""
    pads, delta = [low for low, _ in problem.padding], problem.dilation
    if problem.flip:
        reach = zip(problem.filter_size, delta, strict=True)
        pads = [low - (f - 1) * d for low, (f, d) in zip(pads, reach, strict=True)]
        delta = tuple(-d for d in delta)
    walk = {**axis_arguments("pad", pads), "TAP_DELTA": delta}
    return dataclasses.replace(problem, flip=False), walk


def _flat_order(problem: ConvProblem, flags: Flags) -> dict[str, int | bool]:
    """How fprop and wgrad number (channel, tap): as a bank lies in memory if it is dense there,
    else with the image's contiguous axis the fastest."""
    strides, sizes = problem.weight_strides[4:], problem.weight_shape_3d[4:]
    taps_last = _is_dense(strides, sizes)
    channels_last = _is_dense((*strides[1:], strides[0]), (*sizes[1:], sizes[0]))
    x_strides = problem.input_strides
    channel_fast = x_strides[1] == 1 if taps_last == channels_last else channels_last
    flat = taps_last or channels_last
    rows = (*problem.weight_strides[:4], 1)
    shape = (*problem.weight_shape_3d[:4], math.prod(sizes))
    return {
        **_src_order(problem, x_strides, problem.input_shape_3d, channel_fast, flags),
        "WEIGHT_FLAT": flat,
        "WEIGHT_VECTOR": vector_width(problem, rows, shape, 4) if flat and flags.aligned else 1,
    }


def _src_order(
    problem: ConvProblem,
    strides: Sequence[int],
    shape: Sequence[int],
    channel_fast: bool,
    flags: Flags,
) -> dict[str, int | bool]:
    """Neighbouring terms are neighbouring channels or taps; only the former are read as vectors."""
    vector = _channel_vector(problem, strides, shape, flags) if channel_fast else 1
    return {"CHANNEL_FAST": channel_fast, "SRC_VECTOR": vector}


def _is_dense(strides: Sequence[int], sizes: Sequence[int]) -> bool:
    """Whether the axes are one without gaps, the last the fastest."""
    step = 1
    for stride, size in zip(reversed(strides), reversed(sizes), strict=True):
        if size > 1 and stride != step:
            return False
        step *= size
    return True


def _dgrad_vector(problem: ConvProblem) -> int:
    """Elements of a 16-byte vector of weights along dgrad's columns, given aligned pointers."""
    return vector_width(problem, problem.weight_strides, problem.weight_shape_3d, 4)


def _channel_vector(
    problem: ConvProblem, strides: Sequence[int], shape: Sequence[int], flags: Flags
) -> int:
    """Elements of a 16-byte vector along the channels of a group of an image tensor."""
    per_group = (shape[0], shape[1] // problem.groups, *shape[2:])
    return vector_width(problem, strides, per_group, 1) if flags.aligned else 1
