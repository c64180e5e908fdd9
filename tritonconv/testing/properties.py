"""What every convolution and every pooling must satisfy, as assertions over any implementation.

Each takes `conv(x, w) -> y` or `pool(x) -> y`, functions of tensors, and raises AssertionError with
the worst deviation. `tolerance` is relative to the largest magnitude that the sums could reach.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Conv = Callable[[Tensor, Tensor], Tensor]
Pool = Callable[[Tensor], Tensor]


def assert_linear(conv: Conv, x: Tensor, other: Tensor, w: Tensor, tolerance: float) -> None:
    """conv(a x + b x', w) = a conv(x, w) + b conv(x', w), for a = 2, b = -3, and so in w."""
    _close(conv(2 * x - 3 * other, w), 2 * conv(x, w) - 3 * conv(other, w), tolerance)
    mirrored = w.flip(0) if w.shape[0] > 1 else -w
    _close(conv(x, 2 * w - 3 * mirrored), 2 * conv(x, w) - 3 * conv(x, mirrored), tolerance)


def assert_adjoint(forms: tuple[Tensor, Tensor, Tensor], tolerance: float) -> None:
    """<conv(x, w), dy> = <x, dgrad(dy, w)> = <w, wgrad(dy, x)>: three values of one form."""
    a, b, c = forms
    _close(b, a, tolerance)
    _close(c, a, tolerance)


def assert_translation_equivariant(
    conv: Conv, x: Tensor, w: Tensor, shift: tuple[int, ...], tolerance: float
) -> None:
    """Moving the input moves the output: conv(T x) = T conv(x) where the frame is not cut.

    `shift` is in positions an axis, not negative, and `conv` must have stride 1 and no padding: a
    strided one moves by whole strides only.
    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.2.
    """
    axes = tuple(range(2, x.dim()))
    y, moved = conv(x, w), conv(torch.roll(x, shift, axes), w)
    expected = torch.roll(y, shift, axes)
    inside = (slice(None), slice(None), *(slice(s, None) for s in shift))
    _close(moved[inside], expected[inside], tolerance)


def assert_commutative(conv: Conv, x: Tensor, w: Tensor, tolerance: float) -> None:
    """x * w = w * x for the flipped, fully padded convolution of one channel.

    Source: Goodfellow, Bengio, Courville, Deep Learning, equation 9.6.
    """
    _close(conv(w, x), conv(x, w), tolerance)


def assert_commutes_with_monotone(pool: Pool, x: Tensor) -> None:
    """max f(x) = f(max x) for f that never falls, exactly, wherever a window has an element: to
    round is monotone too."""
    y = pool(x)
    some = y > float("-inf")
    for f in (lambda x: 3 * x - 2, lambda x: x * x * x, lambda x: x.clamp(min=0)):
        got, expected = pool(f(x))[some], f(y)[some]
        assert torch.equal(got, expected), f"{got} is not {expected}"


def assert_pool_linear(pool: Pool, x: Tensor, other: Tensor, tolerance: float) -> None:
    """pool(a x + b x') = a pool(x) + b pool(x'), for a = 2, b = -3."""
    _close(pool(2 * x - 3 * other), 2 * pool(x) - 3 * pool(other), tolerance)


def assert_norm(pool: Pool, x: Tensor, other: Tensor, factor: float, tolerance: float) -> None:
    """A norm a window: ||a x|| = |a| ||x||, ||x + x'|| <= ||x|| + ||x'||, and none is negative."""
    y, other_y = pool(x), pool(other)
    assert (y >= 0).all()
    _close(pool(factor * x), abs(factor) * y, tolerance)
    excess = pool(x + other) - (y + other_y) * (1 + tolerance)
    assert (excess <= 0).all(), f"longer than the sum of both by {excess.max().item():.3g}"


def assert_moves_by_strides(
    pool: Pool, x: Tensor, stride: tuple[int, ...], tolerance: float = 0.0
) -> None:
    """Moving the image by a stride along every axis moves the result by one.

    `pool` must have no padding: what is moved out of the image is cut off.
    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3.
    """
    moved = pool(x[(..., *(slice(s, None) for s in stride))])
    _close(moved, pool(x)[(..., *[slice(1, None)] * len(stride))], tolerance)


def changed_share(pool: Pool, x: Tensor) -> float:
    """The share of results that change when the image moves by one element along its last axis.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.3, figure 9.8.
    """
    before, after = pool(x[..., :-1]), pool(x[..., 1:])
    return (before != after).double().mean().item()


def _close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    assert got.shape == expected.shape, f"shape {tuple(got.shape)}, not {tuple(expected.shape)}"
    scale = max(expected.abs().max().item(), 1.0) if expected.numel() else 1.0
    worst = (got - expected).abs().max().item() if got.numel() else 0.0
    # NaN compares false, so it fails.
    assert worst <= tolerance * scale, f"off by {worst:.3g} at a scale of {scale:.3g}"
