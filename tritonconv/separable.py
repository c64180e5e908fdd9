"""Depthwise separable convolution as one problem: its checks, and the plan of its fused kernel."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from autotune import Config

from .checks import ConvArguments, check_tensors, rank_of, shape_of
from .device import Device
from .errors import ProblemError
from .kernels.depthwise_pointwise import depthwise_pointwise
from .launch import Launch, Plan, Slot
from .problem import ConvProblem, Pass, fprop_problem
from .variants.base import Flags, ceil_div, gather_arguments, index_dtype, vector_width
from .variants.implicit_gemm import gather_gemm_arguments, gemm_constants

NAME = "depthwise_pointwise"
# No kernel is handed a residual here, so that its slot can hold the second weight.
DEPTHWISE_WEIGHT = Slot.RESIDUAL
# A tile's columns: with more channels than this, the depthwise sums would be computed again.
WIDTHS = (32, 64, 128)
# Neighbouring positions whose windows share what they read of x.
RUN = 2
# Bytes that memory delivers to a multiprocessor (19 a clock on an H200, by the data sheet) while it
# issues the instructions of one tap of one sum (four by the machine code for sm_90; 128 a clock).
TAP_BYTES = 0.6
# The taps of a row are unrolled.
LONGEST_ROW = 16


@dataclass(frozen=True)
class SeparableProblem:
    """h = depthwise convolution of x, y = pointwise convolution of h with bias; both checked.

    y[n, k, o] = b[k] + sum over m of u[k, m] * h[n, m, o]
    h[n, m, o] = sum over f of x[n, m / multiplier, o*s - lo + f*d] * w[m, f]
    """

    depthwise: ConvProblem
    pointwise: ConvProblem

    @property
    def multiplier(self) -> int:
        """Filters a channel of x."""
        return self.depthwise.out_channels // self.depthwise.in_channels


def two_arguments(
    channels: int, stride: Any, padding: Any, dilation: Any, flip: bool, padding_mode: str
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The fields of ConvArguments of each of the two convolutions."""
    rank = len(stride)
    first = (stride, padding, dilation, channels, flip, padding_mode)
    return first, ([1] * rank, [0] * (2 * rank), [1] * rank, 1, False, "zeros")


def separable_problem(
    x: torch.Tensor,
    depthwise_weight: torch.Tensor,
    pointwise_weight: torch.Tensor,
    bias: torch.Tensor | None,
    *rest: Any,
) -> SeparableProblem:
    """The problem of one call: x (N, C, *I), weights (C*m, 1, *F) and (K, C*m, *ones), bias (K,) or
    (*period, K); `rest` are stride, padding, dilation, flip and padding_mode.

    Raises ProblemError.
    """
    weights = {"depthwise_weight": depthwise_weight, "pointwise_weight": pointwise_weight}
    check_tensors({"input": x, **weights, **({} if bias is None else {"bias": bias})})
    rank = rank_of("input", x)
    _check_weights(rank, x.shape[1], weights)
    first, second = (ConvArguments(*a) for a in two_arguments(x.shape[1], *rest))
    depthwise = _of_weight("depthwise_weight", x, depthwise_weight, None, first)
    # What stands between the two is never made: tensors without memory stand for it and its like.
    hidden = torch.empty_strided(
        depthwise.result_shape(Pass.FPROP),
        depthwise.result_strides(Pass.FPROP),
        dtype=x.dtype,
        device="meta",
    )
    weight = _without_memory(pointwise_weight)
    bias = None if bias is None else _without_memory(bias)
    pointwise = _of_weight("pointwise_weight", hidden, weight, bias, second)
    return SeparableProblem(depthwise, pointwise)


def _check_weights(rank: int, channels: int, weights: dict[str, torch.Tensor]) -> None:
    depthwise, pointwise = weights.values()
    if channels < 1:
        raise ProblemError("input: expected at least one channel, got none")
    ones = [1] * rank
    filters = depthwise.shape[0] if depthwise.dim() == rank + 2 and depthwise.shape[1] == 1 else 0
    if filters < 1 or filters % channels:
        raise ProblemError(
            f"depthwise_weight: expected shape [m * {channels}, 1, *filter], m filters of {rank} "
            f"axes for each of the input's {channels} channels, got {shape_of(depthwise)}"
        )
    if pointwise.dim() != rank + 2 or list(pointwise.shape[1:]) != [filters, *ones]:
        raise ProblemError(
            f"pointwise_weight: expected shape {['K', filters, *ones]}, one weight for "
            f"each filter of depthwise_weight, got {shape_of(pointwise)}"
        )


def _of_weight(
    name: str, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, arguments: ConvArguments
) -> ConvProblem:
    """`fprop_problem` that calls the weight by the name that the caller knows."""
    try:
        return fprop_problem(x, w, bias, arguments)
    except ProblemError as error:
        message = str(error)
        if not message.startswith("weight:"):
            raise
        raise ProblemError(message.replace("weight:", f"{name}:", 1)) from None


