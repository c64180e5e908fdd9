"""torch.ops.tritonconv.conv_pool: convolution, activation and pooling, one kernel on a GPU.

    z = activation(conv(input, weight) + bias)        y = pool(z)

Where windows do not overlap, z is never stored; where they do, and on a CPU, the op is its two
stages, and `explain` says why. What backward needs of z, by bytes for each element of y and windows
of T members: the number of the winning tap is 1 byte (4 if T > 256), z itself would be T elements.
So max pooling and maxout keep the number, if the activation's derivative follows from y; mean and
norm, and gelu and silu, need all of z, and compute it again: that moves x and w once more, and T
elements for the time of the backward pass alone. Under a torch.func transform the op is its two
stages.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ..conv_pool import WITH_TAPS, ConvPoolProblem, PoolStage, conv_pool_problem
from ..conv_pool_planning import fused_plan, supports
from ..epilogue import NOT_FROM_VALUE
from ..launch import Plan, Slot
from ..planning import BoundedCache, device_of, why_aten
from ..problem import ConvArguments
from ..reference.epilogue import activation_gradient, bias_gradient
from ._policy import hold_policy, under_forwards_policy
from ._run import _key_of
from .conv import AUTOCAST, conv_dgrad, conv_wgrad, explainer, is_plain, library
from .entry import convolve, is_shortcut
from .pool import lp_pool, max_pool, max_pool_grad, sum_pool

SCHEMAS = {
    "conv_pool": (
        "conv_pool(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, "
        "SymInt[] dilation, SymInt groups, bool flip, str padding_mode, str activation, str pool, "
        "SymInt[] pool_size, SymInt[] pool_stride, bool keep_taps=False) -> (Tensor, Tensor)"
    )
}
library.define(SCHEMAS["conv_pool"], tags=(torch.Tag.pt2_compliant_tag,))
_op = torch.ops.tritonconv.conv_pool.default

# The fused plan of a call, or None and the reason why the two stages run.
_PLANS: BoundedCache[tuple[Plan | None, str]] = BoundedCache()


class ConvPoolCall(NamedTuple):
    """The arguments of the op; `rest` are the fields of ConvArguments."""

    x: Tensor
    w: Tensor
    bias: Tensor | None
    rest: list[Any]
    activation: str
    pool: str
    size: Any
    stride: Any
    keep_taps: bool

    @classmethod
    def of(cls, *inputs: Any) -> "ConvPoolCall":
        """From the op's arguments, of which the last may be missing."""
        x, w, bias, *rest = inputs[:9]
        activation, pool, size, stride, *keep = inputs[9:]
        return cls(x, w, bias, rest, activation, pool, list(size), list(stride), *keep or (False,))

    def inputs(self, keep_taps: bool) -> list[Any]:
        """Back to the op's arguments."""
        head = [self.x, self.w, self.bias, *self.rest, self.activation]
        return [*head, self.pool, self.size, self.stride, keep_taps]

    def problem(self) -> ConvPoolProblem:
        """Checked. Raises ProblemError."""
        stage = PoolStage(
            self.pool, self.size, self.keep_taps and self.pool in WITH_TAPS, self.stride
        )
        arguments = ConvArguments(*self.rest)
        return conv_pool_problem(self.x, self.w, self.bias, self.activation, arguments, stage)

    def plan(self) -> tuple[Plan | None, str]:
        """The plan of one launch, or None and why the two stages run."""
        problem = self.problem()
        refused = supports(problem)
        if refused is not None:
            return None, refused
        reason = why_aten(self.x)
        if reason is not None:
            return None, reason
        device = device_of(self.x)
        operands = (self.x, self.w, self.bias)
        aligned = all(t.data_ptr() % 16 == 0 for t in operands if t is not None)
        return fused_plan(problem, device, aligned=aligned), ""

    def known_plan(self) -> tuple[Plan | None, str]:
        """`plan`, remembered by the call's signature."""
        operands = (self.x, self.w, self.bias)
        key = (
            *(None if t is None else _key_of(t) for t in operands),
            *(
                tuple(v) if isinstance(v, (list, tuple)) else v
                for v in self.inputs(self.keep_taps)[3:]
            ),
            torch._C._get_fp32_precision_getter("cuda", "conv"),
            tuple(t.data_ptr() % 16 == 0 for t in operands if t is not None),
        )
        found = _PLANS.get(key)
        return _PLANS.add(key, self.plan) if found is None else found

    def stages(self) -> Tensor:
        """The op as two others, which record their own gradients."""
        z = convolve(self.x, self.w, self.bias, None, self.activation, *self.rest)
        return pooled(z, self.pool, self.size, self.stride)


