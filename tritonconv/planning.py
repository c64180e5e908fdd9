"""From a problem to a plan: choose the variant, the config and the launches; remember it."""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

import torch

from autotune import Candidate

from .device import INTERPRETER, Device, cuda_device
from .errors import UnsupportedProblem
from .launch import Plan, interpreting
from .problem import ConvProblem, Pass
from .tuning import Chosen, choose, conv_key
from .variants import VARIANTS, Variant
from .variants.base import Flags

PLANS_KEPT = 4096
Value = TypeVar("Value")


def make_plan(
    problem: ConvProblem,
    which: Pass,
    device: Device,
    *,
    aligned: bool = True,
    variant: Variant | None = None,
    candidate: Candidate | None = None,
) -> Plan:
    """The plan of one pass on one device, with the reason why each other variant was not taken.

    `aligned`: every tensor starts at a multiple of 16 bytes. `variant` or `candidate` forces one,
    for tests and tuners; what it does not support is refused all the same. Raises
    UnsupportedProblem, and autotune's NoRecord under the policy "strict".
    """
    offered = VARIANTS if variant is None else (variant,)
    chosen, rejected = select(problem, which, device, offered)
    choice = _choice(chosen, problem, which, device, aligned, variant is not None, candidate)
    if choice.candidate.variant != chosen.name:
        better = variant_named(choice.candidate.variant)
        reason = f"a record prefers {better.name}"
        rejected = (
            (chosen.name, reason),
            *((name, why) for name, why in rejected if name != better.name),
        )
        chosen = better
    config = choice.candidate.config
    interpreted = device.vendor == "interpreter"
    flags = Flags(aligned, interpreted, device.multiprocessors)
    launches = chosen.launches(problem, which, config, flags)
    splits = launches[0].arguments.get("splits", 1)
    return Plan(
        problem=problem,
        which=which,
        backend="interpreter" if interpreted else "triton",
        variant=chosen.name,
        aligned=aligned,
        tunable=True,
        launches=launches,
        workspace=math.prod(problem.result_shape(which)) * splits if splits > 1 else 0,
        config=config,
        source=choice.source,
        note=choice.note,
        rejected=rejected,
    )


def _choice(
    chosen: Variant,
    problem: ConvProblem,
    which: Pass,
    device: Device,
    aligned: bool,
    forced: bool,
    candidate: Candidate | None,
) -> Chosen:
    def legal(found: Candidate) -> bool:
        return is_legal(problem, which, device, found)

    if candidate is not None:
        if not legal(candidate):
            raise UnsupportedProblem(f"{which.value} of this problem cannot be run by {candidate}")
        return Chosen(candidate, "forced", "")
    default = Candidate(chosen.name, chosen.default_config(problem, which, device))
    if forced:
        return Chosen(default, "analytic", "")
    return choose(lambda: conv_key(problem, which, device, aligned), device, default, legal)


def candidates(problem: ConvProblem, which: Pass, device: Device) -> list[Candidate]:
    """All that a tuner may try, in canonical order; the default is among them."""
    found: set[Candidate] = set()
    for variant in VARIANTS:
        if variant.supports(problem, which) is None:
            configs = variant.configs(problem, which, device)
            found.update(Candidate(variant.name, config) for config in configs)
            found.add(Candidate(variant.name, variant.default_config(problem, which, device)))
    return sorted(found)


def is_legal(problem: ConvProblem, which: Pass, device: Device, candidate: Candidate) -> bool:
    """Whether a candidate, wherever it comes from, computes the right result on the device."""
    for variant in VARIANTS:
        if variant.name == candidate.variant and variant.supports(problem, which) is None:
            default = variant.default_config(problem, which, device)
            return candidate.config in (default, *variant.configs(problem, which, device))
    return False


def variant_named(name: str) -> Variant:
    """The variant of that name."""
    return next(variant for variant in VARIANTS if variant.name == name)


def select(
    problem: ConvProblem, which: Pass, device: Device, offered: tuple[Variant, ...]
) -> tuple[Variant, tuple[tuple[str, str], ...]]:
    """The first variant that supports the problem and does not decline it, else the first that
    supports it; with the other variants' reasons. Raises UnsupportedProblem."""
    unsupported = {v.name: v.supports(problem, which) for v in offered}
    able = [v for v in offered if unsupported[v.name] is None]
    if not able:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in unsupported.items())
        raise UnsupportedProblem(f"no variant can run {which.value} of this problem: {reasons}")
    declined = {v.name: v.declines(problem, which, device) for v in able}
    chosen = next((v for v in able if declined[v.name] is None), able[0])
    rejected = []
    for variant in offered:
        if variant is not chosen:
            reason = unsupported[variant.name] or declined.get(variant.name)
            rejected.append((variant.name, reason or f"{chosen.name} comes before it"))
    return chosen, tuple(rejected)


_target: ContextVar[Device | None] = ContextVar("tritonconv_target", default=None)


@contextmanager
def planning_for(device: Device) -> Iterator[None]:
    """Make plans for this device inside the block, wherever tensors lie."""
    token = _target.set(device)
    try:
        yield
    finally:
        _target.reset(token)


def device_of(tensor: torch.Tensor) -> Device:
    """The device that plans for a tensor are made for."""
    target = _target.get()
    if target is not None:
        return target
    return INTERPRETER if interpreting() else cuda_device(tensor.device.index or 0)


def why_aten(tensor: torch.Tensor) -> str | None:
    """Why torch's own functions compute with a tensor, None if the kernels do."""
    if tensor.is_cpu and _target.get() is None and not interpreting():
        return "the tensors are on the CPU, and TRITON_INTERPRET is not set"
    return None


class BoundedCache(Generic[Value]):
    """Values by key: bounded, safe to use from several threads."""

    def __init__(self, limit: int = PLANS_KEPT) -> None:
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._limit = limit
        self._lock = threading.Lock()
        # Reading a dictionary needs no lock; handed out bound, it is one call.
        self.get = self._values.get

    def add(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Make and keep a value; the oldest is dropped when there are too many."""
        value = make()
        with self._lock:
            self._values[key] = value
            while len(self._values) > self._limit:
                self._values.popitem(last=False)
        return value

    def __len__(self) -> int:
        return len(self._values)

    def clear(self) -> None:
        """Forget every value, as after a change of the tuning table."""
        with self._lock:
            self._values.clear()
