"""What a call costs beside its kernel: `python -m benchmarks.overhead [--json FILE]`.

A convolution's forward is set against an empty op of the same schema and registration, whose body
allocates the result and returns it, without and with a gradient to record. Launches are stubbed
where Triton's compiled launcher would be called, so this needs no GPU: tensors on the CPU stand for
tensors on GPU 0, and plans are made for an H200. What the launcher and the driver cost comes on
top, of both.

All rows are timed in turns, in one run. The promise: at most 8 microseconds more than the empty op;
the exit status is 1 if a row breaks it. The stages of the path are timed by themselves; they are
parts of the rows above them and do not add up exactly, since each is called alone.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

import tritonconv
from tritonconv import functional, launch
from tritonconv.compiled import Handle
from tritonconv.device import TARGETS
from tritonconv.ops import _run, conv
from tritonconv.planning import make_plan
from tritonconv.problem import Pass

LIMIT_US = 8.0
ROUNDS = 200
CALLS = 20
SHAPE, WEIGHT = (8, 64, 28, 28), (64, 64, 3, 3)
ARGUMENTS = ([1, 1], [1, 1, 1, 1], [1, 1], 1)
FULL = (*ARGUMENTS, False, "zeros")


@dataclass(frozen=True)
class Row:
    """Microseconds a call: the median over rounds, and the fastest round. `over` is what the row
    costs more than the empty op beside it, None for a stage."""

    name: str
    median: float
    fastest: float
    over: float | None = None


def _empty_op() -> Any:
    """An op with the schema and the registrations of `tritonconv::conv`, that does nothing."""
    library = torch.library.Library("tritonconv_overhead", "DEF")
    library.define(conv.SCHEMAS["conv"], tags=(torch.Tag.pt2_compliant_tag,))
    op = torch.ops.tritonconv_overhead.conv.default

    def backend(a: Tensor, b: Tensor, extra: Any, *rest: Any) -> Tensor:
        return torch.empty(SHAPE, dtype=a.dtype, device=a.device)

    class Empty(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Tensor:  # type: ignore[override]
            with torch._C._AutoDispatchBelowAutograd():
                return op(*inputs)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
            return (None,) * 9

    def autograd(*inputs: Any) -> Tensor:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs[:3]):
            return Empty.apply(*inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*inputs)

    library.impl("conv", backend, "CPU")
    library.impl("conv", autograd, "Autograd")
    # The ops live as long as their library object.
    return op, library


@contextmanager
def stubbed() -> Iterator[None]:
    """CPU tensors take the path of tensors on GPU 0, up to Triton's compiled launcher."""
    h200 = TARGETS["sm_90"]

    def plan_call(which: Pass, a: Any, b: Any, extra: Any, arguments: Any, extras: Any = None):
        return make_plan(_run.problem_of(which, a, b, extra, arguments, extras), which, h200)

    handle = Handle(lambda *arguments: None, None, None)
    patches = (
        (_run, "plan_call", plan_call),
        (conv, "aten_records", lambda *_: False),
        (launch, "_current_device", lambda: -1),
        (launch, "_stream_of", lambda index: 0),
        (launch, "handle_of", lambda kernel, index: handle),
        (launch.BoundLaunch, "by_triton", lambda self, tensors: None),
    )
    with ExitStack() as stack:
        for where, name, stub in patches:
            stack.enter_context(mock.patch.object(where, name, stub))
        _run.CALLS.clear()
        try:
            yield
        finally:
            _run.CALLS.clear()


def measure(rounds: int = ROUNDS) -> list[Row]:
    """All rows. Call it inside `stubbed`."""
    empty, library = _empty_op()
    ours = torch.ops.tritonconv.conv.default
    x, w, bias = torch.randn(SHAPE), torch.randn(WEIGHT), torch.randn(WEIGHT[0])
    leaves = [t.clone().requires_grad_() for t in (x, w, bias)]
    x1, w1, bias1 = leaves
    with autotune_off():
        ours(x, w, bias, *ARGUMENTS)
        (bound,) = _run.CALLS._values.values()
        calls: dict[str, Callable[[], Any]] = {
            "empty op": lambda: empty(x, w, bias, *ARGUMENTS),
            "torch.ops.tritonconv.conv": lambda: ours(x, w, bias, *ARGUMENTS),
            "functional.conv2d": lambda: functional.conv2d(x, w, bias, padding=1),
            "empty op, gradient recorded": lambda: empty(*leaves, *ARGUMENTS),
            "torch.ops.tritonconv.conv, gradient recorded": lambda: ours(*leaves, *ARGUMENTS),
            "functional.conv2d, gradient recorded": lambda: functional.conv2d(
                x1, w1, bias1, padding=1
            ),
            "  is the next stop our own backend?": lambda: conv.is_plain(x, w, bias),
            "  look-up, allocation and launch": lambda: _run.run(Pass.FPROP, x, w, bias, *FULL),
            "    allocation and launch": lambda: bound(x, w, bias),
            "      allocation": lambda: torch.empty_strided(
                SHAPE, x.stride(), dtype=x.dtype, device=x.device
            ),
        }
        times = _in_turns(calls, rounds)
    del library
    medians = {name: statistics.median(samples) for name, samples in times.items()}
    rows = []
    for name, samples in times.items():
        base = "empty op, gradient recorded" if name.endswith("recorded") else "empty op"
        stage = name.startswith(" ") or name == base
        over = None if stage else medians[name] - medians[base]
        rows.append(Row(name, medians[name], min(samples), over))
    return rows


def autotune_off() -> Any:
    """No records: the path is the same, and needs no cache directory."""
    from autotune import policy

    return policy("off")


def _in_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, call in calls.items():
                call()
                start = time.perf_counter_ns()
                for _ in range(CALLS):
                    call()
                times[name].append((time.perf_counter_ns() - start) / CALLS / 1000)
    finally:
        if collecting:
            gc.enable()
    return times


def table(rows: list[Row]) -> Table:
    """The rows for people."""
    found = Table(box=box.SIMPLE, title="Microseconds a call, launch stubbed", title_justify="left")
    found.add_column("call")
    for column in ("median", "fastest", "over the empty op"):
        found.add_column(column, justify="right")
    for row in rows:
        over = "" if row.over is None else f"{row.over:+.1f}"
        found.add_row(row.name, f"{row.median:.1f}", f"{row.fastest:.1f}", over)
    return found


def broken(rows: list[Row]) -> list[str]:
    """The rows that break the promise."""
    return [row.name for row in rows if row.over is not None and row.over > LIMIT_US]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and say whether the promise is kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with stubbed():
        rows = measure(options.rounds)
    console = Console(highlight=False)
    console.print(table(rows))
    if options.json:
        versions = {"torch": torch.__version__, "triton": triton.__version__}
        versions["tritonconv"] = tritonconv.__version__
        found = {"versions": versions, "limit_us": LIMIT_US, "rows": [asdict(r) for r in rows]}
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    slow = broken(rows)
    for name in slow:
        console.print(f"{name} costs more than {LIMIT_US:.0f} microseconds over the empty op")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
