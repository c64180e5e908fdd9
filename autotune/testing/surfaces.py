"""Problems whose true times are known: a task and a bench made of a seed, without a GPU.

Frozen: a search that is tuned to a surface says nothing once the surface follows the search. The
digest of its times is a test; whoever changes it measures every strategy again.
"""

import hashlib
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..config import Candidate, Config
from ..key import Gpu, Key, digest
from ..task import Artefacts, Build, Failure, FailureKind, Limits, Prepared

PLAIN = {
    "BLOCK_M": (16, 32, 64, 128, 256),
    "BLOCK_N": (16, 32, 64, 128, 256),
    "BLOCK_K": (16, 32, 64, 128),
}
SPLIT = {
    "BLOCK_M": (32, 64, 128),
    "BLOCK_N": (32, 64, 128),
    "BLOCK_K": (32, 64),
    "SPLIT": (2, 4, 8),
}
# One multiprocessor: multiply-adds a microsecond, registers, warps; bytes an element.
RATE, REGISTERS, WARPS, ELEMENT = 1.4e6, 65536, 64, 2


@dataclass(frozen=True)
class _Problem:
    """A matrix product M × N over K, and the device that computes it."""

    M: int
    N: int
    K: int
    multiprocessors: int
    shared: int  # bytes a program may take
    bandwidth: float  # bytes a microsecond, of the whole device
    l2: float  # bytes
    latency: float  # microseconds from a load to its use
    base: int  # registers that addresses and masks take

    @classmethod
    def draw(cls, rng: random.Random) -> "_Problem":
        devices = (
            (56, 101376, 6e5, 6e6),
            (80, 98304, 9e5, 6e6),
            (108, 166912, 1.5e6, 4e7),
            (132, 232448, 3.3e6, 5e7),
        )
        device = rng.choice(devices)
        return cls(
            M=round(2 ** (9 + 9 * rng.random())),
            N=rng.choice((64, 96, 128, 192, 256, 320, 512, 768, 1024)),
            K=rng.choice((64, 147, 288, 576, 800, 1152, 2304, 4608)),
            multiprocessors=device[0],
            shared=device[1],
            bandwidth=device[2],
            l2=device[3],
            latency=0.35 + 0.4 * rng.random(),
            base=24 + rng.randrange(24),
        )


