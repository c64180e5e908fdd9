"""Measuring in this process: what the worker does, and what is done where isolation is off."""

import warnings
from collections.abc import Callable, Mapping, Sequence

from ..config import Candidate
from ..task import Artefacts, Failure, FailureKind, Prepared, Task
from .errors import BenchError
from .failures import failure_of, poisons
from .lock import exclusive
from .timing import Rounds, Timer


class Local:
    """One task in this process, one candidate at a time."""

    def __init__(self, task: Task, timer: Timer) -> None:
        self._task = task
        self._timer = timer
        self._prepared: Prepared | None = None
        self._samplers: dict[Candidate, Callable[[], float]] = {}
        self.poisoned = False

    @property
    def policy(self) -> str:
        """The timer's."""
        return self._timer.policy

    def prepare(self) -> Prepared:
        """The task's tensors, made once. Raises what making them raises."""
        if self._prepared is None:
            self._prepared = self._task.prepare()
        return self._prepared

    def check(self, candidate: Candidate) -> Failure | None:
        """Compare its result with the reference's."""
        prepared = self.prepare()
        try:
            wrong = prepared.check(candidate)
        except Exception as error:
            return self._failed(error)
        return None if wrong is None else Failure(FailureKind.WRONG, wrong)

    def ready(self, candidate: Candidate) -> Failure | None:
        """Warm it up, unless it is warm."""
        if candidate in self._samplers:
            return None
        prepared = self.prepare()
        try:
            self._samplers[candidate] = self._timer.ready(lambda: prepared.launch(candidate))
        except Exception as error:
            return self._failed(error)
        return None

    def time(self, candidate: Candidate) -> "float | Failure":
        """Microseconds of one launch."""
        failure = self.ready(candidate)
        if failure is not None:
            return failure
        try:
            return self._samplers[candidate]()
        except Exception as error:
            return self._failed(error)

    def cool(self) -> None:
        """Forget what was made ready: a CUDA graph holds memory."""
        self._samplers.clear()

    def _failed(self, error: Exception) -> Failure:
        self.poisoned = self.poisoned or poisons(error)
        return failure_of(error, compiling=False)


def compiled(task: Task, candidate: Candidate) -> Artefacts | Failure:
    """Compile a candidate in this process."""
    try:
        return task.compile(candidate)
    except Exception as error:
        return failure_of(error, compiling=True)


class LocalBench:
    """A `Bench` in this process: a candidate that hangs or crashes takes it along.

    `patience` is how many seconds to wait for a device on which another process measures.
    """

    def __init__(self, task: Task, timer: Timer, *, patience: float = 600.0) -> None:
        self._task = task
        self._timer = timer
        self._patience = patience
        self._local = Local(task, timer)
        self._rounds = Rounds(self._local)
        self._warned = False

    @property
    def policy(self) -> str:
        """How launches are timed, for the record."""
        return self._timer.policy

    def compile(self, candidates: Sequence[Candidate]) -> Mapping[Candidate, Artefacts | Failure]:
        """Compile them, one after another."""
        return {candidate: compiled(self._task, candidate) for candidate in candidates}

    def measure(
        self, candidates: Sequence[Candidate], samples: int
    ) -> Mapping[Candidate, "list[float] | Failure"]:
        """Microseconds of `samples` launches each, in turns, alone on the device.

        Raises BenchError where the task cannot be prepared, or after an error that leaves the
        device unusable to this process; DeviceBusyError where another process keeps the device.
        """
        with exclusive(self._timer.device, self._patience):
            self._warn()
            try:
                self._local.prepare()
            except Exception as error:
                raise BenchError(f"prepare: {failure_of(error, False).detail}") from error
            self._local.cool()
            found = self._rounds.measure(candidates, samples)
        if self._local.poisoned:
            raise BenchError("the device is unusable to this process now; measure in a worker")
        return found

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            warn_of(self._timer.disturbance())

    def __enter__(self) -> "LocalBench":
        return self

    def __exit__(self, *_: object) -> None:
        self._local.cool()


def warn_of(disturbance: str | None) -> None:
    """Say that times may be off, if there is a reason to."""
    if disturbance is not None:
        warnings.warn(f"autotune: {disturbance}", RuntimeWarning, stacklevel=3)
