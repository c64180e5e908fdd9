"""What the layers of convolution, activation and pooling refuse, and how they say so."""

import re
from functools import partial

import pytest
import torch

from tritonconv import ProblemError
from tritonconv import functional as F


def refused(x=(1, 4, 5, 5), w=(6, 4, 3, 3), bias=None, dtypes=(torch.float32,) * 3, **options):
    """conv_pool2d of operands of these shapes and dtypes."""
    shapes = (x, w) if bias is None else (x, w, bias)
    operands = [torch.ones(s, dtype=t) for s, t in zip(shapes, dtypes, strict=False)]
    return lambda: F.conv_pool2d(*operands, **options)


NAMES = "one of max, avg, l2, maxout"
F32, F64 = torch.float32, torch.float64
# name: (call, argument that the message starts with, what else is in it)
REFUSED = {
    **{
        f"pool-{value}": (refused(pool=value), "pool", [NAMES, f"got {re.escape(repr(value))}$"])
        for value in ("min", "Max", "", None, 2, ("max",))
    },
    **{
        f"{name}-{value}": (
            refused(**{name: value}),
            name,
            [r"an int or 2 ints \(one a spatial axis\)", f"got {re.escape(repr(value))}$"],
        )
        for name in ("pool_size", "pool_stride")
        for value in ((1, 2, 3), (), 2.0, "2", True, (1, None))
    },
    "pool-size-none": (refused(pool_size=None), "pool_size", ["an int or 2 ints", "got None"]),
    "pool-size-0": (refused(pool_size=0), "pool_size", ["positive ints", r"got \[0, 0\]"]),
    "pool-size-negative": (refused(pool_size=(2, -1)), "pool_size", [r"got \[2, -1\]"]),
    "pool-stride-0": (refused(pool_stride=0), "pool_stride", ["positive ints", r"got \[0, 0\]"]),
    "pool-stride-negative": (refused(pool_stride=(1, -1)), "pool_stride", [r"got \[1, -1\]"]),
    "pool-size-large": (
        refused(pool_size=(1, 4)),
        "pool_size",
        [r"at most \[3, 3\], the convolution's output size", r"got \[1, 4\]", "pool less"],
    ),
    "pool-size-large-stride": (
        refused(pool_size=4, pool_stride=1),
        "pool_size",
        [r"at most \[3, 3\]", r"got \[4, 4\]", "pad the input more"],
    ),
    # maxout
    **{
        f"maxout-{name}-{value}": (
            refused(pool="maxout", **{name: value}),
            name,
            ["one int, a number of channels, for pool 'maxout'", f"got {re.escape(repr(value))}$"],
        )
        for name in ("pool_size", "pool_stride")
        for value in ((2, 2), (), 2.0, "2", True)
    },
    "maxout-pieces": (
        refused(pool="maxout", pool_size=4),
        "pool_size",
        ["a divisor of the 6 output channels of the weight", "got 4", "filters"],
    ),
    "maxout-pieces-many": (
        refused(pool="maxout", pool_size=12),
        "pool_size",
        ["divisor", "got 12"],
    ),
    "maxout-pieces-0": (refused(pool="maxout", pool_size=0), "pool_size", ["positive", r"\[0\]"]),
    "maxout-stride-0": (refused(pool="maxout", pool_stride=0), "pool_stride", [r"got \[0\]"]),
    # the convolution's own
    "activation": (
        refused(activation="elu"),
        "activation",
        ["none, relu, leaky_relu, gelu, silu, sigmoid, tanh", "got 'elu'"],
    ),
    "activation-function": (refused(activation=torch.relu), "activation", ["its name or None"]),
    "dtypes": (
        refused(dtypes=(F32, F64)),
        "weight",
        ["dtype torch.float32, that of input", "got torch.float64", r"weight\.to\(input\.dtype\)"],
    ),
    "dtype-of-the-bias": (
        refused(bias=(6,), dtypes=(F32, F32, F64)),
        "bias",
        ["dtype torch.float32, that of input", "got torch.float64"],
    ),
    "integers": (
        refused(dtypes=(torch.int64,) * 2),
        "input",
        ["float16, bfloat16, float32 or float64", "got torch.int64"],
    ),
    "bias-shape": (refused(bias=(5,)), "bias", [r"shape \[6\]", r"got \[5\]"]),
    "axes": (
        refused((4, 5)),
        "input",
        ["conv_pool2d expected 4 axes, or 3 without a batch", r"2 in \[4, 5\]"],
    ),
    "weight-axes": (
        refused(w=(6, 4, 3)),
        "weight",
        ["conv_pool2d expected 4 axes", "K, C/groups and 2 of the filter", r"3 in \[6, 4, 3\]"],
    ),
    "channels": (refused(w=(6, 3, 3, 3)), "input", ["= 3 channels for weight", "got 4"]),
    "filter-large": (refused(w=(6, 4, 7, 3)), "input", ["padded size 5", "reach 7"]),
    "list": (lambda: F.conv_pool1d([1.0], torch.ones(1, 1, 1)), "input", ["Tensor, got list"]),
}


def check_refused(call, name, pieces):
    with pytest.raises(ProblemError) as caught:
        call()
    message = str(caught.value)
    assert re.match(f"{name}: ", message), message
    for piece in pieces:
        assert re.search(piece, message), f"{piece!r} is not in {message!r}"


@pytest.mark.parametrize(("call", "name", "pieces"), REFUSED.values(), ids=list(REFUSED))
def test_refused(call, name, pieces):
    check_refused(call, name, pieces)


@pytest.mark.usefixtures("aten_path")
@pytest.mark.parametrize(("call", "name", "pieces"), REFUSED.values(), ids=list(REFUSED))
def test_refused_on_a_cpu(call, name, pieces):
    check_refused(call, name, pieces)


def test_the_operator_checks_its_steps():
    """What the functions settle beforehand, another caller of the op may get wrong."""
    x, w = torch.ones(1, 2, 5), torch.ones(2, 2, 2)
    op = partial(torch.ops.tritonconv.conv_pool, x, w, None, [1], [0, 0], [1], 1, False, "zeros")
    for step in ([], [0], [1, 1]):
        with pytest.raises(ProblemError, match=f"^pool_stride: .* got {re.escape(str(step))}"):
            op("none", "max", [2], step)
    with pytest.raises(ProblemError, match=r"^pool: .*got 'min'"):
        op("none", "min", [2], [2])
