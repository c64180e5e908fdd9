"""What a tuner is handed: problems with candidates, and the means to compile and launch them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from .config import Candidate
from .key import Gpu, Key


class FailureKind(str, Enum):
    """Why a candidate is out."""

    ILLEGAL = "illegal"  # the problem's own rules refuse it
    COMPILE = "compile"  # it does not compile
    RESOURCES = "resources"  # it compiles to more than the device has, or it spills
    MEMORY = "memory"  # the device ran out of memory
    WRONG = "wrong"  # its result is not the reference's
    CRASH = "crash"  # the process that ran it died
    HANG = "hang"  # it did not come back in time
    ERROR = "error"  # it raised anything else


@dataclass(frozen=True)
class Failure:
    """A candidate that cannot be used, and what was seen."""

    kind: FailureKind
    detail: str = ""


@dataclass(frozen=True)
class Artefacts:
    """Of one candidate, compiled: the most that any of its kernels takes.

    Bytes of shared memory, registers a thread, spilled registers.
    """

    shared: int
    registers: int
    spills: int


@dataclass(frozen=True)
class Limits:
    """What a device has for one program: bytes of shared memory, registers a thread."""

    shared: int
    registers: int = 255


@dataclass(frozen=True)
class Build:
    """What a measurement is true of: a hash of the kernels' source, Triton's major.minor."""

    kernels: str
    triton: str


class Prepared(Protocol):
    """A problem with its tensors on a device, and the result to expect."""

    def launch(self, candidate: Candidate) -> None:
        """Run it once on the current stream."""
        ...

    def check(self, candidate: Candidate) -> str | None:
        """Run it once into a poisoned result. None if the result is right, else what is wrong."""
        ...


class Task(Protocol):
    """One problem on one device."""

    key: Key
    limits: Limits

    def candidates(self) -> Sequence[Candidate]:
        """Every legal one, in canonical order. The default is among them."""
        ...

    def default(self) -> Candidate:
        """The analytic choice, which needs no measurement."""
        ...

    def is_legal(self, candidate: Candidate) -> bool:
        """Whether the problem's own rules allow a candidate, wherever it comes from."""
        ...

    def predict(self, candidate: Candidate) -> float:
        """Time by a model, in units of its own: it ranks, and promises nothing."""
        ...

    def build(self, candidate: Candidate) -> Build:
        """What a measurement of the candidate would be true of."""
        ...

    def compile(self, candidate: Candidate) -> Artefacts:
        """Compile every kernel of the candidate; needs no GPU. Raises what Triton raises."""
        ...

    def prepare(self) -> Prepared:
        """Make tensors and the expected result; needs the GPU."""
        ...


class Provider(Protocol):
    """A library whose kernels can be tuned."""

    name: str

    def task(self, key: Key) -> Task:
        """The task of a key, built again from its fields. Raises ValueError where there is none."""
        ...

    def gpu(self, target: str | None = None) -> Gpu:
        """This machine's GPU, or the one that `target` ("sm_90") stands for.

        Raises RuntimeError where there is none.
        """
        ...

    def environment(self) -> Mapping[str, str]:
        """Versions and the like, for the record: provenance that decides nothing."""
        ...

    def suite(self, gpu: Gpu) -> Iterable[Key]:
        """The problems of the library's benchmark suite."""
        ...

    def from_model(self, model: Any, inputs: Sequence[Any], gpu: Gpu) -> Iterable[Key]:
        """The problems that a forward and a backward pass of a model meet."""
        ...

    def from_shape(self, description: Mapping[str, Any], gpu: Gpu) -> Iterable[Key]:
        """The problems that one line of a file of shapes describes. Raises ValueError."""
        ...


class Bench(Protocol):
    """What a search may do. Candidates that fail are named with their failure, never raised."""

    def compile(self, candidates: Sequence[Candidate]) -> Mapping[Candidate, Artefacts | Failure]:
        """Compile them, in parallel where there are processors."""
        ...

    def measure(
        self, candidates: Sequence[Candidate], samples: int
    ) -> Mapping[Candidate, "list[float] | Failure"]:
        """Microseconds of `samples` launches each, taken in turns so that a drift of the clock
        meets all alike. Each is checked for correctness before it is first timed."""
        ...


@dataclass
class Outcome:
    """What a search found.

    `times` are the medians in microseconds of what was measured, `ties` those that cannot be told
    from the best; `noise` is the relative half-width within which two medians count as equal.
    `stopped` is "" for a search that came to its end, else what ended it: "time", "trials",
    "interrupted", or "nothing works". `trials` and `compiles` are what it spent.
    """

    best: Candidate
    default: Candidate
    times: dict[Candidate, float] = field(default_factory=dict)
    samples: dict[Candidate, int] = field(default_factory=dict)
    failures: dict[Candidate, Failure] = field(default_factory=dict)
    ties: tuple[Candidate, ...] = ()
    noise: float = 0.0
    stopped: str = ""
    trials: int = 0
    compiles: int = 0
    seconds: float = 0.0

    @property
    def speedup(self) -> float:
        """Of the best over the default, measured in the same run; 1 where nothing was measured."""
        if self.best not in self.times or self.default not in self.times:
            return 1.0
        return self.times[self.default] / self.times[self.best]
