"""The problems that calls meet: what a model, or one line that describes a call, is tuned for.

Nothing is computed: shapes alone are followed, forward and backward.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from autotune import Key, policy

from .. import functional
from ..checks import ConvArguments
from ..device import Device
from ..explain import Recorder
from ..launch import Plan
from ..ops._run import problem_of
from ..planning import make_plan, planning_for
from ..pool_problem import PoolProblem
from ..problem import ConvProblem, Pass
from ..tuning import conv_key, pool_key

LAYOUTS = ("contiguous", "channels_last")
DTYPES = ("float16", "bfloat16", "float32", "float64")
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def keys_of_model(model: Any, inputs: Sequence[Tensor], device: Device) -> list[Key]:
    """Of a forward and a backward pass of a model, torch's own convolutions included: what they
    would be as this library's. Every parameter and floating-point input is taken to need a
    gradient."""
    wanted = [t.detach().requires_grad_(t.is_floating_point()) for t in inputs]
    with _recorded(device) as plans:
        _backward(model(*wanted))
    return _keys(plans, device)


def keys_of_shape(description: Mapping[str, Any], device: Device) -> list[Key]:
    """Of one call: {"op": "conv2d", "input": [8, 64, 56, 56], "weight": [64, 64, 3, 3], "dtype":
    "bfloat16", "layout": "channels_last", "forward_only": false, ...}, where everything else is an
    argument of that function of `tritonconv.functional`. Tensors are told by their shapes, also as
    "8x64x56x56".

    Raises ValueError for what describes no call.
    """
    rest = dict(description)
    name, dtype = rest.pop("op", None), rest.pop("dtype", "float32")
    layout, forward_only = rest.pop("layout", "contiguous"), rest.pop("forward_only", False)
    if name not in functional.__all__ or not callable(getattr(functional, str(name), None)):
        raise ValueError(f"op: expected a function of tritonconv.functional, got {name!r}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    if layout not in LAYOUTS:
        raise ValueError(f"layout: expected one of {', '.join(LAYOUTS)}, got {layout!r}")
    tensors = {
        key: _tensor(key, rest.pop(key), getattr(torch, dtype), layout)
        for key in ("input", "weight", "bias", "residual", "depthwise_weight", "pointwise_weight")
        if key in rest
    }
    options = {key: tuple(v) if isinstance(v, list) else v for key, v in rest.items()}
    with _recorded(device) as plans:
        try:
            result = getattr(functional, name)(**tensors, **options)
        except (TypeError, RuntimeError) as error:
            raise ValueError(f"{name}: {error}") from error
        if not forward_only:
            _backward(result)
    return _keys(plans, device)


class _ModelRecorder(Recorder):
    """Also what torch's convolutions would be here; those are computed, as the model wants."""

    def __init__(self, target: Device) -> None:
        super().__init__()
        self._target = target

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (_ATEN, _ATEN_BACKWARD):
            self._record_aten(func, args)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _record_aten(self, func: Any, args: Any) -> None:
        if func is _ATEN:
            x, w, _, stride, padding, dilation, transposed, _, groups = args
            passes = (Pass.DGRAD if transposed else Pass.FPROP,)
            dy: Any = x
        else:
            dy, x, w, _, stride, padding, dilation, transposed, _, groups, mask = args
            linear = (Pass.FPROP, Pass.WGRAD) if transposed else (Pass.DGRAD, Pass.WGRAD)
            passes = tuple(p for p, needed in zip(linear, mask[:2], strict=True) if needed)
        rank = x.dim() - 2
        stride, padding, dilation = (_each(v, rank) for v in (stride, padding, dilation))
        pads = [side for p in padding for side in (p, p)]
        arguments = ConvArguments(stride, pads, dilation, groups, False, "zeros")
        for which in passes:
            problem = _aten_problem(which, (x, w, dy), transposed, func is _ATEN, arguments)
            if problem is not None:
                self.plans.append(make_plan(problem, which, self._target))


def _aten_problem(
    which: Pass, operands: Any, transposed: bool, forward: bool, arguments: ConvArguments
) -> ConvProblem | None:
    """One pass of torch's convolution, or of its transposed one, whose input is our dy."""
    x, w, dy = operands
    if forward and not transposed:
        return problem_of(which, x, w, None, arguments)
    if forward:
        sizes = [
            (o - 1) * s - 2 * lo + d * (f - 1) + 1
            for o, s, lo, d, f in zip(
                x.shape[2:],
                arguments.stride,
                arguments.padding[::2],
                arguments.dilation,
                w.shape[2:],
                strict=True,
            )
        ]
        shape = [x.shape[0], w.shape[1] * arguments.groups, *sizes]
        return problem_of(which, x, w, shape, arguments)
    if transposed:
        dy, x = x, dy
    if which is Pass.FPROP:
        return problem_of(which, x, w, None, arguments)
    size = x.shape if which is Pass.DGRAD else w.shape
    return problem_of(which, dy, w if which is Pass.DGRAD else x, list(size), arguments)


_ATEN = torch.ops.aten.convolution.default
_ATEN_BACKWARD = torch.ops.aten.convolution_backward.default


@contextmanager
def _recorded(device: Device) -> Iterator[list[Plan]]:
    recorder = _ModelRecorder(device)
    with policy("off"), planning_for(device), recorder:
        yield recorder.plans


def _backward(result: Any) -> None:
    """From every floating-point tensor of the result that can."""
    if isinstance(result, Mapping):
        result = list(result.values())
    found = result if isinstance(result, (list, tuple)) else [result]
    roots = [t for t in found if isinstance(t, Tensor) and t.requires_grad]
    if roots:
        torch.autograd.backward(roots, [torch.ones_like(t) for t in roots])


def _keys(plans: Sequence[Plan], device: Device) -> list[Key]:
    """Each once, in the order of their first plan. The kernels of several stages have one config
    that fits all, chosen analytically: they are left out."""
    found: dict[str, Key] = {}
    for plan in plans:
        if plan.tunable:
            key_of: Any = pool_key if isinstance(plan.problem, PoolProblem) else conv_key
            key = key_of(plan.problem, plan.which, device, plan.aligned)
            found.setdefault(key.digest, key)
    return list(found.values())


def _tensor(name: str, shape: Any, dtype: torch.dtype, layout: str) -> Tensor:
    if isinstance(shape, str) and re.fullmatch(r"\d+([x,]\d+)*", shape):
        shape = [int(size) for size in re.split("[x,]", shape)]
    if not isinstance(shape, (list, tuple)) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{name}: expected its shape, a list of sizes, got {shape!r}")
    tensor = torch.empty(tuple(shape), dtype=dtype, device="meta")
    if layout == "channels_last" and tensor.dim() in FORMATS and name in ("input", "weight"):
        tensor = tensor.to(memory_format=FORMATS[tensor.dim()])
    return tensor.requires_grad_()


def _each(values: Any, rank: int) -> list[int]:
    return list(values) if len(values) == rank else [values[0]] * rank
