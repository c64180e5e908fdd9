"""What the pooling functions refuse, and how they say so."""

import re

import pytest
import torch

from tritonconv import ProblemError
from tritonconv import functional as F

from .test_pool_functional import draw

INF, NAN = float("inf"), float("nan")


def called(name, *args, shape=(1, 2, 5, 5), dtype=torch.float32, **options):
    """A function of an image of this shape."""
    return lambda: getattr(F, name)(torch.ones(shape, dtype=dtype), *args, **options)


def unpool(*args, at=((0, 3),), shape=(1, 2), **options):
    """max_unpool1d of an input of `shape` with these indices."""
    return lambda: F.max_unpool1d(torch.ones(shape), torch.tensor(at), *(args or (2,)), **options)


FLOAT = "float16, bfloat16, float32 or float64"
FEW = ["padded size 4 on spatial axis 0", "window's reach 5", "pad more"]
# name: (call, argument that the message starts with, what else is in it)
REFUSED = {
    # the input, whichever function it is
    "input-list": (lambda: F.max_pool1d([1.0], 1), "input", ["torch.Tensor", "got list"]),
    "input-axes": (
        called("max_pool1d", 2),
        "input",
        ["max_pool1d expected 3 axes, or 2 without a batch", r"4 in \[1, 2, 5, 5\]"],
    ),
    "input-axes-3d": (called("l2_pool3d", 2, shape=(5, 5)), "input", ["l2_pool3d", r"2 in \[5, 5"]),
    "input-no-pixels": (
        called("avg_pool2d", 1, 1, ((1, 1), (0, 0)), shape=(1, 2, 0, 4)),
        "input",
        ["at least one element along each spatial axis", r"\[1, 2, 0, 4\]", "only batch and chan"],
    ),
    "input-no-channels": (
        called("max_pool2d", 2, shape=(0, 4, 4)),
        "input",
        ["at least one channel where there is no batch", r"\[0, 4, 4\]", "has 4 axes"],
    ),
    "input-bool": (called("max_pool2d", 2, dtype=torch.bool), "input", [FLOAT, "integer", "bool"]),
    "input-complex": (
        called("max_pool2d", 2, dtype=torch.complex64),
        "input",
        [FLOAT, "or an integer dtype", "got torch.complex64", r"input\.float\(\)"],
    ),
    "input-int-avg": (
        called("avg_pool2d", 2, dtype=torch.int64),
        "input",
        [f"{FLOAT}, got torch.int64", r"input\.float\(\)"],
    ),
    "input-int-l2": (called("l2_pool2d", 2, dtype=torch.int8), "input", [f"{FLOAT}, got torch.in"]),
    "input-int-inf": (
        called("lp_pool2d", INF, 2, dtype=torch.int32),
        "input",
        [f"{FLOAT}, got torch.int32"],
    ),
    "input-int-weighted": (
        called("weighted_pool2d", 2, sigma=1.0, dtype=torch.uint8),
        "input",
        [f"{FLOAT}, got torch.uint8"],
    ),
    "input-int-adaptive": (
        called("adaptive_avg_pool2d", 2, dtype=torch.int16),
        "input",
        [f"{FLOAT}, got torch.int16"],
    ),
    "input-small": (called("max_pool2d", 5, shape=(2, 4, 5)), "input", FEW),
    "input-small-dilated": (
        called("avg_pool2d", 3, dilation=2, shape=(2, 4, 5)),
        "input",
        FEW,
    ),
    # windows, the same arguments of every function
    "kernel-0": (called("max_pool2d", 0), "kernel_size", ["positive ints", r"got \[0, 0\]"]),
    "kernel-float": (called("avg_pool2d", 2.0), "kernel_size", ["an int or 2 ints", r"got 2\.0"]),
    "kernel-bool": (called("avg_pool2d", True), "kernel_size", ["an int or 2 ints", "got True"]),
    "kernel-three": (called("l2_pool2d", (2, 2, 2)), "kernel_size", [r"got \(2, 2, 2\)"]),
    "kernel-none": (called("max_pool2d", None), "kernel_size", ["got None"]),
    "stride-0": (called("max_pool2d", 2, (1, 0)), "stride", ["positive ints", r"got \[1, 0\]"]),
    "stride-word": (called("lp_pool2d", 2, 2, "1"), "stride", ["an int or 2 ints", "got '1'"]),
    "dilation-0": (called("max_pool2d", 2, 1, 0, 0), "dilation", ["positive", r"got \[0, 0\]"]),
    "dilation-none": (called("avg_pool2d", 2, dilation=None), "dilation", ["ints", "got None"]),
    "ceil-int": (called("max_pool2d", 2, 1, 0, 1, 1), "ceil_mode", ["True or False", "got 1"]),
    "padding-half": (
        called("max_pool2d", (2, 3), 1, (1, 2)),
        "padding",
        ["at most half of the window's reach, 1, on spatial axis 1", "got 2", "give pairs"],
    ),
    "padding-half-avg": (called("avg_pool2d", 3, 1, 2), "padding", ["at most half", "1", "got 2"]),
    "padding-half-dilated": (
        called("max_pool2d", 3, 1, 3, 2),
        "padding",
        ["half of the window's reach, 2, on spatial axis 0", "got 3"],
    ),
    "padding-half-lp": (called("l2_pool2d", 2, padding=2), "padding", ["at most half", "got 2"]),
    "padding-half-weighted": (
        called("weighted_pool2d", 2, padding=2, sigma=1.0),
        "padding",
        ["at most half", "got 2"],
    ),
    "padding-negative": (
        called("max_pool2d", 2, 1, -1),
        "padding",
        ["non-negative", r"got \[-1, -1, -1, -1\]", "slice the input"],
    ),
    "padding-pair-negative": (
        called("max_pool2d", 2, 1, ((0, 0), (0, -1))),
        "padding",
        ["non-negative", r"got \[0, 0, 0, -1\]", "slice the input"],
    ),
    "padding-word": (
        called("max_pool2d", 2, 1, "full"),
        "padding",
        ["unknown word 'full'", "one of valid, same, same_lower, ints, or"],
    ),
    "padding-pairs": (called("avg_pool2d", 2, 1, ((0, 1, 2), 1)), "padding", ["2 pairs"]),
    "padding-float": (called("avg_pool2d", 2, 1, 0.5), "padding", ["an int or 2 ints", "0.5"]),
    # max and average
    "return-indices": (
        called("max_pool2d", 2, return_indices=1),
        "return_indices",
        ["True or False", "got 1"],
    ),
    "return-indices-adaptive": (
        called("adaptive_max_pool2d", 2, "yes"),
        "return_indices",
        ["True or False", "got 'yes'"],
    ),
    "count-include-pad": (
        called("avg_pool2d", 2, 1, 0, False, None),
        "count_include_pad",
        ["True or False", "got None"],
    ),
    **{
        f"divisor-{value}": (
            called("avg_pool2d", 2, divisor_override=value),
            "divisor_override",
            ["finite number other than 0, or None", f"got {value!r}$"],
        )
        for value in (0, 0.0, NAN, INF, "2", True)
    },
    # norms
    **{
        f"norm-{value}": (
            called("lp_pool2d", value, 2),
            "norm_type",
            ["positive number, inf or -inf", f"got {value}", "no norm"],
        )
        for value in (0, -1, -0.5, NAN)
    },
    **{
        f"norm-{value!r}": (
            called("lp_pool2d", value, 2),
            "norm_type",
            ["a number or a tensor", f"got {value!r}"],
        )
        for value in ("2", None, True)
    },
    "norm-tensor-shape": (
        called("lp_pool2d", torch.ones(3), 2),
        "norm_type",
        ["one exponent, or 2, one a channel", r"got shape \[3\]"],
    ),
    "norm-tensor-int": (
        called("lp_pool2d", torch.tensor(2), 2),
        "norm_type",
        ["floating", r"got shape \[\] of torch.int64"],
    ),
    "norm-tensor-negative": (
        called("lp_pool2d", torch.tensor([2.0, -3.0]), 2),
        "norm_type",
        ["positive numbers", "got -3", "logarithm"],
    ),
    "norm-tensor-zero": (called("global_lp_pool", torch.zeros(1)), "norm_type", ["positive", "0"]),
    "norm-tensor-nan": (called("lp_pool2d", torch.tensor(NAN), 2), "norm_type", ["got nan"]),
    "norm-tensor-list": (called("lp_pool2d", [2.0, 2.0], 2), "norm_type", ["a number or a tensor"]),
    # weights
    "weights-both": (
        called("weighted_pool2d", 2, sigma=1.0, weights=torch.ones(2, 2)),
        "weights",
        ["either weights or sigma", "got both"],
    ),
    "weights-neither": (called("weighted_pool2d", 2), "weights", ["got neither"]),
    "weights-shape": (
        called("weighted_pool2d", (2, 3), weights=torch.ones(3, 2)),
        "weights",
        [r"shape \[2, 3\], that of the window", r"got \[3, 2\]"],
    ),
    "weights-list": (called("weighted_pool2d", 2, weights=[1, 1]), "weights", ["got list"]),
    **{
        f"weights-{dtype}": (
            called("weighted_pool2d", 2, weights=torch.ones(2, 2, dtype=dtype)),
            "weights",
            [f"{FLOAT}, got {dtype}", r"weights\.float\(\)"],
        )
        for dtype in (torch.bool, torch.int64, torch.complex64)
    },
    **{
        f"sigma-{value}": (
            called("weighted_pool2d", 2, sigma=value),
            "sigma",
            ["a positive number, or 2 of them", f"got {re.escape(repr(value))}"],
        )
        for value in (0, -1.0, NAN, "a", True, (1.0,), (1.0, 0.0), (1, 2, 3))
    },
    "normalize": (
        called("weighted_pool2d", 2, sigma=1.0, normalize=1),
        "normalize",
        ["True or False", "got 1"],
    ),
    # across channels
    "maxout-pieces": (called("maxout", 3), "pieces", ["divisor of the 2 channels along axis 1"]),
    "maxout-pieces-0": (called("maxout", 0), "pieces", ["divisor of the 2 channels", "got 0"]),
    "maxout-pieces-float": (called("maxout", 2.0), "pieces", [r"got 2\.0"]),
    "maxout-dim": (called("maxout", 1, 4), "dim", [r"shape is \[1, 2, 5, 5\]", "got 4"]),
    "maxout-dim-low": (called("maxout", 1, -5), "dim", ["axis of the input", "got -5"]),
    "maxout-dim-none": (called("maxout", 1, None), "dim", ["got None"]),
    "maxout-no-axes": (called("maxout", 1, 0, shape=()), "dim", [r"shape is \[\]", "got 0"]),
    "maxout-number": (lambda: F.maxout(1.0, 1), "input", ["torch.Tensor", "got float"]),
    "maxout-no-channels": (
        called("maxout", 2, shape=(2, 0, 3)),
        "input",
        ["at least one channel along axis 1", r"got \[2, 0, 3\]"],
    ),
    "channels-size": (called("cross_channel_pool", 3), "size", ["from 1 to the 2 chan", "got 3"]),
    "channels-size-0": (called("cross_channel_pool", 0), "size", ["from 1 to", "got 0"]),
    "channels-size-tuple": (called("cross_channel_pool", (2,)), "size", ["an int", r"\(2,\)"]),
    "channels-stride-0": (called("cross_channel_pool", 2, 0), "stride", ["positive int", "got 0"]),
    "channels-stride": (called("cross_channel_pool", 2, "1"), "stride", ["or None", "got '1'"]),
    "channels-kind": (
        called("cross_channel_pool", 2, kind="lp"),
        "kind",
        ["one of max, avg, l2", "got 'lp'"],
    ),
    "channels-int": (
        called("cross_channel_pool", 2, kind="l2", dtype=torch.int64),
        "input",
        [f"{FLOAT}, got torch.int64"],
    ),
    # adaptive and global
    **{
        f"output-size-{value}": (
            called("adaptive_max_pool2d", value),
            "output_size",
            [
                "a positive int or 2 of them",
                "None for the input's",
                f"got {re.escape(repr(value))}",
            ],
        )
        for value in (0, -1, 2.5, "2", True, (2, 0), (1, 2, 3), (2, "x"))
    },
    "adaptive-axes": (called("adaptive_avg_pool3d", 2, shape=(5, 5)), "input", ["5 axes, or 4"]),
    "global-axes": (
        called("global_max_pool", shape=(4, 4)),
        "input",
        [r"\(N, C, \*spatial\)", "2 axes", r"\[4, 4\]"],
    ),
    "global-list": (lambda: F.global_avg_pool([1.0]), "input", ["torch.Tensor", "got list"]),
    "global-empty": (
        called("global_lp_pool", shape=(2, 3, 0)),
        "input",
        ["at least one element", r"\[2, 3, 0\]"],
    ),
    # unpooling
    "unpool-list": (
        lambda: F.max_unpool1d(draw(1, 2), [0, 1], 2),
        "indices",
        ["an int64 tensor", "got list"],
    ),
    "unpool-int32": (
        lambda: F.max_unpool1d(draw(1, 2), torch.tensor([[0, 2]], dtype=torch.int32), 2),
        "indices",
        ["an int64 tensor", "got torch.int32"],
    ),
    "unpool-shape": (unpool(at=((0, 1, 2),)), "indices", [r"input's shape \[1, 2\]", r"\[1, 3\]"]),
    "unpool-above": (
        unpool(at=((0, 4),)),
        "indices",
        [r"below 4, those of size \[4\], or -1", "got 0 to 4", "output_size"],
    ),
    "unpool-below": (unpool(at=((-2, 3),)), "indices", ["or -1", "got -2 to 3"]),
    "unpool-axes": (unpool(shape=(2,), at=(0, 1)), "input", ["max_unpool1d expected 3 axes"]),
    "unpool-kernel": (unpool(0), "kernel_size", ["positive ints", r"got \[0\]"]),
    "unpool-stride": (unpool(2, -1), "stride", ["positive ints", r"got \[-1\]"]),
    "unpool-stride-three": (unpool(2, (1, 2, 3)), "stride", [r"got \(1, 2, 3\)"]),
    "unpool-padding": (unpool(2, 2, -1), "padding", ["non-negative", r"got \[-1\]", "output_size"]),
    "unpool-padding-large": (unpool(2, 2, 2), "padding", [r"got \[2\]", r"makes the result \[0\]"]),
    "unpool-padding-word": (unpool(2, 2, "same"), "padding", ["got 'same'"]),
    "unpool-size": (
        unpool(output_size=6),
        "output_size",
        [r"less than a stride \[2\] from \[4\]", r"got \[6\]", "the size that was pooled"],
    ),
    "unpool-size-low": (unpool(output_size=(1, 2)), "output_size", [r"got \[2\]"]),
    "unpool-size-0": (unpool(1, 3, output_size=0), "output_size", ["positive", r"got \[0\]"]),
    "unpool-size-axes": (unpool(output_size=(1, 1, 1, 4)), "output_size", [r"got \(1, 1, 1, 4\)"]),
}