class Surface:
    """A task whose true times are known. It has a `Task`'s methods, and the truth besides.

    Programs fill a device in waves; multiply-adds, bytes and latency bound a program together.
    Bank conflicts, misses of the L2 cache and pairs of constants that do not suit each other come
    on top. The rules refuse a seventh of the configs. Of the others a sixth fails: most by the
    shared memory or the spills that they compile to, some do not compile, a few crash or are wrong.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.problem = problem = _Problem.draw(random.Random(f"surface {seed}"))
        gpu = Gpu("cuda", "sm_00", "synthetic", problem.multiprocessors)
        sizes = {"M": problem.M, "N": problem.N, "K": problem.K}
        self.key = Key.of("synthetic", "product", {"seed": seed}, sizes, gpu)
        self.limits = Limits(problem.shared)
        self._times: dict[Candidate, float] = {}
        self._working: dict[Candidate, bool] = {}

    # What a search may ask.

    def candidates(self) -> Sequence[Candidate]:
        """Every one that the rules allow, in canonical order."""
        return self._legal

    def default(self) -> Candidate:
        """A fixed tile, cut to the problem as a heuristic would."""
        block_n = min(128, _power_of_two(self.problem.N))
        block_m = 64 if self.problem.M / self.problem.multiprocessors < 256 else 128
        config = Config.of(4, 3, BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=32)
        return Candidate("plain", config)

    def is_legal(self, candidate: Candidate) -> bool:
        """Whether the rules allow it."""
        return candidate in self._allowed

    def predict(self, candidate: Candidate) -> float:
        """Waves of rooflines. Knows nothing of warps, stages, conflicts, caches and latency."""
        p, c = self.problem, dict(candidate.config.constants)
        split = c.get("SPLIT", 1)
        m, n, k = c["BLOCK_M"], c["BLOCK_N"], c["BLOCK_K"]
        programs = math.ceil(p.M / m) * math.ceil(p.N / n) * split
        waves = math.ceil(programs / p.multiprocessors)
        depth = math.ceil(p.K / split / k) * k
        compute = m * n * depth / RATE
        memory = (m + n) * depth * ELEMENT * p.multiprocessors / (3 * p.bandwidth)
        return waves * max(compute, memory) + (split > 1) * split * p.M * p.N * 8 / p.bandwidth

    def build(self, candidate: Candidate) -> Build:
        """A fixed one."""
        return Build("synthetic", "0.0")

    def compile(self, candidate: Candidate) -> Artefacts:
        """What it takes. Raises RuntimeError where it does not compile."""
        if self._chance("compile", candidate) < 0.012:
            raise RuntimeError("synthetic: no code for this config")
        return self._artefacts(candidate)

    def prepare(self) -> Prepared:
        """Not to be had: `SurfaceBench` measures."""
        raise NotImplementedError("surface: no tensors; measure it with SurfaceBench")

    # The truth.

    def fault(self, candidate: Candidate) -> FailureKind | None:
        """What happens to a compiled candidate that runs, if it does not work."""
        chance = self._chance("run", candidate)
        if chance < 0.010:
            return FailureKind.CRASH if chance < 0.007 else FailureKind.WRONG
        return None

    def truth(self, candidate: Candidate) -> float:
        """Microseconds of a candidate without noise."""
        known = self._times.get(candidate)
        if known is None:
            known = self._times[candidate] = self._time(candidate)
        return known

    def works(self, candidate: Candidate) -> bool:
        """Whether it compiles to what the device has, without spills, and computes what it must."""
        known = self._working.get(candidate)
        if known is None:
            known = self._working[candidate] = self._works(candidate)
        return known

    @cached_property
    def best(self) -> float:
        """Microseconds of the truly fastest candidate that works."""
        return min(self.truth(c) for c in self._legal if self.works(c))

    def regret(self, candidate: Candidate) -> float:
        """How much slower than the truly fastest, as a share of it; infinite if it fails."""
        return self.truth(candidate) / self.best - 1 if self.works(candidate) else math.inf

    @cached_property
    def digest(self) -> str:
        """Of every candidate's true time and predicted time, to six digits."""
        times = [(f"{self.truth(c):.5e}", f"{self.predict(c):.5e}") for c in self._legal]
        works = [self.works(c) for c in self._legal]
        return digest([[str(c) for c in self._legal], times, works, str(self.default())])

    @cached_property
    def grid(self) -> list[Candidate]:
        """Every config, legal or not."""
        return sorted(
            Candidate(variant, Config.of(warps, stages, **constants))
            for variant, constants, warps, stages in _grid()
        )

    @cached_property
    def _legal(self) -> list[Candidate]:
        default = self.default()
        return [c for c in self.grid if c == default or self._rules(c)]

    @cached_property
    def _allowed(self) -> frozenset[Candidate]:
        return frozenset(self._legal)

    def _rules(self, candidate: Candidate) -> bool:
        p, c = self.problem, dict(candidate.config.constants)
        if c["BLOCK_M"] * c["BLOCK_N"] < candidate.config.num_warps * 128:
            return False  # warps without work
        if c["BLOCK_N"] >= 2 * _power_of_two(p.N) or c["BLOCK_K"] > _power_of_two(p.K):
            return False  # more than half is padding
        return c.get("SPLIT", 1) * c["BLOCK_K"] <= p.K

    def _works(self, candidate: Candidate) -> bool:
        try:
            artefacts = self.compile(candidate)
        except RuntimeError:
            return False
        fits = artefacts.shared <= self.limits.shared
        return fits and artefacts.spills == 0 and self.fault(candidate) is None

    def _artefacts(self, candidate: Candidate) -> Artefacts:
        c, config = dict(candidate.config.constants), candidate.config
        m, n, k, threads = c["BLOCK_M"], c["BLOCK_N"], c["BLOCK_K"], 32 * config.num_warps
        shared = (m + n) * k * ELEMENT * (config.num_stages - 1) + 256
        demand = self.problem.base + m * n // threads + (m + n) * min(k, 32) // (2 * threads)
        spills = max(0, demand - 255)
        return Artefacts(shared, min(255, demand), spills)

    def _time(self, candidate: Candidate) -> float:
        p, c, config = self.problem, dict(candidate.config.constants), candidate.config
        m, n, k, split = c["BLOCK_M"], c["BLOCK_N"], c["BLOCK_K"], c.get("SPLIT", 1)
        a = self._artefacts(candidate)
        rows, columns = math.ceil(p.M / m), math.ceil(p.N / n)
        programs, steps = rows * columns * split, math.ceil(p.K / split / k)
        occupancy = max(
            1,
            min(
                (p.shared + 1024) // (a.shared + 1024),
                REGISTERS // (a.registers * 32 * config.num_warps),
                WARPS // config.num_warps,
            ),
        )
        # Per step of the loop, of one program that has a multiprocessor to itself.
        per_warp = m * n / config.num_warps
        shape = 1 + 900 / per_warp + 0.12 * abs(math.log2(m / n)) ** 1.5
        conflicts = 1 + 0.35 * self._chance("banks", n, k) ** 2
        compute = m * n * k / RATE * 1.15 * shape * conflicts
        # Rows of x come from L2 as long as what the running programs share fits into it.
        shared_bytes = min(programs, p.multiprocessors * occupancy) / columns * m * p.K * ELEMENT
        miss = 0.25 + 0.75 * shared_bytes / (shared_bytes + p.l2)
        transfer = (m * miss + n * 0.3) * k * ELEMENT * p.multiprocessors / p.bandwidth
        latency = (p.latency + 0.02 * config.num_warps) / config.num_stages + 0.03

        def wave(resident: int) -> float:
            bounds = (resident * compute, resident * transfer, latency)
            step = sum(b**3 for b in bounds) ** (1 / 3)
            return steps * step + 2 * p.latency + resident * m * n / 6e4

        full, rest = divmod(programs, p.multiprocessors * occupancy)
        total = full * wave(occupancy)
        if rest:
            total += wave(math.ceil(rest / p.multiprocessors))
        if split > 1:
            total += 1.5 + (split + 1) * p.M * p.N * 4 / p.bandwidth
        return (2.5 + total) * math.exp(self._quirks(candidate))

    def _quirks(self, candidate: Candidate) -> float:
        """What no model explains: constants that suit each other or do not, and each config."""
        c, config = dict(candidate.config.constants), candidate.config
        pairs = (
            ("m n", c["BLOCK_M"], c["BLOCK_N"]),
            ("m warps", c["BLOCK_M"], config.num_warps),
            ("n warps", c["BLOCK_N"], config.num_warps),
            ("k stages", c["BLOCK_K"], config.num_stages),
            ("warps stages", config.num_warps, config.num_stages),
        )
        total = sum(0.30 * (self._chance(*pair) - 0.5) for pair in pairs)
        return total + 0.12 * (self._chance("own", candidate) - 0.5)

    def _chance(self, *what: object) -> float:
        """A number in [0, 1) that depends on the seed and on `what` alone."""
        text = "|".join([str(self.seed), *map(str, what)])
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


