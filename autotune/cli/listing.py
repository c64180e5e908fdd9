"""`list` and `show`: records in a table, and one in full."""

from collections.abc import Callable
from typing import Any

import click

from ..exchange import Filter
from ..layers import Entry
from ..store import LAYERS
from .options import Tool, common, filters
from .output import (
    NOTHING,
    SHORT,
    age,
    age_of,
    dtype,
    emit,
    entry_json,
    line,
    note,
    pairs,
    short,
    sizes,
    speedup,
    table,
    us,
)
from .picking import by_prefix, digest_argument, entries_of, first_of

COLUMNS = ("digest", "op", "sizes", "dtype", "gpu", "best", "us", "speed-up", "age", "layer")
RIGHT = ("us", "speed-up", "age")

# What is measured comes first, the fastest or largest of it; what is not comes last.
_SORTS: dict[str, Callable[[Entry], Any]] = {
    "op": lambda e: (e.key.op, e.key.gpu, e.key.sizes),
    "gpu": lambda e: (e.key.gpu, e.key.op, e.key.sizes),
    "us": lambda e: (e.record.best_us is None, e.record.best_us or 0.0),
    "speed-up": lambda e: -e.record.speedup,
    "age": lambda e: (age_of(e.record) is None, age_of(e.record) or 0.0),
    "digest": lambda e: e.key.digest,
    "layer": lambda e: LAYERS.index(e.layer),
}


@click.command("list")
@common
@filters
@click.option("--sort", type=click.Choice(list(_SORTS)), default="op", show_default=True)
@click.option("--reverse", is_flag=True, help="The other way round.")
def list_records(tool: Tool, meant: Filter, sort: str, reverse: bool) -> None:
    """List the records of every layer.

    \b
    Example:
      tritonconv-autotune list --op 'conv*' --dtype float16 --sort speed-up
    """
    ordered = sorted(entries_of(tool.store, meant), key=lambda e: (e.key.digest, e.layer))
    ordered.sort(key=_SORTS[sort], reverse=reverse)
    if tool.json:
        emit([entry_json(entry) for entry in ordered])
        return
    table(COLUMNS, [_row(entry) for entry in ordered], RIGHT)
    if not ordered:
        note(f"no records in {tool.store.directory}; `tune` makes them")


def _row(entry: Entry) -> tuple[str, ...]:
    key, record = entry.key, entry.record
    return (
        key.digest[:SHORT],
        key.op,
        sizes(key),
        dtype(key),
        key.gpu.model,
        short(entry.candidate),
        us(record.best_us),
        speedup(record),
        age(record),
        entry.layer,
    )


@click.command()
@common
@digest_argument("digest")
def show(tool: Tool, digest: str) -> None:
    """Show one record in full.

    It is named by the first digits of its digest; of several layers the first one's is shown.

    \b
    Example:
      tritonconv-autotune show 3f9a
    """
    entry = by_prefix(digest, first_of(tool.store.entries()))
    others = [e for e in tool.store.exact(entry.key) if e.layer != entry.layer]
    if tool.json:
        emit(entry_json(entry) | {"hidden": [entry_json(other) for other in others]})
        return
    key, record = entry.key, entry.record
    gpu = key.gpu
    failures = record.failures
    pairs(
        [
            ("digest", key.digest),
            ("layer", entry.layer),
            ("file", str(entry.path or NOTHING)),
            ("provider", key.provider),
            ("op", key.op),
            ("sizes", sizes(key)),
            ("gpu", f"{gpu.model} ({gpu.vendor} {gpu.arch}, {gpu.multiprocessors} processors)"),
            ("best", f"{entry.candidate}"),
            ("best us", us(record.best_us)),
            ("default", str(record.default.candidate()) if record.default else NOTHING),
            ("default us", us(record.default_us)),
            ("speed-up", speedup(record)),
            ("noise", f"{100 * record.noise:.1f} %"),
            ("samples", str(record.samples)),
            ("timing", record.timing or NOTHING),
            ("validated", "yes" if record.validated else "no"),
            ("kernels", record.build.kernels if record.build else NOTHING),
            ("triton", record.build.triton if record.build else NOTHING),
            ("created", f"{record.created} ({age(record)})"),
            ("failures", str(len(failures))),
            ("near-ties", str(len(record.ties))),
        ]
    )
    _section("fields", [(name, str(value)) for name, value in key.fields])
    _section("environment", sorted(record.environment.items()))
    _section("near-ties", [(short(tie.candidate()), "") for tie in record.ties])
    _section(
        "failures",
        [(f.kind.value, f"{short(f.candidate.candidate())}: {f.detail}") for f in failures],
    )
    _section("hidden by this", [(other.layer, str(other.path)) for other in others])


def _section(title: str, rows: list[tuple[str, str]]) -> None:
    if rows:
        line()
        line(title)
        pairs(rows, "  ")
