"""Times candidates, alone on the device and in turns, and survives what they do.

`WorkerBench` runs them in processes of their own, `LocalBench` in this one.
"""

from .errors import BenchError, DeviceBusyError
from .isolated import WorkerBench
from .local import LocalBench
from .lock import exclusive
from .timing import Timer, medians, rotated
from .workers import Crew, Deadlines, Isolation

__all__ = [
    "BenchError",
    "Crew",
    "Deadlines",
    "DeviceBusyError",
    "Isolation",
    "LocalBench",
    "Timer",
    "WorkerBench",
    "exclusive",
    "medians",
    "rotated",
]
