"""A bench whose candidates run in processes of their own."""

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from ..config import Candidate
from ..key import Key
from ..task import Artefacts, Failure
from .local import warn_of
from .lock import exclusive
from .timing import Rounds
from .workers import Crew, Isolation, Worker


class WorkerBench:
    """A `Bench` on one key: nothing that a candidate does harms this process.

    `provider` is "module:attribute" of the Provider. Give `crew` to keep the workers for the next
    key; a bench without one makes its own and ends it when it is closed, or Python ends.

    Raises ValueError for a name that a worker cannot import.
    """

    def __init__(
        self,
        provider: str,
        key: Key,
        *,
        isolation: Isolation | None = None,
        crew: Crew | None = None,
    ) -> None:
        self._shared = crew is not None
        self._crew = crew or Crew(provider, isolation)
        self._key = key
        self._remote = _Remote(self._crew.measurer, key)
        self._rounds = Rounds(self._remote)
        self._warned = False

    @property
    def policy(self) -> str:
        """How launches are timed, for the record; empty before the first measurement."""
        return self._remote.policy

    @property
    def environment(self) -> Mapping[str, str]:
        """The measuring worker's Python, torch and Triton; empty before the first measurement."""
        return {k: str(v) for k, v in self._crew.measurer.hello.items() if v and k != "pid"}

    def compile(self, candidates: Sequence[Candidate]) -> Mapping[Candidate, Artefacts | Failure]:
        """Compile them, a process for each processor.

        Raises BenchError where no worker starts, or the provider has no task for the key.
        """
        asked = dict.fromkeys(candidates)
        left = deque(asked)
        found: dict[Candidate, Artefacts | Failure] = {}

        def work(worker: Worker) -> None:
            while left:
                try:
                    candidate = left.popleft()
                except IndexError:  # another thread was quicker
                    return
                found[candidate] = self._compile(worker, candidate)

        if not asked:
            return found
        workers = self._crew.compilers(len(asked))
        with ThreadPoolExecutor(len(workers), "autotune-compile") as pool:
            try:
                for done in [pool.submit(work, worker) for worker in workers]:
                    done.result()
            except BaseException as error:
                left.clear()
                if not isinstance(error, Exception):  # Ctrl-C waits for no deadline
                    self._crew.dismiss()
                raise
        return {candidate: found[candidate] for candidate in asked}

    def measure(
        self, candidates: Sequence[Candidate], samples: int
    ) -> Mapping[Candidate, "list[float] | Failure"]:
        """Microseconds of `samples` launches each, in turns, alone on the device.

        Raises BenchError where no worker starts or the task cannot be prepared, DeviceBusyError
        where another process keeps the device.
        """
        if not candidates:
            return {}
        worker = self._crew.measurer
        device = worker.device(self._key)
        with exclusive(device, self._crew.isolation.patience):
            if not self._warned:
                self._warned = True
                warn_of(worker.disturbance())
            worker.on(self._key, prepared=True)
            worker.cool()
            return self._rounds.measure(candidates, samples)

    def close(self) -> None:
        """End the workers, if they are this bench's own."""
        if not self._shared:
            self._crew.close()

    def __enter__(self) -> "WorkerBench":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _compile(self, worker: Worker, candidate: Candidate) -> Artefacts | Failure:
        worker.on(self._key, prepared=False)
        found = worker.about("compile", candidate, self._crew.isolation.deadlines.compile)
        return found if isinstance(found, Failure) else Artefacts(**found)


class _Remote:
    """The measuring worker, one candidate at a time."""

    def __init__(self, worker: Worker, key: Key) -> None:
        self._worker = worker
        self._key = key

    @property
    def policy(self) -> str:
        return self._worker.policy

    def check(self, candidate: Candidate) -> Failure | None:
        return self._about("check", candidate)

    def ready(self, candidate: Candidate) -> Failure | None:
        return self._about("ready", candidate)

    def time(self, candidate: Candidate) -> "float | Failure":
        return self._about("time", candidate)

    def _about(self, job: str, candidate: Candidate):
        self._worker.on(self._key, prepared=True)
        return self._worker.about(job, candidate, self._worker.run_deadline)
