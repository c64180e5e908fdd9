"""`dir` and `info`: where the records are, and what there is of them."""

import importlib.metadata
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import click

from .. import files, names
from ..layers import Entry, RecordWarning
from ..policies import current
from ..store import LAYERS, Store
from .options import Tool, common
from .output import NOTHING, emit, line, note, pairs, plain, size
from .picking import missed_keys

_PACKAGES = ("tritonconv", "torch", "triton", "msgspec")


@click.command("dir")
@common
def directory(tool: Tool) -> None:
    """Print the directory of the records.

    \b
    Example:
      du -sh "$(tritonconv-autotune dir)"
    """
    emit(str(tool.store.directory)) if tool.json else line(str(tool.store.directory))


@click.command()
@common
def info(tool: Tool) -> None:
    """Count the records, their bytes, and what cannot be read.

    \b
    Example:
      tritonconv-autotune info --json
    """
    store = tool.store
    entries, unreadable = gather(store)
    said = {
        "directory": str(store.directory),
        "policy": _policy(),
        "records": {layer: sum(e.layer == layer for e in entries) for layer in LAYERS},
        "ops": dict(sorted(Counter(e.key.op for e in entries).items())),
        "gpus": dict(sorted(Counter(_gpu(e) for e in entries).items())),
        "kernels": len({e.record.build.kernels for e in entries if e.record.build}),
        "tritons": sorted({e.record.build.triton for e in entries if e.record.build}),
        "misses": len(missed_keys(store)),
        "bytes": _bytes(store),
        "versions": {name: _version(name) for name in _PACKAGES},
        "unreadable": unreadable,
    }
    if tool.json:
        emit(said)
        return
    pairs((name, _in_words(name, value)) for name, value in said.items())
    for reason in unreadable:
        note(f"warning: {reason}")


def gather(store: Store) -> tuple[list[Entry], list[str]]:
    """Every record, and a sentence for each file that could not be used."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        entries = list(store.entries())
    reasons = [plain(str(w.message)) for w in caught if issubclass(w.category, RecordWarning)]
    return entries, list(dict.fromkeys(reasons))


def _in_words(name: str, value: Any) -> str:
    if name == "unreadable":
        return str(len(value))
    if name == "bytes":
        return ", ".join(f"{what} {size(count)}" for what, count in value.items())
    if isinstance(value, dict):
        return ", ".join(f"{what} {count}" for what, count in value.items()) or NOTHING
    return ", ".join(value) or NOTHING if isinstance(value, list) else str(value)


def _policy() -> str:
    try:
        return current()
    except ValueError as error:
        return f"none, {error}"


def _gpu(entry: Entry) -> str:
    return f"{entry.key.gpu.model} ({entry.key.gpu.arch})"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return NOTHING


def _bytes(store: Store) -> dict[str, int]:
    """Of the user's files, by kind."""
    found: dict[str, int] = {"records": 0, "trials": 0, "misses": 0, "temporary": 0}
    for path in (store.directory / "records").rglob("*"):
        if names.RECORD.fullmatch(path.name):
            found["records"] += _length(path)
        elif names.TRIALS.fullmatch(path.name):
            found["trials"] += _length(path)
        elif path.name.endswith(files.TEMPORARY):
            found["temporary"] += _length(path)
    for path in store.directory.glob("misses*.log"):
        found["misses"] += _length(path)
    return found


def _length(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
