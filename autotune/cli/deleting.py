"""`prune`, `remove` and `clean`: what takes files away."""

from collections.abc import Iterator
from pathlib import Path

import click

from ..exchange import Filter
from ..layers import Entry
from ..misses import MissLog
from ..store import LAYERS, USER
from .options import Tool, agreed, common, dry_run_option, filters, yes_option
from .output import SHORT, age_of, emit, line, note, problem, size
from .picking import by_prefix, digest_argument, entries_of, first_of

_DAY = 86400.0


@click.command()
@common
@filters
@dry_run_option
@yes_option
@click.option("--trials", is_flag=True, help="Also what searches measured, beside the records.")
@click.option("--stale", is_flag=True, help="Also records of kernels that are not installed.")
@click.option(
    "--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="Also records of this age."
)
def prune(
    tool: Tool,
    meant: Filter,
    dry_run: bool,
    yes: bool,
    trials: bool,
    stale: bool,
    older_than: float | None,
) -> int:
    """Delete what is left over or out of date.

    What killed processes left behind always, the rest on request.

    With filters only the records that they mean; a record without a date never grows old.

    \b
    Example:
      tritonconv-autotune prune --stale --older-than 90 --dry-run
    """
    store = tool.store
    doomed: dict[str, tuple[Entry, str]] = {}
    unknown: list[str] = []
    for entry in entries_of(store, meant, USER) if stale or older_than is not None else ():
        age = age_of(entry.record)
        if older_than is not None and age is not None and age >= older_than * _DAY:
            doomed[entry.key.digest] = (entry, f"{age / _DAY:.0f} days old")
        elif stale:
            try:
                reason = staleness(tool, entry)
            except ValueError as error:
                unknown.append(f"{problem(entry.key)}: {error}")
                continue
            if reason:
                doomed[entry.key.digest] = (entry, reason)
    for entry, reason in doomed.values() if not tool.json else ():
        line(f"{problem(entry.key)}: {reason}")
    if doomed and not dry_run:
        agreed(f"Delete {len(doomed)} records?", yes)
    files = store.prune(trials=trials, dry_run=dry_run)
    freed = _remove(tool, [entry for entry, _ in doomed.values()], dry_run)
    if tool.json:
        emit(
            {
                "records": {digest: reason for digest, (_, reason) in doomed.items()},
                "files": [str(path) for path in files],
                "unknown": unknown,
                "dry_run": dry_run,
            }
        )
        return int(bool(unknown))
    for path in files:
        line(str(path))
    would = "would delete" if dry_run else "deleted"
    note(f"{would} {len(doomed)} records ({size(freed)}) and {len(files)} other files")
    for reason in unknown:
        note(f"kept, since it cannot be judged: {reason}")
    return int(bool(unknown))


@click.command()
@digest_argument(nargs=-1, metavar="DIGEST...")
@common
@filters
@dry_run_option
@yes_option
def remove(tool: Tool, digests: tuple[str, ...], meant: Filter, dry_run: bool, yes: bool) -> None:
    """Delete single records.

    Of the user's, with their trials: by digest, or all that filters mean.

    \b
    Examples:
      tritonconv-autotune remove 3f9a
      tritonconv-autotune remove --gpu '*A100*' --yes
    """
    if bool(digests) == (meant != Filter()):
        raise click.UsageError("remove: expected digests or filters, got both or none of them")
    entries = _chosen(tool, digests) if digests else list(entries_of(tool.store, meant, USER))
    for entry in entries if not tool.json else ():
        line(problem(entry.key))
    if entries and not dry_run:
        agreed(f"Delete {len(entries)} records?", yes)
    freed = _remove(tool, entries, dry_run)
    if tool.json:
        emit({"removed": [entry.key.digest for entry in entries], "dry_run": dry_run})
    else:
        note(f"{'would delete' if dry_run else 'deleted'} {len(entries)} records ({size(freed)})")


@click.command()
@common
@dry_run_option
@yes_option
def clean(tool: Tool, dry_run: bool, yes: bool) -> None:
    """Delete all records.

    Every record of the user's, their trials, and the log of misses. What ships with a library,
    and other directories, stay as they are.

    \b
    Example:
      tritonconv-autotune clean --yes
    """
    store = tool.store
    root = store.directory / "records"
    files = [path for path in root.rglob("*") if path.is_file()] if root.is_dir() else []
    count = sum(1 for _ in store.entries(USER))
    total = sum(path.lstat().st_size for path in files)
    if not dry_run:
        agreed(f"Delete all {count} records in {root} ({size(total)})?", yes)
        try:
            store.clear()
            MissLog.of(store.directory).clear()
        except OSError as error:
            raise click.ClickException(f"{error.filename}: {error.strerror}") from None
    if tool.json:
        emit({"records": count, "files": len(files), "bytes": total, "dry_run": dry_run})
    else:
        would = "would delete" if dry_run else "deleted"
        note(f"{would} {count} records, {len(files)} files ({size(total)})")


def staleness(tool: Tool, entry: Entry) -> str:
    """Why a record is not of what is installed; "" if it is. Raises ValueError if nobody knows."""
    candidate, build = entry.candidate, entry.record.build
    task = tool.task(entry.key)
    if not task.is_legal(candidate):
        return f"{candidate} is not legal for this problem"
    now = task.build(candidate)
    if build is None:
        return "names no kernels"
    if build.kernels != now.kernels:
        return f"of kernels {build.kernels[:SHORT]}, installed are {now.kernels[:SHORT]}"
    return f"of Triton {build.triton}, installed is {now.triton}" if build.build() != now else ""


def _chosen(tool: Tool, digests: tuple[str, ...]) -> list[Entry]:
    mine = {entry.key.digest: entry for entry in tool.store.entries(USER)}
    listed = list(_picked(tool, digests, mine))
    return list({entry.key.digest: entry for entry in listed}.values())


def _picked(tool: Tool, digests: tuple[str, ...], mine: dict[str, Entry]) -> Iterator[Entry]:
    for prefix in digests:
        if not any(digest.startswith(prefix.lower()) for digest in mine):
            others = first_of(tool.store.entries(*(name for name in LAYERS if name != USER)))
            if any(digest.startswith(prefix.lower()) for digest in others):
                raise click.UsageError(
                    f"{prefix}: expected a record of the user's, got one of another layer; "
                    "that is read only"
                )
        yield by_prefix(prefix, mine)


def _remove(tool: Tool, entries: list[Entry], dry_run: bool) -> int:
    """Delete records; the bytes that they took."""
    freed = 0
    for entry in entries:
        freed += _bytes(entry.path)
        if not dry_run:
            try:
                tool.store.remove(entry.key)
            except OSError as error:
                raise click.ClickException(f"{error.filename}: {error.strerror}") from None
    return freed


def _bytes(path: Path | None) -> int:
    try:
        return path.stat().st_size if path else 0
    except OSError:
        return 0
