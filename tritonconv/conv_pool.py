"""Convolution, activation and pooling as one problem.

The three stages of Goodfellow, Bengio, Courville, Deep Learning, figure 9.7: where the windows of
the pooling stage do not overlap, what stands between the stages is never stored.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .checks import ConvArguments
from .epilogue import Extras
from .errors import ProblemError
from .layout import dense_strides, is_channels_last
from .problem import ConvProblem, Pass, Triple, fprop_problem

POOLS = ("max", "avg", "l2", "maxout")
# Those with a winner, whose number a backward pass needs.
WITH_TAPS = ("max", "maxout")


@dataclass(frozen=True)
class PoolStage:
    """`pool` is one of POOLS; `size` has `rank` ints, the window, or for "maxout" one, the number
    of neighbouring channels. `keep_taps` stores each winner's number too. `stride` is as `size`,
    the distance of two windows, or None for the size itself."""

    pool: str
    size: Sequence[int]
    keep_taps: bool = False
    stride: Sequence[int] | None = None


@dataclass(frozen=True)
class ConvPoolProblem:
    """z = activation(conv(x, w) + bias), y = pool of z over windows or over channels; checked.

    max, avg, l2:  y[n, k, u] = pool over t of z[n, k, u*step + t], 0 <= t < window
    maxout:        y[n, k, u] = max over t of z[n, k*piece_step + t, u], 0 <= t < pieces

    `conv` is the problem of z, its epilogue included. What is left over beyond the last whole
    window is not computed.
    """

    conv: ConvProblem
    pool: str
    window: Triple
    step: Triple
    pieces: int
    piece_step: int
    keep_taps: bool

    @property
    def members(self) -> int:
        """Values of z in one of y."""
        return self.pieces * math.prod(self.window)

    @property
    def tap_dtype(self) -> torch.dtype:
        """What holds a winner's number."""
        return torch.uint8 if self.members <= 256 else torch.int32

    @property
    def overlaps(self) -> bool:
        """Whether a value of z belongs to more than one of y."""
        sizes = (*self.window, self.pieces)
        steps, counts = (*self.step, self.piece_step), (*self.output_size, self.channels)
        units = zip(sizes, steps, counts, strict=True)
        return any(step < size and count > 1 for size, step, count in units)

    @property
    def channels(self) -> int:
        """Channels of y."""
        return (self.conv.out_channels - self.pieces) // self.piece_step + 1

    @property
    def output_size(self) -> Triple:
        """(D, H, W) of y."""
        sizes = zip(self.conv.output_size, self.window, self.step, strict=True)
        d, h, w = ((o - t) // s + 1 for o, t, s in sizes)
        return d, h, w

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(N, channels, *spatial) of y and of its taps, with as many axes as the caller's x."""
        return (self.conv.batch, self.channels, *self.output_size[3 - self.conv.rank :])

    @property
    def output_strides(self) -> tuple[int, ...]:
        """Of y and of its taps, for `output_shape`: channels-last where z would be."""
        z = self.conv
        last = is_channels_last(z.output_shape, z.result_strides(Pass.FPROP))
        return dense_strides(self.output_shape, last)


def conv_pool_problem(
    x: torch.Tensor,
    w: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str,
    arguments: ConvArguments,
    pool: PoolStage,
) -> ConvPoolProblem:
    """The problem of one call: x (N, C, *I), w (K, C/g, *F), bias (K,) or (*period, K).

    Raises ProblemError.
    """
    conv = fprop_problem(x, w, None, arguments, Extras(bias, None, activation))
    if pool.pool not in POOLS:
        raise ProblemError(f"pool: expected one of {', '.join(POOLS)}, got {pool.pool!r}")
    across = pool.pool == "maxout"
    size, length = list(pool.size), 1 if across else conv.rank
    if len(size) != length or any(s < 1 for s in size):
        wanted = "1 positive int, a number of channels" if across else f"{length} positive ints"
        raise ProblemError(
            f"pool_size: expected {wanted} for pool {pool.pool!r} of {conv.rank} spatial axes, "
            f"got {size}"
        )
    step = size if pool.stride is None else list(pool.stride)
    if len(step) != length or any(s < 1 for s in step):
        raise ProblemError(
            f"pool_stride: expected {length} positive ints like pool_size, got {step}"
        )
    if pool.keep_taps and pool.pool not in WITH_TAPS:
        raise ProblemError(
            f"keep_taps: expected False for pool {pool.pool!r}, which has no winner, got True; "
            "its gradient needs the sums instead"
        )
    if across and conv.out_channels % size[0]:
        raise ProblemError(
            f"pool_size: expected a divisor of the {conv.out_channels} output channels of the "
            f"weight for pool 'maxout', got {size[0]}; use as many filters as are a multiple of it"
        )
    z_size = conv.output_shape[2:]
    if not across and any(s > o for s, o in zip(size, z_size, strict=True)):
        raise ProblemError(
            f"pool_size: expected at most {list(z_size)}, the convolution's output size, got "
            f"{size}; pool less, or pad the input more"
        )
    one = (1, 1, 1)
    windows: tuple[Any, Any] = (one, one)
    if not across:
        windows = ((*one[conv.rank :], *size), (*one[conv.rank :], *step))
    pieces = (size[0], step[0]) if across else (1, 1)
    return ConvPoolProblem(conv, pool.pool, *windows, *pieces, pool.keep_taps)
