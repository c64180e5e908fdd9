"""The implicit-GEMM core: every pass of every 16-bit and 32-bit convolution, on matrix units."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from autotune import Config

from ..device import Device
from ..gemm_view import GemmView, gemm_view
from ..kernels.gather_gemm import gather_gemm
from ..kernels.wgrad_gemm import wgrad_gemm
from ..launch import Launch
from ..problem import ConvProblem, Pass
from .base import (
    EVERY_KIND,
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

GROUP_M = 8
# Matrix instructions multiply tiles of at least this many rows, columns and channels.
SMALLEST = 16
WIDTHS = (32, 64, 128)


class ImplicitGemm:
    """tl.dot over residue classes; the tiles are gathered by pointers, nothing is unfolded."""

    name = "implicit_gemm"
    kinds: tuple[str, ...] = EVERY_KIND

    def supports(self, problem: ConvProblem, which: Pass) -> str | None:
        """Everything but float64, which has no matrix form on all targets."""
        if problem.dtype == torch.float64:
            return "float64 has no tl.dot on every target"
        return None

    def declines(self, problem: ConvProblem, which: Pass, device: Device) -> str | None:
        """Matrix units padded so far that plain multiply-adds would do less work."""
        view = gemm_view(problem, which)
        sides = (view.rows, view.columns)
        if which is not Pass.WGRAD:
            sides = (view.columns, _channels(problem, which))
        useful = math.prod(min(side, SMALLEST) / SMALLEST for side in sides)
        advantage = matrix_advantage_of(problem, device)
        if useful * advantage < 1:
            return (
                f"its {sides[0]} x {sides[1]} channels a group fill {useful:.1%} of a "
                f"{SMALLEST} x {SMALLEST} matrix tile; that loses more than the matrix units' "
                f"factor of {advantage} gains"
            )
        return None

    def default_configs(self, problem: ConvProblem, which: Pass) -> Sequence[Config]:
        """Two heights for each width of the tile.

        Operands that cannot be read in 16-byte vectors pass through registers one by one: their
        tiles are half as deep and narrower, with more warps to share the work.
        """
        depth = 32 if problem.dtype == torch.float32 else 64
        if not _in_vectors(problem, which):
            sizes = [(m, n) for m in (64, 128) for n in WIDTHS[:-1]]
            if which is Pass.WGRAD:
                # Both of its operands are gathered by position: that takes registers too.
                sizes.remove((128, 64))
            return [_config(m, n, depth // 2, 8) for m, n in sizes]
        # A second tile takes registers beside the accumulator, and so do the positions that a
        # folding border reads.
        second, single = has_second_tile(problem), problem.dtype == torch.float32
        folds = problem.padding_mode != "zeros"
        # From this size on, four warps would run out of registers.
        large = 192 if second or folds or single else 256
        sizes = [(m, n) for m in (64, 128) for n in WIDTHS]
        if second or (folds and single):
            sizes.remove((128, 128))
        return [_config(m, n, depth, 8 if m + n >= large else 4) for m, n in sizes]

    def configs(self, problem: ConvProblem, which: Pass, device: Device) -> Sequence[Config]:
        """The default table, with fewer and more stages and warps."""
        found = []
        for base in self.default_configs(problem, which):
            for warps in (4, 8):
                for stages in (2, 3, 4):
                    config = Config(base.constants, warps, stages)
                    if shared_bytes(problem.dtype, config) <= device.shared_memory:
                        found.append(config)
        return found

    def default_config(self, problem: ConvProblem, which: Pass, device: Device) -> Config:
        """The cheapest of the table: full waves of tiles, in units of multiply-adds.

        The width of the tile follows from the channels alone, so that the images' sizes choose
        between two heights and no more.
        """
        view = gemm_view(problem, which)
        fitting = self._fitting(problem, which, device)
        wanted = 1 << max(view.columns - 1, 0).bit_length()
        widths = sorted({c["BLOCK_N"] for c in fitting})
        width = next((n for n in widths if n >= wanted), widths[-1])
        fitting = [c for c in fitting if c["BLOCK_N"] == width]
        return min(fitting, key=lambda c: (tile_cost(view, problem, c, device), c))

    def _fitting(self, problem: ConvProblem, which: Pass, device: Device) -> list[Config]:
        """The table's configs that fit the device; with fewer stages where three are too many."""
        found = []
        for config in self.default_configs(problem, which):
            for stages in (3, 2, 1):
                candidate = Config(config.constants, config.num_warps, stages)
                if shared_bytes(problem.dtype, candidate) <= device.shared_memory:
                    found.append(candidate)
                    break
        return found

    def launches(
        self, problem: ConvProblem, which: Pass, config: Config, flags: Flags
    ) -> tuple[Launch, ...]:
        """One launch; wgrad adds the summing pass where it splits."""
        view = gemm_view(problem, which)
        tiles = gemm_tiles(view, config)
        shared = gemm_constants(problem, config, flags)
        if which is Pass.WGRAD:
            splits = split_count(tiles, view.depth, config["BLOCK_K"], flags.multiprocessors)
            arguments = wgrad_arguments(problem, splits) | shared
            arguments |= _vectors(problem, which, flags)
            launch = Launch(wgrad_gemm, tiles * splits, arguments, config)
            return (launch, sum_launch(problem, splits, flags)) if splits > 1 else (launch,)
        arguments = gather_gemm_arguments(problem, which, flags) | shared
        return (Launch(gather_gemm, tiles, arguments, config),)


