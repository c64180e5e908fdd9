"""How far the kernels are from float64: a training step of the digits network, and poolings.

Tolerance. Rounding errors of a sum of n products, accumulated in float32, add up like a random
walk: with overwhelming probability they stay below SPREAD sqrt(n) u(float32) times the sum of the
products' magnitudes, and storing the result adds one rounding. So a deviation relative to that sum
of magnitudes may reach u(dtype) + SPREAD sqrt(n) u(float32), u being the dtype's unit roundoff.

Source: Higham and Mary, A new approach to probabilistic rounding error analysis, SIAM Journal on
Scientific Computing 41(5), 2019.
"""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ..explain import explain
from ..functional import avg_pool2d, l2_pool2d, max_pool2d
from ..launch import interpreting
from ..pool_problem import PoolPass
from ..problem import Pass
from ..reference import pooling, pooling_gradients, textbook
from ..testing.tolerances import ROUNDOFF, SPREAD
from . import digits

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
POOLS = ("max", "avg", "l2")
# A trained network's gradients are so small that float16 would flush many to zero.
LOSS_SCALE = 1024.0


@dataclass(frozen=True)
class Deviation:
    """One tensor against its float64 sums.

    result: "y", "dx", "dw" or "db". absolute: the largest |computed - exact|. relative: the
    largest |computed - exact| / (sum of the magnitudes of the products that exact is the sum of).
    """

    layer: str
    result: str
    dtype: torch.dtype
    backend: str
    variant: str
    absolute: float
    relative: float
    tolerance: float

    @property
    def share(self) -> float:
        """The relative deviation as a part of the tolerance; infinite for NaN."""
        return math.inf if math.isnan(self.relative) else self.relative / self.tolerance

    @property
    def passed(self) -> bool:
        """Whether the deviation is within the tolerance."""
        return self.share <= 1


@dataclass(frozen=True)
class Exact:
    """A result in float64, the same sums over magnitudes, and how many terms a sum has at most."""

    value: np.ndarray
    magnitude: np.ndarray
    terms: int


def measure(
    net: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype = torch.float32
) -> list[Deviation]:
    """Deviations of y, dx, dw and db of every `digits.Conv` in one forward and backward of `net`.

    net: classifies images (N, C, H, W) as labels (N,); converted to `dtype`, gradients replaced.
    Each result is compared with the sums over the very operands that it was computed from, so a
    layer is not charged for the rounding of the layers before it.
    """
    net = net.to(dtype).eval()
    net.zero_grad()
    return [
        _deviation(call.name, result, _plan(call, result), computed, exact)
        for call in _step(net, images.to(dtype), labels)
        for result, computed, exact in _results(call)
    ]


class Call(NamedTuple):
    """One call of a layer: its x and y, which keep their gradients, and of a `digits.ConvPool` the
    number of each window's winner, which it keeps for its gradient."""

    name: str
    layer: digits.Conv
    x: Tensor
    y: Tensor
    winners: Tensor | None


