"""How a window reduction is run: kernel, tile and arguments, without any tensor."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton.language as tl

from autotune import Candidate, Config

from .device import Device
from .errors import UnsupportedProblem
from .kernels.window_reduce import window_reduce
from .kernels.window_spread import window_spread
from .launch import Launch, Plan, Slot
from .pool_problem import INTEGERS, PoolPass, PoolProblem
from .tuning import Chosen, choose, pool_key
from .variants.base import Flags, axis_arguments, ceil_div, stride_arguments

# Up to so many taps, or windows that hold a position, the loop over them is written out; not where
# each is an exponential and a logarithm, whose code would fill the registers.
UNROLLED = 32
# Distance by which a tile may overhang its tensor.
OVERHANG = 4096
LOWEST = {dtype: torch.iinfo(dtype).min for dtype in INTEGERS}
ACCUMULATORS = {
    torch.float64: tl.float64,
    torch.uint8: tl.uint8,
    torch.int8: tl.int8,
    torch.int16: tl.int16,
    torch.int32: tl.int32,
    torch.int64: tl.int64,
}
# The smallest ratio of an element to its window's norm that has a power of its own.
TINY = {tl.float32: 2.0**-126, tl.float64: 2.0**-1022}


def channels_fast(problem: PoolProblem, which: PoolPass) -> bool:
    """Whether tiles are positions x channels: every tensor has its channels innermost."""
    return problem.channels > 1 and all(
        strides[1] == 1 for strides in _touched(problem, which).values()
    )


def vector_width(problem: PoolProblem, which: PoolPass) -> int:
    """Channels in a 16-byte vector of every tensor that a pass touches, or 1."""
    width = 16 // problem.dtype.itemsize
    if not channels_fast(problem, which) or problem.channels % width:
        return 1
    for name, strides in _touched(problem, which).items():
        shape = problem.input_shape_3d if name in ("x", "dx") else problem.output_shape_3d
        steps = zip(strides, shape, strict=True)
        if any(s % width for axis, (s, n) in enumerate(steps) if axis != 1 and n > 1):
            return 1
    return width


def _touched(problem: PoolProblem, which: PoolPass) -> dict[str, tuple[int, ...]]:
    """The strides of what a pass reads and writes."""
    kind = problem.reduction.kind
    found = {}
    if which is not PoolPass.BACKWARD or kind == "lp":
        found["x"] = problem.input_strides
    found["y"] = problem.output_strides
    if kind == "max" or (kind == "lp" and which is not PoolPass.FORWARD):
        found["saved"] = problem.saved_strides
    if which is PoolPass.BACKWARD:
        found["dx"] = problem.gradient_strides
    return found


def cover(problem: PoolProblem) -> tuple[int, ...]:
    """How many windows of an axis may hold one position."""
    found = []
    for axis in range(3):
        size, count = problem.input_size[axis], problem.output_size[axis]
        if problem.adaptive:
            first = [i * count // size for i in range(size)]
            last = [((i + 1) * count - 1) // size for i in range(size)]
            found.append(max(b - a for a, b in zip(first, last, strict=True)) + 1)
        else:
            reach = problem.dilation[axis] * (problem.kernel_size[axis] - 1) + 1
            found.append(min(ceil_div(reach, problem.stride[axis]), count))
    return tuple(found)


def default_configs(problem: PoolProblem, which: PoolPass, device: Device) -> Sequence[Config]:
    """The finite table that `default_config` chooses from: positions x channels, of which a thread
    takes a vector of eight, or 1 x elements."""
    if not channels_fast(problem, which):
        return [Config.of(4, 1, BLOCK_M=1, BLOCK_N=n) for n in (512, 256, 128)]
    sizes = [(size // n, n) for size in (1024, 512) for n in (128, 64, 32, 16)]
    warps = {m * n: max(m * n // (8 * device.warp_size), 1) for m, n in sizes}
    return [Config.of(warps[m * n], 1, BLOCK_M=m, BLOCK_N=n) for m, n in sizes]


def default_config(problem: PoolProblem, which: PoolPass, device: Device) -> Config:
    """As wide as the channels; the smaller tiles where the larger leave processors idle."""
    table = default_configs(problem, which, device)
    fitting = table
    if channels_fast(problem, which):
        widths = sorted({c["BLOCK_N"] for c in table})
        width = next((n for n in widths if n >= problem.channels), widths[-1])
        fitting = [c for c in table if c["BLOCK_N"] == width]
    enough = 2 * device.multiprocessors
    busy = [c for c in fitting if programs(problem, which, c) >= enough]
    return busy[0] if busy else fitting[-1]


def candidates(problem: PoolProblem, which: PoolPass, device: Device) -> list[Candidate]:
    """All that a tuner may try, in canonical order: the tables, with fewer and more warps."""
    name = kernel_name(which)
    return sorted(
        {
            Candidate(name, Config(config.constants, warps, config.num_stages))
            for config in default_configs(problem, which, device)
            for warps in (config.num_warps, 2, 4, 8)
        }
    )


def kernel_name(which: PoolPass) -> str:
    """What a plan calls the pass's kernel."""
    return "window_spread" if which is PoolPass.BACKWARD else "window_reduce"


