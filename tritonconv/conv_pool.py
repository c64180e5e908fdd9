"""Convolution, activation and pooling as one problem, and the plan of the kernel that fuses them.

The three stages of Goodfellow, Bengio, Courville, Deep Learning, figure 9.7: where the windows of
the pooling stage do not overlap, what stands between the stages is never stored.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton.language as tl

from autotune import Config

from .checks import ConvArguments
from .device import Device
from .epilogue import Extras
from .errors import ProblemError
from .gemm_view import GemmView, gemm_view
from .kernels.conv_pool_gemm import conv_pool_gemm
from .launch import Launch, Plan, Slot
from .layout import dense_strides, is_channels_last
from .problem import ConvProblem, Pass, Triple, fprop_problem
from .variants import VARIANTS
from .variants.base import (
    OVERHANG,
    Flags,
    axis_arguments,
    ceil_div,
    index_dtype,
    stride_arguments,
    vector_width,
)
from .variants.implicit_gemm import (
    gather_gemm_arguments,
    gemm_constants,
    shared_bytes,
    tile_cost,
)
from .variants.pointwise import ALIGNED

NAME = "conv_pool_gemm"
POOLS = ("max", "avg", "l2", "maxout")
# Those with a winner, whose number a backward pass needs.
WITH_TAPS = ("max", "maxout")
# Members of a unit that fit a tile, four units of them in the smaller one of 128 places.
MOST_MEMBERS = 32
# Places of a tile that may hold nothing, because a unit takes a power of two of them.
MOST_WASTE = 0.25
# Variants of the convolution alone that compute what this kernel does, with no better order.
SAME_WORK = ("implicit_gemm", "pointwise")


@dataclass(frozen=True)
class PoolStage:
    """`pool` is one of POOLS; `size` has `rank` ints, the window, or for "maxout" one, the number
    of neighbouring channels. `keep_taps` stores each winner's number too."""

    pool: str
    size: Sequence[int]
    keep_taps: bool = False


