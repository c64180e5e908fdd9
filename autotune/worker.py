"""The process that compiles and runs candidates, so that it may hang or die in the user's place.

    python -m autotune.worker

reads one job a line from stdin and writes one answer a line to stdout, both JSON:
`{"id": 1, "job": "check", "candidate": {...}}` and `{"id": 1, "value": ...}`, or `"failure"` for a
candidate that is out, or `"error"` for what no candidate is to blame for. The first job is `hello`.
"""

import os
import sys

if __name__ == "__main__":
    # Before anything else is imported: whatever is printed from here on goes to stderr.
    _JOBS, _ANSWERS = os.dup(0), os.dup(1)
    _nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(_nothing, 0)
    os.dup2(2, 1)
    os.close(_nothing)
    sys.stdout = sys.stderr

import faulthandler
import importlib
import importlib.metadata
import json
import platform
import queue
import signal
import threading
from typing import Any

from autotune.measure.failures import failure_of
from autotune.measure.local import Local, compiled
from autotune.measure.timing import Timer
from autotune.task import Artefacts, Failure, Task
from autotune.wire import artefacts_to_json, candidate_from_json, key_from_json


class Worker:
    """Does jobs, one after another; each method is the job of its name."""

    def __init__(self) -> None:
        self._names: tuple[str, str] = ("", "")
        self._task: Task | None = None
        self._timer: Timer | None = None
        self._local: Local | None = None

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """The answer to a job."""
        said: dict[str, Any] = {"id": job["id"]}
        arguments = {k: v for k, v in job.items() if k not in ("id", "job")}
        if "candidate" in arguments:
            arguments["candidate"] = candidate_from_json(arguments["candidate"])
        try:
            value = getattr(self, f"do_{job['job']}")(**arguments)
        except Exception as error:
            said["error"] = _to_json(failure_of(error, compiling=False))
        else:
            what = "failure" if isinstance(value, Failure) else "value"
            said[what] = _to_json(value)
        if self._local is not None:
            said["policy"] = self._local.policy
            said["poisoned"] = self._local.poisoned
        return said

    def do_hello(self, path: list[str], cwd: str, provider: str, timer: str) -> dict[str, Any]:
        """Take over the parent's import path and folder; say who we are."""
        sys.path[:] = path
        os.chdir(cwd)
        self._names = (provider, timer)
        versions = {name: _version(name) for name in ("torch", "triton")}
        return {"pid": os.getpid(), "python": platform.python_version(), **versions}

    def do_task(self, key: dict[str, Any]) -> None:
        """Work on this key from now on; the last one's tensors are let go."""
        self._local = None
        self._task = _resolved(self._names[0]).task(key_from_json(key))

    def do_compile(self, candidate: Any) -> Artefacts | Failure:
        """Compile a candidate."""
        assert self._task is not None
        return compiled(self._task, candidate)

    def do_device(self) -> str:
        """The name of the device that is measured on."""
        return self._get_timer().device

    def do_disturbance(self) -> str | None:
        """Who else may be on the device."""
        return self._get_timer().disturbance()

    def do_prepare(self) -> None:
        """Make the task's tensors and the result to expect."""
        assert self._task is not None
        self._local = Local(self._task, self._get_timer())
        self._local.prepare()

    def do_cool(self) -> None:
        """Forget what was made ready."""
        self._prepared().cool()

    def do_check(self, candidate: Any) -> Failure | None:
        """Compare a candidate's result with the reference's."""
        return self._prepared().check(candidate)

    def do_ready(self, candidate: Any) -> Failure | None:
        """Warm a candidate up."""
        return self._prepared().ready(candidate)

    def do_time(self, candidate: Any) -> "float | Failure":
        """Microseconds of one launch of a candidate."""
        return self._prepared().time(candidate)

    def _prepared(self) -> Local:
        assert self._local is not None
        return self._local

    def _get_timer(self) -> Timer:
        timer = self._timer or _resolved(self._names[1])()
        self._timer = timer
        return timer


def _resolved(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _to_json(value: Any) -> Any:
    if isinstance(value, Failure):
        return [value.kind.value, value.detail]
    return artefacts_to_json(value) if isinstance(value, Artefacts) else value


def _read(jobs: "queue.SimpleQueue[bytes]", descriptor: int) -> None:
    left = b""
    while more := os.read(descriptor, 1 << 16):
        *lines, left = (left + more).split(b"\n")
        for line in lines:
            jobs.put(line)
    # The parent is gone, perhaps while a candidate hangs. The group is ours unless run by hand.
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def main(source: int, sink: int) -> None:
    """Answer the jobs of one pipe on another until the parent closes them."""
    faulthandler.enable()
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(jobs, source), daemon=True).start()
    worker = Worker()
    while True:
        answer = json.dumps(worker.answer(json.loads(jobs.get()))).encode() + b"\n"
        while answer:
            answer = answer[os.write(sink, answer) :]


if __name__ == "__main__":
    main(_JOBS, _ANSWERS)
