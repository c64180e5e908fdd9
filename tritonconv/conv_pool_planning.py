"""How convolution, activation and pooling run as one kernel: which of two, its tile, its arguments.

`conv_pool_gemm` pools the tile of a matrix product, `conv_pool_direct` sums of plain multiply-adds.
One or the other takes every problem whose windows do not overlap.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import triton.language as tl

from autotune import Config

from .conv_pool import ConvPoolProblem
from .device import Device
from .gemm_view import GemmView, gemm_view
from .kernels.conv_pool_direct import conv_pool_direct
from .kernels.conv_pool_gemm import conv_pool_gemm
from .launch import Launch, Plan, Slot
from .problem import Pass
from .variants.base import (
    OVERHANG,
    Flags,
    axis_arguments,
    ceil_div,
    gather_arguments,
    index_dtype,
    soft_bf16,
    stride_arguments,
    vector_width,
)
from .variants.depthwise import Depthwise
from .variants.direct import column_cost
from .variants.implicit_gemm import (
    gather_gemm_arguments,
    gemm_constants,
    shared_bytes,
    tile_cost,
)
from .variants.pointwise import ALIGNED

GEMM, DIRECT = "conv_pool_gemm", "conv_pool_direct"
# Members of a unit that fit a tile, four units of them in the smaller one of 128 places.
MOST_MEMBERS = 32


def supports(problem: ConvPoolProblem) -> str | None:
    """None if one kernel computes it, else why none does."""
    if problem.overlaps:
        return (
            f"pooling {_what(problem)}: only what does not overlap is pooled where the convolution "
            "computes it, once"
        )
    return None


def gemm_refuses(problem: ConvPoolProblem, device: Device) -> str | None:
    """None if the GEMM takes it, else why the direct kernel does."""
    conv, depthwise = problem.conv, Depthwise()
    if conv.dtype == torch.float64:
        return "float64 has no tl.dot on every target"
    if conv.period != (1, 1, 1):
        return "a weight period has a GEMM for each bank, and a window meets several banks"
    if conv.epilogue.bias_kind == "untied":
        return "an untied bias differs within a window"
    if padded(problem) > MOST_MEMBERS:
        return f"{problem.members} values are pooled into one, a tile has room for {MOST_MEMBERS}"
    if problem.pool == "maxout":
        if problem.piece_step != problem.pieces:
            return "channels between two maxout units would be computed for nothing"
        if padded(problem) != problem.members:
            return f"{problem.members} pieces do not fill a tile's columns, for that a power of two"
        if conv.out_channels // conv.groups % problem.pieces:
            return f"{problem.pieces} pieces lie in more than one of {conv.groups} groups"
    if depthwise.supports(conv, Pass.FPROP) or depthwise.declines(conv, Pass.FPROP, device):
        return None
    return "one channel a filter would leave matrix units idle"


def fused_plan(
    problem: ConvPoolProblem, device: Device, *, aligned: bool = True, kernel: str | None = None
) -> Plan:
    """The plan of one kernel, for a problem that `supports` does not refuse. It reads Slot.INPUT,
    WEIGHT and BIAS, and writes y to Slot.OUTPUT and the winners' numbers, in `tap_dtype`, to
    Slot.TAPS, both as `output_shape` and `output_strides` say. `aligned`: every tensor starts at a
    multiple of 16 bytes. `kernel` forces one, for tests."""
    refused = gemm_refuses(problem, device)
    chosen = kernel or (DIRECT if refused else GEMM)
    interpreted = device.vendor == "interpreter"
    flags = Flags(aligned, interpreted, device.multiprocessors)
    if chosen == GEMM:
        config, rejected = gemm_config(problem, device), (DIRECT, f"{GEMM} comes before it")
        launch = gemm_launch(problem, config, flags)
    else:
        config, rejected = direct_config(problem), (GEMM, refused or f"{DIRECT} is asked for")
        launch = direct_launch(problem, config, flags)
    return Plan(
        problem=problem.conv,
        which=Pass.FPROP,
        backend="interpreter" if interpreted else "triton",
        variant=chosen,
        launches=(launch,),
        config=config,
        source="analytic",
        rejected=(rejected,),
    )


def _pool_arguments(problem: ConvPoolProblem, groups: int, flags: Flags) -> dict[str, Any]:
    """What both kernels take of the pool and of y, whose channels lie in `groups` parts."""
    conv, strides = problem.conv, problem.output_strides
    strides = (*strides[:2], *(0,) * (3 - conv.rank), *strides[2:])
    sizes = (conv.batch, problem.channels // groups, *problem.output_size)
    return {
        **axis_arguments("dst", problem.output_size),
        **stride_arguments("d", strides),
        "DST_UNIT": strides[1] == 1,
        "DST_VECTOR": vector_width(conv, strides, sizes, 1) if flags.aligned else 1,
        "taps_ptr": Slot.TAPS if problem.keep_taps else None,
        "POOL": problem.pool,
        "WINDOW": problem.window,
        "STEP": problem.step,
        "MEMBERS": problem.members,
        "KEEP_TAPS": problem.keep_taps,
    }


def _what(problem: ConvPoolProblem) -> str:
    """Sizes and steps of the windows, or of maxout's units."""
    if problem.pool == "maxout":
        return f"{problem.pieces} channels at steps of {problem.piece_step}"
    rank = problem.conv.rank
    size, step = ("x".join(map(str, v[3 - rank :])) for v in (problem.window, problem.step))
    return f"windows of {size} at steps of {step}"