def conv_pool(*inputs: Any) -> Tensor:
    """y, by the op, or on a CPU by its stages without it. What the functions call."""
    call = ConvPoolCall.of(*inputs)
    # torch.compile cannot trace the question whether Triton interprets; on a CPU it seldom does.
    compiling = torch.compiler.is_compiling()
    if call.x.is_cpu and (compiling or is_shortcut(call.x, call.w, call.bias)):
        if not compiling:
            call.problem()
        return call.stages()
    return _op(*inputs)[0]


def pooled(z: Tensor, pool: str, size: list[int], stride: list[int]) -> Tensor:
    """The pooling stage alone; "maxout" slides over channels."""
    none, ones = [0] * 2 * len(size), [1] * len(size)
    if pool == "maxout":
        return across(z, lambda flat: max_pool(flat, size, stride, none, ones)[0])
    if pool == "max":
        return max_pool(z, size, stride, none, ones)[0]
    if pool == "avg":
        return sum_pool(z, None, "valid", 1.0, size, stride, none, ones)
    return lp_pool(z, None, 2.0, size, stride, none, ones)


def across(z: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """`function` of (N, positions, K), whose last axis it may change, for z (N, K, *positions)."""
    n, _, *sizes = z.shape
    y = function(z.flatten(2).transpose(1, 2)).transpose(1, 2)
    return y.reshape(n, y.shape[1], *sizes)


# -- gradients -------------------------------------------------------------------------------


class _ConvPool(Function):
    """Old-style, as the functions of `conv.py` are: the cheapest that torch has."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        hold_policy(ctx)
        call = ConvPoolCall.of(*inputs)
        ctx.by_taps = call.pool in WITH_TAPS and call.activation not in NOT_FROM_VALUE
        y, taps = _below_autograd(*call.inputs(call.keep_taps or ctx.by_taps))
        shown = taps if call.keep_taps else _no_taps(call.x)
        ctx.mark_non_differentiable(shown)
        ctx.set_materialize_grads(False)
        kept = (y, taps) if ctx.by_taps else (None, None)
        ctx.save_for_backward(call.x, call.w, call.bias, *kept)
        ctx.others = inputs[3:]
        return y, shown

    @staticmethod
    @under_forwards_policy
    def backward(ctx: Any, dy: Tensor | None, _: Any) -> tuple[Any, ...]:
        x, w, bias, y, taps = ctx.saved_tensors
        nothing = (None,) * len(ctx.others)
        needed = ctx.needs_input_grad[:3]
        if dy is None:
            return None, None, None, *nothing
        if not ctx.by_taps:
            return *_recomputed((x, w, bias), ctx.others, dy, needed), *nothing
        call = ConvPoolCall.of(x, w, bias, *ctx.others)
        z_shape = call.problem().conv.output_shape
        dz = _to_winners(activation_gradient(call.activation, dy, y), taps, z_shape, call)
        dx = conv_dgrad(dz, w, x.shape, *call.rest) if needed[0] else None
        dw = conv_wgrad(dz, x, w.shape, *call.rest) if needed[1] else None
        dbias = bias_gradient(dz, bias.shape) if needed[2] else None
        return dx, dw, dbias, *nothing


def _to_winners(dy: Tensor, taps: Tensor, z_shape: Any, call: ConvPoolCall) -> Tensor:
    """The gradient of max pooling or maxout."""
    none, ones = [0] * 2 * len(call.size), [1] * len(call.size)
    if call.pool == "max":
        return max_pool_grad(dy, taps, z_shape, call.size, call.stride, none, ones)
    n, k = z_shape[:2]
    flat = taps.flatten(2).transpose(1, 2)

    def spread(g: Tensor) -> Tensor:
        size = [n, g.shape[1], k]
        return max_pool_grad(g, flat, size, call.size, call.stride, none, ones)

    return across(dy, spread)


def _recomputed(
    operands: tuple[Any, ...], others: tuple[Any, ...], dy: Tensor, needed: tuple[bool, ...]
) -> tuple[Any, ...]:
    """The gradients of the two stages, run again."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        own = [t if t is None else t.view_as(t) if again else t.detach() for t in operands]
        wanted: list[Any] = [t for t, needs in zip(own, needed, strict=True) if needs]
        if not again:
            for leaf in wanted:
                leaf.requires_grad_()
        y = ConvPoolCall.of(*own, *others).stages()
        found = iter(torch.autograd.grad(y, wanted, dy, create_graph=again))
    return tuple(next(found) if needs else None for needs in needed)


# -- registration ----------------------------------------------------------------------------


def _backend(*inputs: Any) -> tuple[Tensor, Tensor]:
    call = ConvPoolCall.of(*inputs)
    plan, _ = call.known_plan()
    taps = call.keep_taps and call.pool in WITH_TAPS
    if plan is None:
        with torch.no_grad():
            return _stages_with_taps(call) if taps else (call.stages(), _no_taps(call.x))
    problem = call.problem()
    shape, strides = problem.output_shape, problem.output_strides
    y = torch.empty_strided(shape, strides, dtype=call.x.dtype, device=call.x.device)
    tensors = {Slot.INPUT: call.x, Slot.WEIGHT: call.w, Slot.OUTPUT: y}
    if call.bias is not None:
        tensors[Slot.BIAS] = call.bias
    kept = torch.empty_like(y, dtype=problem.tap_dtype) if taps else _no_taps(call.x)
    if taps:
        tensors[Slot.TAPS] = kept
    plan.run(tensors)
    return y, kept


def _stages_with_taps(call: ConvPoolCall) -> tuple[Tensor, Tensor]:
    z = convolve(call.x, call.w, call.bias, None, call.activation, *call.rest)
    none, ones = [0] * 2 * len(call.size), [1] * len(call.size)
    if call.pool == "max":
        return max_pool(z, call.size, call.stride, none, ones)
    taps = across(z, lambda flat: max_pool(flat, call.size, call.stride, none, ones)[1])
    return pooled(z, "maxout", call.size, call.stride), taps


def _no_taps(x: Tensor) -> Tensor:
    return x.new_empty(0, dtype=torch.uint8)


def _below_autograd(*inputs: Any) -> tuple[Tensor, Tensor]:
    if is_plain(*inputs[:3]):
        return _backend(*inputs)
    with torch._C._AutoDispatchBelowAutograd():
        return _op(*inputs)


def _autograd(*inputs: Any) -> tuple[Tensor, Tensor]:
    call = ConvPoolCall.of(*inputs)
    watcher = explainer()
    if watcher is not None:
        plan, reason = call.plan()
        if plan is None:
            watcher.declined("one kernel", reason)
            return call.stages(), _no_taps(call.x)
    elif is_plain(*inputs[:3]) and not call.keep_taps and call.known_plan()[0] is None:
        # Two ops record their own gradients, and keep what lies between them.
        return call.stages(), _no_taps(call.x)
    if torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs[:3]):
        return _ConvPool.apply(*inputs)
    return _below_autograd(*inputs)


