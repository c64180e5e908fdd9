"""A provider whose candidates misbehave, and a timer without a device: for a real worker process.

A candidate's variant says when and what: "check:crash", "launch:hang", or "fine". What happens is
appended to the file that AUTOTUNE_FAKE_LOG names: `pid event subject seconds` a line.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from autotune import Candidate, Config, Gpu, Key
from autotune.task import Artefacts

GPU = Gpu("cuda", "sm_90", "Fake", 1)
TIMER = "tests.autotune_fakes:FakeTimer"
PROVIDER = "tests.autotune_fakes:FAKE"

# The last that was launched: what FakeTimer times.
_last: list[Candidate] = []


def key(**fields) -> Key:
    return Key.of("fakes", "op", fields, {"N": 1}, GPU)


def candidate(variant: str, microseconds: int = 1) -> Candidate:
    return Candidate(variant, Config.of(4, 2, MICROSECONDS=microseconds))


def note(event: str, subject: object = "-") -> None:
    path = os.environ.get("AUTOTUNE_FAKE_LOG")
    if path:
        line = f"{os.getpid()} {event} {str(subject).replace(' ', '_')} {time.monotonic()}\n"
        with open(path, "a") as file:
            file.write(line)


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


class OutOfResources(Exception):
    """Named as Triton's."""


def _exhaust() -> None:
    raise OutOfMemoryError("CUDA: tried to allocate 1 EiB")


def _resources() -> None:
    raise OutOfResources("shared memory, Required: 262144, Hardware limit: 232448")


def _poison() -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def _memory() -> None:
    bytearray(1 << 62)


def _odd() -> None:
    raise KeyError("BLOCK_M")


def _crash() -> None:
    print("about to crash", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def _babble() -> None:
    for number in range(99):
        print(f'{{"id": {number}, "value": null}}')
    os.write(1, b"more garbage\n\x00\xff")
    subprocess.run(["echo", "and a child's"], check=True)


def _meet() -> None:
    note("meet")
    while Path(os.environ["AUTOTUNE_FAKE_LOG"]).read_text().count(" meet ") < 2:
        time.sleep(0.01)


def _brood() -> None:
    child = subprocess.Popen(["sleep", "600"])
    note("child", child.pid)
    time.sleep(600)


DEEDS = {
    "exit": lambda: os._exit(7),
    "sys.exit": lambda: sys.exit(9),
    "hang": lambda: time.sleep(600),
    "crash": _crash,
    "exhaust": _exhaust,
    "memory": _memory,
    "resources": _resources,
    "poison": _poison,
    "odd": _odd,
    "babble": _babble,
    "brood": _brood,
    "meet": _meet,
    "gpu": lambda: note("gpu", repr(os.environ.get("CUDA_VISIBLE_DEVICES"))),
    "close": lambda: os.closerange(3, 256),
}


def _do(when: str, candidate: Candidate) -> None:
    note(when, candidate.variant)
    time_of_deed, _, deed = candidate.variant.partition(":")
    if time_of_deed == when:
        DEEDS[deed]()


class FakeTask:
    def __init__(self, key: Key) -> None:
        self.key = key
        self.fields = dict(key.fields)

    def compile(self, candidate):
        _do("compile", candidate)
        return Artefacts(shared=candidate.config["MICROSECONDS"], registers=32, spills=0)

    def prepare(self):
        note("prepare", self.fields.get("name", "-"))
        if self.fields.get("prepare"):
            DEEDS[self.fields["prepare"]]()
        return FakePrepared()


class FakePrepared:
    def launch(self, candidate):
        _do("launch", candidate)
        _last[:] = [candidate]

    def check(self, candidate):
        _do("check", candidate)
        return "element 3 is 1.0, not 2.0" if candidate.variant == "wrong" else None


class FakeProvider:
    name = "fakes"

    def task(self, key):
        if dict(key.fields).get("unknown"):
            raise ValueError("unknown: expected no such field, got one")
        return FakeTask(key)


class FakeTimer:
    """Gives the microseconds that a candidate's config names, and really waits for `PAUSE`."""

    policy = "fake"
    device = "fake-device"

    def ready(self, launch):
        launch()

        def sample():
            note("begin")
            launch()
            time.sleep(float(os.environ.get("AUTOTUNE_FAKE_PAUSE", "0")))
            note("end")
            return float(_last[0].config["MICROSECONDS"])

        return sample

    def disturbance(self):
        return os.environ.get("AUTOTUNE_FAKE_DISTURBANCE")


FAKE = FakeProvider()