# -- multiply-adds ---------------------------------------------------------------------------


def direct_configs(problem: ConvPoolProblem) -> Sequence[Config]:
    """Tall tiles for images stored by channel, wide ones for channels-last and depthwise."""
    # Vectors of the channels that are summed: a row of the tile, and a vector, for each thread.
    deep = problem.conv.groups == 1 and _direct_vector(problem, ALIGNED) > 1
    double = problem.conv.dtype == torch.float64
    wide = (128, 16) if deep else (32, 32) if double else (64, 32)
    sizes = [(256, 1), (128, 8), wide]
    if deep and double:
        # Twice the registers, and a thread still has a row of its own.
        sizes.pop()
    return [Config.of(4, 2, BLOCK_M=m, BLOCK_N=n) for m, n in sizes]


def direct_config(problem: ConvPoolProblem) -> Config:
    """The tile whose columns waste least, or a row of windows if each channel is a plane."""
    table = direct_configs(problem)
    if problem.conv.input_strides[1] != 1 and problem.conv.groups > 1:
        return table[0]
    return min(table, key=lambda c: column_cost(problem.channels, c))


def direct_launch(problem: ConvPoolProblem, config: Config, flags: Flags) -> Launch:
    """The launch of `conv_pool_direct`."""
    conv = problem.conv
    windows = conv.batch * math.prod(problem.output_size)
    tiles = ceil_div(windows, config["BLOCK_M"]) * ceil_div(problem.channels, config["BLOCK_N"])
    depthwise = _is_depthwise(problem)
    arguments = {
        **gather_arguments(conv, Pass.FPROP),
        **_pool_arguments(problem, 1, flags),
        **dict(config.constants),
        "group_channels": conv.out_channels // conv.groups,
        "dst_channels": problem.channels,
        "PIECE_STEP": problem.piece_step,
        "GROUPED": conv.groups > 1,
        "DEPTHWISE": depthwise,
        "TILED": conv.period != (1, 1, 1),
        "VECTOR": _direct_vector(problem, flags),
        "ACC": tl.float64 if conv.dtype == torch.float64 else tl.float32,
        "SOFT_BF16": soft_bf16(conv, flags),
    }
    arguments = {name: arguments[name] for name in conv_pool_direct.arg_names}
    return Launch(conv_pool_direct, tiles, arguments, config)


def _is_depthwise(problem: ConvPoolProblem) -> bool:
    """Whether each channel of y is read from one of x, in the same order."""
    conv = problem.conv
    return conv.in_channels == conv.out_channels == conv.groups > 1 and problem.pool != "maxout"


def _direct_vector(problem: ConvPoolProblem, flags: Flags) -> int:
    """Elements in a 16-byte vector of what the inner loop reads, or 1."""
    conv = problem.conv
    if conv.groups > 1:
        whole = flags.aligned and _is_depthwise(problem)
        return vector_width(conv, conv.input_strides, conv.input_shape_3d, 1) if whole else 1
    if conv.period != (1, 1, 1):
        return 1
    found = gather_gemm_arguments(conv, Pass.FPROP, flags)
    whole = found["SRC_VECTOR"] > 1 and found["WEIGHT_REDUCE_UNIT"]
    return min(found["SRC_VECTOR"], found["WEIGHT_VECTOR"]) if whole else 1