@pytest.mark.usefixtures("aten_path")
@pytest.mark.parametrize(("call", "name", "pieces"), REFUSED.values(), ids=list(REFUSED))
def test_refused(call, name, pieces):
    with pytest.raises(ProblemError) as caught:
        call()
    message = str(caught.value)
    assert re.match(f"{name}: ", message), message
    for piece in pieces:
        assert re.search(piece, message), f"{piece!r} is not in {message!r}"


def test_refused_by_the_kernels_as_well():
    """The table's refusals do not depend on who computes; here those that come last."""
    for name in ("input-no-pixels", "input-bool", "input-int-avg", "input-int-l2", "input-int-inf"):
        call, argument, pieces = REFUSED[name]
        with pytest.raises(ProblemError, match=f"^{argument}: .*{pieces[-1]}"):
            call()


@pytest.mark.usefixtures("aten_path")
def test_refused_after_an_equal_value_was_accepted():
    """Arguments are remembered by value, and 1 == 1.0 == True, but only an int is a size."""
    x = torch.ones(1, 1, 4, 4)
    for accepted, refused in ((1, True), (1, 1.0), ((1, 1), (1, 1.0)), ((1, 1), (True, 1))):
        F.max_pool2d(x, accepted)
        with pytest.raises(ProblemError, match=r"^kernel_size: "):
            F.max_pool2d(x, refused)
    F.max_pool2d(x, 2, ceil_mode=True)
    with pytest.raises(ProblemError, match=r"^ceil_mode: "):
        F.max_pool2d(x, 2, ceil_mode=1)


