"""`verify`: whether records still hold, by the rules always, by measurement on request."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import click

from ..config import Candidate
from ..exchange import Filter
from ..key import Key
from ..layers import Entry
from ..measure import BenchError, Crew, Isolation, WorkerBench, medians
from ..search.verdict import decide
from ..store import LAYERS
from ..task import Failure, Task
from .deleting import staleness
from .options import Tool, common, filters
from .output import SHORT, emit, note, problem, sizes, table
from .places import gather
from .progress import shown


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: with a record, or with a file."""

    kind: str
    detail: str
    entry: Entry | None = None


@dataclass
class Measuring:
    """What --measure needs."""

    tool: Tool
    isolation: Isolation
    samples: int
    stack: ExitStack
    crews: dict[str, Crew]

    def findings(self, entry: Entry, task: Task) -> list[Finding]:
        """Time the record's best against the default again."""
        best, default = entry.candidate, task.default()
        name = self.tool.name_of(entry.key.provider)
        if name not in self.crews:
            self.crews[name] = self.stack.enter_context(Crew(name, self.isolation))
        bench = WorkerBench(name, entry.key, crew=self.crews[name])
        try:
            found = bench.measure(list(dict.fromkeys((best, default))), self.samples)
        except BenchError as error:
            return [Finding("unmeasured", str(error), entry)]
        failure = found[best]
        if isinstance(failure, Failure):
            return [Finding("fails", f"{failure.kind.value}: {failure.detail}", entry)]
        return _judged(entry, best, default, found)


@click.command()
@common
@filters
@click.option("--layer", "layers", multiple=True, type=click.Choice(LAYERS), help="[all]")
@click.option("--measure", is_flag=True, help="Also time best and default again, on this GPU.")
@click.option("--samples", type=click.IntRange(min=4), default=40, show_default=True)
@click.option("--timer", hidden=True, default=Isolation.timer, help="module:attribute of a Timer.")
def verify(
    tool: Tool,
    meant: Filter,
    layers: tuple[str, ...],
    measure: bool,
    samples: int,
    timer: str,
) -> int:
    """Check that records still hold.

    They can be read, are legal, and are of the kernels that are installed.

    With --measure best and default of each record of this GPU are timed again, in turns; reported
    is where the best no longer wins by the rule that made it the best. Exit 1 on findings.

    \b
    Example:
      tritonconv-autotune verify --measure --layer user
    """
    entries, unreadable = gather(tool.store)
    entries = [e for e in entries if meant(e.record) and (not layers or e.layer in layers)]
    findings = [Finding("unreadable", reason) for reason in unreadable]
    measured = 0
    with ExitStack() as stack:
        show = stack.enter_context(shown(len(entries)))
        measuring = Measuring(tool, Isolation(timer=timer), samples, stack, {})
        for entry in entries:
            show.begin(problem(entry.key))
            found = _static(tool, entry)
            if measure and not any(f.kind in ("illegal", "unknown") for f in found):
                task = tool.task(entry.key)
                if _is_here(tool, entry.key):
                    measured += 1
                    found += measuring.findings(entry, task)
            findings += found
            if measure:
                said = ", ".join(f.kind for f in found) or "holds"
                show.end(f"{problem(entry.key)}: {said}")
    if tool.json:
        emit(
            {
                "records": len(entries),
                "measured": measured,
                "findings": [_json(finding) for finding in findings],
            }
        )
    else:
        if findings:
            table(("finding", "digest", "op", "sizes", "layer", "detail"), map(_row, findings))
        measured_too = f", {measured} measured" if measure else ""
        note(f"{len(entries)} records checked{measured_too}, {len(findings)} findings")
    return int(bool(findings))


def _static(tool: Tool, entry: Entry) -> list[Finding]:
    # That it decodes, and that its key has the digest of its name, reading it has shown.
    found: list[Finding] = []
    try:
        task = tool.task(entry.key)
        if not task.is_legal(entry.candidate):
            return [Finding("illegal", f"{entry.candidate} is not legal for this problem", entry)]
        reason = staleness(tool, entry)
    except ValueError as error:
        return [Finding("unknown", str(error), entry)]
    if reason:
        found.append(Finding("stale", reason, entry))
    return found


def _is_here(tool: Tool, key: Key) -> bool:
    return tool.gpu(tool.load(tool.name_of(key.provider)), None) == key.gpu


def _judged(entry: Entry, best: Candidate, default: Candidate, found: Any) -> list[Finding]:
    """By the rule of the search: the default stays unless another wins beyond the noise."""
    if best == default or isinstance(found[default], Failure):
        return []
    samples = {c: dict(enumerate(found[c])) for c in (best, default)}
    if decide(samples, default).best == best:
        return []
    now = medians(found)
    speed = now[default] / now[best]
    return [Finding("slower", f"{speed:.2f}x now, {entry.record.speedup:.2f}x recorded", entry)]


def _row(finding: Finding) -> tuple[str, ...]:
    if finding.entry is None:
        return (finding.kind, "-", "-", "-", "-", finding.detail)
    key = finding.entry.key
    where = (key.digest[:SHORT], key.op, sizes(key), finding.entry.layer)
    return (finding.kind, *where, finding.detail)


def _json(finding: Finding) -> dict[str, Any]:
    entry = finding.entry
    return {
        "kind": finding.kind,
        "detail": finding.detail,
        "digest": entry.key.digest if entry else None,
        "layer": entry.layer if entry else None,
        "path": str(entry.path) if entry and entry.path else None,
    }