def programs(problem: PoolProblem, which: PoolPass, config: Config) -> int:
    """Tiles of the tensor that is written."""
    size = problem.input_size if which is PoolPass.BACKWARD else problem.output_size
    positions, columns = problem.batch * math.prod(size), problem.channels
    if not channels_fast(problem, which):
        positions, columns = 1, positions * columns
    return ceil_div(positions, config["BLOCK_M"]) * ceil_div(columns, config["BLOCK_N"])


def pool_plan(
    problem: PoolProblem,
    which: PoolPass,
    device: Device,
    *,
    aligned: bool = True,
    candidate: Candidate | None = None,
) -> Plan:
    """The plan of one pass on one device; `candidate` forces one, for tuners. Raises
    UnsupportedProblem for an illegal one, and autotune's NoRecord under the policy "strict"."""
    default = Candidate(kernel_name(which), default_config(problem, which, device))

    def legal(found: Candidate) -> bool:
        return found in candidates(problem, which, device)

    if candidate is not None:
        if not legal(candidate):
            raise UnsupportedProblem(f"{which.value} of this pooling cannot be run by {candidate}")
        choice = Chosen(candidate, "forced", "")
    else:
        choice = choose(lambda: pool_key(problem, which, device, aligned), device, default, legal)
    config = choice.candidate.config
    interpreted = device.vendor == "interpreter"
    flags = Flags(aligned, interpreted, device.multiprocessors)
    return Plan(
        problem=problem,
        which=which,
        backend="interpreter" if interpreted else "triton",
        variant=choice.candidate.variant,
        launches=(pool_launch(problem, which, config, flags),),
        config=config,
        source=choice.source,
        note=choice.note,
        aligned=aligned,
        tunable=True,
    )


def pool_launch(problem: PoolProblem, which: PoolPass, config: Config, flags: Flags) -> Launch:
    """The one launch of a pass."""
    kernel = window_spread if which is PoolPass.BACKWARD else window_reduce
    arguments = _arguments(problem, which, config, flags)
    arguments = {name: arguments[name] for name in kernel.arg_names}
    return Launch(kernel, programs(problem, which, config), arguments, config)