def _transformed(*inputs: Any) -> tuple[Tensor, Tensor]:
    call = ConvPoolCall.of(*inputs)
    call.problem()
    return call.stages(), _no_taps(call.x)


def _fake(*inputs: Any) -> tuple[Tensor, Tensor]:
    call = ConvPoolCall.of(*inputs)
    problem = call.problem()
    y = call.x.new_empty_strided(problem.output_shape, problem.output_strides)
    taps = call.keep_taps and call.pool in WITH_TAPS
    return y, torch.empty_like(y, dtype=problem.tap_dtype) if taps else _no_taps(call.x)


def _autocast(device: str) -> Callable[..., Any]:
    below = torch._C.DispatchKeySet(AUTOCAST[device])

    def autocast(*inputs: Any) -> tuple[Tensor, Tensor]:
        dtype = torch.get_autocast_dtype(device)
        with torch._C._ExcludeDispatchKeyGuard(below):
            cast = [
                t.to(dtype) if t is not None and t.dtype == torch.float32 else t for t in inputs[:3]
            ]
            return _op(*cast, *inputs[3:])

    return autocast


library.impl("conv_pool", _backend, "CPU")
library.impl("conv_pool", _backend, "CUDA")
library.impl("conv_pool", _autograd, "Autograd")
library.impl("conv_pool", _transformed, "FuncTorchDynamicLayerFrontMode")
library.impl("conv_pool", _autocast("cuda"), "AutocastCUDA")
library.impl("conv_pool", _autocast("cpu"), "AutocastCPU")
torch.library.register_fake("tritonconv::conv_pool", _fake, lib=library)
