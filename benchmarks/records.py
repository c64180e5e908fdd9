"""The store of tuning records at size: `python -m benchmarks.records [--entries N] [--json FILE]`.

Times are medians a call where single calls are timed, else totals; memory is what a step adds to
the process's peak. Records are written below --directory, by default a temporary one.
"""

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from autotune import Candidate, Config, Gpu, Key
from autotune.exchange import export_file, export_packs
from autotune.lookup import Tier, look_up
from autotune.merge import merge_all
from autotune.records import Record
from autotune.store import Store
from autotune.task import Build, Outcome

from .timing import peak_megabytes

BUILD = Build("0123456789abcdef", "3.9")
GPUS = (Gpu("cuda", "sm_90", "NVIDIA H200", 132), Gpu("cuda", "sm_90", "NVIDIA H100 PCIe", 114))
# Entries of one family: the shapes that one layer of a network meets.
FAMILY = 50
MOST_LOOKUPS = 1000


@dataclass(frozen=True)
class Row:
    """One step: its total seconds, how many calls that were, microseconds a call, megabytes."""

    step: str
    seconds: float
    calls: int
    microseconds: float
    megabytes: float


def records(entries: int) -> Iterable[Record]:
    """As many different records as asked for, in families of `FAMILY`."""
    for n in range(entries):
        family, member = divmod(n, FAMILY)
        key = key_of(family, 1 + member // 2, GPUS[member % 2])
        config = Config.of(8, 3, BLOCK_M=128, BLOCK_N=128, BLOCK_K=64, GROUP_M=8)
        best = Candidate("implicit_gemm", config)
        small = Config.of(4, 2, BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, GROUP_M=8)
        default = Candidate("implicit_gemm", small)
        outcome = Outcome(
            best=best,
            default=default,
            times={best: 50.0 + n % 7, default: 80.0},
            samples={best: 30},
            noise=0.01,
        )
        environment = {"driver": "575.57", "torch": "2.11", "commit": "0123abcd"}
        yield Record.of(key, outcome, lambda _: BUILD, "l2-cold,cuda-graph", environment)


def key_of(family: int, batch: int, gpu: Gpu) -> Key:
    """A key with as many fields as a convolution has."""
    fields = {
        "pass": "fprop",
        "dtype": "float16",
        "accumulator": "float32",
        "layout": "channels_last",
        "filter": (3, 3),
        "stride": (1, 1),
        "dilation": (1, 1),
        "padding": ((1, 1), (1, 1)),
        "groups": 1,
        "epilogue": "bias,relu",
        "family": family,
    }
    sizes = {"N": batch, "C": 64, "H": 56, "W": 56, "K": 64}
    return Key.of("benchmark", "conv", fields, sizes, gpu)


def measure(entries: int, directory: Path) -> list[Row]:
    """All steps, in an empty directory."""
    rows: list[Row] = []

    def total(step: str, call: Callable[[], Any], calls: int) -> None:
        seconds = 0.0

        def timed() -> Any:
            nonlocal seconds
            start = time.perf_counter()
            result = call()
            seconds = time.perf_counter() - start
            return result

        megabytes = peak_megabytes(timed)
        rows.append(Row(step, seconds, calls, 1e6 * seconds / max(calls, 1), megabytes))

    def each(step: str, calls: Sequence[Callable[[], Any]]) -> None:
        def timed() -> list[float]:
            return [_seconds(call) for call in calls]

        taken: list[float] = []
        megabytes = peak_megabytes(lambda: taken.extend(timed()))
        typical = 1e6 * statistics.median(taken)
        rows.append(Row(step, sum(taken), len(calls), typical, megabytes))

    made = list(records(entries))
    store = Store(directory, environ={})
    total("write", lambda: [store.put(record, must=True) for record in made], entries)

    choose = random.Random(0)
    picked = choose.sample(range(entries), min(MOST_LOOKUPS, entries))
    keys = [made[n].key.key() for n in picked]
    near = [key_of(n // FAMILY, FAMILY + 5, GPUS[0]) for n in picked]
    missing = [key_of(n, 999, GPUS[0]) for n in picked]
    for key in (*keys, *near, *missing):
        _ = key.digest, key.family
    made.clear()

    def nearest(store: Store, key: Key) -> None:
        found = look_up(store, key, lambda _: BUILD, lambda _: True)
        assert found is not None and found.tier == Tier.NEAREST

    fresh = Store(directory, environ={})
    total("list all", lambda: sum(1 for _ in fresh.entries()), entries)
    each("get, first time", [lambda key=key: fresh.get(key) for key in keys])
    each("get, from memory", [lambda key=key: fresh.get(key) for key in keys])
    each("nearest shape, first time", [lambda key=key: nearest(fresh, key) for key in near])
    each("nearest shape, files unchanged", [lambda key=key: nearest(fresh, key) for key in near])
    each("miss", [lambda key=key: fresh.get(key) for key in missing])

    ours = [entry.record for entry in fresh.entries()]
    total("merge with itself", lambda: merge_all([*ours, *ours]), 2 * entries)
    total("export to JSON lines", lambda: export_file(directory / "a.jsonl", ours), entries)
    export_packs(directory / "packs", ours)
    ours.clear()
    shipped = Store(directory / "none", shipped=directory / "packs", environ={})
    total("parse what is shipped", lambda: shipped.get(keys[0]), entries)
    each("get of what is shipped", [lambda key=key: shipped.get(key) for key in keys])
    return rows


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def table(rows: Sequence[Row]) -> Table:
    """The rows to look at."""
    drawn = Table(box=box.SIMPLE, pad_edge=False)
    drawn.add_column("step")
    for name in ("calls", "seconds", "µs a call", "MB"):
        drawn.add_column(name, justify="right")
    for row in rows:
        drawn.add_row(
            row.step,
            f"{row.calls:,}",
            f"{row.seconds:.2f}",
            f"{row.microseconds:,.1f}",
            f"{row.megabytes:,.0f}",
        )
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.records", description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000, help="records (100,000)")
    parser.add_argument("--directory", type=Path, help="an empty directory to write below")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="records-", dir=options.directory))
    try:
        rows = measure(options.entries, directory)
    finally:
        shutil.rmtree(directory)
    console = Console(width=None if sys.stdout.isatty() else 100)
    where = f"{os.cpu_count()} CPUs, Python {platform.python_version()}, {platform.system()}"
    console.print(f"{options.entries:,} records; {where}", highlight=False)
    console.print(table(rows))
    if options.json:
        figures = {"entries": options.entries, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
