"""How a pass of a convolution becomes implicit GEMMs, one a residue class."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from .problem import ConvProblem, Pass, Triple


@dataclass(frozen=True)
class GemmView:
    """The GEMMs of one pass: `groups` x product of `classes`, none larger than the sizes here.

    Along each axis the positions of the written tensor are split by `position mod residues`; a
    class is one remainder. `tap_step` is the distance of two taps that reach the same position,
    `tap_delta` how far the source moves from one of them to the next. For wgrad a class is a
    filter bank and a tap, and the positions are summed instead of written.
    """

    which: Pass
    groups: int
    residues: Triple
    classes: Triple
    tap_step: Triple
    tap_delta: Triple
    rows: int
    columns: int
    depth: int

    @property
    def batches(self) -> int:
        """Number of GEMMs."""
        return self.groups * math.prod(self.classes)


def gemm_view(problem: ConvProblem, which: Pass) -> GemmView:
    """The GEMM sizes of `which`: rows and columns of the result, depth of the sum.

    fprop: (N * ceil(O/R)) x (K/g), depth C/g * taps.  dgrad: (N * ceil(I/R)) x (C/g), depth
    K/g * matching taps.  wgrad: (K/g) x (C/g) a tap, depth N * ceil(O/R).
    """
    per_k = problem.out_channels // problem.groups
    per_c = problem.in_channels // problem.groups
    one = (1, 1, 1)
    if which is Pass.DGRAD:
        common = [math.gcd(s, d) for s, d in zip(problem.stride, problem.dilation, strict=True)]
        residues = _triple(s * t for s, t in zip(problem.stride, problem.period, strict=True))
        step = _triple(s // g for s, g in zip(problem.stride, common, strict=True))
        delta = _triple(-(d // g) for d, g in zip(problem.dilation, common, strict=True))
        written, columns, channels = problem.input_size, per_c, per_k
    else:
        residues, step, delta = problem.period, one, problem.dilation
        written, columns, channels = problem.output_size, per_k, per_c
    classes = _triple(min(r, size) for r, size in zip(residues, written, strict=True))
    positions = math.prod(-(-size // r) for size, r in zip(written, residues, strict=True))
    taps = math.prod(-(-f // s) for f, s in zip(problem.filter_size, step, strict=True))
    rows, depth = problem.batch * positions, channels * taps
    groups = problem.groups
    if which is Pass.WGRAD:
        rows, columns, depth = per_k, per_c, problem.batch * positions
        groups *= math.prod(problem.filter_size)
    return GemmView(which, groups, residues, classes, step, delta, rows, columns, depth)


def tap_list(problem: ConvProblem, which: Pass, residue: int, axis: int) -> list[int]:
    """The taps along `axis` that reach the positions `residue + q*R` of fprop's y or dgrad's x."""
    taps = range(problem.filter_size[axis])
    if which is Pass.FPROP:
        return list(taps)
    start = residue + problem.padding[axis][0]
    return [f for f in taps if (start - f * problem.dilation[axis]) % problem.stride[axis] == 0]


def class_residues(view: GemmView) -> Iterator[Triple]:
    """Every residue class, in the order in which the kernels' grid walks them."""
    d, h, w = (range(count) for count in view.classes)
    return itertools.product(d, h, w)


def _triple(values: Iterator[int]) -> Triple:
    d, h, w = values
    return (d, h, w)
