"""Pooling by torch's own functions: the CPU path, under transforms, and second derivatives.

The windows are gathered an axis at a time into a tensor (N, C, *O, taps), with a mask of what lies
inside; every reduction is then one of torch's. All is differentiable, and deterministic on a CPU.
Where nothing is to be differentiated, `pool_loops` does the same without laying anything out.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack  # type: ignore
from torch.autograd import Function

from ..pool_problem import Reduction
from . import pool_loops
from .pool_geometry import Windows


def wide(tensor: Tensor) -> Tensor:
    """In the dtype of sums: float32 for 16-bit numbers."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def max_pool(x: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
    """`(y, taps)`, taps int64: a NaN wins, the last of them, and of equals the first."""
    lowest = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
    direct = _direct(windows, x)
    if direct:
        y, taps = pool_loops.max_pool(x, windows, lowest)
    else:
        gathered = windows.elements(x, lowest)
        y, taps = gathered.max(-1)
    if not windows.full:  # what stands beyond the border is no element, even where it is largest
        first = windows.inside(x.device).to(torch.uint8).argmax(-1)
        taps = torch.where(y == lowest, first, taps)
    if not direct and (_unseen(y) or bool(y.isnan().any())):
        number = torch.arange(gathered.shape[-1], device=x.device)
        last = torch.where(gathered.isnan(), number, -1).amax(-1)
        taps = torch.where(last >= 0, last, taps)
    return y, taps


def max_pool_gradient(dy: Tensor, taps: Tensor, windows: Windows) -> Tensor:
    """dx: each dy goes to the tap that won."""
    if _direct(windows, dy):
        return pool_loops.max_pool_gradient(wide(dy), taps, windows).to(dy.dtype)
    number = torch.arange(math.prod(windows.kernel), device=dy.device)
    wins = windows.inside(dy.device) & (taps.unsqueeze(-1) == number)
    return windows.spread(torch.where(wins, wide(dy).unsqueeze(-1), 0)).to(dy.dtype)


def max_pool_at(x: Tensor, taps: Tensor, windows: Windows) -> Tensor:
    """x at the taps that won: the adjoint of `max_pool_gradient`."""
    return windows.elements(x).gather(-1, taps.long().unsqueeze(-1)).squeeze(-1)


def max_indices(taps: Tensor, windows: Windows) -> Tensor:
    """From the numbers of taps to torch's indices: of an element in its plane, -1 for none."""
    found = torch.zeros((), dtype=torch.int64, device=taps.device)
    rest = taps.long()
    steps = []
    for taps_of_axis in reversed(windows.kernel):
        steps.insert(0, rest % taps_of_axis)
        rest = rest // taps_of_axis
    valid = torch.ones((), dtype=torch.bool, device=taps.device)
    for axis, (positions, inside, _) in enumerate(windows.axes):
        o = torch.arange(windows.sizes[axis], device=taps.device)
        o = o.view(-1, *[1] * (windows.rank - 1 - axis))
        found = found * windows.input_size[axis] + positions.to(taps.device)[o, steps[axis]]
        valid = valid & inside.to(taps.device)[o, steps[axis]]
    return torch.where(valid, found, -1)


def sum_pool(x: Tensor, weights: Tensor | None, windows: Windows, reduction: Reduction) -> Tensor:
    """y, weighted and divided as the reduction says."""
    y = _sums(wide(x), weights, windows)
    divisor = windows.divisor(reduction, weights, y)
    return (y if divisor is None else y / divisor).to(x.dtype)


def _sums(x: Tensor, weights: Tensor | None, windows: Windows) -> Tensor:
    """The weighted sum of each window's elements."""
    arguments = windows.arguments
    if windows.tiles or arguments.adaptive_size or 0 in x.shape:
        gathered = windows.elements(x)
        return (gathered if weights is None else gathered * weights.flatten().to(x.dtype)).sum(-1)
    # Overlapping windows are a convolution of each channel with one filter.
    one = x.new_ones(windows.kernel) if weights is None else weights.to(x.dtype)
    flat = torch.nn.functional.pad(x, windows.ends()).flatten(0, 1).unsqueeze(1)
    conv = _CONV[windows.rank]
    y = conv(flat, one[None, None], None, arguments.stride, 0, arguments.dilation)
    return y.view(*x.shape[:2], *windows.sizes)


_CONV: dict[int, Any] = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}


def sum_pool_gradient(
    dy: Tensor, weights: Tensor | None, windows: Windows, reduction: Reduction
) -> Tensor:
    """dx: each dy, divided as y was, goes to every tap."""
    g = wide(dy)
    divisor = windows.divisor(reduction, weights, g)
    g = g if divisor is None else g / divisor
    if _direct(windows, dy, *([] if weights is None else [weights])):
        return pool_loops.sum_pool_gradient(g, weights, windows).to(dy.dtype)
    g = g.unsqueeze(-1)
    g = g * (1 if weights is None else weights.flatten().to(g.dtype))
    return windows.spread(torch.where(windows.inside(dy.device), g, 0)).to(dy.dtype)


def lp_pool(x: Tensor, norm: Tensor | float, windows: Windows) -> Tensor:
    """y = (sum |x|**p)**(1/p), in units of the window's largest element; the unit is constant to
    autograd, of which y does not depend."""
    power = _one(norm)
    if power is not None and _direct(windows, x, norm):
        y = pool_loops.lp_pool(wide(x), power, windows)
        if y is not None:
            return y.to(x.dtype)
    size = windows.elements(wide(x)).abs()
    norm = exponents(norm, size)
    largest = size.detach().amax(-1)
    ordinary = (largest > 0) & largest.isfinite()
    unit = torch.where(ordinary, largest, 1)
    endless = largest == math.inf
    part = torch.where(endless.unsqueeze(-1), 0, size) / unit.unsqueeze(-1)
    powers = _power(part, norm.unsqueeze(-1))
    total = torch.where(ordinary, powers.sum(-1), 1)
    y = torch.where(ordinary, unit * total ** (1 / norm), largest)
    if x.requires_grad or peek_interpreter_stack() is not None:
        y = torch.where(endless, _endless(size, norm, largest), y)
    return y.to(x.dtype)


