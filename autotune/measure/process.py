"""One worker process seen from its parent: lines of JSON, a deadline for each, and its end."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ..task import Failure, FailureKind

_ROOT = Path(__file__).resolve().parents[2]
# How often a silent worker is looked at, in seconds: a child of its own may keep the pipe open.
_GLANCE = 0.2
_TAIL = 2000


class WorkerGone(Exception):
    """The worker died, or was killed because it did not answer in time."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.kind.value}: {failure.detail}")
        self.failure = failure


class Process:
    """A running `python -m autotune.worker`, in a session of its own.

    Ctrl-C reaches the parent alone, and its children can be killed with it.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        env = {**os.environ, **environment}
        env.pop("PYTHONSAFEPATH", None)
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (open while it runs)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "autotune.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            # Where this package lies: the caller's folder may hold another of its name.
            cwd=_ROOT,
            env=env,
            bufsize=0,
            start_new_session=True,
        )
        self._buffer = b""
        self._id = 0
        self._end = weakref.finalize(self, _end, self._process, os.getpid())

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._end.alive and not _dead(self.pid)

    def kill(self) -> None:
        """End it and its children, and wait until it is gone."""
        self._end()

    def ask(self, job: str, deadline: float, **arguments: Any) -> dict[str, Any]:
        """Its answer to one job, within `deadline` seconds. Raises WorkerGone."""
        self._id += 1
        line = json.dumps({"id": self._id, "job": job, **arguments}).encode() + b"\n"
        try:
            # What it writes to stderr from here on belongs to this job.
            self._errors.seek(0)
            self._errors.truncate()
            self._send(line)
            return self._answer(time.monotonic() + deadline, deadline, job)
        except BaseException:
            # Also on Ctrl-C: an answer that nobody waits for would be taken for the next job's.
            self.kill()
            raise

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        try:
            while line:
                line = line[os.write(self._process.stdin.fileno(), line) :]
        except BrokenPipeError:
            raise WorkerGone(self._died()) from None

    def _answer(self, until: float, deadline: float, job: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        poll = select.poll()  # select.select refuses descriptors from 1024 on
        poll.register(pipe, select.POLLIN)
        while True:
            while b"\n" in self._buffer:
                line, self._buffer = self._buffer.split(b"\n", 1)
                answer = _parsed(line)
                # What Python's start-up files print comes before anything that we say.
                if answer.get("id") == self._id:
                    return answer
            left = until - time.monotonic()
            if left <= 0:
                hang = f"no answer to {job} within {deadline:g} s{self._tail()}"
                raise WorkerGone(Failure(FailureKind.HANG, hang))
            if poll.poll(1000 * min(left, _GLANCE)):
                read = os.read(pipe, 1 << 16)
                if not read:
                    raise WorkerGone(self._died())
                self._buffer += read
            elif _dead(self.pid):
                raise WorkerGone(self._died())

    def _died(self) -> Failure:
        # The pipe may break before the process has ended.
        patience = time.monotonic() + 5
        while not _dead(self.pid) and time.monotonic() < patience:
            time.sleep(0.005)
        tail = self._tail()
        self.kill()
        code = self._process.wait()  # another thread may be the one that ends it
        how = f"killed by {_signal(-code)}" if code < 0 else f"exited with code {code}"
        return Failure(FailureKind.CRASH, how + tail)

    def _tail(self) -> str:
        """The last that it wrote to stderr, with what came before it to be appended to."""
        descriptor = self._errors.fileno()
        size = os.fstat(descriptor).st_size
        # pread: the position in this file is shared with the worker.
        last = os.pread(descriptor, _TAIL, max(0, size - _TAIL)).decode(errors="replace").strip()
        return f"; stderr: {last}" if last else ""


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _dead(pid: int) -> bool:
    """Whether it has ended; it stays a zombie, so that its process group keeps its number."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _end(process: "subprocess.Popen[bytes]", parent: int) -> None:
    if os.getpid() != parent:  # a fork of the parent leaves its worker alone
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
