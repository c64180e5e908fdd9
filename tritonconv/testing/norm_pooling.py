"""Our Lp pooling against torch's, on inputs for which torch's is wrong.

`python -m tritonconv.testing.norm_pooling` prints the table that the README shows. What an
installed torch gets right drops out of it. Right is the definition, computed with 60 digits:

    y = (sum over the window's elements of |x|**p)**(1/p)
    dy/dx = sign(x) * (|x|/y)**(p - 1), and at x = 0, which is a minimum, 0
"""

import math
import re
from dataclasses import dataclass
from decimal import Decimal, localcontext

import torch
from torch import Tensor
from torch.nn import functional as theirs

from .. import functional as ours
from .tolerances import ROUNDOFF

HALF, SINGLE, DOUBLE = torch.float16, torch.float32, torch.float64
# Roundings of the result, and of the sum of powers, that are still no error.
ROUNDINGS = 2


@dataclass(frozen=True)
class Entry:
    """One input, x (H, W) or (W,), pooled by windows of `kernel` at steps of `stride`.

    what: how the input reads in the table. gradient: the answer is dx for a dy of ones, not y.
    """

    what: str
    values: tuple[float, ...] | tuple[tuple[float, ...], ...]
    norm_type: float
    kernel: int
    stride: int | None = None
    ceil_mode: bool = False
    dtype: torch.dtype = SINGLE
    gradient: bool = False

    @property
    def input(self) -> Tensor:
        """(1, 1, W) or (1, 1, H, W)"""
        return torch.tensor(self.values, dtype=self.dtype)[None, None]


ENTRIES = (
    Entry("p = 1/2, [0, 0]: gradient", (0.0, 0.0), 0.5, 2, gradient=True),
    Entry("p = 1/2, [0, 1]: gradient", (0.0, 1.0), 0.5, 2, gradient=True),
    Entry("p = 3, [−2, 1]", (-2.0, 1.0), 3, 2),
    Entry("p = 3/2, [−4, 1]: gradient", (-4.0, 1.0), 1.5, 2, gradient=True),
    Entry("p = 1, [1, 1, 1] by 2, `ceil_mode`", (1.0, 1.0, 1.0), 1, 2, ceil_mode=True),
    Entry("p = 2, 3×3 of 1 by 2×2, `ceil_mode`", ((1.0,) * 3,) * 3, 2, 2, ceil_mode=True),
    Entry("p = 2, float16, [300 ×4]", (300.0,) * 4, 2, 4, dtype=HALF),
    Entry("p = 2, float16, [300 ×4]: gradient", (300.0,) * 4, 2, 4, dtype=HALF, gradient=True),
    Entry("p = 2, float16, 16×16 of 20", ((20.0,) * 16,) * 16, 2, 16, dtype=HALF),
    Entry("p = 2, float16, [1e−5]", (1e-5,), 2, 1, dtype=HALF),
    Entry("p = 1, float16, [6e−8, 0, 0, 0]", (6e-8, 0.0, 0.0, 0.0), 1, 4, dtype=HALF),
    Entry("p = 2, bfloat16, [1e20 ×4]", (1e20,) * 4, 2, 4, dtype=torch.bfloat16),
    Entry("p = 3, float32, [1e20, 0]: gradient", (1e20, 0.0), 3, 2, gradient=True),
    Entry("p = 2, float32, [1e−23 ×4]", (1e-23,) * 4, 2, 4),
    Entry("p = 100, float32, [2, 3]", (2.0, 3.0), 100, 2),
    Entry("p = 200, float32, [½, ½]", (0.5, 0.5), 200, 2),
    Entry("p = 2, float64, [1e200 ×4]", (1e200,) * 4, 2, 4, dtype=DOUBLE),
    # Those that torch gets right, and should keep right.
    Entry("p = 2, [0, 0]: gradient", (0.0, 0.0), 2, 2, gradient=True),
    Entry("p = ∞, [3, −3]", (3.0, -3.0), math.inf, 2),
    Entry("p = 4, [−3, 4]", (-3.0, 4.0), 4, 2),
)


def theirs_of(entry: Entry) -> list[float]:
    """torch's answer on the CPU, element by element."""
    return _answer(entry, theirs, "cpu")