@pytest.mark.usefixtures("aten_path")
def test_pairs_and_words_lift_torchs_limit():
    """What is refused as an int is taken as pairs, and by the words."""
    x = draw(1, 1, 4)
    with pytest.raises(ProblemError, match=r"^padding: "):
        F.max_pool1d(x, 2, 1, 2)
    assert F.max_pool1d(x, 2, 1, ((2, 2),)).shape == (1, 1, 7)
    for word, windows in (("same", 4), ("same_lower", 4), ("valid", 3)):
        assert F.max_pool1d(x, 2, 1, word).shape == (1, 1, windows)


def test_the_operators_check_what_they_are_given():
    """What the functions settle beforehand, another caller of the ops may get wrong."""
    ops, x, window = torch.ops.tritonconv, draw(1, 2, 4), ([2], [2], [0, 0], [1])
    weights = draw(2)
    for call, message in (
        (lambda: ops.sum_pool(x, None, "mean", 1.0, *window), "divisor: expected one of none, fix"),
        (lambda: ops.sum_pool(x, weights.float(), "none", 1.0, *window), "weights: expected torch"),
        (lambda: ops.sum_pool(x, draw(3), "none", 1.0, *window), r"weights: .*got \[3\]"),
        (lambda: ops.lp_pool(x, None, -1.0, *window), "norm_type: expected a positive number"),
        (
            lambda: ops.lp_pool(x, draw(3), 2.0, *window),
            r"norm_type: .*2 channels, got shape \[3\]",
        ),
        (lambda: ops.max_pool(x, [2], [2], [0], [1]), r"padding: expected 2 non-negative"),
        (lambda: ops.max_pool(x, [0], [2], [0, 0], [1]), "kernel_size: expected 1 positive"),
        (
            lambda: ops.sum_pool_grad(x, [1, 2, 4], None, "none", 1.0, *window),
            r"grad_output: expected shape \[1, 2, 2\]",
        ),
        (
            lambda: ops.max_pool_grad(draw(1, 2, 2), draw(1, 2, 3), [1, 2, 4], *window),
            r"taps: expected shape \[1, 2, 2\]",
        ),
    ):
        with pytest.raises(ProblemError, match=f"^{message}"):
            call()
