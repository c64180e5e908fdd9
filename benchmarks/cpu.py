"""The CPU path against torch: `python -m benchmarks.cpu [--quick] [--json FILE]`.

On a CPU the work is ATen's own, so what is measured is the price of going through this library.
The promise: a call takes at most 1.1 times as long as torch's function, plus 25 microseconds. The
exit status is 1 if a row breaks it. Rows on which torch has no function ("same" with a stride) are
set against the composition that a user would write, and only reported.

The rest of the family and pooling are set against compositions too, with peak memory
(`cpu_family`, `cpu_pooling`).

The figures are medians over interleaved repetitions. A row that breaks the promise
is measured once more, at the end and for three times as long, and the second measurement is the
one reported: on a shared machine the first may have met a neighbour.

One thread by default. With a thread on every core, a neighbour that holds a core for a scheduler's
slice makes the others wait at a barrier, and a call of 20 microseconds lasts 24 milliseconds.
"""

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.grad as torch_grad
import triton
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import tritonconv
from tritonconv import functional
from tritonconv.launch import interpreting
from tritonconv.ops.conv import conv_dgrad, conv_wgrad

from . import cpu_family, cpu_pooling
from .timing import Call, interleaved

FACTOR = 1.1
EXTRA_US = 25.0

FORWARD = "forward"
RECORDED = "forward, grad recorded"
BACKWARD = "forward + backward"
DGRAD = "conv_dgrad"
WGRAD = "conv_wgrad"
PASSES = (FORWARD, RECORDED, BACKWARD, DGRAD, WGRAD)


@dataclass(frozen=True)
class Case:
    """One convolution with a bias: x (batch, channels, *size), w (filters, .., taps, ..).

    `same`: padding="same" here; on torch's side F.pad of the odd unit, then a convolution.
    """

    size: tuple[int, ...]
    batch: int = 1
    channels: int = 3
    filters: int = 8
    taps: int = 3
    stride: int = 1
    padding: int = 1
    groups: int = 1
    same: bool = False
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    passes: tuple[str, ...] = PASSES

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.size)

    @property
    def name(self) -> str:
        """The sizes, and whatever is not plain."""
        shape = "x".join(str(n) for n in (self.batch, self.channels, *self.size))
        words = [
            f"conv{self.rank}d {shape}",
            f"{self.filters} of {'x'.join([str(self.taps)] * self.rank)}",
        ]
        words += [f"stride {self.stride}"] if self.stride > 1 else []
        words += [f"groups {self.groups}"] if self.groups > 1 else []
        words += ["same"] if self.same else []
        words += [str(self.dtype)[6:]] if self.dtype != torch.float32 else []
        words += ["channels-last"] if self.channels_last else []
        return ", ".join(words)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Random x, w and bias, in the case's dtype and memory format."""
        generator = torch.Generator().manual_seed(0)
        per_group = self.channels // self.groups
        shapes = (
            (self.batch, self.channels, *self.size),
            (self.filters, per_group, *[self.taps] * self.rank),
            (self.filters,),
        )
        x, w, bias = (torch.randn(s, generator=generator, dtype=self.dtype) for s in shapes)
        if self.channels_last:
            formats = {2: torch.channels_last, 3: torch.channels_last_3d}
            x, w = (t.to(memory_format=formats[self.rank]) for t in (x, w))
        return x, w, bias


SAME = (FORWARD, RECORDED, BACKWARD)
CASES = (
    # So small that nothing but the overhead is left.
    Case((8, 8)),
    Case((8, 8), channels_last=True),
    Case((32,)),
    Case((4, 4, 4)),
    Case((9, 9), stride=2, same=True, taps=2, passes=SAME),
    # Layers of small networks.
    Case((28, 28), batch=4, channels=16, filters=32, stride=2),
    Case((28, 28), batch=4, channels=32, filters=32, groups=32),
    Case((28, 28), batch=4, channels=32, filters=32, groups=4, channels_last=True),
    Case((400,), batch=4, channels=16, filters=32, taps=9, padding=4, stride=2),
    Case((8, 16, 16), batch=2, channels=8, filters=16),
    Case((8, 16, 16), batch=2, channels=8, filters=16, stride=2, channels_last=True),
    Case((28, 28), batch=4, channels=16, filters=16, dtype=torch.float64),
    Case((28, 28), batch=4, channels=16, filters=32, stride=2, same=True, passes=SAME),
    # Real ones.
    Case((56, 56), batch=8, channels=64, filters=64),
    Case((56, 56), batch=8, channels=64, filters=64, channels_last=True),
    Case((56, 56), batch=8, channels=64, filters=64, stride=2, same=True, passes=SAME),
)
FAMILY = cpu_family.PAIRS + cpu_pooling.PAIRS
QUICK = (CASES[0], CASES[1], CASES[4], CASES[5])


