"""Which operator has which kernel, for which passes and dtypes: asked of the variants themselves.

`python -m tritonconv.testing.coverage` prints the table that the README shows.
"""

import torch

from ..checks import DTYPES, PADDING_MODES
from ..problem import Pass
from ..variants import VARIANTS, Variant
from .examples import refusal
from .strategies import KINDS

OPERATORS = {
    "shared": "convolution",
    "tiled": "tiled",
    "unshared": "unshared",
    "depthwise": "depthwise",
    "pointwise": "1x1",
    "stem": "few input channels",
}
SHORT = {
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float32: "f32",
    torch.float64: "f64",
}


def coverage_table() -> str:
    """One row a kernel and set of operators that it treats alike, in the order in which kernels
    are asked; a cell lists the dtypes, and in brackets the padding modes unless it has all."""
    lines = [
        "| kernel | operators | fprop | dgrad | wgrad |",
        "|---|---|---|---|---|",
    ]
    for variant in VARIANTS:
        alike: dict[tuple[str, ...], list[str]] = {}
        for kind in KINDS:
            cells = tuple(_cell(variant, which, kind) for which in Pass)
            if kind in variant.kinds and any(cells):
                alike.setdefault(cells, []).append(OPERATORS[kind])
        for cells, operators in alike.items():
            names = "all" if len(operators) == len(KINDS) else ", ".join(operators)
            row = " | ".join(cell or "-" for cell in cells)
            lines.append(f"| `{variant.name}` | {names} | {row} |")
    return "\n".join(lines) + "\n"


def _cell(variant: Variant, which: Pass, kind: str) -> str:
    dtypes = [d for d in DTYPES if refusal(variant, which, kind, d) is None]
    if not dtypes:
        return ""
    borders = [
        mode
        for mode in PADDING_MODES[1:]
        if all(refusal(variant, which, kind, d, mode) is None for d in dtypes)
    ]
    every = len(borders) == len(PADDING_MODES) - 1
    words = " ".join(SHORT[d] for d in dtypes)
    return words + ("" if every else f" ({', '.join(['zeros', *borders])})")


if __name__ == "__main__":
    print(coverage_table(), end="")
