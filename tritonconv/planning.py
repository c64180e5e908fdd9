"""From a problem to a plan: choose the variant, the config and the launches; remember it."""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from .device import INTERPRETER, Device, cuda_device
from .errors import UnsupportedProblem
from .launch import Plan, interpreting
from .problem import ConvProblem, Pass
from .tuning import choose_config
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
) -> Plan:
    """The plan of one pass on one device, with the reason why each other variant was not taken.

    `aligned`: every tensor starts at a multiple of 16 bytes. `variant` forces one, for tests and
    tuners; what it does not support is refused all the same. Raises UnsupportedProblem.
    """
    offered = VARIANTS if variant is None else (variant,)
    chosen, rejected = select(problem, which, device, offered)
    choice = choose_config(chosen, problem, which, device)
    interpreted = device.vendor == "interpreter"
    flags = Flags(aligned, interpreted, device.multiprocessors)
    launches = chosen.launches(problem, which, choice.config, flags)
    splits = launches[0].arguments.get("splits", 1)
    return Plan(
        problem=problem,
        which=which,
        backend="interpreter" if interpreted else "triton",
        variant=chosen.name,
        launches=launches,
        workspace=math.prod(problem.result_shape(which)) * splits if splits > 1 else 0,
        config=choice.config,
        source=choice.source,
        rejected=rejected,
    )


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


def device_of(kind: str, index: int | None) -> Device:
    """The device that plans for tensors on torch device `kind:index` are made for."""
    return INTERPRETER if interpreting() else cuda_device(index or 0)


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
