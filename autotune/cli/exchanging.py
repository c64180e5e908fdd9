"""`export`, `import` and `merge`: records as JSON lines, out, in and together."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from ..exchange import (
    Filter,
    Imported,
    export_file,
    export_lines,
    export_packs,
    import_records,
    read_records,
)
from ..merge import Current
from ..records import Record
from ..store import LAYERS, USER
from .options import Tool, common, dry_run_option, existing, filters
from .output import SHORT, emit, line, note
from .picking import entries_of

current_option = click.option(
    "--prefer-current",
    is_flag=True,
    help="Of two records of a problem prefer the one of the kernels that are installed.",
)


@click.command()
@click.argument("file")
@common
@filters
@dry_run_option
@click.option(
    "--layer",
    "layers",
    multiple=True,
    type=click.Choice(LAYERS),
    help="Whose records; may be repeated. [user]",
)
@click.option("--packs", is_flag=True, help="FILE is a directory; a file a device and op, to ship.")
def export(
    tool: Tool, file: str, meant: Filter, dry_run: bool, layers: tuple[str, ...], packs: bool
) -> None:
    """Write records as JSON lines.

    FILE is written in one step; `-` is stdout.

    \b
    Examples:
      tritonconv-autotune export --gpu '*H200*' h200.jsonl
      tritonconv-autotune export --packs tritonconv/tuned
    """
    records = [entry.record for entry in entries_of(tool.store, meant, *(layers or (USER,)))]
    if file == "-" and not dry_run:
        if packs:
            raise click.UsageError("--packs: expected a directory, got -; name one")
        for each in export_lines(records):
            click.echo(each, nl=False)
        return
    files, count = [file], sum(1 for _ in export_lines(records))
    if not dry_run:
        try:
            if packs:
                files = [str(path) for path in export_packs(Path(file), records)]
            else:
                export_file(Path(file), records)
        except OSError as error:
            raise click.ClickException(f"{file}: cannot be written ({error.strerror})") from None
    if tool.json:
        emit({"records": count, "files": files, "dry_run": dry_run})
    else:
        note(f"{'would write' if dry_run else 'wrote'} {count} records to {', '.join(files)}")


@click.command("import")
@click.argument("paths", metavar="FILE...", nargs=-1, required=True)
@common
@filters
@dry_run_option
@current_option
def import_files(
    tool: Tool, paths: tuple[str, ...], meant: Filter, dry_run: bool, prefer_current: bool
) -> int:
    """Merge files of records into the user's.

    Of two records of a problem the better one stays. Directories are taken, too. Exit 1 if
    something in them is no record.

    \b
    Example:
      tritonconv-autotune import h200.jsonl --dry-run
    """
    places = [existing(path) for path in paths]
    all_done = Imported()
    for place in places:
        current = _current(tool, read_records(place, _quiet)) if prefer_current else frozenset()
        try:
            done = import_records(tool.store, place, meant, current, dry_run)
        except OSError as error:
            raise click.ClickException(
                f"{tool.store.directory}: cannot be written ({error.strerror})"
            ) from None
        for name in ("added", "replaced", "kept", "refused"):
            getattr(all_done, name).extend(getattr(done, name))
    if tool.json:
        emit(vars(all_done) | {"dry_run": dry_run})
    else:
        for sign, digests in (("+", all_done.added), ("~", all_done.replaced)):
            for digest in digests:
                line(f"{sign} {digest[:SHORT]}")
        note(
            f"{'would be: ' if dry_run else ''}{len(all_done.added)} added, "
            f"{len(all_done.replaced)} replaced, {len(all_done.kept)} kept as they were, "
            f"{len(all_done.refused)} refused"
        )
        for reason in all_done.refused:
            note(f"refused: {reason}")
    return int(bool(all_done.refused))


@click.command("merge")
@click.argument("paths", metavar="FILE...", nargs=-1, required=True)
@click.option("-o", "--out", required=True, metavar="OUT", help="The file to write; - is stdout.")
@common
@filters
@dry_run_option
@current_option
def merge_files(
    tool: Tool,
    paths: tuple[str, ...],
    out: str,
    meant: Filter,
    dry_run: bool,
    prefer_current: bool,
) -> int:
    """Merge files of records into one.

    Of each problem the better record is taken. The order of the files does not matter. Exit 1 if
    something in them is no record.

    \b
    Example:
      tritonconv-autotune merge rank0.jsonl rank1.jsonl -o all.jsonl
    """
    refused: list[str] = []
    records = [
        record
        for place in [existing(path) for path in paths]
        for record in read_records(place, lambda file, why: refused.append(f"{file}: {why}"))
    ]
    current = _current(tool, records) if prefer_current else frozenset()
    lines = list(export_lines(records, meant, current))
    if dry_run:
        pass
    elif out == "-":
        for each in lines:
            click.echo(each, nl=False)
    else:
        try:
            export_file(Path(out), records, meant, current)
        except OSError as error:
            raise click.ClickException(f"{out}: cannot be written ({error.strerror})") from None
    if tool.json and out != "-":
        emit({"read": len(records), "records": len(lines), "refused": refused, "dry_run": dry_run})
    else:
        note(f"{len(records)} records read, {len(lines)} {'to write' if dry_run else 'written'}")
        for reason in refused:
            note(f"refused: {reason}")
    return int(bool(refused))


def _current(tool: Tool, records: Iterable[Record]) -> Current:
    """The hashes of the kernels that are installed, as far as these records need them."""
    return frozenset(_hashes(tool, records))


def _hashes(tool: Tool, records: Iterable[Record]) -> Iterator[str]:
    for record in records:
        try:
            task = tool.task(record.key.key())
        except ValueError as error:
            raise click.ClickException(f"--prefer-current: {error}") from None
        yield task.build(record.best.candidate()).kernels


def _quiet(_path: Path, _reason: str) -> None:
    """What cannot be read is said when it is imported."""
