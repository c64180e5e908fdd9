"""What is done to a sum before it is stored: bias, residual, activation."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from .checks import check_bias, check_residual
from .errors import ProblemError

ACTIVATIONS = ("none", "relu", "leaky_relu", "gelu", "silu", "sigmoid", "tanh")
LEAKY_SLOPE = 0.01
# Their derivative does not follow from their value: it needs the number before the activation.
NOT_FROM_VALUE = ("gelu", "silu")


class Extras(NamedTuple):
    """The operands of an epilogue as a call gives them; the defaults do nothing."""

    bias: torch.Tensor | None = None
    residual: torch.Tensor | None = None
    activation: str = "none"
    keep_pre: bool = False


@dataclass(frozen=True)
class Epilogue:
    """result[n, k, o] = activation(sum[n, k, o] + bias[o mod period, k] + residual[n, k, o])

    Strides in elements, lifted to three spatial axes, None where there is no such operand:
    `bias_strides` (D, H, W, K), `residual_strides` (N, K, D, H, W). `keep_pre` stores the number
    before the activation as well, for the backward pass.
    """

    bias_period: tuple[int, int, int] = (1, 1, 1)
    bias_strides: tuple[int, ...] | None = None
    residual_strides: tuple[int, ...] | None = None
    activation: str = "none"
    keep_pre: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether nothing at all is done."""
        return self == Epilogue()

    @property
    def bias_kind(self) -> str:
        """ "none", "tied" (one value a channel) or "untied" (values that differ by position)."""
        if self.bias_strides is None:
            return "none"
        return "tied" if self.bias_period == (1, 1, 1) else "untied"


def epilogue_of(shape: tuple[int, ...], extras: Extras) -> Epilogue:
    """The epilogue of a result of `shape` (N, K, *spatial). Raises ProblemError."""
    bias, residual, activation, keep_pre = extras
    if activation not in ACTIVATIONS:
        raise ProblemError(
            f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}"
        )
    if bias is None and residual is None and activation == "none" and not keep_pre:
        return Epilogue()
    rank = len(shape) - 2
    missing = 3 - rank
    period, bias_strides, residual_strides = (1, 1, 1), None, None
    if bias is not None:
        check_bias(bias, shape)
        d, h, w = ((1,) * 3 + tuple(bias.shape[:-1]))[-3:]
        period = (d, h, w)
        bias_strides = ((0,) * 3 + tuple(bias.stride()))[-4:]
    if residual is not None:
        check_residual(residual, shape)
        strides = residual.stride()
        residual_strides = (*strides[:2], *[0] * missing, *strides[2:])
    return Epilogue(period, bias_strides, residual_strides, activation, keep_pre)
