"""`diff`: what one collection of records has that another has not."""

from typing import Any

import click

from ..exchange import Filter, in_order, read_records
from ..merge import merge_all
from ..records import Record, encode
from .options import Tool, common, existing, filters
from .output import SHORT, emit, line, note, short, sizes, speedup, us

# Of what may differ, what a reader asks for first.
_PARTS = ("best", "best_us", "default", "default_us", "build", "noise", "samples", "validated")


@click.command()
@click.argument("a")
@click.argument("b")
@common
@filters
def diff(tool: Tool, a: str, b: str, meant: Filter) -> int:
    """Compare two stores, directories or files.

    Exit 1 if they differ. Each of A and B is a directory that `dir` prints, or a file that
    `export` writes; `-` is the store that is in use.

    \b
    Example:
      tritonconv-autotune diff before.jsonl -
    """
    before, after = (_records(tool, place, meant) for place in (a, b))
    added = {d: after[d] for d in after.keys() - before.keys()}
    removed = {d: before[d] for d in before.keys() - after.keys()}
    changed = {
        d: (before[d], after[d])
        for d in sorted(before.keys() & after.keys())
        if encode(before[d]) != encode(after[d])
    }
    if tool.json:
        emit(
            {
                "added": sorted(added),
                "removed": sorted(removed),
                "changed": {digest: _differing(*pair) for digest, pair in changed.items()},
            }
        )
    else:
        for sign, found in (("-", removed), ("+", added)):
            for record in in_order(found):
                line(f"{sign} {_said(record)}")
        for old, new in changed.values():
            line(f"~ {_said(old)}")
            for name, pair in _differing(old, new).items():
                line(f"    {name}: {pair[0]} -> {pair[1]}")
        note(f"{len(added)} added, {len(removed)} removed, {len(changed)} changed")
    return int(bool(added or removed or changed))


def _records(tool: Tool, place: str, meant: Filter) -> dict[str, Record]:
    path = tool.store.directory if place == "-" else existing(place)
    return merge_all(filter(meant, read_records(path))) if path.exists() else {}


def _differing(old: Record, new: Record) -> dict[str, tuple[Any, Any]]:
    found = {}
    for name in _PARTS:
        pair = getattr(old, name), getattr(new, name)
        if pair[0] != pair[1]:
            found[name] = tuple(_value(value) for value in pair)
    if not found:
        rest = [n for n in old.__struct_fields__ if getattr(old, n) != getattr(new, n)]
        found = {name: ("...", "...") for name in rest}
    return found


def _value(value: Any) -> Any:
    if hasattr(value, "candidate"):
        return short(value.candidate())
    return f"{value.kernels}, Triton {value.triton}" if hasattr(value, "kernels") else value


def _said(record: Record) -> str:
    key = record.key.key()
    best = f"{short(record.best.candidate())}, {us(record.best_us)} us, {speedup(record)}"
    return f"{key.digest[:SHORT]} {key.op} {sizes(key)} on {key.gpu.model}: {best}"
