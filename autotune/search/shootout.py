"""The last comparison: the finalists in interleaved rounds, the default among them."""

from collections.abc import Sequence

from ..config import Candidate
from .trials import Trials

# (finalists, rounds): those so many that are still in race so many rounds more.
STAGES = ((6, 8), (3, 8), (2, 16))
# The default leaves early only when the leader is this far ahead after a stage.
HOPELESS = 1.25


def shoot_out(trials: Trials, finalists: Sequence[Candidate]) -> None:
    """Time the finalists in turns, fewer and fewer of them.

    What they took in earlier races picked them, so it flatters them: a verdict looks at the rounds
    of the shoot-out alone. With few trials left each stage has fewer rounds.
    """
    start = trials.rounds
    share = 1.0 if trials.left is None else min(1.0, trials.left / cost(len(finalists)))
    pool = [c for c in finalists if c != trials.default][: STAGES[0][0]]
    default = [trials.default]
    for size, rounds in STAGES:
        pool = pool[:size]
        working = trials.measure([*default, *pool], max(1, int(rounds * share)))
        ranked = trials.ranked(working, since=start)
        if default and trials.default in working:
            slow = trials.median(trials.default, since=start)
            if slow > HOPELESS * trials.median(ranked[0], since=start):
                default = []
        pool = [c for c in ranked if c != trials.default]
        if not pool:
            break


def cost(finalists: int) -> int:
    """Trials of a shoot-out among so many and the default."""
    return sum((min(finalists, size) + 1) * rounds for size, rounds in STAGES)
