"""What a call would run, and why, without running it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .launch import Plan
from .ops import conv, fused
from .ops._run import plan_call
from .problem import ConvArguments, Pass

_LINEAR = {name: which for which, name in conv.NAMES.items()}
_FUSED = {name: which for which, name in fused.NAMES.items()}


@dataclass(frozen=True)
class Explanation:
    """The plans of a call, in order; print it."""

    plans: tuple[Plan, ...]

    def __str__(self) -> str:
        return "\n".join(_lines(plan) for plan in self.plans) or "no tritonconv op is called"


def explain(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """The plan of `function(*args, **kwargs)`: backend, variant, config and reasons.

    Nothing is computed: each op is planned and its result replaced by uninitialised memory of the
    same shape. Example: `print(tritonconv.explain(tritonconv.functional.conv2d, x, w, padding=1))`.

    Raises: whatever the call itself would raise for its arguments.
    """
    recorder = _Recorder()
    with recorder:
        function(*args, **kwargs)
    return Explanation(tuple(recorder.plans))


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.plans: list[Plan] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace != "tritonconv":
            return func(*args, **(kwargs or {}))
        name, keywords = func._opname, kwargs or {}
        if name in _LINEAR:
            which, (a, b, extra, *rest) = _LINEAR[name], args
            extras, fields = None, ConvArguments(*rest, **keywords)
        else:
            which = _FUSED[name]
            _, a, b, extras, extra, rest = fused.FusedCall.of(which, args)
            fields = ConvArguments(*rest)
        plan = plan_call(which, a, b, extra, fields, extras)
        self.plans.append(plan)
        shape, strides = plan.problem.result_shape(which), plan.problem.result_strides(which)
        result = a.new_empty_strided(shape, strides)
        if extras is None:
            return result
        return result, torch.empty_like(result) if extras.keep_pre else a.new_empty(0)


def _lines(plan: Plan) -> str:
    problem = plan.problem
    x, w, y = (problem.result_shape(p) for p in (Pass.DGRAD, Pass.WGRAD, Pass.FPROP))
    lines = [
        f"{plan.which.value} of {_times(x)} with {_times(w)} -> {_times(y)}, {problem.dtype}",
        f"  backend   {plan.backend}",
        f"  variant   {plan.variant}",
    ]
    if plan.config is not None:
        programs = " + ".join(
            f"{launch.kernel.__name__} x {launch.programs}" for launch in plan.launches
        )
        lines += [
            f"  config    {plan.config}",
            f"  source    {plan.source}",
            f"  programs  {programs}",
            f"  workspace {plan.workspace * problem.accumulator_bytes} bytes",
        ]
    lines += [f"  not {name}: {reason}" for name, reason in plan.rejected]
    return "\n".join(lines)


def _times(shape: Any) -> str:
    return "x".join(str(n) for n in shape)
