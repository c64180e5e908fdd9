"""`explain`: which config a problem gets, and why not another."""

import json
import statistics
from dataclasses import dataclass
from typing import Any

import click

from ..config import Candidate
from ..key import Key
from ..lookup import Considered, Found, Tier, explain
from ..policies import Policy, current
from ..records import Record
from ..task import Task
from ..trials import Trial
from ..wire import candidate_to_json, key_from_json, key_to_json
from .options import Tool, common, target_option
from .output import NOTHING, SHORT, emit, line, note, pairs, short, sizes, speedup, table, us
from .picking import by_prefix, digest_argument, known_keys
from .sources import described

_WHY = {
    Tier.EXACT: "a record of this problem, this GPU model, these kernels and this Triton",
    Tier.STALE: "a record of this problem, but of other kernels or another Triton",
    Tier.NEAREST: "a record of other sizes on this GPU model, the nearest that is legal",
    Tier.SIBLING: "a record of another GPU model of this architecture",
}
# What each policy takes from a record.
_TIERS = {
    Policy.OFF: (),
    Policy.CACHED: (Tier.EXACT, Tier.STALE),
    Policy.HEURISTIC: tuple(Tier),
    Policy.TUNE: tuple(Tier),
    Policy.STRICT: (Tier.EXACT,),
}


@dataclass(frozen=True)
class Explanation:
    """Of one problem, all that decides."""

    key: Key
    policy: Policy
    default: Candidate
    considered: list[Considered]
    trials: list[Trial]

    @property
    def found(self) -> Found | None:
        """The record that a look-up comes to."""
        return next((c.found for c in self.considered if not c.reason), None)

    @property
    def used(self) -> Found | None:
        """The same, if the policy allows it."""
        found = self.found
        return found if found is not None and found.tier in _TIERS[self.policy] else None

    @property
    def config(self) -> Candidate | None:
        """What is launched; None where a strict policy raises."""
        if self.used is not None:
            return self.used.candidate
        return None if self.policy is Policy.STRICT else self.default

    @property
    def why(self) -> str:
        """In a sentence."""
        if self.used is not None:
            return _WHY[self.used.tier]
        if self.policy is Policy.OFF:
            return "the analytic choice: the policy is off"
        if self.policy is Policy.STRICT:
            return "an error: the policy is strict, and there is no exact record"
        found = self.found
        if found is None:
            return "the analytic choice: no record is of use"
        return f"the analytic choice: the policy {self.policy.value} takes no record of this tier"


@click.command("explain")
@digest_argument("what", required=False, metavar="[DIGEST|KEY]")
@common
@target_option
@click.option("--shape", metavar="JSON", help="A problem as in a file of shapes, for this GPU.")
@click.option("--top", type=click.IntRange(min=0), default=10, show_default=True, help="Of trials.")
def explain_choice(
    tool: Tool, what: str | None, shape: str | None, target: str | None, top: int
) -> None:
    """Say which config a problem gets, and why.

    Shows the record that it is from, why every other was passed over, and what was timed.

    The problem is named by the first digits of a digest, by a key in JSON as --json prints it, or
    by --shape.

    \b
    Examples:
      tritonconv-autotune explain 3f9a
      tritonconv-autotune explain --target sm_90 --shape '{"op": "conv", "N": 8}'
    """
    if (what is None) == (shape is None):
        raise click.UsageError("explain: expected a digest, a key, or --shape; got both or none")
    explained = [_explained(tool, key) for key in _keys(tool, what, shape, target)]
    if tool.json:
        emit([_json(each) for each in explained])
        return
    if not explained:
        note("the shape describes no problem")
    for number, each in enumerate(explained):
        if number:
            line()
        _print(each, top)


def _keys(tool: Tool, what: str | None, shape: str | None, target: str | None) -> list[Key]:
    if shape is not None:
        provider = tool.load(tool.only())
        return described(provider, shape, "--shape", tool.gpu(provider, target))
    assert what is not None
    if not what.lstrip().startswith("{"):
        return [by_prefix(what, known_keys(tool.store))]
    try:
        return [key_from_json(json.loads(what))]
    except (ValueError, TypeError, RecursionError) as error:
        raise click.UsageError(f"key: {error}") from None


