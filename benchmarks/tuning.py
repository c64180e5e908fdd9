"""Tuning twice, and what the two runs say of each other: `python -m benchmarks.tuning [options]`.

Needs a GPU. The first rows of the benchmark suite are tuned in two runs that know nothing of each
other. Then the two choices and the default of every problem are timed in turns, and two figures
tell how far a run can be trusted:

agreement  the share of problems for which the runs chose the same, or each other's near-ties
regret     how much slower a run's choice is than the best of the three, on average and at most
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from autotune import Key
from autotune.key import Gpu
from autotune.measure import WorkerBench, medians
from autotune.records import Record
from autotune.store import Store
from autotune.tuner import Tuning, tune
from tritonconv.provider import PROVIDER
from tritonconv.provider.suite import ROWS
from tritonconv.tuning import PROVIDER as NAME

ROUNDS = 30


@dataclass(frozen=True)
class Pair:
    """One problem tuned twice; times in microseconds, of the last comparison."""

    problem: str
    first: str
    second: str
    agree: bool
    first_us: float
    second_us: float
    default_us: float

    @property
    def regrets(self) -> tuple[float, float]:
        """Of the two choices against the best of the three."""
        best = min(self.first_us, self.second_us, self.default_us)
        return self.first_us / best - 1, self.second_us / best - 1


def problems(calls: int, gpu: Gpu) -> list[Key]:
    """Those of the suite's first calls, in both memory formats, each once."""
    found: dict[str, Key] = {}
    for row in ROWS[: 2 * calls]:
        for key in PROVIDER.from_shape(row, gpu):
            found.setdefault(key.digest, key)
    return list(found.values())


def compared(key: Key, records: Sequence[Record]) -> Pair:
    """The choices of two runs, timed in turns with the default."""
    best = [record.best.candidate() for record in records]
    default = PROVIDER.task(key).default()
    with WorkerBench(NAME, key) as bench:
        found = bench.measure(list(dict.fromkeys([*best, default])), ROUNDS)
        times = medians({c: t for c, t in found.items() if isinstance(t, list)})
    ties = [
        {tie.candidate() for tie in record.ties} | {b}
        for record, b in zip(records, best, strict=True)
    ]
    return Pair(
        str(key),
        str(best[0]),
        str(best[1]),
        best[0] in ties[1] and best[1] in ties[0],
        times[best[0]],
        times[best[1]],
        times[default],
    )


def summary(pairs: Sequence[Pair]) -> dict[str, float]:
    """Agreement and regret over all problems."""
    regrets = [regret for pair in pairs for regret in pair.regrets]
    gains = [pair.default_us / min(pair.first_us, pair.second_us) for pair in pairs]
    return {
        "problems": len(pairs),
        "agreement": sum(pair.agree for pair in pairs) / len(pairs),
        "mean regret": statistics.mean(regrets),
        "largest regret": max(regrets),
        "speed-up over the default": statistics.geometric_mean(gains),
    }


def main(arguments: list[str] | None = None) -> int:
    """Tune, compare, print, and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning", description=__doc__)
    parser.add_argument("--calls", type=int, default=14, help="of the suite, default 14")
    parser.add_argument("--most", type=int, help="problems at most")
    parser.add_argument("--seconds", type=float, default=20.0, help="a problem and run, default 20")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    options = parser.parse_args(arguments)
    try:
        gpu = PROVIDER.gpu()
    except RuntimeError as error:
        print(f"benchmarks.tuning: {error}", file=sys.stderr)
        return 2
    console, pairs = Console(stderr=True), []
    keys = list(islice(problems(options.calls, gpu), options.most))
    with tempfile.TemporaryDirectory() as folder:
        stores = [Store(Path(folder) / name, environ={}) for name in "ab"]
        for key in track(keys, "tuning", console=console):
            records = [tune(key, Tuning(NAME, s, seconds=options.seconds)) for s in stores]
            pairs.append(compared(key, records))
    found: dict[str, Any] = {"gpu": gpu.model, "environment": dict(PROVIDER.environment())}
    found |= {"seconds": options.seconds, "summary": summary(pairs)}
    found["pairs"] = [asdict(pair) for pair in pairs]
    for name, value in found["summary"].items():
        print(f"{name:26} {value:.3f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
