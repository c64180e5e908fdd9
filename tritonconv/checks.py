"""What a problem refuses: every mistake in a call is found here, before anything is computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .errors import ProblemError

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
RANKS = {3: 1, 4: 2, 5: 3}


@dataclass(frozen=True)
class ConvArguments:
    """The canonical non-tensor arguments of the ops: `rank` ints each, padding (lo, hi) an axis."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int
    flip: bool = False
    padding_mode: str = "zeros"


def shape_of(tensor: Any) -> list[int]:
    """A shape as messages print it."""
    return list(tensor.shape)


def check_tensors(tensors: dict[str, torch.Tensor]) -> None:
    """Types, dtypes and devices of the operands, the first one named being the standard."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise ProblemError(f"{name}: expected a torch.Tensor, got {type(tensor).__name__}")
        if tensor.dtype not in DTYPES:
            raise ProblemError(
                f"{name}: expected float16, bfloat16, float32 or float64, got {tensor.dtype}; "
                f"convert it first, for example {name}.float()"
            )
    (first, standard), *others = tensors.items()
    for name, tensor in others:
        if tensor.dtype != standard.dtype:
            raise ProblemError(
                f"{name}: expected dtype {standard.dtype}, that of {first}, got {tensor.dtype}; "
                f"convert one of them, for example {name}.to({first}.dtype)"
            )
        if tensor.device != standard.device:
            raise ProblemError(
                f"{name}: expected device {standard.device}, that of {first}, got "
                f"{tensor.device}; move one of them, for example {name}.to({first}.device)"
            )


def rank_of(name: str, tensor: torch.Tensor) -> int:
    """Number of spatial axes of an (N, C, *spatial) tensor."""
    if tensor.dim() not in RANKS:
        raise ProblemError(
            f"{name}: expected 3, 4 or 5 axes (N, C and one to three spatial ones), got "
            f"{tensor.dim()} in {shape_of(tensor)}"
        )
    return RANKS[tensor.dim()]


def check_result_size(name: str, sizes: Sequence[int], lengths: Sequence[int]) -> None:
    """The full shape of a gradient that is to be computed."""
    if len(sizes) not in lengths or any(size < 0 for size in sizes):
        wanted = " or ".join(str(length) for length in lengths)
        raise ProblemError(f"{name}: expected {wanted} sizes, none negative, got {list(sizes)}")


def check_lengths(rank: int, arguments: ConvArguments) -> None:
    """Stride, dilation, padding and groups by themselves."""
    for name, values, length in (
        ("stride", arguments.stride, rank),
        ("dilation", arguments.dilation, rank),
        ("padding", arguments.padding, 2 * rank),
    ):
        if len(values) != length:
            per = "a (low, high) pair" if name == "padding" else "one"
            raise ProblemError(
                f"{name}: expected {length} ints, {per} for each of {rank} spatial axes, got "
                f"{list(values)}"
            )
    for name, values in (("stride", arguments.stride), ("dilation", arguments.dilation)):
        if any(v <= 0 for v in values):
            raise ProblemError(f"{name}: expected positive ints, got {list(values)}")
    if arguments.groups <= 0:
        raise ProblemError(f"groups: expected a positive int, got {arguments.groups}")


def check_shapes(
    rank: int, x_shape: Sequence[int], w_shape: Sequence[int], arguments: ConvArguments
) -> None:
    """Input and weight against each other and the groups; then padding, which they may imply."""
    groups = arguments.groups
    if len(x_shape) != rank + 2:
        raise ProblemError(
            f"input: expected {rank + 2} axes (N, C and {rank} spatial), got {list(x_shape)}"
        )
    if len(w_shape) not in (rank + 2, 2 * rank + 2):
        raise ProblemError(
            f"weight: expected {rank + 2} axes (K, C/groups, *filter) for an input with "
            f"{rank} spatial axes, or {2 * rank + 2} with a period in front, got {list(w_shape)}"
        )
    if any(t <= 0 for t in w_shape[: len(w_shape) - rank - 2]):
        raise ProblemError(f"weight: expected a period of at least 1 an axis, got {list(w_shape)}")
    if any(f <= 0 for f in w_shape[-rank:]):
        raise ProblemError(f"weight: expected a non-empty filter, got {list(w_shape)}")
    out_channels, per_group = w_shape[-rank - 2], w_shape[-rank - 1]
    if out_channels <= 0:
        raise ProblemError(f"weight: expected at least one output channel, got {list(w_shape)}")
    if any(size <= 0 for size in x_shape[2:]):
        raise ProblemError(
            f"input: expected at least one element along each spatial axis, got {list(x_shape)}; "
            "only the batch may be empty"
        )
    if x_shape[1] != groups * per_group:
        raise ProblemError(
            f"input: expected groups * weight channels = {groups} * {per_group} = "
            f"{groups * per_group} channels for weight {list(w_shape)}, got {x_shape[1]} in "
            f"{list(x_shape)}"
        )
    if out_channels % groups != 0:
        raise ProblemError(
            f"weight: expected a number of output channels divisible by groups = {groups}, got "
            f"{out_channels} in {list(w_shape)}"
        )
    check_padding(x_shape[2:], arguments)


def check_padding(input_size: Sequence[int], arguments: ConvArguments) -> None:
    """Padding against the image that it extends. A negative high end crops, which is how a
    transposed convolution is longer than its stride would allow; a negative low end is refused."""
    mode, pads = arguments.padding_mode, list(arguments.padding)
    if any(low < 0 for low in pads[::2]):
        raise ProblemError(
            f"padding: expected non-negative ints, got {pads}; to crop, slice the input"
        )
    if mode not in PADDING_MODES:
        raise ProblemError(
            f"padding_mode: expected one of {', '.join(PADDING_MODES)}, got {mode!r}"
        )
    if mode not in ("reflect", "circular"):
        return
    # A reflection does not repeat the border, so it has one element less to give.
    spare = 1 if mode == "reflect" else 0
    for axis, size in enumerate(input_size):
        pair = pads[2 * axis : 2 * axis + 2]
        if max(pair) > size - spare:
            raise ProblemError(
                f"padding: expected at most {size - spare} on spatial axis {axis} of size {size} "
                f'with padding_mode "{mode}", got {pair}; pad less, or use "replicate"'
            )


def check_bias(bias: torch.Tensor, shape: Sequence[int]) -> None:
    """One value an output channel, or a block of such vectors that repeats over the positions."""
    rank, channels, sizes = len(shape) - 2, shape[1], list(shape[2:])
    found = shape_of(bias)
    if bias.dim() == 1 and found == [channels]:
        return
    if bias.dim() != rank + 1 or found[-1] != channels:
        raise ProblemError(
            f"bias: expected shape [{channels}], one value an output channel, or "
            f"[*period, {channels}] with {rank} more axes in front, got {found}"
        )
    if any(t < 1 or t > size for t, size in zip(found, sizes, strict=False)):
        raise ProblemError(
            f"bias: expected 1 <= period <= output size {sizes} on each axis, got {found}"
        )


def check_residual(residual: torch.Tensor, shape: Sequence[int]) -> None:
    """What is added to a result has the result's shape; nothing is broadcast."""
    if tuple(residual.shape) != tuple(shape):
        raise ProblemError(
            f"residual: expected the result's shape {list(shape)}, got {shape_of(residual)}; "
            "to broadcast, expand it first"
        )


def output_size(
    input_size: Sequence[int], filter_size: Sequence[int], arguments: ConvArguments
) -> tuple[int, ...]:
    """(input + low + high - dilation*(filter-1) - 1) // stride + 1 along each axis."""
    sizes = []
    for axis, (size, taps) in enumerate(zip(input_size, filter_size, strict=True)):
        low, high = arguments.padding[2 * axis], arguments.padding[2 * axis + 1]
        reach = arguments.dilation[axis] * (taps - 1) + 1
        if size + low + high < reach:
            raise ProblemError(
                f"input: its padded size {size + low + high} on spatial axis {axis} is smaller "
                f"than the filter's reach {reach}, so the output would be empty; expected input "
                f"+ padding >= dilation * (filter - 1) + 1; pad more, or use a smaller filter"
            )
        sizes.append((size + low + high - reach) // arguments.stride[axis] + 1)
    return tuple(sizes)
