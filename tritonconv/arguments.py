"""From the arguments that people write (ints, tuples, words) to the canonical per-axis lists."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from .errors import ProblemError

PADDING_WORDS = ("valid", "same", "same_lower", "full")
MODES = ("cross_correlation", "convolution")


def per_axis(name: str, value: Any, rank: int) -> list[int]:
    """An int, or a sequence of one or `rank` ints, as a list of `rank` ints."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        values: list[Any] = list(value)
        if len(values) == 1:
            values = values * rank
    else:
        values = [value] * rank
    if len(values) != rank or not all(is_int(v) for v in values):
        raise ProblemError(
            f"{name}: expected an int or {rank} ints (one a spatial axis), got {value!r}"
        )
    return values


def padding_pairs(
    padding: Any,
    stride: Sequence[int],
    dilation: Sequence[int],
    input_size: Sequence[int],
    filter_size: Sequence[int],
) -> list[int]:
    """Padding as a flat list (lo, hi) per axis.

    "same": output = ceil(input / stride), with total = max((output-1)*stride + d*(f-1) + 1 -
    input, 0), the odd unit at the high end ("same_lower": at the low end). "full": d*(f-1) on both
    sides, so that every tap meets every pixel (Goodfellow et al., section 9.5).
    """
    rank = len(stride)
    if isinstance(padding, str):
        return _padding_of_word(padding, stride, dilation, input_size, filter_size)
    if isinstance(padding, Sequence) and any(isinstance(p, Sequence) for p in padding):
        pairs = list(padding) * (rank if len(padding) == 1 else 1)
        if len(pairs) != rank or not all(
            isinstance(p, Sequence) and len(p) == 2 and all(is_int(v) for v in p) for p in pairs
        ):
            raise ProblemError(
                f"padding: expected {rank} pairs (low, high), one a spatial axis, got {padding!r}"
            )
        return [v for pair in pairs for v in pair]
    return [p for p in per_axis("padding", padding, rank) for _ in (0, 1)]


def _padding_of_word(
    word: str,
    stride: Sequence[int],
    dilation: Sequence[int],
    input_size: Sequence[int],
    filter_size: Sequence[int],
) -> list[int]:
    if word == "valid":
        return [0] * (2 * len(stride))
    reach = [d * (f - 1) for d, f in zip(dilation, filter_size, strict=True)]
    if word == "full":
        return [r for r in reach for _ in (0, 1)]
    if word not in ("same", "same_lower"):
        raise ProblemError(
            f"padding: unknown word {word!r}; expected one of {', '.join(PADDING_WORDS)}, "
            "ints, or (low, high) pairs"
        )
    positive("stride", stride)
    pads = []
    for size, step, far in zip(input_size, stride, reach, strict=True):
        outputs = (size + step - 1) // step
        total = (outputs - 1) * step + far + 1 - size
        # max() would force a symbolic size to a number; SymInts stay symbolic through torch.
        total = total if isinstance(total, int) and total > 0 else _at_least_zero(total)
        low = total // 2 if word == "same" else total - total // 2
        pads += [low, total - low]
    return pads


class Transposed(NamedTuple):
    """What decides the size of a transposed convolution's result, besides its padding: an int a
    spatial axis each. `output_size` is None where the caller leaves the size to the others."""

    input_size: Sequence[int]
    filter_size: Sequence[int]
    stride: Sequence[int]
    dilation: Sequence[int]
    output_padding: Sequence[int]
    output_size: Sequence[int] | None