def _endless(size: Tensor, norm: Tensor, largest: Tensor) -> Tensor:
    """The largest, with the gradient of a norm in units of infinity: of n infinite elements, which
    are 1 each, n**((1-p)/p)."""
    infinite = size.detach() == math.inf
    part = cast("Tensor", _Through.apply(size, infinite.to(size.dtype)))
    part = torch.where(infinite, part, 0)
    total = _power(part, norm.detach().unsqueeze(-1)).sum(-1)
    root = torch.where(total > 0, total, 1) ** (1 / norm.detach())
    return cast("Tensor", _Through.apply(root, largest))


class _Through(Function):
    """A value, with the gradient of something else."""

    generate_vmap_rule = True

    @staticmethod
    def forward(something: Tensor, value: Tensor) -> Tensor:
        """The value."""
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """To the other."""
        return grad, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: Any) -> Tensor:  # type: ignore[override]
        """From the other."""
        return tangent.clone()


def lp_pool_gradient(
    dy: Tensor, x: Tensor, y: Tensor, norm: Tensor | float, windows: Windows
) -> Tensor:
    """dx[i] = sum over windows of dy * sign(x) * (|x| / y)**(p - 1), 0 where x is 0.

    Of a window whose y is infinite |x| / y is worked out anew: in units of infinity if it has
    infinite elements, each of them 1 and any other 0; else in units of its dtype's largest number.
    """
    power = _one(norm)
    if power is not None and _direct(windows, dy, x, y, norm):
        dx = pool_loops.lp_pool_gradient(wide(dy), wide(x), wide(y), power, windows)
        if dx is not None:
            return dx.to(dy.dtype)
    inside = windows.inside(dy.device)
    limits = torch.finfo(dy.dtype)
    g, y = wide(dy).unsqueeze(-1), wide(y).unsqueeze(-1)
    gathered = windows.gather(wide(x))
    norm = exponents(norm, g).unsqueeze(-1)
    size, counts = gathered.abs(), inside & (gathered != 0)
    if _unseen(y) or bool((y == math.inf).any()):
        over, infinite = y == math.inf, inside & (size == math.inf)
        number = infinite.sum(-1, keepdim=True).to(y.dtype)
        part = torch.where(inside & ~infinite, size / limits.max, 0)
        total = torch.where(number > 0, number, _power(part, norm).sum(-1, keepdim=True))
        part = torch.where(number > 0, infinite.to(y.dtype), part)
        steps = torch.where(over & (total > 0), total, 1).log2() / norm
        size = torch.where(over, part, size)
        y = torch.where(over, steps.clamp(max=-math.log2(torch.finfo(y.dtype).tiny)).exp2(), y)
        counts = counts & (~over | (number == 0) | infinite)
    whole, nothing = size == y, y == 0
    ratio = torch.where(whole, 1, size / torch.where(whole | nothing, 1, y))
    powers = ratio.clamp(min=torch.finfo(ratio.dtype).tiny) ** (norm - 1)
    slope = torch.where(counts, gathered.sign() * powers.clamp(max=limits.max), 0)
    return windows.spread(torch.where(inside, g * slope, 0)).to(dy.dtype)


def lp_pool_log(x: Tensor, y: Tensor, norm: Tensor | float, windows: Windows) -> Tensor:
    """sum over taps of v**p * log(v), v = |x| / y: dy/dp = y/p times that; 0 where y is infinite,
    which no exponent changes."""
    size = windows.elements(wide(x)).abs()
    unit = wide(y).unsqueeze(-1)
    endless = unit == math.inf
    part = torch.where(endless, 0, size) / torch.where((unit > 0) & ~endless, unit, 1)
    norm = exponents(norm, part).unsqueeze(-1)
    log = torch.where(part > 0, part, 1).log()
    return (_power(part, norm) * log).sum(-1).to(x.dtype)


def _one(norm: Tensor | float) -> float | None:
    """The exponent, if it is one, and may be looked at."""
    if not isinstance(norm, Tensor):
        return float(norm)
    return None if norm.numel() > 1 or _unseen(norm) else float(norm.detach())


def _direct(windows: Windows, *operands: Tensor | float) -> bool:
    """Whether `pool_loops` may be asked: there are views, numbers, and no derivatives."""
    if not pool_loops.fits(windows):
        return False
    tensors = [t for t in operands if isinstance(t, Tensor)]
    recorded = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return not recorded and not any(_unseen(t) or t.numel() == 0 or not t.is_cpu for t in tensors)


def _unseen(tensor: Tensor) -> bool:
    """Whether its numbers may not be looked at: a transform or a tracer holds them."""
    return (
        peek_interpreter_stack() is not None
        or type(tensor) is not Tensor
        or bool(torch._C._len_torch_dispatch_stack())
    )


def exponents(norm: Tensor | float, like: Tensor) -> Tensor:
    """One number, or one a channel, as it meets (N, C, *O)."""
    if not isinstance(norm, Tensor):
        return like.new_tensor(norm).view([1] * (like.dim() - 1))
    return norm.to(like.dtype).view(-1, *[1] * (like.dim() - 3))


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    """base ** exponent with a gradient of 0 at 0, where that of torch may be infinite."""
    some = base > 0
    return torch.where(some, torch.where(some, base, 1) ** exponent, 0)
