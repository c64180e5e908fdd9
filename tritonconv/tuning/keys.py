"""From a problem to its tuning key and back: every field of it is in the key.

Strides are told by a word where they are those of a new tensor, so that a record serves other
sizes of the same memory format; any others are told as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from autotune import Gpu, Key

from ..device import Device
from ..epilogue import Epilogue
from ..layout import dense_strides
from ..pool_problem import PoolPass, PoolProblem, Reduction
from ..problem import ConvProblem, Pads, Pass, Triple

PROVIDER_NAME = "tritonconv"
CONTIGUOUS, CHANNELS_LAST = "contiguous", "channels_last"
# A period of this word is the output's size, whatever that is: unshared convolution.
EVERY_POSITION = "output size"
INFINITE = {"inf": float("inf"), "-inf": float("-inf")}


def gpu_of(device: Device) -> Gpu:
    """What a key says of a device."""
    arch = f"sm_{device.arch}" if device.vendor == "cuda" else str(device.arch)
    return Gpu(device.vendor, arch, device.name, device.multiprocessors)


def conv_key(problem: ConvProblem, which: Pass, device: Device, aligned: bool) -> Key:
    """The key of one pass of a convolution. `aligned`: all tensors start at 16 bytes."""
    unshared = problem.period_axes and problem.period == problem.output_size
    epilogue, written = problem.epilogue, problem.result_shape(which)
    fields = {
        "rank": problem.rank,
        "dtype": _dtype_name(problem.dtype),
        "precision": problem.precision,
        "groups": problem.groups,
        "filter": problem.filter_size,
        "stride": problem.stride,
        "dilation": problem.dilation,
        "padding": problem.padding,
        "padding_mode": problem.padding_mode,
        "period": EVERY_POSITION if unshared else problem.period,
        "period_axes": problem.period_axes,
        "flip": problem.flip,
        "activation": epilogue.activation,
        "keep_pre": epilogue.keep_pre,
        "bias_period": epilogue.bias_period,
        "bias": _layout(epilogue.bias_strides, (*epilogue.bias_period, _channels(written)), None),
        "residual": _layout(epilogue.residual_strides, _lifted(written), 0, problem.rank),
        "input": _layout(problem.input_strides, problem.input_shape_3d, 0, problem.rank),
        "weight": _layout(problem.weight_strides, problem.weight_shape_3d, 3, problem.rank),
        "output": _layout(problem.output_strides, problem.output_shape_3d, 0, problem.rank),
        "aligned": aligned,
    }
    sizes = {"N": problem.batch, "C": problem.in_channels, "K": problem.out_channels}
    sizes |= dict(zip("DHW", problem.input_size, strict=True))
    sizes |= dict(zip("ZPQ", problem.output_size, strict=True))
    return Key.of(PROVIDER_NAME, f"conv.{which.value}", fields, sizes, gpu_of(device))


def pool_key(problem: PoolProblem, which: PoolPass, device: Device, aligned: bool) -> Key:
    """The key of one pass of a pooling."""
    reduction, rank = problem.reduction, problem.rank
    x, y = problem.input_shape_3d, problem.output_shape_3d
    exponent = reduction.exponent
    words = {value: word for word, value in INFINITE.items()}
    fields = {
        "rank": rank,
        "dtype": _dtype_name(problem.dtype),
        "kind": reduction.kind,
        "divisor": reduction.divisor,
        "weighted": reduction.weighted,
        "exponent": words.get(exponent, exponent),
        "learned": reduction.learned,
        "by_channel": reduction.by_channel,
        "window": problem.kernel_size,
        "stride": problem.stride,
        "dilation": problem.dilation,
        "padding": problem.padding,
        "adaptive": problem.adaptive,
        "input": _layout(problem.input_strides, x, 0, rank),
        "output": _layout(problem.output_strides, y, 0, rank),
        "saved": _layout(problem.saved_strides, y, 0, rank),
        "gradient": _layout(problem.gradient_strides, x, 0, rank),
        "aligned": aligned,
    }
    sizes = {"N": problem.batch, "C": problem.channels}
    sizes |= dict(zip("DHW", problem.input_size, strict=True))
    sizes |= dict(zip("ZPQ", problem.output_size, strict=True))
    return Key.of(PROVIDER_NAME, f"pool.{which.value}", fields, sizes, gpu_of(device))


def problem_of(key: Key) -> tuple[ConvProblem | PoolProblem, Pass | PoolPass, bool]:
    """`(problem, pass, aligned)`: what the key was made of. Raises ValueError if it was not."""
    family, _, which = key.op.partition(".")
    fields, sizes = dict(key.fields), dict(key.sizes)
    try:
        if key.provider != PROVIDER_NAME or family not in _MAKERS:
            raise ValueError("no problem of this library")
        problem, stage, encode = _MAKERS[family](fields, sizes, which)
        device = Device(key.gpu.model, key.gpu.vendor, _arch(key.gpu), key.gpu.multiprocessors, 0)
        # Nothing is believed that the problem itself would not say again.
        if encode(problem, stage, device, fields["aligned"]) != key:
            raise ValueError("its fields contradict each other")
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise ValueError(f"key: {key} cannot be built: {type(error).__name__}: {error}") from error
    return problem, stage, bool(fields["aligned"])


def _conv(
    fields: Mapping[str, Any], sizes: Mapping[str, int], which: str
) -> tuple[ConvProblem, Pass, Any]:
    stage, rank = Pass(which), fields["rank"]
    batch, c, k = sizes["N"], sizes["C"], sizes["K"]
    x, y = _triple(sizes, "DHW"), _triple(sizes, "ZPQ")
    period = y if fields["period"] == EVERY_POSITION else _three(fields["period"])
    weight = (*period, k, c // fields["groups"], *_three(fields["filter"]))
    written = (batch, k, *y) if stage is Pass.FPROP else (batch, c, *x)
    epilogue = Epilogue(
        bias_period=fields["bias_period"],
        bias_strides=_strides(fields["bias"], (*fields["bias_period"], written[1]), None),
        residual_strides=_strides(fields["residual"], written, 0, rank),
        activation=fields["activation"],
        keep_pre=fields["keep_pre"],
    )
    problem = ConvProblem(
        rank=rank,
        batch=batch,
        in_channels=c,
        out_channels=k,
        groups=fields["groups"],
        input_size=x,
        output_size=y,
        filter_size=_three(fields["filter"]),
        stride=_three(fields["stride"]),
        dilation=_three(fields["dilation"]),
        padding=_pads(fields["padding"]),
        period=period,
        period_axes=fields["period_axes"],
        padding_mode=fields["padding_mode"],
        flip=fields["flip"],
        epilogue=epilogue,
        dtype=_dtype(fields["dtype"]),
        precision=fields["precision"],
        input_strides=_known(_strides(fields["input"], (batch, c, *x), 0, rank)),
        weight_strides=_known(_strides(fields["weight"], weight, 3, rank)),
        output_strides=_known(_strides(fields["output"], (batch, k, *y), 0, rank)),
    )
    return problem, stage, conv_key


def _pool(
    fields: Mapping[str, Any], sizes: Mapping[str, int], which: str
) -> tuple[PoolProblem, PoolPass, Any]:
    rank, batch, c = fields["rank"], sizes["N"], sizes["C"]
    x, y = _triple(sizes, "DHW"), _triple(sizes, "ZPQ")
    exponent = fields["exponent"]
    reduction = Reduction(
        fields["kind"],
        fields["divisor"],
        fields["weighted"],
        float(exponent),  # the words too
        fields["learned"],
        fields["by_channel"],
    )
    shapes = {"input": (batch, c, *x), "output": (batch, c, *y)}
    shapes |= {"saved": shapes["output"], "gradient": shapes["input"]}
    strides = {
        f"{name}_strides": _known(_strides(fields[name], shape, 0, rank))
        for name, shape in shapes.items()
    }
    problem = PoolProblem(
        rank=rank,
        batch=batch,
        channels=c,
        reduction=reduction,
        input_size=x,
        output_size=y,
        kernel_size=_three(fields["window"]),
        stride=_three(fields["stride"]),
        dilation=_three(fields["dilation"]),
        padding=_pads(fields["padding"]),
        adaptive=fields["adaptive"],
        dtype=_dtype(fields["dtype"]),
        **strides,
    )
    return problem, PoolPass(which), pool_key


_MAKERS = {"conv": _conv, "pool": _pool}


# -- strides ---------------------------------------------------------------------------------


def _layout(
    strides: Sequence[int] | None, shape: Sequence[int], banks: int | None, rank: int = 3
) -> Any:
    """A word for the strides of a new tensor of this lifted shape, else the strides themselves."""
    if strides is None:
        return None
    for word in (CONTIGUOUS,) if banks is None else (CONTIGUOUS, CHANNELS_LAST):
        if tuple(strides) == _strides(word, shape, banks, rank):
            return word
    return tuple(strides)


def _strides(
    layout: Any, shape: Sequence[int], banks: int | None, rank: int = 3
) -> tuple[int, ...] | None:
    """The inverse of `_layout`. `banks` axes of a period stand in front; None for a bias, which
    has nothing but a period and its channels. A missing axis has stride 0."""
    if layout is None or isinstance(layout, tuple):
        return layout
    if layout not in (CONTIGUOUS, CHANNELS_LAST):
        raise ValueError(f"layout: expected a word or strides, got {layout!r}")
    if banks is None:
        # The axes in front that a tied bias lacks have stride 0.
        dense = list(dense_strides(shape, False))
        for axis in range(3):
            if all(n == 1 for n in shape[: axis + 1]):
                dense[axis] = 0
        return tuple(dense)
    missing = 3 - rank
    kept = [axis for axis in range(len(shape)) if not _is_missing(axis, banks, missing)]
    present = [shape[axis] for axis in kept]
    # Without a period a weight's banks are missing, with one they are the axes kept in front.
    front = sum(axis < banks for axis in kept)
    found = [0] * len(shape)
    dense = dense_strides(present, layout == CHANNELS_LAST, front)
    for axis, stride in zip(kept, dense, strict=True):
        found[axis] = stride
    if banks and all(n == 1 for n in shape[:banks]):
        found[:banks] = [0] * banks
    return tuple(found)


def _triple(sizes: Mapping[str, int], names: str) -> Triple:
    d, h, w = (sizes[name] for name in names)
    return d, h, w


def _three(value: Any) -> Triple:
    if not isinstance(value, tuple) or not all(type(n) is int and n > 0 for n in value):
        raise ValueError(f"expected three positive ints, got {value!r}")
    d, h, w = value
    return d, h, w


def _pads(value: Any) -> Pads:
    d, h, w = ((int(low), int(high)) for low, high in value)
    return d, h, w


def _is_missing(axis: int, banks: int, missing: int) -> bool:
    in_banks = axis < banks and axis < missing
    in_space = banks + 2 <= axis < banks + 2 + missing
    return in_banks or in_space


def _known(strides: tuple[int, ...] | None) -> tuple[int, ...]:
    if strides is None:
        raise ValueError("a tensor without strides")
    return strides


def _lifted(shape: Sequence[int]) -> tuple[int, ...]:
    return (*shape[:2], *(1,) * (5 - len(shape)), *shape[2:])


def _channels(shape: Sequence[int]) -> int:
    return shape[1]


# -- words -----------------------------------------------------------------------------------


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"dtype: expected the name of one, got {name!r}")
    return found


def _arch(gpu: Gpu) -> int | str:
    return int(gpu.arch.removeprefix("sm_")) if gpu.vendor == "cuda" else gpu.arch
