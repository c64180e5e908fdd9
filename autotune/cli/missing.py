"""`misses`: the problems that a run met without a record of their own."""

import click

from ..exchange import Filter
from ..misses import MissLog
from ..wire import key_to_json
from .options import Tool, agreed, common, dry_run_option, filters, yes_option
from .output import SHORT, dtype, emit, note, sizes, table
from .picking import missed_keys


@click.command()
@common
@filters
@dry_run_option
@yes_option
@click.option("--clear", is_flag=True, help="Forget them all.")
def misses(tool: Tool, meant: Filter, dry_run: bool, yes: bool, clear: bool) -> None:
    """List the problems that found no record.

    The most frequent come first; `tune --misses` takes them. A problem counts once a process that
    met it.

    \b
    Example:
      tritonconv-autotune misses --dtype float16
    """
    log = MissLog.of(tool.store.directory)
    if clear:
        if meant != Filter():
            raise click.UsageError("--clear: forgets all of them; leave the filters out")
        count = len(missed_keys(tool.store))
        if not dry_run:
            agreed(f"Forget {count} problems?", yes)
            try:
                log.clear()
            except OSError as error:
                raise click.ClickException(f"{log.path}: {error.strerror}") from None
        if tool.json:
            emit({"forgotten": count, "dry_run": dry_run})
        else:
            note(f"{'would forget' if dry_run else 'forgot'} {count} problems")
        return
    # Which variant would win is not known of a problem without a record.
    found = [(key, count) for key, count in missed_keys(tool.store) if meant.problem(key)]
    if tool.json:
        emit(
            [{"digest": k.digest, "processes": count, "key": key_to_json(k)} for k, count in found]
        )
        return
    columns = ("digest", "op", "sizes", "dtype", "gpu", "processes")
    table(
        columns,
        [
            (key.digest[:SHORT], key.op, sizes(key), dtype(key), key.gpu.model, str(count))
            for key, count in found
        ],
        ("processes",),
    )
    if not found:
        note(f"no misses in {log.path}")