def _arguments(
    problem: PoolProblem, which: PoolPass, config: Config, flags: Flags
) -> dict[str, Any]:
    reduction, backward = problem.reduction, which is PoolPass.BACKWARD
    accumulator = ACCUMULATORS.get(problem.dtype, tl.float32)
    if reduction.kind == "max" and problem.dtype in INTEGERS:
        lowest: Any = LOWEST[problem.dtype]
    else:
        lowest = float("-inf")
    covered = cover(problem)
    steps = math.prod(covered) if backward else problem.taps
    costly = reduction.kind == "lp" and _power(problem) == "any"
    written = problem.gradient_strides if backward else problem.output_strides
    saves = reduction.kind == "max" or (reduction.kind == "lp" and which is not PoolPass.FORWARD)
    return {
        "src_ptr": Slot.INPUT if not backward or reduction.kind == "lp" else None,
        "grad_ptr": Slot.GRAD_OUTPUT,
        "dst_ptr": Slot.GRAD_INPUT if backward else Slot.OUTPUT,
        "saved_ptr": (Slot.TAPS if reduction.kind == "max" else Slot.SAVED) if saves else None,
        "weight_ptr": Slot.PARAMETERS if reduction.weighted else None,
        "exponent_ptr": Slot.PARAMETERS if reduction.learned else None,
        "batch": problem.batch,
        "channels": problem.channels,
        **axis_arguments("src", problem.input_size),
        **axis_arguments("dst", problem.output_size),
        **axis_arguments("grad", problem.output_size),
        **axis_arguments("pad", [low for low, _ in problem.padding]),
        **axis_arguments("high", [high for _, high in problem.padding]),
        **stride_arguments("s", problem.input_strides),
        **stride_arguments("g", problem.output_strides),
        **stride_arguments("t", problem.saved_strides),
        **stride_arguments("d", written),
        "stride_exponent": 1 if reduction.by_channel else 0,
        "number": float(reduction.exponent),
        "FILTER": problem.kernel_size,
        "STRIDE": problem.stride,
        "DILATION": problem.dilation,
        "ADAPTIVE": problem.adaptive,
        "COVER": covered,
        "REDUCE": "log" if which is PoolPass.LOG else reduction.kind,
        "DIVISOR": reduction.divisor,
        "POWER": _power(problem),
        "SCALED": _scaled(problem),
        "LOWEST": lowest,
        "TINY": TINY.get(accumulator, 0.0),
        "LARGEST": torch.finfo(problem.dtype).max if problem.dtype.is_floating_point else 0.0,
        "CHANNELS_FAST": channels_fast(problem, which),
        "VECTOR": vector_width(problem, which) if flags.aligned else 1,
        "UNROLL": steps if steps <= UNROLLED and not costly else 1,
        "ACC": accumulator,
        "INDEX": _index_dtype(problem, which),
        "SOFT_BF16": flags.interpreting and problem.dtype == torch.bfloat16,
        **dict(config.constants),
    }


def _power(problem: PoolProblem) -> str:
    reduction = problem.reduction
    if reduction.learned:
        return "any"
    return {1.0: "one", 2.0: "two"}.get(reduction.exponent, "any")


def _scaled(problem: PoolProblem) -> bool:
    """Whether powers could leave the accumulator's range, so that a first walk over the window must
    find its largest element: not those of float16 in float32 up to the second, nor sums."""
    power = _power(problem)
    return power == "any" or (power == "two" and problem.dtype != torch.float16)


def _index_dtype(problem: PoolProblem, which: PoolPass) -> Any:
    """tl.int32, or tl.int64 where an offset can pass 2^31."""
    halo = [
        low + high + d * f
        for (low, high), d, f in zip(
            problem.padding, problem.dilation, problem.kernel_size, strict=True
        )
    ]
    extents = [OVERHANG * OVERHANG]
    for name, strides in _touched(problem, which).items():
        shape = problem.input_shape_3d if name in ("x", "dx") else problem.output_shape_3d
        reach = zip(shape, (0, OVERHANG, *halo), strides, strict=True)
        extents.append(sum((n + more) * abs(s) for n, more, s in reach))
        extents.append(math.prod(shape) + OVERHANG)
    if problem.adaptive:  # (o + 1) * I is computed
        sizes = zip(problem.input_size, problem.output_size, strict=True)
        extents += [(i + 1) * (o + 1) for i, o in sizes]
    return tl.int64 if max(extents) >= 2**31 else tl.int32
