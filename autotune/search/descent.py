"""Coordinate descent: from the best, one step along one constant, its warps or its stages."""

from collections import defaultdict
from collections.abc import Iterable

from ..config import Candidate
from .trials import Trials

# How many of the best have had their neighbours looked at when the descent ends.
BEAM = 16
# Rounds of the first look at neighbours, and of the second at those that are not clearly slower.
LOOK, AGAIN = 2, 3
CLEARLY = 1.10


class Neighbourhood:
    """Which candidates differ in one coordinate, by one step of what is there."""

    def __init__(self, candidates: Iterable[Candidate]) -> None:
        lines: dict[object, list[tuple[int, Candidate]]] = defaultdict(list)
        for candidate in sorted(candidates):
            for line, value in _lines(candidate):
                lines[line].append((value, candidate))
        self._lines = {line: sorted(places) for line, places in lines.items()}

    def of(self, candidate: Candidate) -> list[Candidate]:
        """The nearest smaller and the nearest larger one along each coordinate."""
        found: list[Candidate] = []
        for line, value in _lines(candidate):
            places = self._lines.get(line, ())
            found += [c for v, c in places if v < value][-1:]
            found += [c for v, c in places if v > value][:1]
        return found


def descend(trials: Trials, beam: int = BEAM) -> None:
    """Look at the neighbours of the best until those of the `beam` best are all known.

    It starts from whatever has been timed. A step goes to the best of everything that is known, so
    it leaves a slope that others have overtaken.
    """
    neighbourhood = Neighbourhood(trials.task.candidates())
    expanded: set[Candidate] = set()
    while True:
        best = trials.ranked()[:beam]
        centre = next((c for c in best if c not in expanded), None)
        if centre is None:
            return
        expanded.add(centre)
        new = [c for c in neighbourhood.of(centre) if c not in trials.samples]
        new = trials.compile(new)
        if not new:
            continue
        looked = trials.measure([best[0], *new], LOOK)
        limit = trials.median(best[0]) * CLEARLY if best[0] in trials.samples else float("inf")
        close = [c for c in looked if c != best[0] and trials.median(c) <= limit]
        if close:
            trials.measure([best[0], *close], AGAIN)


def _lines(candidate: Candidate) -> list[tuple[object, int]]:
    """For each coordinate: everything else about the candidate, and the coordinate's value."""
    variant, config = candidate
    coordinates = (
        *config.constants,
        ("num_warps", config.num_warps),
        ("num_stages", config.num_stages),
    )
    return [
        ((variant, coordinates[:i], name, coordinates[i + 1 :]), value)
        for i, (name, value) in enumerate(coordinates)
    ]