def transposed_size(padding: Any, shape: Transposed) -> tuple[list[int], list[int]]:
    """`(size, padding)` of a transposed convolution: the size of its result, and the flat (lo, hi)
    per axis of the convolution that it is the adjoint of, which maps `size` to the input's size.

    Along an axis, with reach = d*(f-1):

        size = (input - 1)*stride - lo - hi + reach + 1 + output_padding

    A stride divides with a remainder, so that convolution maps `stride` sizes to one; the smallest
    has no output padding. Words crop what the same word pads: "valid" 0, "full" reach at both ends,
    "same" what makes size = input * stride. torch allows output_padding up to the dilation as well;
    whole strides of it lie beyond the last window, so they are taken off the high padding, which
    may thereby become negative and crop.
    """
    steps, extra = shape.stride, shape.output_padding
    full = [
        (i - 1) * s + d * (f - 1) + 1
        for i, f, s, d in zip(*shape[:4], strict=True)  # what nothing crops
    ]
    if isinstance(padding, str):
        least, usual = _sizes_of_word(padding, full, shape)
        if any(extra):
            raise ProblemError(
                f'output_padding: expected 0 with padding "{padding}", which settles the size, got '
                f"{list(extra)}; name the size that you want as output_size"
            )
    else:
        pads = padding_pairs(padding, steps, shape.dilation, (), ())
        not_negative("padding", pads, "for a larger output use output_padding or output_size")
        _check_output_padding(shape)
        least = [n - lo - hi for n, lo, hi in zip(full, pads[::2], pads[1::2], strict=True)]
        usual = [n + p for n, p in zip(least, extra, strict=True)]
    size = usual if shape.output_size is None else _requested_size(least, shape)
    if min(size) < 1:
        raise ProblemError(
            f"padding: expected to leave at least one element along each spatial axis, got "
            f"{padding!r}, which crops {full} to {size}; crop less"
        )
    if isinstance(padding, str):
        return size, padding_pairs(padding, steps, shape.dilation, size, shape.filter_size)
    for axis, (more, step) in enumerate(zip(extra, steps, strict=True)):
        pads[2 * axis + 1] -= more // step * step
    return size, pads


def _sizes_of_word(
    word: str, full: Sequence[int], shape: Transposed
) -> tuple[list[int], list[int]]:
    """The smallest of the sizes that a word allows, and the one that it means by itself."""
    if word in ("same", "same_lower"):
        usual = [i * s for i, s in zip(shape.input_size, shape.stride, strict=True)]
        return [n - s + 1 for n, s in zip(usual, shape.stride, strict=True)], usual
    # Refuses a word that is none; the padding of the others does not depend on the size.
    pads = padding_pairs(word, shape.stride, shape.dilation, full, shape.filter_size)
    least = [n - lo - hi for n, lo, hi in zip(full, pads[::2], pads[1::2], strict=True)]
    return least, least


def _requested_size(least: Sequence[int], shape: Transposed) -> list[int]:
    size = list(shape.output_size or ())
    if any(shape.output_padding):
        raise ProblemError(
            f"output_size: expected it without output_padding, since each settles the size, got "
            f"{size} and {list(shape.output_padding)}; leave one of them out"
        )
    most = [n + s - 1 for n, s in zip(least, shape.stride, strict=True)]
    if any(not low <= n <= high for low, n, high in zip(least, size, most, strict=True)):
        raise ProblemError(
            f"output_size: expected sizes from {least} to {most}, which a convolution with these "
            f"arguments maps to the input's size {list(shape.input_size)}, got {size}; change "
            "padding or stride"
        )
    return size


def _check_output_padding(shape: Transposed) -> None:
    found = list(shape.output_padding)
    not_negative("output_padding", found, "for a smaller output use more padding")
    limits = [max(s, d) for s, d in zip(shape.stride, shape.dilation, strict=True)]
    if any(n >= limit for n, limit in zip(found, limits, strict=True)):
        raise ProblemError(
            f"output_padding: expected less than stride or dilation, below {limits}, got {found}; "
            "pad the result instead"
        )


def positive(name: str, values: Sequence[int]) -> None:
    """Refuse 0 and less, before a size is computed with them."""
    if min(values) <= 0:
        raise ProblemError(f"{name}: expected positive ints, got {list(values)}")


def not_negative(name: str, values: Sequence[int], instead: str) -> None:
    """Refuse less than 0; `instead` says what to do."""
    if min(values) < 0:
        raise ProblemError(f"{name}: expected non-negative ints, got {list(values)}; {instead}")


def _at_least_zero(value: Any) -> Any:
    if isinstance(value, int):
        return max(value, 0)
    import torch  # a symbolic size: only traced calls pay for the import's look-up

    return torch.sym_max(value, 0)


def flips(mode: str) -> bool:
    """Whether the filter is flipped: `mode="convolution"`, the textbook's definition."""
    if mode not in MODES:
        raise ProblemError(f"mode: expected {' or '.join(map(repr, MODES))}, got {mode!r}")
    return mode == "convolution"


def is_int(value: Any) -> bool:
    """Whether it can be a size: SymInt is no int but behaves as one; bool is an int but never meant
    as one."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        type(value).__name__ == "SymInt"
    )
