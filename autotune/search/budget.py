"""What a search may spend."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field


class Exhausted(Exception):
    """A limit is reached: `reason` is "time" or "trials"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Budget:
    """At most so many seconds and so many trials; None is no limit.

    A trial is one timed sample of one candidate. Compiling takes seconds and no trials. The trials
    are kept to the sample; seconds are looked at between calls of the bench, so that the last one
    may overrun. `clock` gives seconds from any origin.

    Raises ValueError for a limit that is not positive.
    """

    seconds: float | None = None
    trials: int | None = None
    clock: Callable[[], float] = field(default=time.monotonic, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, limit in (("seconds", self.seconds), ("trials", self.trials)):
            if limit is not None and not limit > 0:
                raise ValueError(
                    f"{name}: expected a positive limit, got {limit}; None is without a limit"
                )
