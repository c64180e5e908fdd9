"""PoolProblem: one window reduction, checked once, lifted to three spatial axes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import torch

from .checks import RANKS, shape_of
from .errors import ProblemError
from .layout import dense_strides, is_channels_last
from .problem import Pads, Triple

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
# How a sum is divided: not at all, by a given number, by the window's taps within the image and its
# declared padding, by those within the image, or by the sum of their weights.
DIVISORS = ("none", "fixed", "padded", "valid", "weights")


class PoolPass(str, Enum):
    """What is computed: y (or for `LOG` its sensitivity to the exponent), or dx from dy."""

    FORWARD = "forward"
    LOG = "log"
    BACKWARD = "backward"


class PoolArguments(NamedTuple):
    """Where the windows lie: `rank` ints each, padding (lo, hi) an axis.

    With `adaptive_size`, the output's sizes, window o covers floor(o*I/O) .. ceil((o+1)*I/O) - 1 of
    the I elements of an axis, and the other fields say nothing.
    """

    kernel_size: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    ceil_mode: bool = False
    adaptive_size: Sequence[int] = ()


class Reduction(NamedTuple):
    """What becomes of a window's elements: `kind` max, sum or lp; the rest is of one kind only.

    A sum has weights or none, and is divided as `divisor` says. The norm of lp is `exponent`, or
    where `learned` a number in memory, with `by_channel` one a channel.
    """

    kind: str
    divisor: str = "none"
    weighted: bool = False
    exponent: float = 2.0
    learned: bool = False
    by_channel: bool = False


@dataclass(frozen=True)
class PoolProblem:
    """One window reduction, or its gradient.

    y[n, c, o] = reduction over taps f of x[n, c, o*s - lo + f*d], where that lies inside x

    Every spatial field is a (D, H, W) triple; a missing axis has size 1. `kernel_size` of an
    adaptive problem is the longest window's. The strides are those of the actual tensors, in
    elements, (N, C, D, H, W): `input_strides` of x, `output_strides` of y or dy, `saved_strides` of
    what forward leaves to backward (taps, or y), `gradient_strides` of dx; what a pass does not
    touch has the strides of a new tensor.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3.
    """

    rank: int
    batch: int
    channels: int
    reduction: Reduction
    input_size: Triple
    output_size: Triple
    kernel_size: Triple
    stride: Triple
    dilation: Triple
    padding: Pads
    adaptive: bool
    dtype: torch.dtype
    input_strides: tuple[int, ...]
    output_strides: tuple[int, ...]
    saved_strides: tuple[int, ...]
    gradient_strides: tuple[int, ...]

    @property
    def taps(self) -> int:
        """Of a window."""
        return math.prod(self.kernel_size)

    @property
    def tap_dtype(self) -> torch.dtype:
        """What holds the number of a tap."""
        return torch.uint8 if self.taps <= 256 else torch.int32

    @property
    def input_shape_3d(self) -> tuple[int, ...]:
        """(N, C, D, H, W)"""
        return (self.batch, self.channels, *self.input_size)

    @property
    def output_shape_3d(self) -> tuple[int, ...]:
        """(N, C, Z, P, Q)"""
        return (self.batch, self.channels, *self.output_size)

    def result_shape(self, which: PoolPass) -> tuple[int, ...]:
        """Of the tensor that is written, with as many axes as the caller's."""
        size = self.input_size if which is PoolPass.BACKWARD else self.output_size
        return (self.batch, self.channels, *size[3 - self.rank :])

    def result_strides(self, which: PoolPass) -> tuple[int, ...]:
        """The strides that go with `result_shape`."""
        strides = self.gradient_strides if which is PoolPass.BACKWARD else self.output_strides
        return (*strides[:2], *strides[5 - self.rank :])

    def useful_bytes(self, which: PoolPass) -> int:
        """Bytes of x, y and what is saved of them, each moved once."""
        x, y = math.prod(self.input_shape_3d), math.prod(self.output_shape_3d)
        saved = {"max": self.tap_dtype.itemsize, "sum": 0, "lp": 0}[self.reduction.kind]
        if which is not PoolPass.FORWARD and self.reduction.kind == "lp":
            x, y = (2 * x if which is PoolPass.BACKWARD else x), 2 * y
        return (x + y) * self.dtype.itemsize + y * saved


