"""Split-K: the implicit GEMM for images so small that their tiles would leave the GPU idle."""

from autotune import Config

from ..device import Device
from ..gemm_view import gemm_view
from ..kernels.finish_splits import finish_splits
from ..kernels.gather_gemm import gather_gemm
from ..launch import Launch, Slot
from ..problem import MAX_SPLITS, ConvProblem, Pass
from .base import EVERY_KIND, Flags, ceil_div, epilogue_arguments, gather_arguments, split_count
from .implicit_gemm import ImplicitGemm, gather_gemm_arguments, gemm_constants, gemm_tiles

# Tile of the second pass, (positions, channels), by which of them is contiguous in memory.
SECOND_TILE = {True: (8, 128), False: (128, 8)}
FEWEST = 2


class SplitK(ImplicitGemm):
    """The tiles of `implicit_gemm`, each summed by several programs; a second launch adds the
    partial sums in a fixed order and applies the epilogue. It shares its configs."""

    name = "split_k"
    kinds: tuple[str, ...] = EVERY_KIND

    def supports(self, problem: ConvProblem, which: Pass) -> str | None:
        """fprop and dgrad, where the sum is one list of steps."""
        if which is Pass.WGRAD:
            return "implicit_gemm splits the sum of wgrad itself"
        if which is Pass.DGRAD and problem.padding_mode != "zeros":
            return f"with {problem.padding_mode} padding the sum of dgrad has a part for each image"
        return super().supports(problem, which)

    def declines(self, problem: ConvProblem, which: Pass, device: Device) -> str | None:
        """Enough tiles for every multiprocessor, or a sum too short to be shared."""
        config = self.default_config(problem, which, device)
        view = gemm_view(problem, which)
        tiles = gemm_tiles(view, config)
        if 2 * tiles > device.multiprocessors:
            return f"{tiles} tiles occupy {device.multiprocessors} multiprocessors without splits"
        if split_count(tiles, view.depth, config["BLOCK_K"], device.multiprocessors) < FEWEST:
            return f"a sum of {view.depth} terms is too short to be shared out"
        return super().declines(problem, which, device)

    def launches(
        self, problem: ConvProblem, which: Pass, config: Config, flags: Flags
    ) -> tuple[Launch, ...]:
        """The split sums into a workspace, then their sum and the epilogue."""
        view = gemm_view(problem, which)
        tiles = gemm_tiles(view, config)
        splits = split_count(tiles, view.depth, config["BLOCK_K"], flags.multiprocessors)
        splits = min(max(splits, FEWEST), MAX_SPLITS)
        shape = problem.input_shape_3d if which is Pass.DGRAD else problem.output_shape_3d
        batch, channels, *sizes = shape
        positions = batch * sizes[0] * sizes[1] * sizes[2]
        split = {"splits": splits, "stride_split": positions * channels}
        gather = gather_arguments(problem, which)
        first = gather_gemm_arguments(problem, which, flags)
        first |= gemm_constants(problem, config, flags) | split
        first |= {
            "dst_ptr": Slot.WORKSPACE,
            "SPLIT": True,
            "bias_ptr": None,
            "residual_ptr": None,
            "pre_ptr": None,
            "BIAS": "none",
            "RESIDUAL": False,
            "KEEP_PRE": False,
            "ACTIVATION": "none",
        }
        second = epilogue_arguments(problem) | split
        names = ("dst_ptr", "batch", "dst_d", "dst_h", "dst_w", "DST_UNIT", "INDEX")
        names += tuple(f"stride_d{axis}" for axis in "ncdhw")
        block_m, block_n = SECOND_TILE[gather["DST_UNIT"]]
        second |= {name: gather[name] for name in names} | {
            "workspace_ptr": Slot.WORKSPACE,
            "channels": channels,
            "SOFT_BF16": gemm_constants(problem, config, flags)["SOFT_BF16"],
            "BLOCK_M": block_m,
            "BLOCK_N": block_n,
        }
        tiles_2 = ceil_div(positions, block_m) * ceil_div(channels, block_n)
        return (
            Launch(gather_gemm, tiles * splits, first, config),
            Launch(finish_splits, tiles_2, second, Config.of(4, 1)),
        )
