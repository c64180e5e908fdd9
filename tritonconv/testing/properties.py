"""What every convolution must satisfy, as assertions over any implementation.

Each takes `conv(x, w) -> y`, a function of tensors, and raises AssertionError with the worst
deviation. `tolerance` is relative to the largest magnitude that the sums could reach.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Conv = Callable[[Tensor, Tensor], Tensor]


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


def _close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    assert got.shape == expected.shape, f"shape {tuple(got.shape)}, not {tuple(expected.shape)}"
    scale = max(expected.abs().max().item(), 1.0) if expected.numel() else 1.0
    worst = (got - expected).abs().max().item() if got.numel() else 0.0
    # NaN compares false, so it fails.
    assert worst <= tolerance * scale, f"off by {worst:.3g} at a scale of {scale:.3g}"
