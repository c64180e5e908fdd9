"""`plot`: pictures of what was measured."""

from collections.abc import Callable
from pathlib import Path

import click

from ..exchange import Filter
from ..key import Key
from ..layers import Entry
from .explaining import timed_trials
from .options import Tool, common, dry_run_option, filters
from .output import SHORT, emit, line, note, problem, sizes
from .picking import by_prefix, digest_argument, entries_of, first_of

# flops and bytes of a problem: an optional method of a provider.
Work = Callable[[Key], tuple[float, float]]


@click.command()
@digest_argument(nargs=-1, metavar="[DIGEST]...")
@common
@filters
@dry_run_option
@click.option("--out", default=".", show_default=True, metavar="DIR", help="Where to put them.")
def plot(tool: Tool, digests: tuple[str, ...], meant: Filter, dry_run: bool, out: str) -> int:
    """Draw the records as PNGs.

    Configs of each, speed-ups of all, and a roofline. Named digests get a picture of every
    config's time each, if the trials of the search are still there. A roofline needs a library
    that tells the work of a problem. Needs matplotlib.

    \b
    Example:
      tritonconv-autotune plot --op conv --out pictures
    """
    known = first_of(entries_of(tool.store, meant))
    entries = [by_prefix(prefix, known) for prefix in digests] or list(known.values())
    measured = [e for e in entries if e.record.best_us is not None]
    if not measured:
        note("no measured records to draw")
        return 1
    try:
        import matplotlib  # noqa: F401 (what `pictures` imports; so that it is missed here)
    except ImportError as error:
        raise click.ClickException(
            f"plot: matplotlib cannot be imported ({error}); "
            "install it, for example by pip install 'tritonconv[plot]'"
        ) from None

    folder = Path(out)
    drawn = _plan(tool, folder, measured, bool(digests))
    if not dry_run:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path, draw in drawn:
                draw(path)
        except OSError as error:
            raise click.ClickException(f"{out}: cannot be written ({error.strerror})") from None
    if tool.json:
        emit({"files": [str(path) for path, _ in drawn], "dry_run": dry_run})
    else:
        for path, _ in drawn:
            line(str(path))
    return 0


def _plan(
    tool: Tool, folder: Path, entries: list[Entry], named: bool
) -> list[tuple[Path, Callable[[Path], None]]]:
    """Files, and what draws each."""
    from . import pictures

    drawn: list[tuple[Path, Callable[[Path], None]]] = []
    for entry in entries if named else ():
        timed = timed_trials(tool.store.trials(entry.key))
        if timed:
            path = folder / f"configs-{entry.key.digest[:SHORT]}.png"
            drawn.append((path, lambda p, e=entry, t=timed: pictures.configs(p, e, t)))
        else:
            note(f"{problem(entry.key)}: its trials are gone, so its configs are not drawn")
    compared = [e for e in entries if e.record.default_us is not None]
    if compared:
        drawn.append((folder / "speedups.png", lambda p: pictures.speedups(p, compared)))
    works = _works(tool, entries)
    if works:
        drawn.append((folder / "roofline.png", lambda p: pictures.roofline(p, works)))
    return drawn


def _works(tool: Tool, entries: list[Entry]) -> list[tuple[Entry, float, float]]:
    """Records with their flops and bytes, as far as libraries tell them."""
    found, silent = [], set()
    for entry in entries:
        try:
            provider = tool.load(tool.name_of(entry.key.provider))
        except (ValueError, click.ClickException) as error:
            silent.add(str(error))
            continue
        work: Work | None = getattr(provider, "work", None)
        if work is None:
            silent.add(f"{provider.name} does not tell the work of a problem")
            continue
        try:
            flops, moved = work(entry.key)
        except ValueError as error:
            silent.add(f"{entry.key.op} {sizes(entry.key)}: {error}")
            continue
        if flops > 0 and moved > 0:
            found.append((entry, flops, moved))
    for reason in sorted(silent):
        note(f"not in the roofline: {reason}")
    return found