class PoolOperands(NamedTuple):
    """The tensors of a call; `size` is the shape of x where that is to be computed, and
    `channels_last` says that it has that memory format, whatever the others have."""

    x: torch.Tensor | None = None
    dy: torch.Tensor | None = None
    saved: torch.Tensor | None = None
    size: Sequence[int] | None = None
    channels_last: bool = False


# -- construction: the one place that refuses ------------------------------------------------


def pool_problem(
    operands: PoolOperands, reduction: Reduction, arguments: PoolArguments
) -> PoolProblem:
    """The problem of y from x, or of dx from dy. Raises ProblemError."""
    x, dy, saved, size, _ = operands
    name, first = ("input", x) if dy is None else ("grad_output", dy)
    if first is None:
        raise ProblemError("input: expected a tensor, got None")
    rank = _check_tensor(name, first, reduction)
    allowed = DIVISORS if dy is None else DIVISORS[:-1]
    if reduction.divisor not in allowed:
        raise ProblemError(
            f"divisor: expected one of {', '.join(allowed)}, got {reduction.divisor!r}"
        )
    x_shape = tuple(x.shape if x is not None else size or ())
    if len(x_shape) != rank + 2:
        raise ProblemError(
            f"input_size: expected {rank + 2} sizes like {name} {shape_of(first)}, got "
            f"{list(x_shape)}"
        )
    if any(n < 1 for n in x_shape[2:]):
        raise ProblemError(
            f"input: expected at least one element along each spatial axis, got {list(x_shape)}; "
            "only batch and channels may be empty"
        )
    kernel, sizes = windows_of(x_shape[2:], arguments)
    y_shape = (*x_shape[:2], *sizes)
    kept = "taps" if reduction.kind == "max" else "output"
    for label, tensor in (("grad_output", dy), (kept, saved)):
        if tensor is not None and tuple(tensor.shape) != y_shape:
            raise ProblemError(
                f"{label}: expected shape {list(y_shape)}, the output of input {list(x_shape)}, "
                f"got {shape_of(tensor)}"
            )
    shapes = (x_shape, y_shape)
    return _lifted(operands, reduction, arguments, shapes, kernel)


