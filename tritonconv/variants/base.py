"""What a variant is, and the arguments that all of them pass to their kernels."""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import triton.language as tl

from autotune import Config

from ..device import Device
from ..gemm_view import gemm_view
from ..kernels.sum_splits import sum_splits
from ..launch import Launch, Slot
from ..problem import MAX_SPLITS, ConvProblem, Pass

# Distance by which a tile may overhang its tensor, in channels or positions.
OVERHANG = 256
SUM_BLOCK = 1024
EVERY_KIND = ("shared", "tiled", "unshared", "depthwise", "pointwise", "stem")


class Variant(Protocol):
    """One algorithm for some passes of some problems."""

    name: str
    # The kinds of problem it is made for, some of `testing.strategies.KINDS`: where tests look.
    kinds: tuple[str, ...]

    def supports(self, problem: ConvProblem, which: Pass) -> str | None:
        """None if the result would be right, else why it would not. Says nothing of speed."""
        ...

    def declines(self, problem: ConvProblem, which: Pass, device: Device) -> str | None:
        """None if this is a good choice, else why another variant, if there is one, is better."""
        ...

    def default_configs(self, problem: ConvProblem, which: Pass) -> Sequence[Config]:
        """The finite table that `default_config` chooses from; sizes do not enter into it."""
        ...

    def configs(self, problem: ConvProblem, which: Pass, device: Device) -> Sequence[Config]:
        """Every config that is legal for the problem: what a tuner may try."""
        ...

    def default_config(self, problem: ConvProblem, which: Pass, device: Device) -> Config:
        """The analytic choice: no measurement, the same for the same problem."""
        ...

    def launches(
        self, problem: ConvProblem, which: Pass, config: Config, flags: "Flags"
    ) -> tuple[Launch, ...]:
        """The kernel launches of one pass."""
        ...


class Flags:
    """What is not of the problem but of the call: pointer alignment, interpreter, SM count."""

    __slots__ = ("aligned", "interpreting", "multiprocessors")

    def __init__(self, aligned: bool, interpreting: bool, multiprocessors: int) -> None:
        self.aligned = aligned
        self.interpreting = interpreting
        self.multiprocessors = multiprocessors


def has_second_tile(problem: ConvProblem) -> bool:
    """Whether the epilogue reads a tile of its own: a residual, or a bias that differs by position.
    It takes registers beside the accumulator."""
    epilogue = problem.epilogue
    return epilogue.residual_strides is not None or epilogue.bias_kind == "untied"


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def index_dtype(problem: ConvProblem) -> Any:
    """tl.int32, or tl.int64 where an offset, halo and tile overhang included, can pass 2^31."""
    reach = [d * f for d, f in zip(problem.dilation, problem.filter_size, strict=True)]
    halo = [lo + hi + r for (lo, hi), r in zip(problem.padding, reach, strict=True)]
    extents = (
        _extent(problem.input_shape_3d, problem.input_strides, (0, OVERHANG, *halo)),
        _extent(problem.output_shape_3d, problem.output_strides, (0, OVERHANG, *halo)),
        _extent(
            problem.weight_shape_3d,
            problem.weight_strides,
            (*(0, 0, 0), OVERHANG, OVERHANG, *problem.filter_size),
        ),
        *_epilogue_extents(problem),
        OVERHANG * OVERHANG + problem.batch * math.prod(problem.input_size),
        OVERHANG * OVERHANG + problem.batch * math.prod(problem.output_size),
    )
    return tl.int64 if max(extents) >= 2**31 else tl.int32


def _epilogue_extents(problem: ConvProblem) -> list[int]:
    """Of the residual, whichever pass it belongs to, and of the bias with its period."""
    epilogue, channels = problem.epilogue, max(problem.in_channels, problem.out_channels)
    extents = []
    if epilogue.residual_strides is not None:
        sizes = zip(problem.input_size, problem.output_size, strict=True)
        shape = (problem.batch, channels, *(max(pair) for pair in sizes))
        extents.append(_extent(shape, epilogue.residual_strides, (0, OVERHANG, 0, 0, 0)))
    if epilogue.bias_strides is not None:
        shape = (*epilogue.bias_period, channels)
        extents.append(_extent(shape, epilogue.bias_strides, (0, 0, 0, OVERHANG)))
    return extents