def _explained(tool: Tool, key: Key) -> Explanation:
    try:
        task: Task = tool.task(key)
        in_force = Policy(current())
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    considered = explain(tool.store, key, task.build, task.is_legal)
    return Explanation(key, in_force, task.default(), considered, tool.store.trials(key))


def _print(each: Explanation, top: int) -> None:
    config = each.config
    pairs(
        [
            ("problem", f"{each.key.digest[:SHORT]} {each.key}"),
            ("policy", each.policy.value),
            ("config", NOTHING if config is None else str(config)),
            ("why", each.why),
            ("tier", each.used.tier.name.lower() if each.used else NOTHING),
            ("default", str(each.default)),
        ]
    )
    line()
    if each.considered:
        table(
            (
                "record",
                "tier",
                "doublings",
                "layer",
                "best",
                "us",
                "speed-up",
                "passed over",
                "differs",
            ),
            [_row(considered, each) for considered in each.considered],
            ("doublings", "us", "speed-up"),
        )
    else:
        line("no record was considered")
    _print_trials(each, top)


def _row(considered: Considered, each: Explanation) -> tuple[str, ...]:
    found = considered.found
    key = found.record.key.key()
    reason = considered.reason
    if not reason and each.used is None:
        reason = f"the policy is {each.policy.value}"
    differs = ", ".join(f"{n} {_has(has)}" for n, (_, has) in found.differences.items())
    return (
        key.digest[:SHORT],
        found.tier.name.lower(),
        f"{found.distance:.1f}",
        found.layer,
        short(found.candidate),
        us(found.record.best_us),
        speedup(found.record),
        reason or "no: used",
        differs or NOTHING,
    )


def _has(value: Any) -> str:
    return value.model if hasattr(value, "model") else str(value)


def _print_trials(each: Explanation, top: int) -> None:
    timed = timed_trials(each.trials)
    if not each.trials:
        return
    failed = len(each.trials) - len(timed)
    line()
    line(f"its last search timed {len(timed)} candidates and saw {failed} fail")
    own = next((c.found.record for c in each.considered if c.found.tier <= Tier.STALE), None)
    rows = []
    for place, (candidate, time) in enumerate(timed):
        roles = _roles(candidate, each.default, own)
        if place < top or roles:
            rows.append((str(place + 1), short(candidate), us(time), ", ".join(roles)))
    if rows:
        table(("", "candidate", "us", "role"), rows, ("", "us"))


def timed_trials(trials: list[Trial]) -> list[tuple[Candidate, float]]:
    """Those with times: candidates and medians, the fastest first."""
    timed = [(t.candidate.candidate(), statistics.median(t.times)) for t in trials if t.times]
    return sorted(timed, key=lambda pair: (pair[1], pair[0]))


def _roles(candidate: Candidate, default: Candidate, own: Record | None) -> list[str]:
    roles = ["default"] if candidate == default else []
    if own is not None:
        roles += ["best"] if candidate == own.best.candidate() else []
        roles += ["near-tie"] if candidate in {t.candidate() for t in own.ties} else []
    return roles


def _json(each: Explanation) -> dict[str, Any]:
    return {
        "digest": each.key.digest,
        "key": key_to_json(each.key),
        "policy": each.policy.value,
        "config": None if each.config is None else candidate_to_json(each.config),
        "why": each.why,
        "tier": each.used.tier.name.lower() if each.used else None,
        "default": candidate_to_json(each.default),
        "considered": [
            {
                "digest": c.found.record.key.key().digest,
                "sizes": sizes(c.found.record.key.key()),
                "tier": c.found.tier.name.lower(),
                "doublings": c.found.distance,
                "layer": c.found.layer,
                "candidate": candidate_to_json(c.found.candidate),
                "passed_over": c.reason or None,
                "differs": {n: [_has(v) for v in pair] for n, pair in c.found.differences.items()},
                "near_ties": [candidate_to_json(t.candidate()) for t in c.found.record.ties],
            }
            for c in each.considered
        ],
        "trials": [
            {
                "candidate": candidate_to_json(t.candidate.candidate()),
                "us": list(t.times),
                "failure": t.failure.value if t.failure else None,
                "detail": t.detail,
            }
            for t in each.trials
        ],
    }
