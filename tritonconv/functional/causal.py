"""Causal convolution: no output depends on later inputs, so a signal can come in chunks."""

from typing import Any

import torch
from torch import Tensor

from ..arguments import positive
from ..errors import ProblemError
from ._call import Call, Kind, Size, prepare

_CAUSAL = Kind("causal_conv", "K, C/groups")


def causal_conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    dilation: Size = 1,
    groups: int = 1,
    *,
    state: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Slide a bank of filters along a signal, looking back only; in one call or chunk by chunk.

    y[n, k, q] = act(bias[k] + residual[n, k, q] + sum over c, s of
                     x[n, g(k)*C/groups + c, q - dilation*(S-1) + s*dilation] * w[k, c, s])
        where x[n, c, -1], x[n, c, -2], .. are the state's last, last but one, ..

    A chunk's state is the next one's: `y, state = causal_conv1d(chunk, w, b, state=state)`. Chunks
    of any lengths, shorter than the state too, sum the same products as one call of the whole
    signal: bit for bit the same where the order of a sum does not depend on the length. The Triton
    kernels keep it for one choice of kernel and config; ATen, on the CPU, promises no order.

    Args:
        input: (N, C, W), or (C, W) for one signal; the next W samples, at least one; dtypes and
            strides as in `conv1d`.
        weight: (K, C/groups, S), same dtype and device. The last tap meets the present sample.
        bias: (K,), or None. Not untied: a position counts from the start of its chunk.
        dilation: samples between taps, default 1.
        groups: number of channel groups that do not see each other, default 1.
        state: (N, C, dilation*(S-1)), or without N as the input; the samples before the input, the
            latest last; the input's dtype and device. Default None: zeros, the start of a signal.
        activation: None or a name, as in `conv1d`.
        residual: the output's shape; added before the activation. Default None.

    Returns:
        (output, state): (N, K, W) in the input's dtype, and the last dilation*(S-1) samples as
        `state` has them, in memory of their own. Gradients flow through both; detach the state to
        cut them at a chunk's border.

    Raises:
        ProblemError: the arguments describe no convolution, or the state does not fit them.

    Source: van den Oord et al., WaveNet: a generative model for raw audio, 2016, section 2.1;
    Goodfellow, Bengio, Courville, Deep Learning, section 9.1.
    """
    operands = (input, weight, bias, residual, activation)
    call = prepare(_CAUSAL, 1, operands, (1, 0, dilation, groups, "cross_correlation", "zeros"))
    stride, _, gap, *last = call.rest
    positive("dilation", gap)
    reach = gap[0] * (weight.shape[-1] - 1)
    _check(call, reach, state)
    if state is None:
        past, signal = call.input.new_zeros(*call.input.shape[:2], reach), call.input
    else:
        past = state.unsqueeze(0) if call.single else state
        signal = torch.cat((past, call.input), 2)
    # A start needs no copy of the signal: zeros are what padding adds.
    pads = [reach, 0] if state is None else [0, 0]
    y = call._replace(input=signal, rest=(stride, pads, gap, *last)).convolve()
    return y, _last_samples(past, call, reach)


def _last_samples(past: Tensor, call: Call, reach: int) -> Tensor:
    """The last `reach` samples of the past and the input together."""
    length = call.input.shape[2]
    kept = past.narrow(2, length, reach - length) if length < reach else past.narrow(2, 0, 0)
    fresh = call.input.narrow(2, max(length - reach, 0), min(length, reach))
    state = torch.cat((kept, fresh), 2)
    return state.squeeze(0) if call.single else state


def _check(call: Call, reach: int, state: Any) -> None:
    shape = call.input.shape
    if shape[2] < 1:
        raise ProblemError(f"input: causal_conv1d expected at least one sample, got {list(shape)}")
    if call.weight.shape[2] < 1:
        raise ProblemError(f"weight: expected a non-empty filter, got {list(call.weight.shape)}")
    if call.bias is not None and call.bias.dim() != 1:
        raise ProblemError(
            "bias: causal_conv1d expected one axis, a value for each output channel, got "
            f"{list(call.bias.shape)}; positions count from the start of a chunk"
        )
    if state is None:
        return
    if not isinstance(state, Tensor):
        raise ProblemError(f"state: expected a torch.Tensor or None, got {type(state).__name__}")
    wanted = [*shape[call.single : 2], reach]
    if list(state.shape) != wanted:
        raise ProblemError(
            f"state: expected shape {wanted}, dilation * (filter - 1) samples of each channel, got "
            f"{list(state.shape)}; pass what the last call returned, or None to start"
        )
    if state.dtype != call.input.dtype or state.device != call.input.device:
        raise ProblemError(
            f"state: expected {call.input.dtype} on {call.input.device}, as the input, got "
            f"{state.dtype} on {state.device}; convert it, for example state.to(input)"
        )
