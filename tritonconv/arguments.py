"""From the arguments that people write (ints, tuples, words) to the canonical per-axis lists."""

from collections.abc import Sequence
from typing import Any

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
    if len(values) != rank or not all(_is_int(v) for v in values):
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
            isinstance(p, Sequence) and len(p) == 2 and all(_is_int(v) for v in p) for p in pairs
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
    pads = []
    for size, step, far in zip(input_size, stride, reach, strict=True):
        if _is_int(step) and step <= 0:
            raise ProblemError(f"stride: expected positive ints, got {list(stride)}")
        outputs = (size + step - 1) // step
        total = (outputs - 1) * step + far + 1 - size
        # max() would force a symbolic size to a number; SymInts stay symbolic through torch.
        total = total if isinstance(total, int) and total > 0 else _at_least_zero(total)
        low = total // 2 if word == "same" else total - total // 2
        pads += [low, total - low]
    return pads


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


def _is_int(value: Any) -> bool:
    # SymInt is no int but behaves as one; bool is an int but never meant as a size.
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        type(value).__name__ == "SymInt"
    )