def windows_of(
    input_size: Sequence[int], arguments: PoolArguments
) -> tuple[Sequence[int], list[int]]:
    """The (longest) window and the output's size, an int an axis. Raises ProblemError.

    size = floor or, with `ceil_mode`, ceil of (input + lo + hi - dilation*(kernel-1) - 1) / stride,
    + 1; a last window that would begin in the high padding is left out.
    """
    rank = len(input_size)
    if arguments.adaptive_size:
        sizes = list(arguments.adaptive_size)
        if len(sizes) != rank or any(o < 1 for o in sizes):
            raise ProblemError(
                f"output_size: expected {rank} positive ints, one a spatial axis, got {sizes}"
            )
        return [_longest(n, o) for n, o in zip(input_size, sizes, strict=True)], sizes
    _check_lengths(rank, arguments)
    sizes = []
    for axis, size in enumerate(input_size):
        low, high = arguments.padding[2 * axis : 2 * axis + 2]
        stride = arguments.stride[axis]
        reach = arguments.dilation[axis] * (arguments.kernel_size[axis] - 1) + 1
        spare = size + low + high - reach
        count = (-(-spare // stride) if arguments.ceil_mode else spare // stride) + 1
        if arguments.ceil_mode and (count - 1) * stride >= size + low:
            count -= 1
        if count < 1:
            raise ProblemError(
                f"input: its padded size {size + low + high} on spatial axis {axis} is smaller "
                f"than the window's reach {reach}, so the output would be empty; pad more, or use "
                "a smaller window"
            )
        sizes.append(count)
    return list(arguments.kernel_size), sizes


def _longest(size: int, windows: int) -> int:
    """The longest of the adaptive windows floor(o*I/O) .. ceil((o+1)*I/O) - 1: ceil(f + I/O) for
    the largest remainder f that o*I/O leaves, which is 1 less gcd(I, O)/O."""
    step = math.gcd(int(size), int(windows))
    return -(-(size + windows - step) // windows)


def _check_lengths(rank: int, arguments: PoolArguments) -> None:
    for name, values, length in (
        ("kernel_size", arguments.kernel_size, rank),
        ("stride", arguments.stride, rank),
        ("padding", arguments.padding, 2 * rank),
        ("dilation", arguments.dilation, rank),
    ):
        least = 0 if name == "padding" else 1
        if len(values) != length or any(v < least for v in values):
            kind = "non-negative ints, a (low, high) pair" if least == 0 else "positive ints, one"
            raise ProblemError(
                f"{name}: expected {length} {kind} for each of {rank} spatial axes, got "
                f"{list(values)}"
            )


def _check_tensor(name: str, tensor: torch.Tensor, reduction: Reduction) -> int:
    if tensor.dim() not in RANKS:
        raise ProblemError(
            f"{name}: expected 3, 4 or 5 axes (N, C and one to three spatial ones), got "
            f"{tensor.dim()} in {shape_of(tensor)}"
        )
    check_dtype(name, tensor, (*FLOATS, *INTEGERS) if reduction.kind == "max" else FLOATS)
    return RANKS[tensor.dim()]


def check_dtype(name: str, tensor: torch.Tensor, wanted: Sequence[torch.dtype]) -> None:
    """Refuse a tensor of another dtype than FLOATS, or FLOATS and INTEGERS."""
    if tensor.dtype not in wanted:
        integers = ", or an integer dtype" if torch.int8 in wanted else ""
        raise ProblemError(
            f"{name}: expected float16, bfloat16, float32 or float64{integers}, got "
            f"{tensor.dtype}; convert it first, for example {name}.float()"
        )


def _lifted(
    operands: PoolOperands,
    reduction: Reduction,
    arguments: PoolArguments,
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    kernel: Sequence[int],
) -> PoolProblem:
    x, dy, saved, _, channels_last = operands
    x_shape, y_shape = shapes
    rank = len(x_shape) - 2
    adaptive = bool(arguments.adaptive_size)
    tensors = [t for t in (x, dy, saved) if t is not None]
    # What forward reads decides the memory format of all that follows it.
    first = x if x is not None else saved if saved is not None else dy
    if not channels_last:
        channels_last = is_channels_last(first.shape, first.stride())  # type: ignore[union-attr]

    def strides(tensor: torch.Tensor | None, shape: tuple[int, ...]) -> tuple[int, ...]:
        found = dense_strides(shape, channels_last) if tensor is None else tensor.stride()
        return (*found[:2], *_lift(found[2:], 0))

    ones, none = (1,) * rank, ((0, 0),) * rank
    pairs = tuple(zip(arguments.padding[::2], arguments.padding[1::2], strict=True))
    return PoolProblem(
        rank=rank,
        batch=x_shape[0],
        channels=x_shape[1],
        reduction=reduction,
        input_size=_lift(x_shape[2:], 1),
        output_size=_lift(y_shape[2:], 1),
        kernel_size=_lift(kernel, 1),
        stride=_lift(ones if adaptive else arguments.stride, 1),
        dilation=_lift(ones if adaptive else arguments.dilation, 1),
        padding=_lift(none if adaptive else pairs, (0, 0)),
        adaptive=adaptive,
        dtype=tensors[0].dtype,
        input_strides=strides(x, x_shape),
        output_strides=strides(dy, y_shape),
        saved_strides=strides(saved, y_shape),
        gradient_strides=strides(None, x_shape),
    )


def _lift(values: Sequence[Any], fill: Any) -> Any:
    return (fill,) * (3 - len(values)) + tuple(values)
