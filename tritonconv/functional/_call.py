"""From the arguments of a function to the canonical form that the ops take, for all of them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

import torch
from torch import Tensor

from ..arguments import Transposed, flips, not_negative, padding_pairs, per_axis, positive
from ..arguments import transposed_size as size_and_padding
from ..checks import ConvArguments, check_lengths, check_shapes, check_tensors, output_size
from ..errors import ProblemError
from ..ops.entry import autocasts, convolve, transpose

Size = int | Sequence[int]
Padding = int | Sequence[int] | str | Sequence[Sequence[int]]


class Kind(NamedTuple):
    """Functions that differ in their rank alone, as messages name them.

    `weight` names the axes of their weight in front of the filter's; `banks`: it has filter banks,
    so that there are `rank` axes of a period in front; `unshared`: one for every position.
    """

    name: str
    weight: str
    banks: bool = False
    unshared: bool = False


class Call(NamedTuple):
    """A call in canonical form: every tensor with a batch axis, a str for the activation, and
    `rest` the fields of ConvArguments. `single`: there was no batch axis, and the result has none.
    """

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    residual: Tensor | None
    activation: str
    rest: tuple[Any, ...]
    single: bool

    def convolve(self) -> Tensor:
        """Compute it, by the op or whatever is quicker."""
        input, weight, bias, residual, activation, rest, single = self
        y = convolve(input, weight, bias, residual, activation, *rest)
        return y.squeeze(0) if single else y


Function = TypeVar("Function", bound=Callable[..., Any])
_HASHED_BY_VALUE = frozenset((bool, int, str, type(None)))


def remembered(function: Function) -> Function:
    """`function` of shapes and options, without side effects, its results kept by its arguments.

    Checking and expanding them costs more than a small convolution. Options are looked up with
    their types, for 1 == 1.0 == True, but only the first is a stride; inside a tuple only ints are.
    Sizes that are symbols cannot be looked up, and while a compiler traces nothing is.
    """

    @functools.lru_cache(maxsize=4096, typed=True)
    def kept(kind: Kind, rank: int, shapes: tuple[Any, ...], *options: Any) -> Any:
        return function(kind, rank, shapes, options)

    @functools.wraps(function)
    def call(kind: Kind, rank: int, shapes: tuple[Any, ...], options: tuple[Any, ...]) -> Any:
        if torch.compiler.is_compiling() or not _hashed_by_value(options):
            return function(kind, rank, shapes, options)
        try:
            hash(shapes)
        except TypeError:
            return function(kind, rank, shapes, options)
        return kept(kind, rank, shapes, *options)

    return call  # type: ignore[return-value]


def _hashed_by_value(options: tuple[Any, ...]) -> bool:
    if _HASHED_BY_VALUE.issuperset(map(type, options)):
        return True
    return all(
        type(o) in _HASHED_BY_VALUE or (type(o) is tuple and all(type(v) is int for v in o))
        for o in options
    )


def prepare(kind: Kind, rank: int, operands: Sequence[Any], options: tuple[Any, ...]) -> Call:
    """The canonical form of a convolution.

    `operands` are (input, weight, bias, residual, activation), `options` (stride, padding,
    dilation, groups, mode, padding_mode), all as the caller wrote them.
    """
    input, weight, bias, residual, activation, single = take(kind, rank, operands)
    check_weight(kind, rank, weight)
    rest = _convolution(kind, rank, (input.shape, weight.shape), options)
    return Call(input, weight, bias, residual, activation, rest, single)


@remembered
def _convolution(
    kind: Kind, rank: int, shapes: tuple[Any, ...], options: tuple[Any, ...]
) -> tuple[Any, ...]:
    """The fields of ConvArguments."""
    x_shape, w_shape = shapes
    rest = canonical(rank, options, x_shape, w_shape)
    if kind.unshared:
        found, sizes = list(w_shape[:rank]), list(natural_size(x_shape, w_shape, rest))
        if found != sizes:
            raise ProblemError(
                f"weight: {kind.name}{rank}d expected filters for each of {sizes} positions, the "
                f"output size that these arguments give, got {found} in {list(w_shape)}; filters "
                f"that repeat are tiled_conv{rank}d's"
            )
    return rest


def transposed(kind: Kind, rank: int, operands: Sequence[Any], options: tuple[Any, ...]) -> Tensor:
    """The transposed convolution of `operands` (as in `prepare`), computed.

    `options` are (stride, padding, output_padding, groups, dilation, output_size, mode,
    padding_mode), as the caller wrote them.
    """
    input, weight, bias, residual, activation, single = take(kind, rank, operands)
    check_weight(kind, rank, weight)
    wanted, rest = _transposed(kind, rank, (input.shape, weight.shape), options)
    x = transpose(input, weight, bias, residual, activation, wanted, *rest)
    return x.squeeze(0) if single else x


@remembered
def _transposed(
    kind: Kind, rank: int, shapes: tuple[Any, ...], options: tuple[Any, ...]
) -> tuple[list[int], tuple[Any, ...]]:
    """The full shape of the result, and the fields of ConvArguments."""
    x_shape, w_shape = shapes
    stride, padding, output_padding, groups, dilation, size, mode, padding_mode = options
    unpadded = (stride, 0, dilation, groups, mode, padding_mode)
    stride, _, dilation, groups, *last = canonical(rank, unpadded, x_shape, w_shape)
    positive("stride", stride)
    positive("dilation", dilation)
    positive("groups", (groups,))
    _check_transposed(kind, x_shape, w_shape, groups)
    extra = per_axis("output_padding", output_padding, rank)
    wanted = None if size is None else _requested(size, rank)
    shape = Transposed(x_shape[2:], w_shape[-rank:], stride, dilation, extra, wanted)
    spatial, pads = size_and_padding(padding, shape)
    return [x_shape[0], groups * w_shape[-rank - 1], *spatial], (
        stride,
        pads,
        dilation,
        groups,
        *last,
    )


def take(kind: Kind, rank: int, operands: Sequence[Any]) -> tuple[Any, ...]:
    """`operands` checked for their types and axes, with a batch axis each and a str for the
    activation; and whether the batch axis was missing. What is said of the weight is up to others.
    """
    input, weight, bias, residual, activation = operands
    if not isinstance(input, Tensor):
        _refuse_type("input", input)
    if bias is not None and not isinstance(bias, Tensor):
        _refuse_type("bias", bias)
    if residual is not None and not isinstance(residual, Tensor):
        _refuse_type("residual", residual)
    if activation is None:
        activation = "none"
    elif not isinstance(activation, str):
        raise ProblemError(f"activation: expected its name or None, got {activation!r}")
    axes = input.dim()
    if axes == rank + 2:
        return input, weight, bias, residual, activation, False
    if axes != rank + 1:
        raise ProblemError(
            f"input: {kind.name}{rank}d expected {rank + 2} axes, or {rank + 1} without a batch, "
            f"got {axes} in {list(input.shape)}"
        )
    if residual is not None:
        if residual.dim() != rank + 1:
            raise ProblemError(
                f"residual: {kind.name}{rank}d expected {rank + 1} axes, no batch as in the input, "
                f"got {residual.dim()} in {list(residual.shape)}"
            )
        residual = residual.unsqueeze(0)
    return input.unsqueeze(0), weight, bias, residual, activation, True


def check_weight(kind: Kind, rank: int, weight: Any, argument: str = "weight") -> None:
    """A tensor with the axes that this kind of function wants."""
    if not isinstance(weight, Tensor):
        _refuse_type(argument, weight)
    wanted = 2 * rank + 2 if kind.banks else rank + 2
    if weight.dim() != wanted:
        raise ProblemError(
            f"{argument}: {kind.name}{rank}d expected {wanted} axes ({kind.weight} and {rank} of "
            f"the filter), got {weight.dim()} in {list(weight.shape)}"
        )


def canonical(
    rank: int, options: Sequence[Any], input_shape: Sequence[int], weight_shape: Sequence[int]
) -> tuple[Any, ...]:
    """`options` as in `prepare` to the fields of ConvArguments. Of the shapes only the last `rank`
    sizes matter, and only to a padding that is a word."""
    stride, padding, dilation, groups, mode, padding_mode = options
    stride = [stride] * rank if type(stride) is int else per_axis("stride", stride, rank)
    dilation = [dilation] * rank if type(dilation) is int else per_axis("dilation", dilation, rank)
    if type(padding) is int and padding >= 0:
        pads = [padding] * (2 * rank)
    else:
        pads = padding_pairs(padding, stride, dilation, input_shape[-rank:], weight_shape[-rank:])
        if not isinstance(padding, str):
            not_negative("padding", pads, "to crop, slice the input")
    if not isinstance(groups, int) or isinstance(groups, bool):
        (groups,) = per_axis("groups", groups, 1)
    if not isinstance(padding_mode, str):
        raise ProblemError(f"padding_mode: expected its name, got {padding_mode!r}")
    flip = mode != "cross_correlation" and flips(mode)
    return stride, pads, dilation, groups, flip, padding_mode


def natural_size(
    input_shape: Sequence[int], weight_shape: Sequence[int], rest: Sequence[Any]
) -> tuple[int, ...]:
    """The size of the output of a convolution in canonical form. Raises what its op would raise."""
    arguments, rank = ConvArguments(*rest), len(input_shape) - 2
    check_lengths(rank, arguments)
    check_shapes(rank, input_shape, weight_shape, arguments)
    return output_size(input_shape[2:], weight_shape[-rank:], arguments)


def check_operands(tensors: dict[str, Any]) -> None:
    """Types, dtypes and devices by the names of a function whose tensors go to several ops.

    Autocast makes dtypes equal later, so inside it only the types are looked at.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            _refuse_type(name, tensor)
    first = next(iter(tensors.values()))
    if not autocasts(first):
        check_tensors(tensors)


