"""Random filters."""

import math

import torch
from torch import Tensor

from ._weight import (
    centred,
    check_flag,
    check_generator,
    check_positive,
    check_weight,
    device_of,
    unit,
    write,
)


def random_filters_(
    weight: Tensor,
    *,
    gain: float = 1.0,
    unit_norm: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a weight with random filters of zero mean that keep the variance of white input.

    w[k, l] = gain * v[k, l] / |v[k]|,  v[k, l] = u[k, l] - mean over m of u[k, m],  u ~ N(0, 1)
        where l and m count the L elements (c, *f) of a filter

    For input of independent elements of variance 1, an output has variance
    sum over l of w[k, l]^2 = gain^2.

    Args:
        weight: (K, C/groups, *filter) with one to three axes of the filter and L >= 2; float16,
            bfloat16, float32 or float64; any device and strides.
        gain: norm of a filter, so the standard deviation of an output; sqrt(2) makes up for a ReLU
            behind it. Default 1.
        unit_norm: True: each filter has the norm `gain`. False: only the mean of its square is
            gain^2, w[k, l] = gain * v[k, l] / sqrt(L - 1), as random as the u. Default True.
        generator: source of the u, drawn in float64 on the generator's device. Default None,
            torch's own generator of the CPU.

    Returns:
        The weight, changed in place; no gradient is recorded.

    Raises:
        ProblemError: bad arguments; says which, why and what to do.

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.9; Saxe et al., On Random
    Weights and Unsupervised Feature Learning, ICML 2011.
    """
    check_weight(weight)
    check_positive("gain", gain)
    check_flag("unit_norm", unit_norm)
    check_generator(generator)
    drawn = torch.randn(
        (weight.shape[0], weight[0].numel()),
        dtype=torch.float64,
        device=device_of(generator),
        generator=generator,
    )
    bank = centred(drawn.cpu())
    bank = unit(bank) if unit_norm else bank / math.sqrt(bank.shape[1] - 1)
    return write(weight, gain * bank)
