"""The rest of the family on a CPU, against the compositions that a user would write of torch.

Torch has no unshared or tiled convolution, no border inside a convolution and no epilogue: each row
names what is composed instead. `benchmarks.cpu` prints them after its own rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from rich import box
from rich.table import Table
from torch import Tensor
from torch.nn import functional as T

from tritonconv import functional as F

from .timing import interleaved, peak_megabytes

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Pair:
    """Two functions of the same tensors, given by their shapes."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    composed: Function
    ours: Function


@dataclass(frozen=True)
class FamilyRow:
    """Microseconds and megabytes of both sides of a pair, forward or with backward."""

    case: str
    measured: str
    composed_us: float
    ours_us: float
    composed_mb: float
    ours_mb: float

    @property
    def ratio(self) -> float:
        """Above 1, ours is faster."""
        return self.composed_us / self.ours_us


def unfolded(x: Tensor, w: Tensor) -> Tensor:
    """Unshared convolution in 2-D: every window laid out, times the weights of its position."""
    (p, q, k), taps = w.shape[:3], w.shape[-2:]
    columns = T.unfold(x, taps)
    return torch.einsum("nfl,lkf->nkl", columns, w.view(p * q, k, -1)).view(-1, k, p, q)


def unfolded_1d(x: Tensor, w: Tensor) -> Tensor:
    """The same in 1-D, by a view of the windows."""
    return torch.einsum("ncqs,qkcs->nkq", x.unfold(2, w.shape[-1], 1), w)


def repeated(x: Tensor, w: Tensor) -> Tensor:
    """Tiled convolution with padding 1: the banks copied to every position, then as unshared."""
    p, q = x.shape[2:]
    rows, columns = torch.arange(p) % w.shape[0], torch.arange(q) % w.shape[1]
    return unfolded(T.pad(x, (1, 1, 1, 1)), w[rows][:, columns].contiguous())


def padded(mode: str) -> Function:
    """A 3x3 convolution of an image with a border."""
    return lambda x, w: T.conv2d(T.pad(x, (1, 1, 1, 1), mode), w)


def outer(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Separable filters multiplied out."""
    return T.conv2d(x, (a[:, :, None] * b[:, None, :])[:, None], groups=x.shape[1])


IMAGE, FILTERS = (8, 64, 28, 28), (64, 64, 3, 3)
PAIRS = (
    Pair(
        "unshared 8x16x63x63, 16 of 9x9: unfold + einsum",
        ((8, 16, 63, 63), (55, 55, 16, 16, 9, 9)),
        unfolded,
        F.unshared_conv2d,
    ),
    Pair(
        "unshared 2x3x8x8, 4 of 3x3: unfold + einsum",
        ((2, 3, 8, 8), (6, 6, 4, 3, 3, 3)),
        unfolded,
        F.unshared_conv2d,
    ),
    Pair(
        "unshared 4x16x200, 16 of 5: unfold + einsum",
        ((4, 16, 200), (196, 16, 16, 5)),
        unfolded_1d,
        F.unshared_conv1d,
    ),
    Pair(
        "tiled 2x2, 4x16x28x28, 16 of 3x3: index + unfold + einsum",
        ((4, 16, 28, 28), (2, 2, 16, 16, 3, 3)),
        repeated,
        lambda x, w: F.tiled_conv2d(x, w, padding=1),
    ),
    *(
        Pair(
            f"{mode} border 8x64x28x28, 64 of 3x3: pad + conv",
            (IMAGE, FILTERS),
            padded(mode),
            lambda x, w, mode=mode: F.conv2d(x, w, padding=1, padding_mode=mode),
        )
        for mode in ("reflect", "replicate", "circular")
    ),
    Pair(
        "relu of conv with bias 8x64x28x28: conv + relu",
        (IMAGE, FILTERS, (64,)),
        lambda x, w, b: T.relu(T.conv2d(x, w, b, padding=1)),
        lambda x, w, b: F.conv2d(x, w, b, padding=1, activation="relu"),
    ),
    Pair(
        "gelu of conv and residual 8x64x28x28: conv + add + gelu",
        (IMAGE, FILTERS, IMAGE),
        lambda x, w, e: T.gelu(T.conv2d(x, w, padding=1) + e),
        lambda x, w, e: F.conv2d(x, w, padding=1, activation="gelu", residual=e),
    ),
    Pair(
        "transposed 8x64x28x28, stride 2: conv_transpose2d",
        (IMAGE, FILTERS, (64,)),
        lambda x, w, b: T.conv_transpose2d(x, w, b, 2, 1, 1),
        lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 1),
    ),
    Pair(
        "separable 9x9, 4x32x64x64: conv with the product of the filters",
        ((4, 32, 64, 64), (32, 9), (32, 9)),
        outer,
        lambda x, a, b: F.separable_conv2d(x, (a, b)),
    ),
    Pair(
        "depthwise separable 4x64x56x56, 3x3: conv + conv",
        ((4, 64, 56, 56), (64, 1, 3, 3), (64, 64, 1, 1)),
        lambda x, d, p: T.conv2d(T.conv2d(x, d, padding=1, groups=64), p),
        lambda x, d, p: F.depthwise_separable_conv2d(x, d, p, padding=1),
    ),
    Pair(
        "causal 4x64x1000, 64 of 4: pad + conv",
        ((4, 64, 1000), (64, 64, 4)),
        lambda x, w: T.conv1d(T.pad(x, (3, 0)), w),
        lambda x, w: F.causal_conv1d(x, w)[0],
    ),
)


def measure(pair: Pair, backward: bool, seconds: float) -> FamilyRow:
    """One row; first of all both sides must agree, since a wrong answer has no speed."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(s, generator=generator) for s in pair.shapes]
    expected, got = pair.composed(*tensors), pair.ours(*tensors)
    scale = float(expected.abs().max())
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4 * scale)
    dy = torch.randn_like(expected)
    del expected, got
    if backward:
        tensors = [t.requires_grad_() for t in tensors]

    def call(function: Function) -> Callable[[], object]:
        if not backward:
            return lambda: function(*tensors)
        return lambda: torch.autograd.grad(function(*tensors), tensors, dy)

    sides = call(pair.composed), call(pair.ours)
    composed_us, ours_us, _ = interleaved(*sides, seconds)
    peaks = [peak_megabytes(side) for side in sides]
    measured = "forward + backward" if backward else "forward"
    return FamilyRow(pair.name, measured, composed_us, ours_us, *peaks)


def table_of(rows: Sequence[FamilyRow], plain: bool) -> Table:
    """The rows: milliseconds, how many times faster, megabytes at the peak."""
    table = Table(box=None if plain else box.ROUNDED, pad_edge=not plain)
    table.add_column("case: composition", no_wrap=True)
    table.add_column("measured", no_wrap=True)
    for title in ("composed ms", "ours ms", "times faster", "composed MB", "ours MB"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.case,
            row.measured,
            f"{row.composed_us / 1000:.3f}",
            f"{row.ours_us / 1000:.3f}",
            f"{row.ratio:.2f}",
            f"{row.composed_mb:.0f}",
            f"{row.ours_mb:.0f}",
        )
    return table
