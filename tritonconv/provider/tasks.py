"""A problem as the tuner sees it: candidates, compilation, and launches with a result to expect."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from autotune import Candidate, Key
from autotune.task import Artefacts, Build, Limits, Prepared

from .. import planning, pooling
from ..device import Device, device_like
from ..launch import MOST_REGISTERS, Plan
from ..pool_problem import PoolPass, PoolProblem
from ..problem import ConvProblem, Pass
from ..tuning import build_of, problem_of
from .conv_trial import ConvTrial
from .model import combinations, predicted_cycles
from .pool_trial import PoolTrial

# A thread's; AMD's have as many again for accumulators, and count them in.
REGISTERS = {"cuda": MOST_REGISTERS, "hip": 512, "interpreter": MOST_REGISTERS}


class ProblemTask:
    """One problem on one device. The two kinds of problem differ in what plans and computes them:

    `plan_of` makes the plan of a candidate, or the analytic one of None.
    """

    def __init__(
        self,
        key: Key,
        device: Device,
        found: Sequence[Candidate],
        plan_of: Callable[[Candidate | None], Plan],
        trial: Callable[[Callable[[Candidate], Plan]], Prepared],
    ) -> None:
        self.key, self.device = key, device
        self.limits = Limits(device.shared_memory, REGISTERS[device.vendor])
        self._candidates, self._plan_of, self._trial = found, plan_of, trial

    def candidates(self) -> Sequence[Candidate]:
        """Every legal one, in canonical order."""
        return self._candidates

    def default(self) -> Candidate:
        """The analytic choice."""
        plan = self._plan_of(None)
        assert plan.config is not None
        return Candidate(plan.variant, plan.config)

    def is_legal(self, candidate: Candidate) -> bool:
        """Whether the problem's own rules allow it."""
        return candidate in self._candidates

    def predict(self, candidate: Candidate) -> float:
        """Cycles by the model."""
        return predicted_cycles(self._plan_of(candidate), self.device)

    def build(self, candidate: Candidate) -> Build:
        """Source and Triton version here and now."""
        return build_of(candidate)

    def compile(self, candidate: Candidate) -> Artefacts:
        """Compile every launch; raises what Triton raises."""
        from ..testing.compilation import compile_launch

        plan = self._plan_of(candidate)
        codes = [compile_launch(one, plan.problem.dtype, self.device) for one in plan.launches]
        return Artefacts(
            max(code.shared for code in codes),
            max(code.registers for code in codes),
            max(code.spills for code in codes),
        )

    def prepare(self) -> Prepared:
        """Tensors on the device, and the result to expect."""
        return self._trial(self._plan_of)

    def work(self) -> tuple[float, float]:
        """`(floating-point operations, bytes)` that no algorithm avoids."""
        plan = self._plan_of(None)
        problem: Any = plan.problem
        if isinstance(problem, PoolProblem):
            return float(combinations(problem)), float(problem.useful_bytes(plan.which))
        return float(problem.useful_flops()), float(problem.useful_bytes())


def task_of(key: Key) -> ProblemTask:
    """The task of a key. Raises ValueError if it is none of ours."""
    problem, which, aligned = problem_of(key)
    device = device_like(key.gpu)
    if isinstance(problem, ConvProblem):
        return _conv_task(key, problem, which, device, aligned)  # type: ignore[arg-type]
    return _pool_task(key, problem, which, device, aligned)  # type: ignore[arg-type]


def _conv_task(
    key: Key, problem: ConvProblem, which: Pass, device: Device, aligned: bool
) -> ProblemTask:
    def plan_of(candidate: Candidate | None) -> Plan:
        with _analytic():
            return planning.make_plan(problem, which, device, aligned=aligned, candidate=candidate)

    def trial(plans: Callable[[Candidate], Plan]) -> Prepared:
        return ConvTrial(problem, which, plans, torch_device(device), aligned)

    found = planning.candidates(problem, which, device)
    return ProblemTask(key, device, found, plan_of, trial)


def _pool_task(
    key: Key, problem: PoolProblem, which: PoolPass, device: Device, aligned: bool
) -> ProblemTask:
    def plan_of(candidate: Candidate | None) -> Plan:
        with _analytic():
            return pooling.pool_plan(problem, which, device, aligned=aligned, candidate=candidate)

    def trial(plans: Callable[[Candidate], Plan]) -> Prepared:
        return PoolTrial(problem, which, plans, torch_device(device), aligned)

    found = pooling.candidates(problem, which, device)
    return ProblemTask(key, device, found, plan_of, trial)


def _analytic() -> Any:
    from autotune import policy

    return policy("off")


def torch_device(device: Device) -> torch.device:
    """Where the tensors of a trial lie."""
    return torch.device("cpu" if device.vendor == "interpreter" else "cuda")
