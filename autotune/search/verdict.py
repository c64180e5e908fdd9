"""Which finalist wins: the default, unless another is faster beyond the noise."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

from ..config import Candidate
from .noise import Samples, centre, gap, scatter
from .trials import NEAR, in_order

# How often a default that no finalist beats may be replaced, all finalists together.
ERROR = 0.05
# Standard errors within which two challengers count as equal. One is few: the canonical one of two
# that are called equal may be the slower one, and that costs what the width is.
TIE = 1.0


@dataclass(frozen=True)
class Verdict:
    """The winner, those that cannot be told from it, and the relative half-width of that."""

    best: Candidate
    ties: tuple[Candidate, ...]
    noise: float


def decide(samples: Mapping[Candidate, Samples], default: Candidate) -> Verdict:
    """The winner among candidates with samples, of which there is at least one.

    The default stays unless a challenger is faster by more than 1 % and by more than z standard
    errors, with z such that all challengers together exceed it in about one of twenty searches if
    none of them is faster (normal quantile at 1 − 0.05/challengers; Bonferroni). Of the
    challengers that may replace it, those within one standard error or 1 % of the fastest count as
    equal, and the first in canonical order wins. A challenger must have stayed to the end: one with
    less than half of the samples of another was given up.
    """
    scale = scatter(list(samples.values()))
    challengers = [c for c in samples if c != default]
    quantile = NormalDist().inv_cdf(1 - ERROR / max(1, len(challengers)))
    least = math.log1p(NEAR)
    stayed = max(len(samples[c]) for c in samples) / 2
    able = [
        c
        for c in challengers
        if len(samples[c]) >= stayed
        and (
            default not in samples
            or gap(samples[default], samples[c], scale).exceeds(quantile, least)
        )
    ]
    best = default
    if able:
        # By a more precise measure than the median, since all were sampled alike.
        levels = {c: math.exp(centre([math.log(t) for t in samples[c].values()])) for c in able}
        fastest = samples[in_order(levels)[0]]
        best = min(c for c in able if not gap(samples[c], fastest, scale).exceeds(TIE, least))
    gaps = {c: gap(samples[c], samples[best], scale) for c in samples if c != best}
    near = {c: g for c, g in gaps.items() if abs(g.estimate) <= max(least, quantile * g.error)}
    closest = min(gaps.values(), key=lambda g: abs(g.estimate), default=None)
    error = scale / math.sqrt(len(samples[best])) if closest is None else closest.error
    # Of what was timed but once nothing is known: then the noise is called 100 %.
    noise = min(1.0, math.expm1(min(1.0, max(least, quantile * error))))
    return Verdict(best, tuple(sorted(near)), noise)
