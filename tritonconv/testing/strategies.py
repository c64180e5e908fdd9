"""Hypothesis strategies that draw valid convolutions, by construction."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from ..epilogue import ACTIVATIONS, Extras
from ..layout import dense_strides
from ..problem import ConvArguments
from ..reference.textbook import Geometry

LAYOUTS = ("contiguous", "channels_last", "sliced", "expanded")
# What a convolution may be: the period of its weights, or a shape that has a kernel of its own.
KINDS = ("shared", "tiled", "unshared", "depthwise", "pointwise", "stem")


@dataclass(frozen=True)
class ConvCase:
    """Shapes and arguments of one convolution, the layouts of its operands, and a seed."""

    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    flip: bool
    dtype: torch.dtype
    layouts: tuple[str, str, str]
    seed: int
    padding_mode: str = "zeros"

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.stride)

    @property
    def arguments(self) -> ConvArguments:
        """What the ops take."""
        return ConvArguments(
            list(self.stride),
            list(self.padding),
            list(self.dilation),
            self.groups,
            self.flip,
            self.padding_mode,
        )

    @property
    def geometry(self) -> Geometry:
        """What the textbook's sums take."""
        pairs = tuple(zip(self.padding[::2], self.padding[1::2], strict=True))
        return Geometry(
            self.stride, pairs, self.dilation, self.groups, self.flip, self.padding_mode
        )

    def tensors(
        self, device: torch.device | str = "cpu"
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(x, w, dy) with normal random values, in this case's dtype and layouts."""
        random = np.random.default_rng(self.seed)
        shapes = (self.input_shape, self.weight_shape, self.output_shape)
        banks = (0, len(self.weight_shape) - self.rank - 2, 0)
        x, w, dy = (
            laid_out(
                torch.from_numpy(random.standard_normal(shape)).to(device, self.dtype), layout, b
            )
            for shape, layout, b in zip(shapes, self.layouts, banks, strict=True)
        )
        return x, w, dy


def laid_out(values: torch.Tensor, layout: str, banks: int = 0) -> torch.Tensor:
    """The values in another memory layout: channels innermost, every second element of a larger
    tensor, or one image repeated with stride 0."""
    if layout == "channels_last":
        strides = dense_strides(values.shape, True, banks)
        return torch.empty_strided(
            values.shape, strides, dtype=values.dtype, device=values.device
        ).copy_(values)
    if layout == "sliced":
        last = values.shape[-1]
        floating = values.is_floating_point()
        between = float("nan") if floating else torch.iinfo(values.dtype).max
        gaps = values.new_full((*values.shape[:-1], 2 * last + 1), between)
        gaps[..., 1::2] = values
        return gaps[..., 1::2]
    if layout == "expanded" and values.shape[0] > 0:
        return values[:1].expand(values.shape)
    return values


@st.composite
def conv_cases(
    draw: st.DrawFn,
    ranks: tuple[int, ...] = (1, 2, 3),
    dtypes: tuple[torch.dtype, ...] = (torch.float32,),
    kinds: tuple[str, ...] = ("shared", "tiled", "unshared"),
    padding_modes: tuple[str, ...] = ("zeros",),
    crops: bool = False,
    largest_output: int = 4,
) -> ConvCase:
    """A valid convolution of any rank, stride, dilation, padding, grouping, period and layout.

    The output's size is drawn first and the input's derived from it, so nothing is filtered:
    stride > filter, padding beyond the data and sizes of 1 all come up. `kinds` are some of KINDS;
    with `crops` the high padding may be -1, as the ops allow.
    """
    rank = draw(st.sampled_from(ranks))
    kind = draw(st.sampled_from(kinds))
    mode = draw(st.sampled_from(padding_modes))
    pointwise = kind == "pointwise"
    limit = largest_output if rank < 3 else min(largest_output, 3)
    few = st.integers(1, 3 if rank < 3 else 2)

    def each(strategy: st.SearchStrategy[int]) -> tuple[int, ...]:
        return tuple(draw(strategy) for _ in range(rank))

    filters = (1,) * rank if pointwise else each(st.integers(1, 3))
    strides = (1,) * rank if pointwise else each(few)
    dilations = each(st.integers(1, 2))
    outputs = each(st.integers(1, limit))
    inputs: list[int] = []
    padding: list[int] = []
    for f, s, d, o in zip(filters, strides, dilations, outputs, strict=True):
        # Input and padding together: the last window's end, and what the stride cannot use.
        total = (o - 1) * s + d * (f - 1) + 1 + draw(st.integers(0, s - 1))
        low, high = (0, 0) if pointwise else draw(_pads(total, mode, crops))
        inputs.append(total - low - high)
        padding += [low, high]
    period: tuple[int, ...] = ()
    if kind == "unshared":
        period = outputs
    elif kind == "tiled":
        period = tuple(draw(st.integers(1, o)) for o in outputs)
    groups, per_c, per_k = draw(_channels(kind))
    batch = draw(st.integers(1, 2))
    layout = st.sampled_from(LAYOUTS)
    return ConvCase(
        input_shape=(batch, groups * per_c, *inputs),
        weight_shape=(*period, groups * per_k, per_c, *filters),
        output_shape=(batch, groups * per_k, *outputs),
        stride=strides,
        padding=tuple(padding),
        dilation=dilations,
        groups=groups,
        flip=draw(st.booleans()),
        dtype=draw(st.sampled_from(dtypes)),
        layouts=(draw(layout), draw(layout), draw(layout)),
        seed=draw(st.integers(0, 2**32 - 1)),
        padding_mode=mode,
    )


@st.composite
def _pads(draw: st.DrawFn, total: int, mode: str, crops: bool) -> tuple[int, int]:
    """(low, high) of an axis on which image and padding together have `total` elements."""
    # The border's own elements cannot fill more than this beyond the image.
    spare = {"reflect": 1, "circular": 0}.get(mode)
    most = total - 1 if spare is None else (total - spare) // 2
    low = draw(st.integers(0, min(2, most)))
    most = total - low - 1
    if spare is not None:
        most = min((total - low - spare) // 2, total - 2 * low - spare)
    return low, draw(st.integers(-1 if crops else 0, min(2, most)))


@st.composite
def _channels(draw: st.DrawFn, kind: str) -> tuple[int, int, int]:
    """(groups, C/g, K/g)"""
    if kind == "depthwise":
        return draw(st.integers(2, 9)), 1, draw(st.sampled_from((1, 1, 2)))
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    return groups, draw(st.integers(1, 3)), draw(st.integers(1, 3))


@st.composite
def extras_for(
    draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Extras:
    """The operands of an epilogue for a result of `shape`: bias of any period, residual of any
    layout, activation."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def values(*sizes: int) -> torch.Tensor:
        return torch.from_numpy(random.standard_normal(sizes)).to(device, dtype)

    bias = residual = None
    kind = draw(st.sampled_from(("none", "tied", "untied")))
    if kind != "none":
        period = [draw(st.integers(1, o)) for o in shape[2:]] if kind == "untied" else []
        bias = values(*period, shape[1])
    if draw(st.booleans()):
        residual = laid_out(values(*shape), draw(st.sampled_from(LAYOUTS)))
    return Extras(bias, residual, draw(st.sampled_from(ACTIVATIONS)), draw(st.booleans()))