def _requested(size: Any, rank: int) -> list[int]:
    """torch takes an output size with or without the axes of the batch and the channels."""
    if isinstance(size, Sequence) and len(size) in (rank + 1, rank + 2):
        size = size[-rank:]
    return per_axis("output_size", size, rank)


def _check_transposed(
    kind: Kind, x_shape: Sequence[int], w_shape: Sequence[int], groups: int
) -> None:
    """Input and weight of a transposed convolution against each other.

    The op would refuse them too, but in the words of the convolution that this is the adjoint of,
    whose output is the input here.
    """
    rank = len(x_shape) - 2
    filters, positions = w_shape[-rank - 2], x_shape[2:]
    if x_shape[1] != filters or filters % groups:
        raise ProblemError(
            f"input: {kind.name}{rank}d expected as many channels as weight {list(w_shape)} has "
            f"filters, {filters}, divisible by groups = {groups}, got {x_shape[1]} in "
            f"{list(x_shape)}"
        )
    if min(positions) < 1:
        raise ProblemError(
            "input: expected at least one element along each spatial axis, got "
            f"{list(x_shape)}; only the batch may be empty"
        )
    if kind.banks and w_shape[:rank] != positions:
        raise ProblemError(
            f"weight: {kind.name}{rank}d expected filters for each of the input's "
            f"{list(positions)} positions, got {list(w_shape[:rank])} in {list(w_shape)}"
        )


def _refuse_type(name: str, found: Any) -> NoReturn:
    raise ProblemError(f"{name}: expected a torch.Tensor, got {type(found).__name__}")