@dataclass(frozen=True)
class Row:
    """Microseconds a call of one pass of one case, medians over `repetitions`."""

    case: str
    measured: str
    torch_us: float
    ours_us: float
    repetitions: int
    composed: bool

    @property
    def keeps(self) -> bool:
        """Whether the row keeps the promise; where torch has no such function there is none."""
        return self.composed or self.ours_us <= FACTOR * self.torch_us + EXTRA_US


def calls_of(case: Case, measured: str) -> tuple[Call, Call]:
    """(torch's, ours): two calls that compute the same."""
    x, w, bias = case.tensors()
    if measured in (DGRAD, WGRAD):
        return _gradient_calls(case, measured, x, w)
    forward = (_torch_forward(case), _our_forward(case))
    if measured == FORWARD:
        theirs, ours = ((lambda f=f: f(x, w, bias)) for f in forward)
        return theirs, ours
    leaves = [t.requires_grad_() for t in (x, w, bias)]
    if measured == RECORDED:
        theirs, ours = ((lambda f=f: f(*leaves)) for f in forward)
        return theirs, ours
    dy = torch.randn_like(forward[0](*leaves))
    theirs, ours = ((lambda f=f: torch.autograd.grad(f(*leaves), leaves, dy)) for f in forward)
    return theirs, ours


def _our_forward(case: Case) -> Callable[..., Tensor]:
    conv = getattr(functional, f"conv{case.rank}d")
    stride, groups = case.stride, case.groups
    padding = "same" if case.same else case.padding
    return lambda x, w, bias: conv(x, w, bias, stride, padding, 1, groups)


def _torch_forward(case: Case) -> Callable[..., Tensor]:
    conv = getattr(torch.nn.functional, f"conv{case.rank}d")
    stride, padding, groups = case.stride, case.padding, case.groups
    if not case.same:
        return lambda x, w, bias: conv(x, w, bias, stride, padding, 1, groups)
    pad, pads = torch.nn.functional.pad, _same_pads(case)
    return lambda x, w, bias: conv(pad(x, pads), w, bias, stride, 0, 1, groups)


