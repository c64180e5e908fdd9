"""What a call would run, and why, without running it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .launch import Plan
from .ops import conv, conv_pool, fused, pool, separable
from .ops._run import plan_call
from .pool_problem import PoolPass, PoolProblem
from .problem import ConvArguments, ConvProblem, Pass

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
    recorder = Recorder()
    with recorder:
        function(*args, **kwargs)
    return Explanation(tuple(recorder.plans))


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.plans: list[Plan] = []
        self._declined: list[tuple[str, str]] = []

    def declined(self, kernel: str, reason: str) -> None:
        """Why a kernel of two stages is not taken: told with the plan of the first of them."""
        self._declined.append((kernel, reason))

    def _record(self, plan: Plan) -> None:
        reasons = (*self._declined, *plan.rejected)
        self._declined.clear()
        self.plans.append(replace(plan, rejected=reasons))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace != "tritonconv":
            return func(*args, **(kwargs or {}))
        name, keywords = func._opname, kwargs or {}
        if name in pool.CALLS:
            return self._pool(pool.CALLS[name](*args, **keywords))
        if name == "conv_pool":
            return self._conv_pool(conv_pool.ConvPoolCall.of(*args))
        if name == "depthwise_separable":
            plan, _ = separable.plan_call(*separable.complete(*args))
            assert plan is not None, "two convolutions are explained as such"
            self._record(plan)
            return _like_result(plan, Pass.FPROP, args[0])
        if name in _LINEAR:
            which, (a, b, extra, *rest) = _LINEAR[name], args
            extras, fields = None, ConvArguments(*rest, **keywords)
        else:
            which = _FUSED[name]
            _, a, b, extras, extra, rest = fused.FusedCall.of(which, args)
            fields = ConvArguments(*rest)
        plan = plan_call(which, a, b, extra, fields, extras)
        self._record(plan)
        result = _like_result(plan, which, a)
        if extras is None:
            return result
        return result, torch.empty_like(result) if extras.keep_pre else a.new_empty(0)

    def _conv_pool(self, call: conv_pool.ConvPoolCall) -> Any:
        plan, _ = call.plan()
        assert plan is not None, "two stages are explained as such"
        self._record(plan)
        problem = call.problem()
        y = call.x.new_empty_strided(problem.output_shape, problem.output_strides)
        return y, torch.zeros_like(y, dtype=problem.tap_dtype)

    def _pool(self, call: pool.PoolCall) -> Any:
        plan = call.plan()
        self._record(plan)
        result = _like_result(plan, call.which, call.first)
        if call.reduction.kind != "max" or call.which is PoolPass.BACKWARD:
            return result
        return result, torch.zeros_like(result, dtype=plan.problem.tap_dtype)


def _like_result(plan: Plan, which: Any, like: torch.Tensor) -> torch.Tensor:
    shape, strides = plan.problem.result_shape(which), plan.problem.result_strides(which)
    return like.new_empty_strided(shape, strides)


def _lines(plan: Plan) -> str:
    lines = [
        f"{_title(plan)}, {plan.problem.dtype}",
        f"  backend   {plan.backend}",
        f"  variant   {plan.variant}",
    ]
    if plan.config is not None:
        programs = " + ".join(
            f"{launch.kernel.__name__} x {launch.programs}" for launch in plan.launches
        )
        lines += [
            f"  config    {plan.config}",
            f"  source    {plan.source}" + (f": {plan.note}" if plan.note else ""),
            f"  programs  {programs}",
        ]
        if isinstance(plan.problem, ConvProblem):
            lines.append(f"  workspace {plan.workspace * plan.problem.accumulator_bytes} bytes")
    lines += [f"  not {name}: {reason}" for name, reason in plan.rejected]
    return "\n".join(lines)


def _title(plan: Plan) -> str:
    problem, which = plan.problem, plan.which.value
    if isinstance(problem, PoolProblem):
        x, y = (problem.result_shape(p) for p in (PoolPass.BACKWARD, PoolPass.FORWARD))
        window = _times(problem.kernel_size[3 - problem.rank :])
        return (
            f"{problem.reduction.kind} pooling, {which}, of {_times(x)} by {window} -> {_times(y)}"
        )
    x, w, y = (problem.result_shape(p) for p in (Pass.DGRAD, Pass.WGRAD, Pass.FPROP))
    return f"{which} of {_times(x)} with {_times(w)} -> {_times(y)}"


def _times(shape: Any) -> str:
    return "x".join(str(n) for n in shape)
