"""From the arguments of a pooling function to the canonical form that the ops take."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack  # type: ignore

from ..arguments import is_int, not_negative, padding_pairs, per_axis, positive
from ..checks import shape_of
from ..errors import ProblemError
from ..ops.conv import is_plain
from ..pool_problem import PoolArguments, windows_of
from ..reference.pool_geometry import Windows
from ..reference.pool_windows import max_indices
from ._call import Kind, remembered

Size = int | Sequence[int]
Padding = int | Sequence[int] | str | Sequence[Sequence[int]]
WORDS = ("valid", "same", "same_lower")


class PoolInput(NamedTuple):
    """A pooling call in canonical form: (N, C, *spatial), and where the windows lie. `single`:
    there was no batch axis, and the result has none."""

    input: Tensor
    arguments: PoolArguments
    single: bool

    def batched(self, y: Tensor) -> Tensor:
        """A result as the caller gets it."""
        return y.squeeze(0) if self.single else y

    def windows(self) -> Windows:
        """The windows, for what torch's own functions compute."""
        return Windows(self.input.shape[2:], self.arguments)

    def indices(self, taps: Tensor) -> Tensor:
        """torch's int64 indices from the numbers of taps."""
        return self.batched(max_indices(taps, self.windows()))


def prepare_pool(name: str, rank: int, input: Any, options: tuple[Any, ...]) -> PoolInput:
    """The canonical form of a pooling call.

    `options` are (kernel_size, stride, padding, dilation, ceil_mode), as the caller wrote them.
    """
    input, single = batch_of(name, rank, input)
    arguments = _pool_arguments(Kind(name, ""), rank, (input.shape,), options)
    return PoolInput(input, arguments, single)


def prepare_adaptive(name: str, rank: int, input: Any, output_size: Any) -> PoolInput:
    """The canonical form of an adaptive pooling call; None keeps the input's size on an axis."""
    input, single = batch_of(name, rank, input)
    sizes = input.shape[2:]
    listed = isinstance(output_size, Sequence) and not isinstance(output_size, str)
    asked: list[Any] = list(output_size) if listed else [output_size]
    if len(asked) == 1:
        asked *= rank
    if len(asked) != rank or not all(_is_size(o) for o in asked):
        raise ProblemError(
            f"output_size: expected a positive int or {rank} of them (one a spatial axis, None for "
            f"the input's), got {output_size!r}"
        )
    wanted = [n if o is None else o for n, o in zip(sizes, asked, strict=True)]
    none, ones = [0] * rank, [1] * rank
    if min(sizes) > 0 and all(n % o == 0 for n, o in zip(sizes, wanted, strict=True)):
        # Windows of one length: the plain form of them needs no division.
        kernel = [n // o for n, o in zip(sizes, wanted, strict=True)]
        return PoolInput(input, PoolArguments(kernel, kernel, none * 2, ones), single)
    return PoolInput(input, PoolArguments(none, none, none * 2, none, False, tuple(wanted)), single)


def _is_size(value: Any) -> bool:
    return value is None or (is_int(value) and value > 0)


def is_number(value: Any) -> bool:
    """Whether it is one; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool):
        raise ProblemError(f"{name}: expected True or False, got {value!r}")


def is_readable(tensor: Tensor) -> bool:
    """Whether its numbers may be looked at: they wait for no device, no tracer and no transform."""
    return (
        tensor.is_cpu
        and not torch.compiler.is_compiling()
        and is_plain(tensor)
        and peek_interpreter_stack() is None
    )


def batch_of(name: str, rank: int, input: Any) -> tuple[Tensor, bool]:
    """The input with a batch axis, and whether that was missing."""
    if not isinstance(input, Tensor):
        raise ProblemError(f"input: expected a torch.Tensor, got {type(input).__name__}")
    if input.dim() not in (rank + 1, rank + 2):
        raise ProblemError(
            f"input: {name}{rank}d expected {rank + 2} axes, or {rank + 1} without a batch, got "
            f"{input.dim()} in {shape_of(input)}"
        )
    single = input.dim() == rank + 1
    if single and input.shape[0] == 0:
        raise ProblemError(
            f"input: expected at least one channel where there is no batch, got {shape_of(input)}; "
            f"an empty batch has {rank + 2} axes"
        )
    return (input.unsqueeze(0) if single else input), single


@remembered
def _pool_arguments(
    kind: Kind, rank: int, shapes: tuple[Any, ...], options: tuple[Any, ...]
) -> PoolArguments:
    kernel_size, stride, padding, dilation, ceil_mode = options
    kernel = per_axis("kernel_size", kernel_size, rank)
    unset = stride is None or (isinstance(stride, Sequence) and len(stride) == 0)
    steps = kernel if unset else per_axis("stride", stride, rank)
    gaps = per_axis("dilation", dilation, rank)
    for name, values in (("kernel_size", kernel), ("stride", steps), ("dilation", gaps)):
        positive(name, values)
    check_flag("ceil_mode", ceil_mode)
    if isinstance(padding, str) and padding not in WORDS:
        raise ProblemError(
            f"padding: unknown word {padding!r}; expected one of {', '.join(WORDS)}, ints, or "
            "(low, high) pairs"
        )
    pads = padding_pairs(padding, steps, gaps, shapes[0][2:], kernel)
    not_negative("padding", pads, "to crop, slice the input")
    if not isinstance(padding, str) and not _is_pairs(padding):
        _check_half(pads, kernel, gaps)
    arguments = PoolArguments(tuple(kernel), tuple(steps), tuple(pads), tuple(gaps), ceil_mode, ())
    windows_of(shapes[0][2:], arguments)
    return arguments


def _is_pairs(padding: Any) -> bool:
    return isinstance(padding, Sequence) and any(isinstance(p, Sequence) for p in padding)


def _check_half(pads: Sequence[int], kernel: Sequence[int], dilation: Sequence[int]) -> None:
    """torch's limit, which keeps every window in touch with the image."""
    for axis, (taps, step) in enumerate(zip(kernel, dilation, strict=True)):
        most = ((taps - 1) * step + 1) // 2
        if pads[2 * axis] > most:
            raise ProblemError(
                f"padding: expected at most half of the window's reach, {most}, on spatial axis "
                f"{axis}, got {pads[2 * axis]}; to pad more, give pairs ((low, high), ...) or a "
                "word"
            )


def is_torchs(call: PoolInput) -> bool:
    """Whether torch's function of the same name takes these windows, and keeps the memory format:
    the same padding at both ends, of at most half a kernel (its backward ignores the dilation), in
    3-D an image of the kernel's size at least, and a contiguous one."""
    x, arguments = call.input, call.arguments
    pads, rank = arguments.padding, x.dim() - 2
    symmetric = all(
        low == high and 2 * low <= taps
        for low, high, taps in zip(pads[::2], pads[1::2], arguments.kernel_size, strict=True)
    )
    if not symmetric or 0 in x.shape or not x.is_floating_point():
        return False
    sizes = zip(x.shape[2:], arguments.kernel_size, strict=True)
    if rank == 3 and any(size < taps for size, taps in sizes):
        return False
    return x.is_contiguous() or (rank == 2 and x.is_contiguous(memory_format=torch.channels_last))