@dataclass(frozen=True)
class ConvPoolProblem:
    """z = activation(conv(x, w) + bias), y = pool of z over units that do not overlap; checked.

    max, avg, l2:  y[n, k, u] = pool over t of z[n, k, u*window + t], 0 <= t < window
    maxout:        y[n, k, u] = max over t of z[n, k*pieces + t, u], 0 <= t < pieces

    `conv` is the problem of z, its epilogue included; z itself is never stored. What is left over
    beyond the last whole window is not computed.
    """

    conv: ConvProblem
    pool: str
    window: Triple
    pieces: int
    keep_taps: bool

    @property
    def members(self) -> int:
        """Values of z in one of y."""
        return self.pieces * math.prod(self.window)

    @property
    def padded(self) -> int:
        """Places that they take in a tile: the next power of two."""
        return 1 << (self.members - 1).bit_length()

    @property
    def channels(self) -> int:
        """Channels of y."""
        return self.conv.out_channels // self.pieces

    @property
    def output_size(self) -> Triple:
        """(D, H, W) of y."""
        d, h, w = (o // p for o, p in zip(self.conv.output_size, self.window, strict=True))
        return d, h, w

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(N, K / pieces, *spatial) of y and of its taps, with as many axes as the caller's x."""
        return (self.conv.batch, self.channels, *self.output_size[3 - self.conv.rank :])

    @property
    def output_strides(self) -> tuple[int, ...]:
        """Of y and of its taps, for `output_shape`: channels-last where z would be."""
        z = self.conv
        last = is_channels_last(z.output_shape, z.result_strides(Pass.FPROP))
        return dense_strides(self.output_shape, last)


def conv_pool_problem(
    x: torch.Tensor,
    w: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str,
    arguments: ConvArguments,
    pool: PoolStage,
) -> ConvPoolProblem:
    """The problem of one call: x (N, C, *I), w (K, C/g, *F), bias (K,) or (*period, K).

    Raises ProblemError.
    """
    conv = fprop_problem(x, w, None, arguments, Extras(bias, None, activation))
    if pool.pool not in POOLS:
        raise ProblemError(f"pool: expected one of {', '.join(POOLS)}, got {pool.pool!r}")
    across = pool.pool == "maxout"
    size, length = list(pool.size), 1 if across else conv.rank
    if len(size) != length or any(s < 1 for s in size):
        wanted = "1 positive int, a number of channels" if across else f"{length} positive ints"
        raise ProblemError(
            f"pool_size: expected {wanted} for pool {pool.pool!r} of {conv.rank} spatial axes, "
            f"got {size}"
        )
    if pool.keep_taps and pool.pool not in WITH_TAPS:
        raise ProblemError(
            f"keep_taps: expected False for pool {pool.pool!r}, which has no winner, got True; "
            "its gradient needs the sums instead"
        )
    if across and conv.out_channels % size[0]:
        raise ProblemError(
            f"pool_size: expected a divisor of the {conv.out_channels} output channels of the "
            f"weight for pool 'maxout', got {size[0]}; use as many filters as are a multiple of it"
        )
    z_size = conv.output_shape[2:]
    if not across and any(s > o for s, o in zip(size, z_size, strict=True)):
        raise ProblemError(
            f"pool_size: expected at most {list(z_size)}, the convolution's output size, got "
            f"{size}; pool less, or pad the input more"
        )
    one, pieces = (1, 1, 1), size[0] if across else 1
    window = one if across else (*one[conv.rank :], *size)
    return ConvPoolProblem(conv, pool.pool, window, pieces, pool.keep_taps)  # type: ignore[arg-type]


def supports(problem: ConvPoolProblem) -> str | None:
    """None if the fused kernel's result would be right, else why it would not."""
    conv = problem.conv
    if conv.dtype == torch.float64:
        return "float64 has no tl.dot on every target"
    if conv.period != (1, 1, 1):
        return "a weight period has a GEMM for each bank, and a window meets several banks"
    if conv.epilogue.bias_kind == "untied":
        return "an untied bias differs within a window"
    if problem.padded > MOST_MEMBERS:
        return f"{problem.members} values are pooled into one, a tile has room for {MOST_MEMBERS}"
    if problem.pool == "maxout":
        if problem.padded != problem.members:
            return f"{problem.members} pieces do not fill a tile's columns, for that a power of two"
        if conv.out_channels // conv.groups % problem.pieces:
            return f"{problem.pieces} pieces lie in more than one of {conv.groups} groups"
    return None


def declines(problem: ConvPoolProblem, device: Device) -> str | None:
    """None if one kernel should be faster than two."""
    conv = problem.conv
    waste = 1 - problem.members / problem.padded
    if waste > MOST_WASTE:
        return f"windows of {problem.members} take {problem.padded} places: {waste:.0%} is wasted"
    for variant in VARIANTS:
        if variant.supports(conv, Pass.FPROP) or variant.declines(conv, Pass.FPROP, device):
            continue
        if variant.name not in SAME_WORK:
            return f"{variant.name} computes this convolution better, and the pooling is another's"
        break
    tiles = _tiles(problem, default_config(problem, device))
    if 2 * tiles < device.multiprocessors:
        return f"{tiles} tiles leave most of {device.multiprocessors} multiprocessors idle"
    return None


# -- planning --------------------------------------------------------------------------------


def default_configs(problem: ConvPoolProblem) -> Sequence[Config]:
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


def default_config(problem: ConvPoolProblem, device: Device) -> Config:
    """The cheapest of the table by `tile_cost`; its width follows from the channels alone."""
    fitting = _fitting(problem, device)
    view = _view(problem)
    wanted = 1 << max(view.columns - 1, 0).bit_length()
    widths = sorted({c["BLOCK_N"] for c in fitting})
    width = next((n for n in widths if n >= wanted), widths[-1])
    fitting = [c for c in fitting if c["BLOCK_N"] == width]
    return min(fitting, key=lambda c: (tile_cost(view, problem.conv, c, device), c))


def fused_launch(problem: ConvPoolProblem, config: Config, flags: Flags) -> Launch:
    """The launch of the fused kernel."""
    conv, strides = problem.conv, problem.output_strides
    strides = (*strides[:2], *(0,) * (3 - conv.rank), *strides[2:])
    per_group = (conv.batch, problem.channels // conv.groups, *problem.output_size)
    arguments = {
        **_operands(problem, flags),
        **gemm_constants(conv, config, flags),
        **axis_arguments("dst", problem.output_size),
        **stride_arguments("d", strides),
        "DST_UNIT": strides[1] == 1,
        "DST_VECTOR": vector_width(conv, strides, per_group, 1) if flags.aligned else 1,
        "taps_ptr": Slot.TAPS if problem.keep_taps else None,
        "POOL": problem.pool,
        "WINDOW": problem.window,
        "MEMBERS": problem.members,
        "PADDED": problem.padded,
        "KEEP_TAPS": problem.keep_taps,
        "INDEX": _index_dtype(problem),
    }
    arguments = {name: arguments[name] for name in conv_pool_gemm.arg_names}
    return Launch(conv_pool_gemm, _tiles(problem, config), arguments, config)


def fused_plan(problem: ConvPoolProblem, device: Device, *, aligned: bool = True) -> Plan:
    """The plan of the fused kernel. It reads Slot.INPUT, WEIGHT and BIAS, and writes y to
    Slot.OUTPUT and the winners' numbers, uint8, to Slot.TAPS, both as `output_shape` and
    `output_strides` say. `aligned`: every tensor starts at a multiple of 16 bytes."""
    config = default_config(problem, device)
    interpreted = device.vendor == "interpreter"
    flags = Flags(aligned, interpreted, device.multiprocessors)
    return Plan(
        problem=problem.conv,
        which=Pass.FPROP,
        backend="interpreter" if interpreted else "triton",
        variant=NAME,
        launches=(fused_launch(problem, config, flags),),
        config=config,
        source="default",
    )


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
    for config in default_configs(problem):
        for stages in (3, 2, 1):
            candidate = Config(config.constants, config.num_warps, stages)
            if shared_bytes(problem.conv.dtype, candidate) <= device.shared_memory:
                found.append(candidate)
                break
    return found


def _rows(problem: ConvPoolProblem) -> int:
    """Rows of the GEMM: positions of z that are computed, and places beside them."""
    windows = problem.conv.batch * math.prod(problem.output_size)
    return windows * (1 if problem.pool == "maxout" else problem.padded)


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