def gather_gemm_arguments(problem: ConvProblem, which: Pass, flags: Flags) -> dict[str, Any]:
    """What `gather_gemm` takes for one unsplit sum, beside the config's constants."""
    return {
        **gather_arguments(problem, which),
        **_vectors(problem, which, flags),
        "TILED": problem.period != (1, 1, 1),
        "SPLIT": False,
        "splits": 1,
        "stride_split": 0,
    }


def shared_bytes(dtype: torch.dtype, config: Config) -> int:
    """Shared memory of the operands' pipeline, the rule that makes a config legal or not."""
    a_and_b = (config["BLOCK_M"] + config["BLOCK_N"]) * config["BLOCK_K"]
    return max(config.num_stages, 1) * a_and_b * dtype.itemsize


def _config(m: int, n: int, k: int, warps: int) -> Config:
    return Config.of(warps, 3, BLOCK_M=m, BLOCK_N=n, BLOCK_K=k)


def _channels(problem: ConvProblem, which: Pass) -> int:
    total = problem.out_channels if which is Pass.DGRAD else problem.in_channels
    return total // problem.groups


def matrix_advantage_of(problem: ConvProblem, device: Device) -> int:
    """How many times faster than multiply-adds: 16-bit, tf32, or float32 (no matrix form, but
    operands shared by a whole tile)."""
    if problem.dtype == torch.float32:
        return device.matrix_advantage[1] if problem.precision == "tf32" else 4
    return device.matrix_advantage[0]


def gemm_constants(problem: ConvProblem, config: Config, flags: Flags) -> dict[str, Any]:
    """The constants that every GEMM kernel takes."""
    return {
        **dict(config.constants),
        "GROUP_M": GROUP_M,
        "PRECISION": problem.precision,
        "SOFT_BF16": soft_bf16(problem, flags),
    }


def gemm_tiles(view: GemmView, config: Config) -> int:
    """Programs of one unsplit launch."""
    m, n = ceil_div(view.rows, config["BLOCK_M"]), ceil_div(view.columns, config["BLOCK_N"])
    return m * n * view.batches


def tile_cost(view: GemmView, problem: ConvProblem, config: Config, device: Device) -> float:
    """Time of the launch in units of one multiply-add a multiprocessor: tile quantisation."""
    resident = max(device.shared_memory // (shared_bytes(problem.dtype, config) + 1024), 1)
    resident = min(resident, 16 // config.num_warps)
    waves = ceil_div(gemm_tiles(view, config), device.multiprocessors * resident)
    depth = ceil_div(view.depth, config["BLOCK_K"]) * config["BLOCK_K"]
    # Filling the pipeline and writing the tile cost about as much as this many steps.
    fixed = 8 * config["BLOCK_K"]
    m, n = config["BLOCK_M"], config["BLOCK_N"]
    # A tile's loads grow with m + n, its products with m * n.
    return waves * resident * (depth + fixed) * (m * n + 32 * (m + n))


def _in_vectors(problem: ConvProblem, which: Pass) -> bool:
    """Whether both operands can be read in 16-byte vectors, given aligned pointers."""
    flags = Flags(aligned=True, interpreting=False, multiprocessors=1)
    found = _vectors(problem, which, flags)
    operands = ("GRAD_VECTOR", "SRC_VECTOR", "WEIGHT_VECTOR")
    return all(found.get(name, 2) > 1 for name in operands)


def _vectors(problem: ConvProblem, which: Pass, flags: Flags) -> dict[str, int | bool]:
    """The constexpr flags on contiguity and alignment that the pass's kernel takes."""
    per_k = problem.out_channels // problem.groups
    per_c = problem.in_channels // problem.groups
    x = (problem.input_strides, (problem.batch, per_c, *problem.input_size))
    y = (problem.output_strides, (problem.batch, per_k, *problem.output_size))

    def width(strides: Sequence[int], sizes: Sequence[int], axis: int) -> int:
        return vector_width(problem, strides, sizes, axis) if flags.aligned else 1

    if which is Pass.WGRAD:
        return {
            "GRAD_VECTOR": width(*y, 1),
            "SRC_VECTOR": width(*x, 1),
            "DST_UNIT": problem.weight_strides[4] == 1,
        }
    src, dst = (y, x) if which is Pass.DGRAD else (x, y)
    # Axis of the weight that the sum runs over, and the one that becomes the result's channels.
    reduce_axis, dst_axis = (3, 4) if which is Pass.DGRAD else (4, 3)
    reduce_unit = problem.weight_strides[reduce_axis] == 1
    weight_sizes = (*problem.period, per_k, *problem.weight_shape_3d[4:])
    return {
        "SRC_VECTOR": width(*src, 1),
        "WEIGHT_REDUCE_UNIT": reduce_unit,
        "WEIGHT_DST_UNIT": not reduce_unit and problem.weight_strides[dst_axis] == 1,
        "WEIGHT_VECTOR": width(
            problem.weight_strides, weight_sizes, reduce_axis if reduce_unit else dst_axis
        ),
        "DST_VECTOR": width(*dst, 1),
    }