def _step(net: nn.Module, images: Tensor, labels: Tensor) -> list[Call]:
    """One forward and backward; every convolution's call."""
    calls: list[Call] = []
    winners: list[Tensor] = []

    def keep(saved: Tensor) -> Tensor:
        if saved.dtype == torch.uint8:
            winners.append(saved)
        return saved.detach()

    def record(name: str) -> Any:
        def hook(layer: Any, inputs: tuple[Tensor], y: Tensor) -> None:
            (x,) = inputs
            x.retain_grad()
            y.retain_grad()
            calls.append(Call(name, layer, x, y, winners.pop() if winners else None))

        return hook

    hooks = [
        layer.register_forward_hook(record(name))
        for name, layer in net.named_modules()
        if isinstance(layer, digits.Conv)
    ]
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
            scores = net(images.detach().requires_grad_())
        loss = nn.functional.cross_entropy(scores.float(), labels)
        (LOSS_SCALE * loss).backward()
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _results(call: Call) -> list[tuple[str, Tensor, Exact]]:
    """The four results of one convolution, with what they should be; y of a `ConvPool` is pooled,
    and its gradients are those of the positions that won."""
    _, layer, x, y, winners = call
    pads = ((layer.padding, layer.padding),) * 2
    geometry = textbook.Geometry((layer.stride,) * 2, pads, (1, 1))
    assert x.grad is not None and y.grad is not None
    assert layer.weight.grad is not None and layer.bias.grad is not None
    dz = y.grad if winners is None else _at_winners(call)
    images, dy, w, b = (_float64(t) for t in (x, dz, layer.weight, layer.bias))
    out_channels, in_channels, *taps = w.shape
    input_size = images.shape[2:]
    # A stride passes over taps: only every stride-th of an axis meets the same input.
    taps_met = math.prod(-(-f // layer.stride) for f in taps)
    places = dy.size // out_channels

    def sums(result: str, x: np.ndarray, dy: np.ndarray, w: np.ndarray, b: np.ndarray) -> Any:
        if result == "y":
            z = textbook.conv(x, w, geometry, b)
            return z if winners is None else _pooled(z)
        if result == "dx":
            return textbook.dgrad(dy, w, input_size, geometry)
        if result == "dw":
            return textbook.wgrad(dy, x, w.shape, geometry)
        return dy.sum(axis=(0, 2, 3))

    found = {
        "y": (y, in_channels * math.prod(taps) + 1),
        "dx": (x.grad, out_channels * taps_met),
        "dw": (layer.weight.grad, places),
        "db": (layer.bias.grad, places),
    }
    operands = (images, dy, w, b)
    magnitudes = tuple(np.abs(operand) for operand in operands)
    return [
        (result, computed, Exact(sums(result, *operands), sums(result, *magnitudes), terms))
        for result, (computed, terms) in found.items()
    ]


def _windows(z_size: Sequence[int]) -> pooling.PoolWindows:
    """The 2x2 windows of a `digits.ConvPool`."""
    return pooling.PoolWindows(tuple(z_size), (2, 2), (2, 2), ((0, 0),) * 2, (1, 1))


def _pooled(z: np.ndarray) -> np.ndarray:
    """max of relu(z) over each window. Of magnitudes too: a maximum errs by no more than the worst
    of its elements."""
    return pooling.max_pool(np.maximum(z, 0), _windows(z.shape[2:]))[0]


def _at_winners(call: Call) -> Tensor:
    """The gradient of the convolution's output, exactly: dy where the layer's winner is positive.

    Which of two nearly equal elements wins is a matter of rounding, so it is the layer's to say.
    """
    _, layer, x, y, winners = call
    assert y.grad is not None and winners is not None
    filters = layer.weight.shape[2:]
    z_size = [
        (n + 2 * layer.padding - f) // layer.stride + 1
        for n, f in zip(x.shape[2:], filters, strict=True)
    ]
    dy = _float64(torch.where(y > 0, y.grad, 0))
    dz = pooling_gradients.max_pool_gradient(dy, winners.cpu().numpy(), _windows(z_size))
    return torch.from_numpy(dz)


def _plan(call: Call, result: str) -> tuple[str, str]:
    """Backend and variant of one result, by the library's own plan of the call."""
    if result == "db":
        return "torch", "sum of dy"

    def again() -> None:
        x = call.x.detach().requires_grad_()
        torch.autograd.grad(call.layer(x), [x, call.layer.weight], call.y.grad)

    which = {"y": (Pass.FPROP, PoolPass.FORWARD), "dx": (Pass.DGRAD,), "dw": (Pass.WGRAD,)}[result]
    # Of two kernels the second, which writes y.
    *_, plan = (plan for plan in explain(again).plans if plan.which in which)
    return plan.backend, plan.variant


def measure_pooling(images: Tensor, dtype: torch.dtype = torch.float32) -> list[Deviation]:
    """Deviations of y and dx of max, average and L2 pooling of images (N, C, H, W), by windows of
    3x3 at steps of 2 with one pixel around the image, so that windows overlap and are cut short."""
    x = images.detach().to(dtype).requires_grad_()
    windows = pooling.PoolWindows(tuple(x.shape[2:]), (3, 3), (2, 2), ((1, 1),) * 2, (1, 1))
    found = []
    for kind in POOLS:

        def pool(x: Tensor, kind: str = kind) -> Tensor:
            if kind == "l2":
                return l2_pool2d(x, 3, 2, padding=1)
            return (max_pool2d if kind == "max" else avg_pool2d)(x, 3, 2, 1)

        y = pool(x)
        dy = torch.linspace(-1, 1, y.numel(), device=x.device).view_as(y).to(dtype)
        (dx,) = torch.autograd.grad(y, x, dy)
        y_exact, dx_exact = _pooling(kind, x, y, dy, windows)
        forward, backward = explain(lambda g=dy, f=pool: torch.autograd.grad(f(x), x, g)).plans
        for result, computed, exact, plan, terms in (
            ("y", y, y_exact, forward, 1 if kind == "max" else 9),
            ("dx", dx, dx_exact, backward, 4),
        ):
            name, words = f"{kind} pool", (plan.backend, plan.variant)
            found.append(_deviation(name, result, words, computed, Exact(*exact, terms)))
    return found


def _pooling(
    kind: str, x: Tensor, y: Tensor, dy: Tensor, windows: pooling.PoolWindows
) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """y and dx of a pooling, each with its sums over magnitudes. Images are not negative."""
    values, g = _float64(x), _float64(dy)
    if kind == "max":
        exact, taps = pooling.max_pool(values, windows)
        dx, size = (pooling_gradients.max_pool_gradient(d, taps, windows) for d in (g, np.abs(g)))
    elif kind == "avg":
        exact = pooling.avg_pool(values, windows)
        dx, size = (pooling_gradients.avg_pool_gradient(d, windows) for d in (g, np.abs(g)))
    else:
        exact = pooling.lp_pool(values, windows, 2.0)
        # Of y as it was stored, which is what the gradient is computed from.
        norm = _float64(y)
        share = np.divide(g, norm, out=np.zeros_like(g), where=norm != 0)
        dx, size = (
            values * pooling_gradients.avg_pool_gradient(d, windows, divisor_override=1)
            for d in (share, np.abs(share))
        )
    return (exact, exact), (dx, size)


def _deviation(
    layer: str, result: str, plan: tuple[str, str], computed: Tensor, exact: Exact
) -> Deviation:
    dtype = computed.dtype
    off = np.abs(_float64(computed) - exact.value)
    # Below the smallest normal number the spacing of floats no longer shrinks.
    scale = np.maximum(exact.magnitude, torch.finfo(dtype).smallest_normal)
    backend, variant = plan
    return Deviation(
        layer=layer,
        result=result,
        dtype=dtype,
        backend=backend,
        variant=variant,
        absolute=float(off.max()),
        relative=float((off / scale).max()),
        tolerance=tolerance(dtype, exact.terms),
    )


def tolerance(dtype: torch.dtype, terms: int) -> float:
    """u(dtype) + SPREAD sqrt(terms) u(accumulator): see the module's text."""
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    return ROUNDOFF[dtype] + SPREAD * math.sqrt(terms) * ROUNDOFF[accumulator]


def _float64(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()


def run(checkpoint: Path, console: Console) -> int:
    """Measure the network of `checkpoint` (see `digits.save`) in three dtypes and print it.

    Returns the exit status: 0 if every deviation is within its tolerance, else 1.
    """
    console.rule("[bold]3. How exact the kernels are")
    net, images, labels = digits.load(checkpoint)
    if torch.cuda.is_available() and not interpreting():
        net, images, labels = net.cuda(), images.cuda(), labels.cuda()
        where = f"on {torch.cuda.get_device_name()}"
    else:
        where = "in Triton's interpreter, for want of a GPU"
    console.print(
        f"One training step on {len(images)} held-out digits through the Triton kernels, {where}. "
        "Each layer's output y and gradients dx, dw and db are compared with the textbook's sums, "
        "done in float64 from the same operands. So are poolings of the images.\n"
    )
    start = time.perf_counter()
    # tf32 would round the operands to 11 bits first.
    with torch.backends.cudnn.flags(allow_tf32=False), _interpreter():
        found = [
            row
            for dtype in DTYPES
            for row in (
                *measure(deepcopy(net), images, labels, dtype),
                *measure_pooling(images, dtype),
            )
        ]
    status = report(found, console)
    console.print(f"Measured in {time.perf_counter() - start:.1f} s.")
    return status


def _interpreter() -> Any:
    if not interpreting():
        return nullcontext()
    from ..testing.interpreter import fast_interpreter

    return fast_interpreter()


def report(found: list[Deviation], console: Console) -> int:
    """Print the float32 deviations, the worst of each other dtype and every failure.

    Returns the exit status: 0 if all are within tolerance, else 1.
    """
    table = Table(
        box=SIMPLE, padding=(0, 1, 0, 0), title="float32", title_justify="left", title_style="bold"
    )
    for column in ("layer", "result", "variant", "backend"):
        table.add_column(column, no_wrap=True)
    for column in ("absolute", "relative", "tolerance"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in found:
        if row.dtype == torch.float32:
            words = (row.layer, row.result, row.variant, row.backend)
            table.add_row(*words, *_numbers(row), style=None if row.passed else "red")
    console.print(table)

    for dtype in sorted({row.dtype for row in found} - {torch.float32}, key=str):
        rows = [row for row in found if row.dtype == dtype]
        worst = max(rows, key=lambda row: row.share)
        console.print(
            f"{_short(dtype)}: the same {len(rows)} results; nearest to its tolerance is "
            f"{worst.result} of {worst.layer}, at {worst.share:.0%} of {worst.tolerance:.1e}."
        )
    console.print(
        "\nAbsolute is the worst deviation of any element; relative is that over the sum of the "
        "magnitudes of the products that the element sums up. The tolerance of a sum of n products "
        f"is u(dtype) + {SPREAD:g} sqrt(n) u(float32), where u is half the distance from 1 to the "
        "next number: one rounding of the result, and a random walk of the sum's roundings. In "
        "16 bits that one rounding is nearly all, so results come close to it.\n"
    )
    failures = [row for row in found if not row.passed]
    for row in failures:
        _, relative, allowed = _numbers(row)
        console.print(
            f"[red]beyond tolerance: {row.result} of {row.layer} in {_short(row.dtype)}, "
            f"relative deviation {relative}, tolerance {allowed}"
        )
    if failures:
        console.print(f"[bold red]{len(failures)} of {len(found)} results are wrong.")
        return 1
    console.print(f"[bold green]All {len(found)} results are within their tolerance.")
    return 0


def _numbers(row: Deviation) -> tuple[str, str, str]:
    return f"{row.absolute:.1e}", f"{row.relative:.1e}", f"{row.tolerance:.1e}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