# -- a matrix product ------------------------------------------------------------------------


def padded(problem: ConvPoolProblem) -> int:
    """Places that a unit's members take in a tile: the next power of two."""
    return 1 << (problem.members - 1).bit_length()


def gemm_configs(problem: ConvPoolProblem) -> Sequence[Config]:
    """Two heights for each width of the tile; positions are its height, filters its width."""
    conv = problem.conv
    found = _operands(problem, ALIGNED)
    depth = 32 if conv.dtype == torch.float32 else 64
    if found["SRC_VECTOR"] == 1 or found["WEIGHT_VECTOR"] == 1:
        # Operands that are read value by value pass through registers.
        return [_config(m, n, depth // 2, 8) for m in (64, 128) for n in (32, 64)]
    large = 192 if conv.dtype == torch.float32 else 256
    sizes = [(m, n) for m in (64, 128) for n in (32, 64, 128)]
    if conv.dtype == torch.float32 and conv.precision == "ieee":
        # Multiply-adds have their operands in registers too, beside the accumulator.
        return [_config(m, n, depth // 2, 8) for m, n in sizes if m + n < large]
    return [_config(m, n, depth, 8 if m + n >= large else 4) for m, n in sizes]


def gemm_config(problem: ConvPoolProblem, device: Device) -> Config:
    """The cheapest of the table by `tile_cost`; its width follows from the channels alone."""
    fitting = _fitting(problem, device)
    view = _view(problem)
    wanted = 1 << max(view.columns - 1, 0).bit_length()
    widths = sorted({c["BLOCK_N"] for c in fitting})
    width = next((n for n in widths if n >= wanted), widths[-1])
    fitting = [c for c in fitting if c["BLOCK_N"] == width]
    return min(fitting, key=lambda c: (tile_cost(view, problem.conv, c, device), c))


def gemm_launch(problem: ConvPoolProblem, config: Config, flags: Flags) -> Launch:
    """The launch of `conv_pool_gemm`."""
    conv = problem.conv
    arguments = {
        **_operands(problem, flags),
        **gemm_constants(conv, config, flags),
        **_pool_arguments(problem, conv.groups, flags),
        "PADDED": padded(problem),
        "INDEX": _index_dtype(problem),
    }
    arguments = {name: arguments[name] for name in conv_pool_gemm.arg_names}
    return Launch(conv_pool_gemm, _tiles(problem, config), arguments, config)


def _operands(problem: ConvPoolProblem, flags: Flags) -> dict[str, Any]:
    """The convolution's arguments, and how wide its operands are read."""
    found = gather_gemm_arguments(problem.conv, Pass.FPROP, flags)
    if problem.pool == "maxout" and found["WEIGHT_DST_UNIT"]:
        # The filters of a tile are not in the order in which they lie in memory.
        found["WEIGHT_VECTOR"] = 1
    return found


def _config(m: int, n: int, k: int, warps: int) -> Config:
    return Config.of(warps, 3, BLOCK_M=m, BLOCK_N=n, BLOCK_K=k)


def _fitting(problem: ConvPoolProblem, device: Device) -> list[Config]:
    """The table's configs that fit the device; with fewer stages where three are too many."""
    found = []
    for config in gemm_configs(problem):
        for stages in (3, 2, 1):
            candidate = Config(config.constants, config.num_warps, stages)
            if shared_bytes(problem.conv.dtype, candidate) <= device.shared_memory:
                found.append(candidate)
                break
    return found


def _rows(problem: ConvPoolProblem) -> int:
    """Rows of the GEMM: positions of z that are computed, and places beside them."""
    windows = problem.conv.batch * math.prod(problem.output_size)
    return windows * (1 if problem.pool == "maxout" else padded(problem))


def _view(problem: ConvPoolProblem) -> GemmView:
    return replace(gemm_view(problem.conv, Pass.FPROP), rows=_rows(problem))


def _tiles(problem: ConvPoolProblem, config: Config) -> int:
    view = _view(problem)
    m, n = ceil_div(view.rows, config["BLOCK_M"]), ceil_div(view.columns, config["BLOCK_N"])
    return m * n * view.batches


def _index_dtype(problem: ConvPoolProblem) -> Any:
    """The convolution's, unless the places beside the windows' positions make too many rows."""
    rows = _rows(problem) + OVERHANG * OVERHANG
    return tl.int64 if rows >= 2**31 else index_dtype(problem.conv)
