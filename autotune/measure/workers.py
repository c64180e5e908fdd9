"""Worker processes that start again after a candidate ended them."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import Candidate
from ..key import Key
from ..task import Failure, FailureKind
from ..wire import candidate_to_json, key_to_json
from .errors import BenchError
from .process import Process, WorkerGone

# A worker that only compiles makes no context on a GPU.
_NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Deadlines:
    """Seconds after which a worker is taken to hang.

    `start` is for Python, its imports and the device, `prepare` for the task's tensors and the
    expected result, `run` for one check, one warm-up or one launch: each may compile as well.
    """

    start: float = 180.0
    compile: float = 120.0
    prepare: float = 180.0
    run: float = 120.0


@dataclass(frozen=True)
class Isolation:
    """How candidates are kept from harming the user's process.

    `timer` names the Timer's class, "module:attribute". `processes` compile at once (default: as
    many as this process may use processors). `restarts` of one worker on one key are the most.
    `patience` is how many seconds to wait for the lock of the device. `environment` is set in the
    workers, over the parent's; CUDA_VISIBLE_DEVICES there chooses the GPU to measure on.
    """

    timer: str = "autotune.measure.cuda:CudaTimer"
    processes: int | None = None
    deadlines: Deadlines = Deadlines()
    restarts: int = 64
    patience: float = 600.0
    environment: Mapping[str, str] = field(default_factory=dict)


class Worker:
    """One worker: started when it is first needed, and again after it died."""

    def __init__(self, provider: str, isolation: Isolation, gpu: bool) -> None:
        self._provider = _importable("provider", provider)
        self._timer = _importable("timer", isolation.timer)
        self._isolation = isolation
        self._environment = {**isolation.environment, **({} if gpu else _NO_GPU)}
        self._process: Process | None = None
        self._key: Key | None = None  # what the process works on
        self._prepared = False
        self._asked: Key | None = None  # what `starts` counts for
        self._closed = False
        self._last = ""
        self.run_deadline = isolation.deadlines.run
        self.starts = 0
        self.policy = ""
        self.hello: Mapping[str, Any] = {}

    def on(self, key: Key, prepared: bool) -> None:
        """Have a live process that knows `key`, and has prepared it.

        Raises BenchError where no process can.
        """
        if key != self._asked:
            self._asked, self.starts = key, int(self._process is not None)
        limits = self._isolation.deadlines
        if self._process is None or not self._process.alive():
            self._start()
        if self._key != key:
            self._must("task", limits.start, key=key_to_json(key))
            self._key, self._prepared = key, False
        if prepared and not self._prepared:
            self._must("device", limits.start)
            self._must("prepare", limits.prepare)
            self._prepared = True

    def device(self, key: Key) -> str:
        """The name of the device that this worker measures on. Raises BenchError."""
        before = self.starts
        self.on(key, prepared=False)
        try:
            return self._must("device", self._isolation.deadlines.start)
        except BenchError:
            if self.starts != before:
                raise
        # It was killed while it had nothing to do, too lately to be seen.
        self.on(key, prepared=False)
        return self._must("device", self._isolation.deadlines.start)

    def disturbance(self) -> str | None:
        """Who else may be on the device; after `device`."""
        return self._must("disturbance", self._isolation.deadlines.start)

    def cool(self) -> None:
        """Let go of what was made ready; after `on`."""
        self._must("cool", self._isolation.deadlines.prepare)

    def about(self, job: str, candidate: Candidate, deadline: float) -> Any:
        """The answer to a job on a candidate, or its Failure; after `on`."""
        assert self._process is not None
        try:
            answer = self._process.ask(job, deadline, candidate=candidate_to_json(candidate))
        except WorkerGone as gone:
            self._lost(str(gone))
            return gone.failure
        self.policy = answer.get("policy", self.policy)
        if answer.get("poisoned"):
            self._process.kill()
            self._lost(str(answer.get("failure", "")))
        if "error" in answer:
            raise BenchError(f"{job}: {answer['error'][1]}")
        if "failure" in answer:
            kind, detail = answer["failure"]
            return Failure(FailureKind(kind), detail)
        return answer["value"]

    def close(self) -> None:
        """End the process for good."""
        self._closed = True
        if self._process is not None:
            self._process.kill()

    def _start(self) -> None:
        if self._closed:
            raise BenchError("worker: expected an open one, got one that was closed; make another")
        if self.starts > self._isolation.restarts:
            raise BenchError(
                f"worker: expected at most {self._isolation.restarts} restarts, got more; "
                f"the last one ended with {self._last}"
            )
        self.starts += 1
        self._lost(self._last)
        self._process = Process(self._environment)
        self.hello = self._must(
            "hello",
            self._isolation.deadlines.start,
            path=[os.path.abspath(entry) for entry in sys.path],
            cwd=os.getcwd(),
            provider=self._provider,
            timer=self._timer,
        )

    def _lost(self, why: str) -> None:
        self._process, self._key, self._prepared, self._last = None, None, False, why

    def _must(self, job: str, deadline: float, **arguments: Any) -> Any:
        assert self._process is not None
        try:
            answer = self._process.ask(job, deadline, **arguments)
        except WorkerGone as gone:
            self._lost(str(gone))
            raise BenchError(f"{job}: {gone}") from None
        if "error" in answer:
            self._process.kill()  # in what state it is, nobody knows
            self._lost(answer["error"][1])
            raise BenchError(f"{job}: {answer['error'][1]}")
        self.policy = answer.get("policy", self.policy)
        return answer["value"]


class Crew:
    """One worker that measures, and as many that compile as there are processors.

    They outlive a key: starting Python, importing a library and opening a device cost seconds.
    For one thread at a time.
    """

    def __init__(self, provider: str, isolation: Isolation | None = None) -> None:
        self.isolation = isolation or Isolation()
        self._provider = provider
        self._compilers: list[Worker] = []
        self.measurer = Worker(provider, self.isolation, gpu=True)

    def compilers(self, jobs: int) -> list[Worker]:
        """As many workers that compile as there is work for."""
        most = self.isolation.processes or _processors()
        while len(self._compilers) < min(jobs, most):
            self._compilers.append(Worker(self._provider, self.isolation, gpu=False))
        return self._compilers[: min(jobs, most)]

    def dismiss(self) -> None:
        """End the workers that compile, at once; the next `compilers` are new ones."""
        for worker in self._compilers:
            worker.close()
        self._compilers = []

    def close(self) -> None:
        """End every worker."""
        self.dismiss()
        self.measurer.close()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _importable(what: str, name: str) -> str:
    module, colon, attribute = name.partition(":")
    if not module or not colon or not attribute or module == "__main__":
        raise ValueError(
            f'{what}: expected "module:attribute" of a module that can be imported, got {name!r}; '
            "a worker does not run the caller's script again"
        )
    return name
