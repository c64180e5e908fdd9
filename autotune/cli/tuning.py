"""`tune`: search for the best candidate of each problem, and keep the records."""

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import click

from ..exchange import Filter
from ..key import Key
from ..measure import BenchError, Crew, Isolation
from ..records import Record, RecordError
from ..search import STRATEGIES, Progress
from ..tuner import SECONDS, Tuning, tune
from ..wire import key_to_json
from .group import INTERRUPTED
from .options import Tool, common, dry_run_option, filters
from .output import (
    SHORT,
    dtype,
    emit,
    entry_json,
    note,
    plain,
    problem,
    short,
    sizes,
    speedup,
    table,
    us,
)
from .progress import Shown, shown
from .sources import Sources, problem_options, problems

COLUMNS = ("digest", "op", "sizes", "dtype", "best", "us", "default us", "speed-up", "timed")


@dataclass
class Result:
    """What became of one problem."""

    key: Key
    record: Record | None = None
    error: str = ""
    spent: Progress | None = None


@dataclass
class Session:
    """Problems one after another, with workers that outlive each of them."""

    tool: Tool
    tuning: Tuning
    show: Shown
    results: list[Result] = field(default_factory=list)
    _crews: dict[str, Crew] = field(default_factory=dict)

    def run(self, keys: list[Key], stack: ExitStack) -> bool:
        """Tune them; False if Ctrl-C ended it."""
        for number, key in enumerate(keys, 1):
            result = Result(key)
            self.results.append(result)
            title = f"[{number}/{len(keys)}] {problem(key)}"
            self.show.begin(title)
            before = self._record(key)
            self.tuning.store.write_error = None
            try:
                self._one(result, stack)
            except KeyboardInterrupt:
                after = self._record(key)
                if after != before:
                    result.record = after
                else:
                    self.results.pop()
                return False
            self.show.end(f"{title}: {_said(result)}")
        return True

    def _one(self, result: Result, stack: ExitStack) -> None:
        def step(progress: Progress) -> None:
            result.spent = progress
            self.show.step(progress)

        try:
            name = self.tool.name_of(result.key.provider)
            if name not in self._crews:
                self._crews[name] = stack.enter_context(Crew(name, self.tuning.isolation))
            tuning = replace(self.tuning, provider=name, on_progress=step)
            record = tune(result.key, tuning, self._crews[name])
        except (ValueError, BenchError) as error:
            result.error = str(error)
            return
        if record.best_us is None:
            # A record without times is not kept.
            first = record.failures[0].detail if record.failures else "no candidate was timed"
            result.error = f"nothing could be measured: {first}"
        elif unwritten := self._unwritten():
            result.error = f"cannot be written: {unwritten}"
        else:
            result.record = record

    def _record(self, key: Key) -> Record | None:
        entry = self.tuning.store.get(key)
        return entry.record if entry else None

    def _unwritten(self) -> "OSError | RecordError | None":
        return self.tuning.store.write_error


@click.command("tune")
@common
@problem_options
@filters
@dry_run_option
@click.option(
    "--strategy", type=click.Choice(list(STRATEGIES)), default="guided", show_default=True
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=SECONDS,
    show_default=True,
    help="At most so long for each problem.",
)
@click.option(
    "--trials", type=click.IntRange(min=1), help="At most so many timed launches for each problem."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the strategy random.")
@click.option("--timer", hidden=True, default=Isolation.timer, help="module:attribute of a Timer.")
def tune_problems(tool: Tool, sources: Sources, meant: Filter, dry_run: bool, **how: Any) -> int:
    """Measure configs on this GPU, and keep the fastest.

    Ctrl-C keeps what was found. Exit 1 if a problem could not be tuned.

    \b
    Examples:
      tritonconv-autotune tune --model torchvision.models:resnet18 --input 8x3x224x224
      tritonconv-autotune tune --shapes shapes.jsonl --seconds 30
      tritonconv-autotune tune --misses --dry-run --target sm_90
    """
    keys = problems(tool, sources, meant)
    if dry_run:
        _list(tool, keys)
        return 0
    if sources.target:
        _check_target(tool, keys)
        keys = problems(tool, replace(sources, target=None), meant)
    if not keys:
        note("no problems to tune")
    isolation = Isolation(timer=how.pop("timer"))
    tuning = Tuning("", tool.store, isolation=isolation, **how)
    with ExitStack() as stack:
        session = Session(tool, tuning, stack.enter_context(shown(len(keys))))
        finished = session.run(keys, stack)
    _summary(tool, session.results)
    if not finished:
        note(_kept(session.results, len(keys)))
        return INTERRUPTED
    return int(any(result.error for result in session.results))


def _check_target(tool: Tool, keys: list[Key]) -> None:
    """A real search of a target needs that target."""
    for name in sorted({key.provider for key in keys}):
        here = tool.gpu(tool.load(tool.name_of(name)), None)
        wanted = next(key.gpu for key in keys if key.provider == name)
        if (here.vendor, here.arch) != (wanted.vendor, wanted.arch):
            raise click.ClickException(
                f"--target: expected {here.arch}, which is what this machine has, got "
                f"{wanted.arch}; use precompile, or --dry-run"
            )


def _list(tool: Tool, keys: list[Key]) -> None:
    if tool.json:
        emit([{"digest": key.digest, "key": key_to_json(key)} for key in keys])
        return
    table(
        ("digest", "op", "sizes", "dtype", "gpu"),
        [(key.digest[:SHORT], key.op, sizes(key), dtype(key), key.gpu.model) for key in keys],
    )
    note(f"would tune {len(keys)} problems")


def _summary(tool: Tool, results: list[Result]) -> None:
    if tool.json:
        emit([_json(tool, result) for result in results])
        return
    if results:
        table(COLUMNS, [_row(r) for r in results], ("us", "default us", "speed-up", "timed"))


def _row(result: Result) -> tuple[str, ...]:
    key, record = result.key, result.record
    start = (key.digest[:SHORT], key.op, sizes(key), dtype(key))
    timed = str(result.spent.trials if result.spent else 0)
    if record is None:
        return (*start, f"failed: {result.error.splitlines()[0]}", "-", "-", "-", timed)
    best, default = us(record.best_us), us(record.default_us)
    return (*start, short(record.best.candidate()), best, default, speedup(record), timed)


def _json(tool: Tool, result: Result) -> dict[str, Any]:
    entry = tool.store.get(result.key) if result.record is not None else None
    return {
        "digest": result.key.digest,
        "key": key_to_json(result.key),
        "error": result.error or None,
        "timed": result.spent.trials if result.spent else 0,
        "found": entry_json(entry) if entry else None,
    }


def _said(result: Result) -> str:
    if result.record is None:
        return f"failed: {plain(result.error)}"
    spent = result.spent
    took = f", {spent.trials} timed, {spent.seconds:.0f} s" if spent else ""
    return f"{us(result.record.best_us)} us, {speedup(result.record)} over the default{took}"


def _kept(results: list[Result], total: int) -> str:
    kept = [result for result in results if result.record is not None]
    if not kept:
        return "interrupted: nothing was kept"
    return f"interrupted: kept {len(kept)} of {total} problems, the last {problem(kept[-1].key)}"
