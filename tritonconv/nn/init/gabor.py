"""Gabor filters: a wave under a bell, the book's model of simple cells in the visual cortex."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import ProblemError
from ._weight import centred, check_positive, check_weight, numbers, unit, write

# Below this part of its bell's norm, what is left of a filter without its mean is rounding.
LEAST_VARIATION = 1e-6


def gabor_(
    weight: Tensor,
    *,
    orientations: int | Sequence[float] | None = None,
    frequencies: float | Sequence[float] = (0.25, 0.125),
    phases: float | Sequence[float] = (0.0, math.pi / 2),
    bandwidth: float = 1.5,
    aspect: float = 0.5,
) -> Tensor:
    """Fill a weight with Gabor filters, one for each orientation, frequency and phase.

    w[k, c, y, x] = alpha * (v(x, y) - mean of v over the filter)
    v(x, y) = exp(-beta_x x'^2 - beta_y y'^2) cos(f x' + phi)
        where x' = (x - x0) cos tau + (y - y0) sin tau
              y' = -(x - x0) sin tau + (y - y0) cos tau
              f = 2 pi F,  beta_x = 1 / (2 sigma^2),  beta_y = aspect^2 / (2 sigma^2)
              sigma = sqrt(ln 2 / 2) / (pi F) * (2^bandwidth + 1) / (2^bandwidth - 1)

    x counts columns and y rows, downwards; (x0, y0) is the filter's middle. The wave runs along
    tau: 0 has upright bars, pi/2 lying ones, and between them tau turns clockwise as one looks.
    alpha makes the norm of the whole filter 1; all channels c get the same. In 1-D
    v(x) = exp(-beta_x (x - x0)^2) cos(f (x - x0) + phi).

    The bank counts like the digits of a number, orientation first: all phases of the first
    frequency of the first orientation, then the next frequency, then the next orientation. With
    B filters in the bank, filter k is number k mod B if K >= B, and else floor(k B / K), an even
    spread, which thins phases first and orientations last.

    Args:
        weight: (K, C/groups, R, S) or (K, C/groups, S); float16, bfloat16, float32 or float64; any
            device and strides.
        orientations: tau in radians, a sequence; or a number n of them, i pi / n for i < n.
            Default None, 8. A signal has none: there it stays None.
        frequencies: F in cycles a pixel, above 0 and up to 1/2. Default 1/4 and 1/8, an octave
            apart, for filters of 7 pixels and more.
        phases: phi in radians; 0 is a bar, pi/2 an edge. Default both.
        bandwidth: octaves between the two frequencies at which the response is half its largest;
            fewer octaves make a wider bell, with more waves. Default 1.5.
        aspect: width of the bell along the wave over its length along the bars. Default 0.5;
            nothing in 1-D.

    Returns:
        The weight, changed in place; no gradient is recorded.

    Raises:
        ProblemError: bad arguments, or a filter that is the same everywhere, as the edge of
            frequency 1/2 is; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.10.
    """
    rank = check_weight(weight)
    if rank == 3:
        raise ProblemError(
            "weight: expected 3 or 4 axes, a Gabor filter for signals or images, got 5 in "
            f"{list(weight.shape)}; fill the slices weight[:, :, t] of a video's filter"
        )
    count, channels = weight.shape[:2]
    size = weight.shape[2:] if rank == 2 else (1, weight.shape[2])
    if math.prod(size) < 2:
        raise ProblemError(
            f"weight: expected filters of at least 2 elements a channel, got {list(weight.shape)}"
        )
    check_positive("bandwidth", bandwidth)
    check_positive("aspect", aspect)
    waves = torch.cartesian_prod(
        _angles(rank, orientations), _frequencies(frequencies), _floats("phases", phases)
    )
    waves = waves[_chosen(count, len(waves))]
    bell, wave = _sample(size, waves, _sigma_times_frequency(bandwidth), aspect)
    bank = centred(bell * wave)
    _check_variation(bank, bell, waves, size)
    return write(weight, unit(bank).repeat(1, channels) / math.sqrt(channels))


def _angles(rank: int, orientations: int | Sequence[float] | None) -> Tensor:
    if rank == 1 and orientations is not None:
        raise ProblemError(
            f"orientations: expected None for a signal's filter, got {orientations!r}; a weight "
            "for images has 4 axes"
        )
    if rank == 1:
        return torch.zeros(1, dtype=torch.float64)
    count = 8 if orientations is None else orientations
    if isinstance(count, Sequence):
        return _floats("orientations", count)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ProblemError(
            "orientations: expected a positive int or a sequence of angles in radians, got "
            f"{orientations!r}"
        )
    return torch.arange(count, dtype=torch.float64) * (math.pi / count)


def _frequencies(frequencies: float | Sequence[float]) -> Tensor:
    values = _floats("frequencies", frequencies)
    if not ((values > 0) & (values <= 0.5)).all():
        raise ProblemError(
            "frequencies: expected cycles a pixel above 0 and up to 0.5, a wave of two pixels, "
            f"got {frequencies!r}; divide radians a pixel by 2 pi"
        )
    return values


def _floats(name: str, value: float | Sequence[float]) -> Tensor:
    return torch.tensor(numbers(name, value), dtype=torch.float64)


def _chosen(count: int, bank: int) -> Tensor:
    """Which filters of the bank a weight of `count` filters gets."""
    numbers = torch.arange(count)
    return numbers % bank if count >= bank else numbers * bank // count


def _sigma_times_frequency(bandwidth: float) -> float:
    ratio = 2.0**bandwidth
    return math.sqrt(math.log(2) / 2) / math.pi * (ratio + 1) / (ratio - 1)


def _sample(
    size: Sequence[int], waves: Tensor, sigma_times_frequency: float, aspect: float
) -> tuple[Tensor, Tensor]:
    """Bells and waves at every pixel, (count, R * S) each; `waves` has a row (tau, F, phi) each."""
    rows, columns = (
        torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in size
    )  # from the middle
    y, x = (grid.flatten() for grid in torch.meshgrid(rows, columns, indexing="ij"))
    tau, frequency, phase = (column[:, None] for column in waves.unbind(1))
    along = x * tau.cos() + y * tau.sin()
    across = -x * tau.sin() + y * tau.cos()
    beta = frequency**2 / (2 * sigma_times_frequency**2)
    bell = torch.exp(-beta * (along**2 + (aspect * across) ** 2))
    return bell, torch.cos(2 * math.pi * frequency * along + phase)


def _check_variation(bank: Tensor, bell: Tensor, waves: Tensor, size: Sequence[int]) -> None:
    flat = bank.norm(dim=1) < LEAST_VARIATION * bell.norm(dim=1)
    if flat.any():
        tau, frequency, phase = waves[flat][0].tolist()
        raise ProblemError(
            f"frequencies: expected filters that vary over their {size[0]}x{size[1]} pixels, but "
            f"the one of orientation {tau:.4g}, frequency {frequency:.4g} and phase {phase:.4g} "
            "is the same at each; leave that phase or frequency out, or use a larger filter"
        )
