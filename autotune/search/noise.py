"""Whether one candidate is faster than another, given how much their samples scatter."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

# The median distance from its centre of a draw from a normal distribution of scale 1, and how much
# of a mean's precision the Hodges-Lehmann estimate has there.
DISTANCE, EFFICIENCY = 0.6745, 0.955

Samples = Mapping[int, float]


@dataclass(frozen=True)
class Gap:
    """By how much the first is slower than the second: a logarithm, and its standard error."""

    estimate: float
    error: float

    def exceeds(self, quantile: float, least: float = 0.0) -> bool:
        """Whether it is beyond the noise, and more than `least`."""
        return self.estimate > max(least, quantile * self.error)


def gap(slow: Samples, fast: Samples, scale: float) -> Gap:
    """Compare two in the rounds that they have in common; without one, by their medians.

    A drift of the clock meets both samples of a round, and cancels. The estimate is the median of
    all means of two ratios (Hodges and Lehmann 1963): outliers do not move it, and it needs hardly
    more samples than a mean. `scale` is the scatter of one logarithm of a ratio.
    """
    common = sorted(slow.keys() & fast.keys())
    if not common:
        estimate = math.log(statistics.median(slow.values()) / statistics.median(fast.values()))
        return Gap(estimate, scale / math.sqrt(EFFICIENCY * min(len(slow), len(fast))))
    ratios = [math.log(slow[r] / fast[r]) for r in common]
    return Gap(centre(ratios), scale / math.sqrt(EFFICIENCY * len(ratios)))


def scatter(samples: Sequence[Samples]) -> float:
    """Scatter of one logarithm of a ratio of two candidates, pooled over all of them.

    From the distances between a candidate's successive samples, so that neither their levels nor a
    slow drift counts, and their median, so that outliers hardly do.
    """
    distances = []
    for times in samples:
        logs = [math.log(times[r]) for r in sorted(times)]
        distances += [abs(b - a) for a, b in pairwise(logs)]
    if not distances:
        return math.inf  # one sample each tells nothing about noise
    # The difference of two samples of one candidate scatters as that of two candidates does.
    return statistics.median(distances) / DISTANCE


def centre(values: Sequence[float]) -> float:
    """The median of the means of all pairs, each with itself too (Hodges and Lehmann 1963)."""
    pairs = [(a + b) / 2 for i, a in enumerate(values) for b in values[i:]]
    return statistics.median(pairs)