def _extent(shape: Sequence[int], strides: Sequence[int], overhang: Sequence[int]) -> int:
    return sum((n + o) * abs(s) for n, s, o in zip(shape, strides, overhang, strict=True))


def vector_width(
    problem: ConvProblem, strides: Sequence[int], sizes: Sequence[int], at: int
) -> int:
    """Elements in a 16-byte vector along axis `at`, or 1 where such vectors are not aligned.

    The axis must be contiguous and each other stride, as well as the axis' own length (a group's
    share of the channels), a multiple of the vector; axes of size 1 are never stepped along.
    """
    width = 16 // problem.dtype.itemsize
    others = [s for i, (s, n) in enumerate(zip(strides, sizes, strict=True)) if i != at and n > 1]
    whole = strides[at] == 1 and sizes[at] % width == 0 and all(s % width == 0 for s in others)
    return width if whole and sizes[at] > 0 else 1


def weight_arguments(problem: ConvProblem) -> dict[str, int]:
    """Weight strides as the kernels read them; a flipped filter is read backwards."""
    bank_d, bank_h, bank_w, stride_k, _, *taps = problem.weight_strides
    base = 0
    if problem.flip:
        base = sum((f - 1) * s for f, s in zip(problem.filter_size, taps, strict=True))
        taps = [-s for s in taps]
    return {
        "weight_base": base,
        "stride_wg": stride_k * (problem.out_channels // problem.groups),
        "stride_wt": taps[0],
        "stride_wr": taps[1],
        "stride_ws": taps[2],
        "stride_bank_d": bank_d,
        "stride_bank_h": bank_h,
        "stride_bank_w": bank_w,
    }


def axis_arguments(prefix: str, values: Sequence[int]) -> dict[str, int]:
    """{prefix_d: ..., prefix_h: ..., prefix_w: ...}"""
    return {f"{prefix}_{axis}": value for axis, value in zip("dhw", values, strict=True)}


def stride_arguments(letter: str, strides: Sequence[int]) -> dict[str, int]:
    """{stride_{letter}n: ..., c, d, h, w}"""
    return {f"stride_{letter}{a}": s for a, s in zip("ncdhw", strides, strict=True)}


def gather_arguments(problem: ConvProblem, which: Pass) -> dict[str, Any]:
    """The arguments that every kernel for fprop and dgrad takes."""
    view = gemm_view(problem, which)
    dgrad = which is Pass.DGRAD
    per_k = problem.out_channels // problem.groups
    per_c = problem.in_channels // problem.groups
    x = (problem.input_size, problem.input_strides)
    y = (problem.output_size, problem.output_strides)
    (src_size, src_strides), (dst_size, dst_strides) = (y, x) if dgrad else (x, y)
    stride_k, stride_c = problem.weight_strides[3:5]
    weight = weight_arguments(problem)
    return {
        "src_ptr": Slot.OUTPUT if dgrad else Slot.INPUT,
        "weight_ptr": Slot.WEIGHT,
        "dst_ptr": Slot.INPUT if dgrad else Slot.OUTPUT,
        "batch": problem.batch,
        "reduce_channels": per_k if dgrad else per_c,
        "dst_channels": per_c if dgrad else per_k,
        **axis_arguments("src", src_size),
        **axis_arguments("dst", dst_size),
        **axis_arguments("pad", [low for low, _ in problem.padding]),
        **axis_arguments("period", problem.period),
        **stride_arguments("s", src_strides),
        **weight,
        "stride_wm": stride_k if dgrad else stride_c,
        "stride_wn": stride_c if dgrad else stride_k,
        **stride_arguments("d", dst_strides),
        "FILTER": problem.filter_size,
        "STRIDE": problem.stride,
        "DILATION": problem.dilation,
        "TAP_STEP": view.tap_step,
        "TAP_DELTA": view.tap_delta,
        "DGRAD": dgrad,
        "BORDER": problem.padding_mode,
        **epilogue_arguments(problem),
        "SRC_UNIT": src_strides[1] == 1,
        "DST_UNIT": dst_strides[1] == 1,
        "INDEX": index_dtype(problem),
    }


def epilogue_arguments(problem: ConvProblem) -> dict[str, Any]:
    """The arguments of `kernels/_epilogue.py`."""
    epilogue = problem.epilogue
    tied, residual = epilogue.bias_strides, epilogue.residual_strides
    return {
        "bias_ptr": None if tied is None else Slot.BIAS,
        "residual_ptr": None if residual is None else Slot.RESIDUAL,
        "pre_ptr": Slot.PRE if epilogue.keep_pre else None,
        **axis_arguments("bias_period", epilogue.bias_period),
        **{f"stride_bias_{a}": s for a, s in zip("dhwc", tied or (0,) * 4, strict=True)},
        **stride_arguments("e", residual or (0,) * 5),
        "BIAS": epilogue.bias_kind,
        "RESIDUAL": residual is not None,
        "KEEP_PRE": epilogue.keep_pre,
        "ACTIVATION": epilogue.activation,
    }


def wgrad_arguments(problem: ConvProblem, splits: int) -> dict[str, Any]:
    """The arguments that every kernel for wgrad takes; more than one split writes a workspace."""
    stride_k, stride_c = problem.weight_strides[3:5]
    return {
        "grad_ptr": Slot.OUTPUT,
        "src_ptr": Slot.INPUT,
        "dst_ptr": Slot.WORKSPACE if splits > 1 else Slot.WEIGHT,
        "batch": problem.batch,
        "grad_channels": problem.out_channels // problem.groups,
        "src_channels": problem.in_channels // problem.groups,
        **axis_arguments("grad", problem.output_size),
        **axis_arguments("src", problem.input_size),
        **axis_arguments("pad", [low for low, _ in problem.padding]),
        **axis_arguments("period", problem.period),
        "groups": problem.groups,
        "splits": splits,
        **stride_arguments("g", problem.output_strides),
        **stride_arguments("s", problem.input_strides),
        **weight_arguments(problem),
        "stride_wk": stride_k,
        "stride_wc": stride_c,
        "stride_split": problem.weight_elements,
        "FILTER": problem.filter_size,
        "STRIDE": problem.stride,
        "DILATION": problem.dilation,
        "BORDER": problem.padding_mode,
        "GRAD_UNIT": problem.output_strides[1] == 1,
        "SRC_UNIT": problem.input_strides[1] == 1,
        "INDEX": index_dtype(problem),
    }


def split_count(tiles: int, depth: int, block_k: int, multiprocessors: int) -> int:
    """Splits of a sum so that about two programs fall to each multiprocessor.

    Each split keeps at least eight steps, so that its share of the second pass stays small.
    """
    wanted = ceil_div(2 * multiprocessors, max(tiles, 1))
    longest = max(ceil_div(depth, block_k) // 8, 1)
    return max(min(wanted, longest, MAX_SPLITS), 1)


def soft_bf16(problem: ConvProblem, flags: Flags) -> bool:
    """Whether the kernels must do the interpreter's bfloat16 arithmetic themselves."""
    return flags.interpreting and problem.dtype == torch.bfloat16


def sum_launch(problem: ConvProblem, splits: int, flags: Flags) -> Launch:
    """The second pass of a split sum."""
    size = problem.weight_elements
    arguments = {
        "workspace_ptr": Slot.WORKSPACE,
        "dst_ptr": Slot.WEIGHT,
        "size": size,
        "splits": splits,
        "INDEX": tl.int64 if (size + SUM_BLOCK) * splits >= 2**31 else tl.int32,
        "SOFT_BF16": soft_bf16(problem, flags),
        "BLOCK": SUM_BLOCK,
    }
    return Launch(sum_splits, ceil_div(size, SUM_BLOCK), arguments, Config.of(4, 1))
