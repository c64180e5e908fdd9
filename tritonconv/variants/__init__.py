"""The algorithms, in order of preference. A new one is one file here and one line in VARIANTS."""

from .base import Variant
from .direct import Direct
from .implicit_gemm import ImplicitGemm
from .split_k import SplitK

VARIANTS: tuple[Variant, ...] = (SplitK(), ImplicitGemm(), Direct())

__all__ = ["VARIANTS", "Variant"]