def _grid() -> Iterator[tuple[str, dict[str, int], int, int]]:
    for values in itertools.product(*PLAIN.values(), (2, 4, 8), (2, 3, 4)):
        yield "plain", dict(zip(PLAIN, values, strict=False)), values[-2], values[-1]
    for values in itertools.product(*SPLIT.values(), (4, 8), (2, 3)):
        yield "split", dict(zip(SPLIT, values, strict=False)), values[-2], values[-1]


def _power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size`."""
    return 1 << (size - 1).bit_length()


class SurfaceBench:
    """A bench on a surface: the truth times noise, from a seed of its own.

    A sample is off by 5 % (one standard deviation, of the logarithm), one in fifty is an outlier of
    up to three times, and the clock drifts by ±2 % over some hundred samples; `noise` scales all
    three. `clock` advances by what compiling and measuring would have taken. `fails` overrides what
    becomes of a candidate.
    """

    def __init__(
        self,
        surface: Surface,
        seed: int = 0,
        noise: float = 1.0,
        fails: Mapping[Candidate, Failure] | None = None,
        on_sample: Callable[[int], None] | None = None,
    ) -> None:
        self.surface, self.noise, self.fails = surface, noise, fails or {}
        self.on_sample = on_sample
        self.trials = self.compiles = 0
        self._seconds = 0.0
        self._rng = random.Random(f"bench {surface.seed} {seed}")
        self._phase = self._rng.random()

    def clock(self) -> float:
        """Seconds that it has taken."""
        return self._seconds

    def compile(self, candidates: Sequence[Candidate]) -> Mapping[Candidate, Artefacts | Failure]:
        """As `Bench`; a second each, eight at once."""
        self._seconds += math.ceil(len(candidates) / 8)
        self.compiles += len(candidates)
        found: dict[Candidate, Artefacts | Failure] = {}
        for candidate in candidates:
            failure = self.fails.get(candidate)
            if failure is not None and failure.kind is FailureKind.COMPILE:
                found[candidate] = failure
                continue
            try:
                found[candidate] = self.surface.compile(candidate)
            except RuntimeError as error:
                found[candidate] = Failure(FailureKind.COMPILE, str(error))
        return found

    def measure(
        self, candidates: Sequence[Candidate], samples: int
    ) -> Mapping[Candidate, "list[float] | Failure"]:
        """As `Bench`; a hundredth of a second a sample."""
        found: dict[Candidate, list[float] | Failure] = {}
        for candidate in candidates:
            failure = self.fails.get(candidate)
            fault = self.surface.fault(candidate)
            if failure is None and fault is not None:
                failure = Failure(fault, "synthetic")
            found[candidate] = [] if failure is None else failure
        for _ in range(samples):
            for candidate, times in found.items():
                if isinstance(times, list):
                    times.append(self._sample(candidate))
        return found

    def _sample(self, candidate: Candidate) -> float:
        self.trials += 1
        self._seconds += 0.01
        if self.on_sample is not None:
            self.on_sample(self.trials)
        drift = 0.02 * math.sin(2 * math.pi * (self.trials / 400 + self._phase))
        error = self._rng.gauss(0, 0.05) + drift
        if self._rng.random() < 0.02:
            error += self._rng.random() * math.log(3)
        return self.surface.truth(candidate) * math.exp(self.noise * error)
