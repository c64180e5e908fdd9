"""ConvProblem: one convolution, checked once, lifted to three spatial axes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from .checks import (
    ConvArguments,
    check_lengths,
    check_result_size,
    check_shapes,
    check_tensors,
    output_size,
    rank_of,
    shape_of,
)
from .epilogue import Epilogue, Extras, epilogue_of
from .errors import ProblemError
from .layout import dense_strides, is_channels_last

Triple = tuple[int, int, int]
Pads = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

# More splits than this cost more in the second pass than they win in the first.
MAX_SPLITS = 64


class Pass(str, Enum):
    """Which of the three tensors of a convolution is computed from the other two."""

    FPROP = "fprop"
    DGRAD = "dgrad"
    WGRAD = "wgrad"


@dataclass(frozen=True)
class ConvProblem:
    """One convolution, whichever of its three tensors is computed from the other two.

    y[n, k, o] = sum over c, f of x[n, g(k)*C/g + c, o*s - lo + f*d] * w[o mod t, k, c, f]

    What lies outside x is 0, or an element of x if `padding_mode` says so (`kernels/_border.py`).
    `epilogue` says what else is done to the sum of fprop or dgrad before it is stored.

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
    padding_mode: str
    flip: bool
    epilogue: Epilogue
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
        """Number of (output position, tap) pairs whose tap reads an element of the input."""
        if self.padding_mode != "zeros":
            return math.prod(self.output_size) * math.prod(self.filter_size)
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
        """The most bytes of scratch memory that any variant may take: partial sums."""
        return MAX_SPLITS * math.prod(self.result_shape(which)) * self.accumulator_bytes

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


def fprop_problem(
    x: torch.Tensor,
    w: torch.Tensor,
    bias: torch.Tensor | None,
    arguments: ConvArguments,
    extras: Extras | None = None,
) -> ConvProblem:
    """The problem of y = conv(x, w, bias), or with all of `extras`. Raises ProblemError."""
    extras = Extras(bias) if extras is None else extras
    check_tensors({"input": x, "weight": w} | _present(extras))
    rank = rank_of("input", x)
    return _build(rank, arguments, input=x, weight=w, output=None, extras=extras)


def dgrad_problem(
    dy: torch.Tensor,
    w: torch.Tensor,
    input_size: Sequence[int],
    arguments: ConvArguments,
    extras: Extras | None = None,
) -> ConvProblem:
    """The problem of dx = conv_dgrad(dy, w), where `input_size` is the full shape of x.

    With `extras` it is a transposed convolution, whose input is dy. Raises ProblemError.
    """
    name, size_name = ("grad_output", "input_size") if extras is None else ("input", "output_size")
    extras = extras or Extras()
    check_tensors({name: dy, "weight": w} | _present(extras))
    rank = rank_of(name, dy)
    check_result_size(size_name, input_size, [rank + 2])
    return _build(rank, arguments, input=tuple(input_size), weight=w, output=dy, extras=extras)


def wgrad_problem(
    dy: torch.Tensor, x: torch.Tensor, weight_size: Sequence[int], arguments: ConvArguments
) -> ConvProblem:
    """The problem of dw = conv_wgrad(dy, x), where `weight_size` is the full shape of w."""
    check_tensors({"grad_output": dy, "input": x})
    rank = rank_of("input", x)
    if dy.dim() != rank + 2:
        raise ProblemError(
            f"grad_output: expected {rank + 2} axes like input {shape_of(x)}, got {shape_of(dy)}"
        )
    check_result_size("weight_size", weight_size, [rank + 2, 2 * rank + 2])
    return _build(rank, arguments, input=x, weight=tuple(weight_size), output=dy)


def _build(
    rank: int,
    arguments: ConvArguments,
    *,
    input: Any,
    weight: Any,
    output: torch.Tensor | None,
    extras: Extras = Extras(),  # noqa: B008
) -> ConvProblem:
    """Check the shapes against each other, then lift everything to three spatial axes.

    `input` and `weight` are a tensor, or a shape for the one that is to be computed; so is
    `output`, whose shape follows from the others and is None when it is to be computed.
    """
    x_shape, w_shape = (
        tuple(getattr(input, "shape", input)),
        tuple(getattr(weight, "shape", weight)),
    )
    check_lengths(rank, arguments)
    check_shapes(rank, x_shape, w_shape, arguments)
    banks = rank if len(w_shape) == 2 * rank + 2 else 0
    filter_size = w_shape[banks + 2 :]
    out_size = output_size(x_shape[2:], filter_size, arguments)
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
            f"with weight {list(w_shape)}, got {shape_of(output)}"
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
        padding_mode=arguments.padding_mode,
        flip=arguments.flip,
        epilogue=epilogue_of(y_shape if output is None else x_shape, extras),
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


def _present(extras: Extras) -> dict[str, torch.Tensor]:
    found = {"bias": extras.bias, "residual": extras.residual}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


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
    found = torch._C._get_fp32_precision_getter("cuda", "conv")
    return "tf32" if found == "tf32" else "ieee"
