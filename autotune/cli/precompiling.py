"""`precompile`: compile what will be launched, on a machine that need not have the GPU."""

from contextlib import ExitStack
from typing import Any

import click

from ..config import Candidate
from ..exchange import Filter
from ..key import Key
from ..lookup import look_up
from ..measure import BenchError, Crew, WorkerBench
from ..search import prune
from ..task import Artefacts, Failure, Task
from .options import Tool, common, dry_run_option, filters
from .output import SHORT, emit, note, plain, problem, short, sizes, table
from .sources import Sources, problem_options, problems

COLUMNS = ("digest", "op", "sizes", "role", "candidate", "registers", "shared", "spills", "")


@click.command()
@common
@problem_options
@filters
@dry_run_option
@click.option("--only", type=click.Choice(("default", "best")), help="One of the two. [both]")
@click.option("--all", "whole", is_flag=True, help="Every candidate.")
def precompile(
    tool: Tool, sources: Sources, meant: Filter, dry_run: bool, only: str | None, whole: bool
) -> int:
    """Compile what would be launched, without a GPU.

    Of each problem the default and the recorded best are compiled. Prints registers a thread,
    bytes of shared memory and spilled registers, and whether the GPU has them. Exit 1 if a
    default or a recorded best does not compile or fit.

    \b
    Example:
      tritonconv-autotune precompile --target sm_90 --shapes shapes.jsonl --all
    """
    if only and whole:
        raise click.UsageError("--only and --all: expected one, got both")
    rows: list[tuple[Key, str, Candidate, Artefacts | Failure | None, str]] = []
    errors: list[str] = []
    with ExitStack() as stack:
        crews: dict[str, Crew] = {}
        for key in problems(tool, sources, meant):
            try:
                name, task = tool.name_of(key.provider), tool.task(key)
                wanted = _wanted(tool, task, only, whole)
                found: dict[Candidate, Artefacts | Failure] = {}
                if not dry_run:
                    if name not in crews:
                        crews[name] = stack.enter_context(Crew(name))
                    found = dict(WorkerBench(name, key, crew=crews[name]).compile(list(wanted)))
            except (ValueError, BenchError) as error:
                errors.append(f"{problem(key)}: {error}")
                continue
            unfit = prune(found, task.limits, (task.default(),))
            for candidate, role in wanted.items():
                detail = unfit[candidate].detail if candidate in unfit else ""
                rows.append((key, role, candidate, found.get(candidate), detail))
    bad = [row for row in rows if row[1] and row[4]]
    if tool.json:
        emit({"compiled": [_json(*row) for row in rows], "errors": errors})
        return int(bool(bad or errors))
    table(COLUMNS, [_row(*row) for row in rows], ("registers", "shared", "spills"))
    failed = sum(1 for row in rows if row[4])
    what = "would compile" if dry_run else "compiled"
    note(f"{what} {len(rows)} candidates" + ("" if dry_run else f", {failed} of them unfit"))
    for error in errors:
        note(f"failed: {plain(error)}")
    return int(bool(bad or errors))


def _wanted(tool: Tool, task: Task, only: str | None, whole: bool) -> dict[Candidate, str]:
    """The candidates, and of those that a launch would use the role."""
    found = look_up(tool.store, task.key, task.build, task.is_legal)
    roles: dict[Candidate, str] = {}
    if only != "best":
        roles[task.default()] = "default"
    if found is not None and only != "default":
        same = found.candidate in roles
        roles[found.candidate] = "default, best" if same else "best"
    if whole:
        roles |= {c: roles.get(c, "") for c in task.candidates()}
    return roles


def _row(
    key: Key, role: str, candidate: Candidate, found: Artefacts | Failure | None, detail: str
) -> tuple[str, ...]:
    numbers = ("-", "-", "-")
    if isinstance(found, Artefacts):
        numbers = (str(found.registers), str(found.shared), str(found.spills))
    why = detail.splitlines()[0] if detail else ""
    return (key.digest[:SHORT], key.op, sizes(key), role, short(candidate), *numbers, why)


def _json(
    key: Key, role: str, candidate: Candidate, found: Artefacts | Failure | None, detail: str
) -> dict[str, Any]:
    from ..wire import artefacts_to_json, candidate_to_json

    return {
        "digest": key.digest,
        "role": role,
        "candidate": candidate_to_json(candidate),
        "artefacts": artefacts_to_json(found) if isinstance(found, Artefacts) else None,
        "failure": detail or None,
    }
