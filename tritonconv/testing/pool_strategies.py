"""Hypothesis strategies that draw valid window reductions, by construction."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from ..pool_problem import DIVISORS, INTEGERS, PoolArguments, Reduction, windows_of
from ..reference.pooling import PoolWindows
from .strategies import LAYOUTS, laid_out

POOL_KINDS = ("max", "sum", "lp")
EXPONENTS = (1.0, 2.0, 3.0, 0.5, 2.7)


@dataclass(frozen=True)
class PoolCase:
    """One window reduction: the shape of x, where the windows lie, what is done, and a seed.

    `divisor` and `weighted` are a sum's, `exponents` those of lp, of which several are one a
    channel; `layouts` those of x and dy.
    """

    input_shape: tuple[int, ...]
    arguments: PoolArguments
    kind: str
    dtype: torch.dtype
    layouts: tuple[str, str] = ("contiguous", "contiguous")
    divisor: str = "none"
    weighted: bool = False
    exponents: tuple[float, ...] = (2.0,)
    learned: bool = False
    seed: int = 0

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.input_shape) - 2

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(N, C, *O)"""
        return (*self.input_shape[:2], *windows_of(self.input_shape[2:], self.arguments)[1])

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """The (longest) window."""
        return tuple(windows_of(self.input_shape[2:], self.arguments)[0])

    @property
    def windows(self) -> PoolWindows:
        """What the definition takes."""
        sizes, a = self.input_shape[2:], self.arguments
        if a.adaptive_size:
            return PoolWindows(sizes, adaptive=tuple(a.adaptive_size))
        pairs = tuple(zip(a.padding[::2], a.padding[1::2], strict=True))
        return PoolWindows(
            sizes, tuple(a.kernel_size), tuple(a.stride), pairs, tuple(a.dilation), a.ceil_mode
        )

    @property
    def reduction(self) -> Reduction:
        """What the problem takes."""
        number = 3.0 if self.divisor == "fixed" else self.exponents[0]
        several = len(self.exponents) > 1
        return Reduction(self.kind, self.divisor, self.weighted, number, self.learned, several)

    def tensors(self, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """(x, dy) with normal random values, in this case's dtype and layouts. Integers, and a
        third of the other x of max pooling, have few values, so that ties are frequent."""
        random = np.random.default_rng(self.seed)
        values = random.standard_normal(self.input_shape)
        if self.kind == "max" and (self.dtype in INTEGERS or self.seed % 3 == 0):
            values = random.integers(0 if self.dtype == torch.uint8 else -2, 3, self.input_shape)
        gradient = random.standard_normal(self.output_shape)
        x, dy = (
            laid_out(torch.from_numpy(v).to(device, self.dtype), layout)
            for v, layout in zip((values, gradient), self.layouts, strict=True)
        )
        return x, dy

    def parameters(self, device: torch.device | str = "cpu") -> torch.Tensor | None:
        """The weights of the taps, or the exponents, as the ops take them."""
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        if self.learned:
            return torch.tensor(self.exponents, dtype=dtype, device=device)
        if not self.weighted:
            return None
        random = np.random.default_rng(self.seed + 1)
        return torch.from_numpy(random.uniform(0.1, 1, self.kernel_size)).to(device, dtype)


@st.composite
def pool_cases(
    draw: st.DrawFn,
    kinds: tuple[str, ...] = POOL_KINDS,
    dtypes: tuple[torch.dtype, ...] = (torch.float32,),
    ranks: tuple[int, ...] = (1, 2, 3),
    divisors: tuple[str, ...] = DIVISORS,
) -> PoolCase:
    """A valid reduction of any rank, window, stride, dilation, padding beyond the data, rounding
    mode and layout, or of adaptive windows."""
    rank, kind = draw(st.sampled_from(ranks)), draw(st.sampled_from(kinds))
    most = 5 if rank < 3 else 3

    def each(strategy: st.SearchStrategy[int]) -> tuple[int, ...]:
        return tuple(draw(strategy) for _ in range(rank))

    adaptive = draw(st.integers(0, 3)) == 0
    if adaptive:
        none = (0,) * rank
        sizes = each(st.integers(1, most + 1))
        windows = each(st.integers(1, most))
        arguments = PoolArguments(none, none, none * 2, none, False, windows)
    else:
        kernel, stride = each(st.integers(1, 3)), each(st.integers(1, 3))
        dilation, pads = each(st.integers(1, 2)), each(st.integers(0, 3)) + each(st.integers(0, 3))
        pads = tuple(pads[i + rank * end] for i in range(rank) for end in (0, 1))
        reaches = (d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
        ends = zip(reaches, pads[::2], pads[1::2], strict=True)
        sizes = tuple(max(r - lo - hi, 1) + draw(st.integers(0, most - 1)) for r, lo, hi in ends)
        arguments = PoolArguments(kernel, stride, pads, dilation, draw(st.booleans()), ())
    channels = draw(st.sampled_from((1, 2, 3, 8)))
    divisor, weighted, learned, exponents = "none", False, False, (2.0,)
    if kind == "sum":
        divisor = draw(st.sampled_from(divisors))
        weighted = divisor == "weights" or draw(st.booleans())
    elif kind == "lp":
        learned = draw(st.booleans())
        count = draw(st.sampled_from((1, channels))) if learned else 1
        exponents = tuple(draw(st.sampled_from(EXPONENTS)) for _ in range(count))
    layout = st.sampled_from(LAYOUTS)
    return PoolCase(
        input_shape=(draw(st.integers(1, 2)), channels, *sizes),
        arguments=arguments,
        kind=kind,
        dtype=draw(st.sampled_from(dtypes)),
        layouts=(draw(layout), draw(layout)),
        divisor=divisor,
        weighted=weighted,
        exponents=exponents,
        learned=learned,
        seed=draw(st.integers(0, 2**32 - 1)),
    )
