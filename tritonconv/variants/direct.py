"""The direct kernels: plain multiply-adds, for float64, few channels, and depthwise."""

from collections.abc import Sequence

import torch
import triton.language as tl

from autotune import Config

from ..device import Device
from ..gemm_view import gemm_view
from ..kernels.gather_direct import gather_direct
from ..kernels.wgrad_direct import wgrad_direct
from ..launch import Launch
from ..problem import ConvProblem, Pass
from .base import (
    EVERY_KIND,
    Flags,
    ceil_div,
    gather_arguments,
    soft_bf16,
    split_count,
    sum_launch,
    wgrad_arguments,
)

# A source value read costs about as much as this many multiply-adds.
READ = 4


class Direct:
    """One multiply-add a term, in float32 or float64; a tile is positions x channels."""

    name = "direct"
    kinds: tuple[str, ...] = EVERY_KIND

    def supports(self, problem: ConvProblem, which: Pass) -> str | None:
        """Every problem."""
        return None

    def declines(self, problem: ConvProblem, which: Pass, device: Device) -> str | None:
        """Never: the last of the tuple takes what the others leave."""
        return None

    def default_configs(self, problem: ConvProblem, which: Pass) -> Sequence[Config]:
        """Tall tiles for images stored by channel, wide ones for channels-last and depthwise."""
        # The images of a folding border are positions more, held in registers.
        folds = which is Pass.DGRAD and problem.padding_mode != "zeros"
        shapes = ((256, 1), (128, 8), (32 if folds else 64, 32))
        return [Config.of(4, 2, BLOCK_M=m, BLOCK_N=n) for m, n in shapes]

    def configs(self, problem: ConvProblem, which: Pass, device: Device) -> Sequence[Config]:
        """The default table, with fewer and more warps."""
        table = self.default_configs(problem, which)
        return [Config(c.constants, warps, 2) for c in table for warps in (2, 4, 8)]

    def default_config(self, problem: ConvProblem, which: Pass, device: Device) -> Config:
        """The tile whose columns waste least, or a row of pixels if each channel is a plane."""
        dgrad = which is Pass.DGRAD
        channels = problem.in_channels if dgrad else problem.out_channels
        strides = problem.input_strides if dgrad else problem.output_strides
        table = self.default_configs(problem, which)
        if strides[1] != 1 and problem.groups > 1:
            return table[0]
        return min(table, key=lambda config: column_cost(channels, config))

    def launches(
        self, problem: ConvProblem, which: Pass, config: Config, flags: Flags
    ) -> tuple[Launch, ...]:
        """One launch; wgrad adds the summing pass where it splits."""
        view = gemm_view(problem, which)
        block_m, block_n = config["BLOCK_M"], config["BLOCK_N"]
        shared = {
            "GROUPED": problem.groups > 1,
            "ACC": tl.float64 if problem.dtype == torch.float64 else tl.float32,
            "SOFT_BF16": soft_bf16(problem, flags),
        }
        if which is Pass.WGRAD:
            tiles = ceil_div(problem.out_channels, block_n) * view.columns
            tiles *= view.batches // problem.groups
            splits = split_count(tiles, view.depth, block_m, flags.multiprocessors)
            arguments = wgrad_arguments(problem, splits) | shared
            arguments |= {"BLOCK_K": block_m, "BLOCK_N": block_n}
            launch = Launch(wgrad_direct, tiles * splits, arguments, config)
            return (launch, sum_launch(problem, splits, flags)) if splits > 1 else (launch,)
        channels = view.columns * problem.groups
        tiles = ceil_div(view.rows, block_m) * ceil_div(channels, block_n)
        tiles *= view.batches // problem.groups
        arguments = gather_arguments(problem, which) | shared
        arguments |= {"groups": problem.groups, "BLOCK_M": block_m, "BLOCK_N": block_n}
        return (Launch(gather_direct, tiles, arguments, config),)


def column_cost(channels: int, config: Config) -> int:
    """Products of all columns, padding included, and a source value read for each tile."""
    return ceil_div(channels, config["BLOCK_N"]) * (config["BLOCK_N"] + READ)