def ours_of(entry: Entry, device: torch.device | str = "cpu") -> list[float]:
    """This library's answer."""
    return _answer(entry, ours, device)


def _answer(entry: Entry, library: object, device: torch.device | str) -> list[float]:
    x = entry.input.to(device).requires_grad_()
    pool = getattr(library, f"lp_pool{x.dim() - 2}d")
    y = pool(x, entry.norm_type, entry.kernel, entry.stride, entry.ceil_mode)
    answer = torch.autograd.grad(y.sum(), x)[0] if entry.gradient else y
    return answer.detach().double().flatten().tolist()


def right_of(entry: Entry) -> list[float]:
    """The definition's answer for the input as its dtype holds it."""
    rows = entry.input.double().flatten(0, -2).tolist()
    step = entry.stride or entry.kernel
    starts = [_starts(len(axis), entry, step) for axis in (rows, rows[0])]
    if entry.input.dim() == 3:
        starts[0] = [0]
    values = [[Decimal(x) for x in row] for row in rows]
    slopes = [[Decimal(0)] * len(row) for row in rows]
    norms = []
    with localcontext() as context:
        context.prec = 60
        for top in starts[0]:
            for left in starts[1]:
                inside = [
                    (i, j)
                    for i in range(top, min(top + entry.kernel, len(rows)))
                    for j in range(left, min(left + entry.kernel, len(rows[0])))
                ]
                y = _norm([values[i][j] for i, j in inside], entry.norm_type)
                norms.append(y)
                for i, j in inside:
                    slopes[i][j] += _slope(values[i][j], y, entry.norm_type)
        answer = [g for row in slopes for g in row] if entry.gradient else norms
        return [float(value) for value in answer]


def _starts(size: int, entry: Entry, step: int) -> list[int]:
    """Where windows begin: the whole ones, and with `ceil_mode` all others."""
    return [i for i in range(0, size, step) if entry.ceil_mode or i + entry.kernel <= size]


def _norm(window: list[Decimal], p: float) -> Decimal:
    if math.isinf(p):
        return max(abs(x) for x in window)
    total = sum((abs(x) ** Decimal(p) for x in window), Decimal(0))
    return total ** (1 / Decimal(p))


def _slope(x: Decimal, y: Decimal, p: float) -> Decimal:
    return ((abs(x) / y) ** Decimal(p - 1)).copy_sign(x) if x else Decimal(0)


def is_right(entry: Entry, answer: list[float]) -> bool:
    """Whether an answer is that of `right_of`, but for roundings."""
    p = min(entry.norm_type, 1e3)
    single = ROUNDOFF[DOUBLE if entry.dtype == DOUBLE else SINGLE]
    relative = ROUNDINGS * (ROUNDOFF[entry.dtype] * max(1, p - 1) + (1 + p) * (1 + 1 / p) * single)
    least = torch.finfo(entry.dtype).smallest_normal * ROUNDOFF[entry.dtype]
    return all(
        found == right or abs(found - right) <= relative * abs(right) + least
        for found, right in zip(answer, right_of(entry), strict=True)
    )


def wrong_in_torch() -> list[Entry]:
    """The entries on which the installed torch fails."""
    return [entry for entry in ENTRIES if not is_right(entry, theirs_of(entry))]


def torch_version() -> str:
    """Without the build: 2.13.0."""
    return torch.__version__.split("+")[0]


def norm_pooling_table() -> str:
    """A row each of `wrong_in_torch`."""
    lines = [f"| input | torch {torch_version()} | tritonconv | right |", "|---|---|---|---|"]
    for entry in wrong_in_torch():
        answers = (theirs_of(entry), ours_of(entry), right_of(entry))
        cells = " | ".join(_shown(answer) for answer in answers)
        lines.append(f"| {entry.what} | {cells} |")
    return "\n".join(lines) + "\n"


def _shown(answer: list[float]) -> str:
    """Three digits each; of equal numbers one."""
    words = [re.sub(r"e\+?(-?)0?", r"e\1", f"{value:.3g}") for value in answer]
    shown = words[0] if len(set(words)) == 1 else ", ".join(words)
    return shown.replace("-", "−").replace("nan", "NaN").replace("inf", "∞")


if __name__ == "__main__":
    print(norm_pooling_table(), end="")