def _without_memory(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


# -- planning --------------------------------------------------------------------------------


def supports(problem: SeparableProblem) -> str | None:
    """None if the fused kernel's result would be right, else why it would not."""
    if problem.depthwise.dtype == torch.float64:
        return "float64 has no tl.dot on every target"
    return None


def declines(problem: SeparableProblem, device: Device) -> str | None:
    """None if one kernel should be faster than two, by the bytes and instructions of each."""
    depthwise, pointwise = problem.depthwise, problem.pointwise
    if pointwise.out_channels > WIDTHS[-1]:
        return (
            f"{pointwise.out_channels} output channels take more than one tile of columns, and "
            "each would compute the depthwise sums anew"
        )
    if _source_vector(problem) == 1:
        return "x is not in vectors of channels, and each tap would load it value by value"
    if depthwise.filter_size[2] > LONGEST_ROW:
        return f"a row of {depthwise.filter_size[2]} taps would be unrolled into too much code"
    # Bytes a position: two kernels stream through memory; one is bound by its taps instead, where
    # they take longer.
    taps, size = math.prod(depthwise.filter_size), depthwise.dtype.itemsize
    between = depthwise.out_channels
    ends = (depthwise.in_channels + pointwise.out_channels) * size
    if max(ends, taps * between * TAP_BYTES) >= ends + 2 * between * size:
        return (
            f"the {taps} taps of {between} sums would take longer in the pointwise kernel than "
            "writing and reading the sums"
        )
    tiles = _tiles(problem, default_config(problem, device))
    if 2 * tiles < device.multiprocessors:
        return f"{tiles} tiles leave most of {device.multiprocessors} multiprocessors idle"
    return None


def default_configs(problem: SeparableProblem, device: Device) -> Sequence[Config]:
    """One tile for each width. The more registers the values of x take, the smaller is a step:
    float32, many values for a run's row of taps, and loads value by value."""
    half, vectors = problem.depthwise.dtype.itemsize == 2, _source_vector(problem) > 1
    reads = _reads_of_a_row(problem.depthwise)
    depth = 32 if half and vectors and reads <= 7 else 16
    few = 128 if vectors and (half or reads <= 7) else 256
    # Twice the threads have registers for twice the channels, if there are that many.
    deep = half and vectors and reads <= 5 and problem.depthwise.out_channels % 64 == 0
    shapes = zip(WIDTHS, (depth, depth, 64 if deep else depth), (few, few, 256), strict=True)
    return [
        Config.of(
            # AMD's warps have twice the threads, and four of them to fill.
            max(threads // device.warp_size, 4),
            1,
            BLOCK_M=64,
            BLOCK_N=n,
            BLOCK_K=k,
            RUN=RUN if vectors else 1,
        )
        for n, k, threads in shapes
    ]


def default_config(problem: SeparableProblem, device: Device) -> Config:
    """The narrowest tile that holds all columns, or the widest."""
    table = default_configs(problem, device)
    columns = problem.pointwise.out_channels
    return next((c for c in table if c["BLOCK_N"] >= columns), table[-1])


def fused_launch(problem: SeparableProblem, config: Config, flags: Flags) -> Launch:
    """The launch of the fused kernel."""
    depthwise, pointwise = problem.depthwise, problem.pointwise
    source = gather_arguments(depthwise, Pass.FPROP)
    taken = ("src_d", "src_h", "src_w", "pad_d", "pad_h", "pad_w", "FILTER", "STRIDE", "DILATION")
    taken += ("BORDER", "SRC_UNIT", *(f"stride_s{axis}" for axis in "ncdhw"))
    arguments = {
        **gather_gemm_arguments(pointwise, Pass.FPROP, flags),
        **gemm_constants(pointwise, config, flags),
        **{name: source[name] for name in taken},
        "filter_ptr": DEPTHWISE_WEIGHT,
        "filter_base": source["weight_base"],
        "stride_fc": depthwise.weight_strides[3],
        **{f"stride_f{axis}": source[f"stride_w{axis}"] for axis in "trs"},
        "FILTER_STRIDE": _dense_taps(depthwise),
        "MULTIPLIER": problem.multiplier,
        "SRC_VECTOR": _source_vector(problem) if flags.aligned else 1,
        "INDEX": max((index_dtype(p) for p in (depthwise, pointwise)), key=_bits),
    }
    arguments = {name: arguments[name] for name in depthwise_pointwise.arg_names}
    return Launch(depthwise_pointwise, _tiles(problem, config), arguments, config)


def fused_plan(problem: SeparableProblem, device: Device, *, aligned: bool = True) -> Plan:
    """The plan of the fused kernel, which writes the result of the pointwise convolution."""
    config = default_config(problem, device)
    interpreted = device.vendor == "interpreter"
    flags = Flags(aligned, interpreted, device.multiprocessors)
    return Plan(
        problem=problem.pointwise,
        which=Pass.FPROP,
        backend="interpreter" if interpreted else "triton",
        variant=NAME,
        launches=(fused_launch(problem, config, flags),),
        config=config,
        source="analytic",
    )


def _tiles(problem: SeparableProblem, config: Config) -> int:
    y = problem.pointwise
    runs = y.batch * math.prod(y.output_size[:2]) * ceil_div(y.output_size[2], config["RUN"])
    return ceil_div(runs, config["BLOCK_M"]) * ceil_div(y.out_channels, config["BLOCK_N"])


def _source_vector(problem: SeparableProblem) -> int:
    """Channels of x in a 16-byte vector, given an aligned pointer; 1 if there are no such."""
    x = problem.depthwise
    return vector_width(x, x.input_strides, x.input_shape_3d, 1) if problem.multiplier == 1 else 1


def _reads_of_a_row(x: ConvProblem) -> int:
    """Values of x that a run of positions reads for one row of taps."""
    taps = x.filter_size[2]
    return min((RUN - 1) * x.stride[2] + (taps - 1) * x.dilation[2] + 1, RUN * taps)


def _dense_taps(problem: ConvProblem) -> tuple[int, ...] | None:
    """The strides of the filter's taps if they have no gaps, so that they may be constants."""
    _, r, s = problem.filter_size
    sign = -1 if problem.flip else 1
    dense = (r * s, s, 1)
    sizes = zip(problem.weight_strides[5:], dense, problem.filter_size, strict=True)
    if any(stride != wanted and size > 1 for stride, wanted, size in sizes):
        return None
    return tuple(sign * stride for stride in dense)


def _bits(dtype: Any) -> int:
    return dtype.primitive_bitwidth
