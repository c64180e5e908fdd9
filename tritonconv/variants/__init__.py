"""The algorithms, in order of preference. A new one is one file here and one line in VARIANTS."""

from .base import Variant
from .depthwise import Depthwise
from .direct import Direct
from .implicit_gemm import ImplicitGemm
from .pointwise import Pointwise
from .split_k import SplitK
from .stem import Stem
from .unshared import Unshared

VARIANTS: tuple[Variant, ...] = (
    Depthwise(),
    Unshared(),
    Stem(),
    SplitK(),
    Pointwise(),
    ImplicitGemm(),
    Direct(),
)

__all__ = ["VARIANTS", "Variant"]