def _same_pads(case: Case) -> list[int]:
    """F.pad's list (last axis first) for an output of ceil(size / stride)."""
    pads = []
    for size in reversed(case.size):
        total = max((math.ceil(size / case.stride) - 1) * case.stride + case.taps - size, 0)
        pads += [total // 2, total - total // 2]
    assert pads[::2] != pads[1::2], f"{case.name}: the padding was to be asymmetric"
    return pads


def _gradient_calls(case: Case, measured: str, x: Tensor, w: Tensor) -> tuple[Call, Call]:
    rank, stride, groups = case.rank, case.stride, case.groups
    dy = torch.randn_like(_torch_forward(case)(x, w, None))
    options = [[stride] * rank, [case.padding] * (2 * rank), [1] * rank, groups]
    x_shape, w_shape = list(x.shape), list(w.shape)
    if measured == DGRAD:
        gradient = getattr(torch_grad, f"conv{rank}d_input")
        return (
            lambda: gradient(x_shape, w, dy, stride, case.padding, 1, groups),
            lambda: conv_dgrad(dy, w, x_shape, *options),
        )
    gradient = getattr(torch_grad, f"conv{rank}d_weight")
    return (
        lambda: gradient(x, w_shape, dy, stride, case.padding, 1, groups),
        lambda: conv_wgrad(dy, x, w_shape, *options),
    )


def check(case: Case, theirs: Call, ours: Call) -> None:
    """The two calls agree; a wrong answer has no speed. Raises AssertionError."""
    wide = case.dtype == torch.float64
    expected, got = theirs(), ours()
    pairs = zip(_as_list(expected), _as_list(got), strict=True)
    for place, (a, b) in enumerate(pairs):
        scale = float(a.detach().abs().max())
        torch.testing.assert_close(
            b,
            a,
            rtol=0,
            atol=(1e-12 if wide else 1e-4) * scale,
            msg=lambda m, place=place: f"{case.name}: result {place}: {m}",
        )


def _as_list(result: Any) -> Sequence[Tensor]:
    return (result,) if isinstance(result, Tensor) else result


def measure(case: Case, measured: str, seconds: float) -> Row:
    """One row, spending about `seconds`."""
    theirs, ours = calls_of(case, measured)
    check(case, theirs, ours)
    torch_us, ours_us, repetitions = interleaved(theirs, ours, seconds)
    return Row(case.name, measured, torch_us, ours_us, repetitions, case.same)


def table_of(rows: Sequence[Row], plain: bool) -> Table:
    """The rows, times in microseconds."""
    table = Table(box=None if plain else box.ROUNDED, pad_edge=not plain)
    table.add_column("case", no_wrap=True)
    table.add_column("measured", no_wrap=True)
    for title in ("torch us", "ours us", "difference us", "ratio"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("kept", no_wrap=True)
    for row in rows:
        table.add_row(
            row.case,
            row.measured,
            f"{row.torch_us:.1f}",
            f"{row.ours_us:.1f}",
            f"{row.ours_us - row.torch_us:+.1f}",
            f"{row.ours_us / row.torch_us:.2f}",
            "composition" if row.composed else "yes" if row.keeps else "NO",
            style=None if row.keeps else "bold red",
        )
    return table


def environment() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "tritonconv": tritonconv.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def measure_all(cases: Sequence[Case], seconds: float) -> list[Row]:
    """Every row of the cases, about `seconds` each; those that break the promise a second time."""
    jobs = [(case, measured) for case in cases for measured in case.passes]
    console = Console(stderr=True)

    def watched(jobs: Sequence[Any], what: str) -> Any:
        return track(jobs, what, console=console, transient=True, disable=not console.is_terminal)

    rows = {
        (case, measured): measure(case, measured, seconds)
        for case, measured in watched(jobs, "measuring")
    }
    broken = [job for job, row in rows.items() if not row.keeps]
    for case, measured in watched(broken, "measuring again"):
        rows[case, measured] = measure(case, measured, 3 * seconds)
    return list(rows.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and say whether the promise is kept."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="four cases, a few seconds")
    parser.add_argument("--threads", type=int, default=1, help="of torch, default 1")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures here")
    options = parser.parse_args(arguments)
    if interpreting():
        print("TRITON_INTERPRET is set: the CPU would run Triton's interpreter.", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    rows = measure_all(QUICK if options.quick else CASES, 0.2 if options.quick else 0.5)
    where = environment()
    console.print(", ".join(f"{name} {value}" for name, value in where.items()), highlight=False)
    console.print(table_of(rows, plain=not console.is_terminal), highlight=False)
    promised = [row for row in rows if not row.composed]
    broken = [row for row in promised if not row.keeps]
    worst = max(promised, key=lambda row: row.ours_us - FACTOR * row.torch_us)
    promise = f"at most {FACTOR} x torch + {EXTRA_US:.0f} us"
    console.print(
        f"{len(promised) - len(broken)} of {len(promised)} rows keep the promise: {promise}. "
        f"The worst, {worst.case}, {worst.measured}: "
        f"{worst.ours_us - FACTOR * worst.torch_us:+.1f} us beyond {FACTOR} x torch.",
        highlight=False,
    )
    family = [
        cpu_family.measure(pair, backward, 0.2 if options.quick else 1.0)
        for pair in (cpu_family.PAIRS[1:2] if options.quick else FAMILY)
        for backward in (False, True)
    ]
    console.print(cpu_family.table_of(family, plain=not console.is_terminal), highlight=False)
    if options.json:
        figures = [asdict(row) | {"keeps": row.keeps} for row in rows]
        options.json.write_text(
            json.dumps(
                {
                    "promise": promise,
                    "environment": where,
                    "rows": figures,
                    "family": [asdict(row) for row in family],
                },
                indent=1,
            )
            + "\n"
        )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
