"""What is printed: JSON, tables, and lines that no record can garble."""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

import click

from ..config import Candidate
from ..key import Key
from ..layers import Entry
from ..records import Record

NOTHING = "-"
SHORT = 12
# Columns that take a second line where a terminal is narrow.
_LONG = ("sizes", "gpu", "best", "candidate", "detail", "passed over", "differs", "")


def emit(value: Any) -> None:
    """One JSON value on stdout."""
    click.echo(json.dumps(value, indent=2))


def line(text: str = "") -> None:
    """A line of data on stdout."""
    click.echo(plain(text))


def note(text: str) -> None:
    """A line for the person, on stderr."""
    click.echo(plain(text), err=True)


def plain(text: str) -> str:
    """`text` on one line, with escapes for what a terminal would act on."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[str] = ()) -> None:
    """Rows under their columns; those named in `right` are flush right.

    On a terminal as wide as it is; else nothing is cut, and columns are two spaces apart.
    """
    cells = [[plain(cell) for cell in row] for row in rows]
    flush = [name in set(right) for name in columns]
    if sys.stdout.isatty():
        _drawn(columns, cells, flush)
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for row in (columns, *cells):
        padded = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, flush, strict=True)
        ]
        click.echo("  ".join(padded).rstrip())


def pairs(rows: Iterable[tuple[str, str]], indent: str = "") -> None:
    """Names and values, a line each."""
    listed = list(rows)
    width = max((len(plain(name)) for name, _ in listed), default=0)
    for name, value in listed:
        line(f"{indent}{plain(name).ljust(width)}  {value}")


def _drawn(columns: Sequence[str], cells: Sequence[Sequence[str]], flush: Sequence[bool]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name, is_right in zip(columns, flush, strict=True):
        # A digest or a number on two lines cannot be read, nor be copied.
        drawn.add_column(
            name,
            justify="right" if is_right else "left",
            overflow="fold",
            no_wrap=name not in _LONG,
        )
    for row in cells:
        drawn.add_row(*(Text(cell) for cell in row))
    Console().print(drawn)


def sizes(key: Key) -> str:
    """Its sizes in one cell."""
    return " ".join(f"{name}={value}" for name, value in key.sizes)


def dtype(key: Key) -> str:
    """The field of that name, where there is one."""
    return str(dict(key.fields).get("dtype", NOTHING))


def problem(key: Key) -> str:
    """A problem in few words, for a line of progress."""
    return f"{key.digest[:SHORT]} {key}"


def short(candidate: Candidate) -> str:
    """A candidate in one cell: `gemm BLOCK_M=64 BLOCK_N=64 4w 2s` for warps and stages."""
    config = candidate.config
    constants = "".join(f" {name}={value}" for name, value in config.constants)
    return f"{candidate.variant}{constants} {config.num_warps}w {config.num_stages}s"


def us(value: float | None) -> str:
    """Microseconds to four digits."""
    return NOTHING if value is None else f"{value:.4g}"


def times(value: float) -> str:
    """A speed-up."""
    return f"{value:.2f}x"


def speedup(record: Record) -> str:
    """Over the default; nothing where it was not measured."""
    known = record.best_us is not None and record.default_us is not None
    return times(record.speedup) if known else NOTHING


def age_of(record: Record) -> float | None:
    """Seconds since it was made; None where a person wrote it and named no time."""
    try:
        made = datetime.strptime(record.created, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:  # the pattern of the field lets a 39th of a month pass
        return None
    then = made.replace(tzinfo=timezone.utc).timestamp()
    return None if then <= 0 else max(0.0, time.time() - then)


def age(record: Record) -> str:
    """How old a record is, in its largest unit."""
    seconds = age_of(record)
    if seconds is None:
        return NOTHING
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def size(count: int) -> str:
    """Bytes, in a unit that leaves few digits."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{count} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def entry_json(entry: Entry) -> dict[str, Any]:
    """A record with its digest, and where it was found."""
    import msgspec

    return {
        "digest": entry.key.digest,
        "layer": entry.layer,
        "path": str(entry.path) if entry.path else None,
        "speedup": entry.record.speedup,
        "record": msgspec.to_builtins(entry.record),
    }
