"""ConvProblem: one convolution, checked once, lifted to three spatial axes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from .errors import ProblemError
from .layout import dense_strides, is_channels_last

Triple = tuple[int, int, int]
Pads = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
RANKS = {3: 1, 4: 2, 5: 3}
# More splits than this cost more in the second pass than they win in the first.
MAX_SPLITS = 64


class Pass(str, Enum):
    """Which of the three tensors of a convolution is computed from the other two."""

    FPROP = "fprop"
    DGRAD = "dgrad"
    WGRAD = "wgrad"


@dataclass(frozen=True)
class ConvProblem:
    """y[n, k, o] = b[k] + sum over c, f of x[n, g(k)*C/g + c, o*s - lo + f*d] * w[o mod t, k, c, f].

    Every spatial field is a (D, H, W) triple; a missing axis has size 1. `input` is (N, C, D, H,
    W), `weight` (*period, K, C/g, T, R, S), `output` (N, K, Z, P, Q); `period` (1, 1, 1) is
    ordinary convolution and `period` = output size is unshared convolution; `period_axes` says
    whether the weight tensor has axes for it. The strides are those of the actual tensors, in
    elements, in the order of those axes.

    Under tracing the sizes are SymInts; they stay symbolic, so a problem is hashed only when a
    real call plans it. Source: Goodfellow, Bengio, Courville, Deep Learning, sections 9.1, 9.5.
    """

    rank: int
    batch: int
    in_channels: int
    out_channels: int
    groups: int
    input_size: Triple
    output_size: Triple
    filter_size: Triple
    stride: Triple
    dilation: Triple
    padding: Pads
    period: Triple
    period_axes: bool
    flip: bool
    has_bias: bool
    dtype: torch.dtype
    precision: str
    input_strides: tuple[int, ...]
    weight_strides: tuple[int, ...]
    output_strides: tuple[int, ...]

    # -- sizes -------------------------------------------------------------------------------

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(N, C, *spatial), with as many axes as the caller's tensor."""
        return (self.batch, self.in_channels, *self.input_size[3 - self.rank :])

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(N, K, *spatial), with as many axes as the caller's tensor."""
        return (self.batch, self.out_channels, *self.output_size[3 - self.rank :])

    @property
    def input_shape_3d(self) -> tuple[int, ...]:
        """(N, C, D, H, W)"""
        return (self.batch, self.in_channels, *self.input_size)

    @property
    def output_shape_3d(self) -> tuple[int, ...]:
        """(N, K, Z, P, Q)"""
        return (self.batch, self.out_channels, *self.output_size)

    @property
    def weight_shape_3d(self) -> tuple[int, ...]:
        """(*period, K, C/g, T, R, S)"""
        per_group = self.in_channels // self.groups
        return (*self.period, self.out_channels, per_group, *self.filter_size)

    @property
    def weight_elements(self) -> int:
        """Number of stored parameters, without the bias."""
        return math.prod(self.weight_shape_3d)

    @property
    def accumulator_bytes(self) -> int:
        """Size of one partial sum: float32, or float64 for float64."""
        return 8 if self.dtype == torch.float64 else 4

    # -- work --------------------------------------------------------------------------------

    def valid_pairs(self) -> int:
        """Number of (output position, tap) pairs whose tap falls on the input, not on padding."""
        pairs = 1
        for axis in range(3):
            size, stride, low = self.input_size[axis], self.stride[axis], self.padding[axis][0]
            count = 0
            for tap in range(self.filter_size[axis]):
                start = low - tap * self.dilation[axis]
                first = max(-(-start // stride), 0)
                last = min((size - 1 + start) // stride, self.output_size[axis] - 1)
                count += max(last - first + 1, 0)
            pairs *= count
        return pairs

    def useful_flops(self) -> int:
        """Multiplications and additions that no rearrangement can avoid: 2 a product, any pass."""
        channels = self.out_channels * (self.in_channels // self.groups)
        return 2 * self.batch * channels * self.valid_pairs()

    def useful_bytes(self) -> int:
        """Bytes of the three tensors, each moved once."""
        elements = math.prod(self.input_shape) + math.prod(self.output_shape)
        return (elements + self.weight_elements) * self.dtype.itemsize

    def operations(self) -> int:
        """Textbook count for one batch: every output costs (2*terms - 1) operations."""
        terms = (self.in_channels // self.groups) * math.prod(self.filter_size)
        return math.prod(self.output_shape) * (2 * terms - 1)

    def matrix_operations(self) -> int:
        """The same count if the operator were stored and applied as a dense matrix."""
        terms = self.in_channels * math.prod(self.input_size)
        return math.prod(self.output_shape) * (2 * terms - 1)

    def matrix_nonzeros(self) -> int:
        """Elements of that matrix that a filter weight occupies."""
        return self.out_channels * (self.in_channels // self.groups) * self.valid_pairs()

    def workspace_limit(self, which: Pass) -> int:
        """The most bytes of scratch memory that any variant may take: wgrad's partial sums."""
        if which is not Pass.WGRAD:
            return 0
        return MAX_SPLITS * self.weight_elements * self.accumulator_bytes

    # -- results -----------------------------------------------------------------------------

    def result_shape(self, which: Pass) -> tuple[int, ...]:
        """Shape of the tensor that `which` writes, as the caller gets it."""
        if which is not Pass.WGRAD:
            return self.output_shape if which is Pass.FPROP else self.input_shape
        banks = self.period[3 - self.rank :] if self.period_axes else ()
        return (*banks, *self.weight_shape_3d[3:5], *self.filter_size[3 - self.rank :])

    def result_strides(self, which: Pass) -> tuple[int, ...]:
        """Strides of the tensor that `which` writes, with the period axes first if it is dw."""
        lifted = {
            Pass.FPROP: self.output_strides,
            Pass.DGRAD: self.input_strides,
            Pass.WGRAD: self.weight_strides,
        }[which]
        if which is Pass.WGRAD:
            banks = lifted[3 - self.rank : 3] if self.period_axes else ()
            return (*banks, *lifted[3:5], *lifted[8 - self.rank :])
        return (*lifted[:2], *lifted[5 - self.rank :])


# -- construction: the one place that refuses ------------------------------------------------


@dataclass(frozen=True)
class ConvArguments:
    """The canonical non-tensor arguments of the ops: `rank` ints each, padding (lo, hi) an axis."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int
    flip: bool = False


def fprop_problem(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, arguments: ConvArguments
) -> ConvProblem:
    """The problem of y = conv(x, w, bias). Raises ProblemError."""
    _check_tensors({"input": x, "weight": w} | ({} if bias is None else {"bias": bias}))
    rank = _rank_of("input", x)
    if bias is not None and tuple(bias.shape) != (_out_channels(w, rank),):
        raise ProblemError(
            f"bias: expected shape ({_out_channels(w, rank)},), one value an output channel of "
            f"weight {_shape(w)}, got {_shape(bias)}"
        )
    return _build(rank, arguments, input=x, weight=w, output=None, has_bias=bias is not None)


def dgrad_problem(
    dy: torch.Tensor, w: torch.Tensor, input_size: Sequence[int], arguments: ConvArguments
) -> ConvProblem:
    """The problem of dx = conv_dgrad(dy, w), where `input_size` is the full shape of x."""
    _check_tensors({"grad_output": dy, "weight": w})
    rank = _rank_of("grad_output", dy)
    return _build(rank, arguments, input=tuple(input_size), weight=w, output=dy)


def wgrad_problem(
    dy: torch.Tensor, x: torch.Tensor, weight_size: Sequence[int], arguments: ConvArguments
) -> ConvProblem:
    """The problem of dw = conv_wgrad(dy, x), where `weight_size` is the full shape of w."""
    _check_tensors({"grad_output": dy, "input": x})
    rank = _rank_of("input", x)
    if dy.dim() != rank + 2:
        raise ProblemError(
            f"grad_output: expected {rank + 2} axes like input {_shape(x)}, got {_shape(dy)}"
        )
    return _build(rank, arguments, input=x, weight=tuple(weight_size), output=dy)


def _build(
    rank: int,
    arguments: ConvArguments,
    *,
    input: Any,
    weight: Any,
    output: torch.Tensor | None,
    has_bias: bool = False,
) -> ConvProblem:
    """Check the shapes against each other, then lift everything to three spatial axes.

    `input` and `weight` are a tensor, or a shape for the one that is to be computed; so is
    `output`, whose shape follows from the others and is None when it is to be computed.
    """
    x_shape, w_shape = (
        tuple(getattr(input, "shape", input)),
        tuple(getattr(weight, "shape", weight)),
    )
    _check_lengths(rank, arguments)
    _check_shapes(rank, x_shape, w_shape, arguments)
    banks = rank if len(w_shape) == 2 * rank + 2 else 0
    filter_size = w_shape[banks + 2 :]
    out_size = _output_size(x_shape[2:], filter_size, arguments)
    period = w_shape[:banks] or (1,) * rank
    if any(t > o for t, o in zip(period, out_size, strict=True)):
        raise ProblemError(
            f"weight: its period {list(period)} exceeds the output size {list(out_size)}; "
            "expected 1 <= period <= output size on each axis"
        )
    y_shape = (x_shape[0], w_shape[banks], *out_size)
    if output is not None and tuple(output.shape) != y_shape:
        raise ProblemError(
            f"grad_output: expected shape {list(y_shape)}, the output of input {list(x_shape)} "
            f"with weight {list(w_shape)}, got {_shape(output)}"
        )

    tensors = [t for t in (input, weight, output) if isinstance(t, torch.Tensor)]
    channels_last = any(_tensor_is_channels_last(t, rank) for t in tensors)
    x_strides = _strides(input, x_shape, channels_last, 0)
    w_strides = _strides(weight, w_shape, channels_last, banks)
    y_strides = _strides(output, y_shape, channels_last, 0)
    pairs = tuple(zip(arguments.padding[::2], arguments.padding[1::2], strict=True))
    dtype = tensors[0].dtype
    return ConvProblem(
        rank=rank,
        batch=x_shape[0],
        in_channels=x_shape[1],
        out_channels=y_shape[1],
        groups=arguments.groups,
        input_size=_lift(x_shape[2:], 1),
        output_size=_lift(out_size, 1),
        filter_size=_lift(filter_size, 1),
        stride=_lift(arguments.stride, 1),
        dilation=_lift(arguments.dilation, 1),
        padding=_lift(pairs, (0, 0)),
        period=_lift(period, 1),
        period_axes=banks > 0,
        flip=arguments.flip,
        has_bias=has_bias,
        dtype=dtype,
        precision=_precision(dtype),
        input_strides=(*x_strides[:2], *_lift(x_strides[2:], 0)),
        weight_strides=(
            *_lift(w_strides[:banks], 0),
            *w_strides[banks : banks + 2],
            *_lift(w_strides[banks + 2 :], 0),
        ),
        output_strides=(*y_strides[:2], *_lift(y_strides[2:], 0)),
    )


def _lift(values: Sequence[Any], fill: Any) -> Any:
    return (fill,) * (3 - len(values)) + tuple(values)


def _tensor_is_channels_last(tensor: torch.Tensor, rank: int) -> bool:
    """The stride rule: a result is channels-last if an operand is. Period axes do not count."""
    return is_channels_last(tensor.shape[-rank - 2 :], tensor.stride()[-rank - 2 :])


def _strides(tensor: Any, shape: Sequence[int], channels_last: bool, banks: int) -> tuple[int, ...]:
    if isinstance(tensor, torch.Tensor):
        return tuple(tensor.stride())
    return dense_strides(shape, channels_last, banks)


def _precision(dtype: torch.dtype) -> str:
    """ "tf32" if torch allows it for float32 convolution, else "ieee".

    Reads torch.backends.cudnn.conv.fp32_precision; torch keeps its older spelling,
    torch.backends.cudnn.allow_tf32, in step with it.
    """
    if dtype != torch.float32:
        return "ieee"
    return "tf32" if torch.backends.cudnn.conv.fp32_precision == "tf32" else "ieee"


# -- checks ----------------------------------------------------------------------------------


def _shape(tensor: Any) -> list[int]:
    return list(tensor.shape)


def _out_channels(w: torch.Tensor, rank: int) -> int:
    return w.shape[rank] if w.dim() == 2 * rank + 2 else w.shape[0]


def _check_tensors(tensors: dict[str, torch.Tensor]) -> None:
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


def _rank_of(name: str, tensor: torch.Tensor) -> int:
    if tensor.dim() not in RANKS:
        raise ProblemError(
            f"{name}: expected 3, 4 or 5 axes (N, C and one to three spatial ones), got "
            f"{tensor.dim()} in {_shape(tensor)}"
        )
    return RANKS[tensor.dim()]


def _check_lengths(rank: int, arguments: ConvArguments) -> None:
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
    if any(p < 0 for p in arguments.padding):
        raise ProblemError(
            f"padding: expected non-negative ints, got {list(arguments.padding)}; "
            "to crop, slice the input"
        )
    if arguments.groups <= 0:
        raise ProblemError(f"groups: expected a positive int, got {arguments.groups}")


def _check_shapes(
    rank: int, x_shape: Sequence[int], w_shape: Sequence[int], arguments: ConvArguments
) -> None:
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


def _output_size(
    input_size: Sequence[int], filter_size: Sequence[int], arguments: ConvArguments
) -> tuple[int, ...]:
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
