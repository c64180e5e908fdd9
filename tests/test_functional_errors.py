"""What the functions beyond conv1d, conv2d and conv3d refuse, and the new options of all."""

import re

import pytest
import torch

from tritonconv import ProblemError
from tritonconv.functional import (
    causal_conv1d,
    conv2d,
    conv_transpose1d,
    conv_transpose2d,
    depthwise_separable_conv2d,
    factor_separable,
    separable_conv2d,
    tiled_conv2d,
    unshared_conv2d,
    unshared_conv_transpose1d,
)

from .test_functional import draw

INF = float("inf")


def image(**options):
    """conv2d of a good input and filter, output (1, 2, 3, 3)."""
    return lambda: conv2d(draw(1, 4, 5, 5), draw(2, 4, 3, 3), **options)


def spread(*sizes, **options):
    """conv_transpose2d of a good input, or one of `sizes`, and a filter (4, 2, 3, 2)."""
    return lambda: conv_transpose2d(draw(*(sizes or (1, 4, 3, 2))), draw(4, 2, 3, 2), **options)


def separable(*filters, **options):
    """separable_conv2d of a good input with these filters."""
    return lambda: separable_conv2d(draw(1, 3, 4, 4), filters, **options)


def depthwise(depthwise, pointwise):
    """depthwise_separable_conv2d of a good input and weights of these shapes."""
    return lambda: depthwise_separable_conv2d(draw(1, 2, 4, 4), draw(*depthwise), draw(*pointwise))


def causal(input=(1, 2, 4), weight=(2, 2, 3), bias=None, **options):
    """causal_conv1d of these shapes."""
    bias = None if bias is None else draw(*bias)
    return lambda: causal_conv1d(draw(*input), draw(*weight), bias, **options)


# name: (call, argument that the message starts with, what else is in it)
REFUSED = {
    # options of every convolution
    "padding-mode-word": (
        image(padding_mode="mirror"),
        "padding_mode",
        ["zeros, reflect, replicate, circular", "got 'mirror'"],
    ),
    "padding-mode-none": (image(padding_mode=None), "padding_mode", ["its name", "got None"]),
    "padding-reflect": (
        image(padding=((0, 0), (1, 5)), padding_mode="reflect"),
        "padding",
        ["at most 4 on spatial axis 1", r"got \[1, 5\]", "replicate"],
    ),
    "padding-circular": (
        image(padding=6, padding_mode="circular"),
        "padding",
        ["at most 5 on spatial axis 0", r"got \[6, 6\]"],
    ),
    "padding-high-negative": (
        image(padding=((0, -1), (0, 0))),
        "padding",
        ["non-negative", r"got \[0, -1, 0, 0\]", "slice the input"],
    ),
    "activation-word": (
        image(activation="elu"),
        "activation",
        ["none, relu, leaky_relu, gelu, silu, sigmoid, tanh", "got 'elu'"],
    ),
    "activation-function": (image(activation=torch.relu), "activation", ["its name or None"]),
    "residual-number": (image(residual=1.0), "residual", ["torch.Tensor", "got float"]),
    "residual-shape": (
        image(residual=draw(1, 2, 3, 1)),
        "residual",
        [r"shape \[1, 2, 3, 3\]", r"got \[1, 2, 3, 1\]", "expand"],
    ),
    "residual-dtype": (
        image(residual=draw(1, 2, 3, 3).float()),
        "residual",
        ["dtype torch.float64", "got torch.float32"],
    ),
    "residual-with-a-batch": (
        lambda: conv2d(draw(4, 5, 5), draw(2, 4, 3, 3), residual=draw(1, 2, 3, 3)),
        "residual",
        ["conv2d expected 3 axes, no batch as in the input", r"4 in \[1, 2, 3, 3\]"],
    ),
    "bias-period": (
        image(bias=draw(4, 1, 2)),
        "bias",
        [r"period <= output size \[3, 3\]", r"got \[4, 1, 2\]"],
    ),
    # transposed convolution
    "transpose-weight-axes": (
        lambda: conv_transpose2d(draw(1, 4, 3, 2), draw(4, 2, 3)),
        "weight",
        ["conv_transpose2d expected 4 axes", "C_in, C_out/groups", r"3 in \[4, 2, 3\]"],
    ),
    "transpose-input-axes": (
        spread(4, 3),
        "input",
        ["conv_transpose2d expected 4 axes, or 3 without a batch", r"2 in \[4, 3\]"],
    ),
    "transpose-input-empty": (
        spread(1, 4, 0, 2),
        "input",
        ["at least one element", r"\[1, 4, 0, 2\]", "only the batch may be empty"],
    ),
    "transpose-channels": (
        spread(1, 3, 3, 2),
        "input",
        [r"as many channels as weight \[4, 2, 3, 2\] has filters, 4", r"got 3 in \[1, 3, 3, 2\]"],
    ),
    "transpose-groups": (spread(groups=3), "input", ["divisible by groups = 3", "got 4"]),
    "transpose-groups-0": (spread(groups=0), "groups", ["positive", r"got \[0\]"]),
    "transpose-stride-0": (spread(stride=(1, 0)), "stride", ["positive", r"got \[1, 0\]"]),
    "transpose-dilation-0": (spread(dilation=0), "dilation", ["positive", r"got \[0, 0\]"]),
    "transpose-padding-negative": (
        spread(padding=((0, -1), (0, 0))),
        "padding",
        ["non-negative", r"got \[0, -1, 0, 0\]", "output_padding or output_size"],
    ),
    "transpose-padding-word": (
        spread(padding="some"),
        "padding",
        ["unknown word 'some'", "valid, same, same_lower, full"],
    ),
    "transpose-empty": (
        spread(padding=((0, 0), (1, 2))),
        "padding",
        ["at least one element", r"crops \[5, 3\] to \[5, 0\]", "crop less"],
    ),
    "transpose-empty-full": (
        lambda: conv_transpose1d(draw(1, 1, 2), draw(1, 1, 4), padding="full"),
        "padding",
        ["'full', which crops", r"\[5\] to \[-1\]"],
    ),
    "output-padding-stride": (
        spread(stride=(2, 3), output_padding=(1, 3)),
        "output_padding",
        [r"below \[2, 3\]", r"got \[1, 3\]", "pad the result"],
    ),
    "output-padding-dilation": (
        spread(dilation=2, output_padding=2),
        "output_padding",
        [r"less than stride or dilation, below \[2, 2\]", r"got \[2, 2\]"],
    ),
    "output-padding-negative": (
        spread(stride=2, output_padding=-1),
        "output_padding",
        ["non-negative", r"got \[-1, -1\]", "more padding"],
    ),
    "output-padding-float": (spread(output_padding=0.5), "output_padding", ["2 ints", r"got 0\.5"]),
    "output-padding-word": (
        spread(stride=2, padding="same", output_padding=1),
        "output_padding",
        ['expected 0 with padding "same"', r"got \[1, 1\]", "output_size"],
    ),
    "output-padding-size": (
        spread(stride=2, output_padding=1, output_size=(8, 5)),
        "output_size",
        ["without output_padding", r"\[8, 5\] and \[1, 1\]", "leave one of them out"],
    ),
    "output-size-small": (
        spread(stride=2, output_size=(6, 4)),
        "output_size",
        [r"from \[7, 4\] to \[8, 5\]", r"input's size \[3, 2\]", r"got \[6, 4\]"],
    ),
    "output-size-large": (
        spread(stride=(2, 1), padding=1, output_size=(1, 4, 5, 2)),
        "output_size",
        [r"from \[5, 1\] to \[6, 1\]", r"got \[5, 2\]"],
    ),
    "output-size-same": (
        spread(stride=3, padding="same", output_size=(6, 6)),
        "output_size",
        [r"from \[7, 4\] to \[9, 6\]", r"got \[6, 6\]"],
    ),
    "output-size-axes": (spread(output_size=(1, 1, 1, 1, 1)), "output_size", ["2 ints"]),
    # a bank a position
    "unshared-banks": (
        lambda: unshared_conv2d(draw(1, 2, 5, 5), draw(2, 3, 2, 2, 2, 2), stride=2),
        "weight",
        [r"each of \[2, 2\] positions", r"got \[2, 3\] in", "tiled_conv2d"],
    ),
    "unshared-axes": (
        lambda: unshared_conv2d(draw(1, 2, 5, 5), draw(2, 2, 2, 2)),
        "weight",
        ["unshared_conv2d expected 6 axes", "the output's size, K, C/groups and 2 of the filter"],
    ),
    "unshared-stride-0": (
        lambda: unshared_conv2d(draw(1, 2, 3, 3), draw(2, 2, 2, 2, 2, 2), stride=0),
        "stride",
        ["positive ints"],
    ),
    "unshared-too-small": (
        lambda: unshared_conv2d(draw(1, 2, 3, 1), draw(2, 2, 2, 2, 2, 2)),
        "input",
        ["padded size 1 on spatial axis 1", "reach 2"],
    ),
    "unshared-transpose-banks": (
        lambda: unshared_conv_transpose1d(draw(1, 2, 5), draw(4, 2, 3, 2)),
        "weight",
        [
            "unshared_conv_transpose1d",
            r"the input's \[5\] positions",
            r"got \[4\] in \[4, 2, 3, 2\]",
        ],
    ),
    "tiled-period": (
        lambda: tiled_conv2d(draw(1, 2, 3, 3), draw(1, 3, 2, 2, 2, 2)),
        "weight",
        [r"period \[1, 3\] exceeds the output size \[2, 2\]"],
    ),
    "tiled-axes": (
        lambda: tiled_conv2d(draw(1, 2, 3, 3), draw(2, 2, 2, 2)),
        "weight",
        ["tiled_conv2d expected 6 axes", "the period, K, C/groups"],
    ),
    # separable
    "filters-one-tensor": (
        lambda: separable_conv2d(draw(1, 3, 4, 4), draw(2, 3, 3)),
        "filters",
        ["a sequence of 2 tensors", "got Tensor", "factor_separable"],
    ),
    "filters-three": (
        separable(draw(3, 2), draw(3, 2), draw(3, 2)),
        "filters",
        ["2 tensors", "got 3"],
    ),
    "filters-none": (separable(draw(3, 2), None), r"filters\[1\]", ["torch.Tensor", "NoneType"]),
    "filters-channels": (
        separable(draw(3, 2), draw(2, 2)),
        r"filters\[1\]",
        [r"shape \[3, size\]", r"got \[2, 2\]"],
    ),
    "filters-axes": (separable(draw(3), draw(3, 2)), r"filters\[0\]", [r"got \[3\]"]),
    "filters-empty": (separable(draw(3, 2), draw(3, 0)), r"filters\[1\]", ["empty", r"\[3, 0\]"]),
    "filters-dtype": (
        separable(draw(3, 2), draw(3, 2).float()),
        r"filters\[1\]",
        ["dtype torch.float64, that of input", "got torch.float32"],
    ),
    "filters-too-large": (
        separable(draw(3, 2), draw(3, 5)),
        "input",
        ["padded size 4 on spatial axis 1", "reach 5"],
    ),
    "factor-rank-2": (
        lambda: factor_separable(torch.stack((torch.ones(3, 3), torch.eye(3)))[:, None]),
        "weight",
        ["numerical rank 3 in channel 1", "axis 0", "second singular value is 1 of the first"],
    ),
    "factor-axis": (
        lambda: factor_separable(torch.eye(2)[None, None, None].expand(1, 1, 2, 2, 2)),
        "weight",
        ["rank 2 in channel 0", "spatial axis 1", "conv3d"],
    ),
    "factor-channels": (
        lambda: factor_separable(draw(2, 3, 2, 2)),
        "weight",
        [r"\(C, 1, \*filter\)", r"got \[2, 3, 2, 2\]"],
    ),
    "factor-not-finite": (
        lambda: factor_separable(torch.full((1, 1, 2, 2), INF)),
        "weight",
        ["finite", "got inf or nan"],
    ),
    "factor-list": (lambda: factor_separable([1.0]), "weight", ["torch.Tensor", "got list"]),
    "factor-tol": (lambda: factor_separable(draw(1, 1, 2), tol=1), "tol", ["fraction", "got 1"]),
    # depthwise separable
    "depthwise-multiplier": (
        depthwise((3, 1, 2, 2), (5, 3, 1, 1)),
        "depthwise_weight",
        [r"\[m \* 2, 1, \*filter\]", r"got \[3, 1, 2, 2\]"],
    ),
    "depthwise-full": (
        depthwise((2, 2, 2, 2), (5, 2, 1, 1)),
        "depthwise_weight",
        [r"got \[2, 2, 2, 2\]"],
    ),
    "depthwise-axes": (
        depthwise((2, 1, 2), (5, 2, 1, 1)),
        "depthwise_weight",
        ["depthwise_separable_conv2d expected 4 axes", r"3 in \[2, 1, 2\]"],
    ),
    "pointwise-channels": (
        depthwise((4, 1, 2, 2), (5, 2, 1, 1)),
        "pointwise_weight",
        ["'K', 4, 1, 1", r"got \[5, 2, 1, 1\]"],
    ),
    "pointwise-filter": (
        depthwise((4, 1, 2, 2), (5, 4, 1, 2)),
        "pointwise_weight",
        [r"got \[5, 4, 1, 2\]"],
    ),
    "depthwise-no-channels": (
        lambda: depthwise_separable_conv2d(draw(1, 0, 3, 3), draw(0, 1, 2, 2), draw(1, 0, 1, 1)),
        "input",
        ["at least one channel", r"\[1, 0, 3, 3\]"],
    ),
    # causal
    "state-shape": (
        causal(state=draw(1, 2, 3)),
        "state",
        [r"shape \[1, 2, 2\]", r"got \[1, 2, 3\]", "the last call returned"],
    ),
    "state-batch": (
        causal(input=(2, 4), state=draw(1, 2, 2)),
        "state",
        [r"shape \[2, 2\]", r"got \[1, 2, 2\]"],
    ),
    "state-dtype": (
        causal(state=draw(1, 2, 2).float()),
        "state",
        ["torch.float64 on cpu", "got torch.float32 on cpu", r"state\.to\(input\)"],
    ),
    "state-number": (causal(state=0), "state", ["a torch.Tensor or None", "got int"]),
    "causal-bias": (causal(bias=(3, 2)), "bias", ["one axis", r"got \[3, 2\]", "chunk"]),
    "causal-empty-chunk": (causal(input=(1, 2, 0)), "input", ["at least one sample"]),
    "causal-empty-filter": (causal(weight=(2, 2, 0)), "weight", ["non-empty filter"]),
    "causal-dilation": (causal(dilation=-1), "dilation", ["positive ints", r"got \[-1\]"]),
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


@pytest.mark.usefixtures("aten_path")
def test_refused_after_an_equal_value_was_accepted():
    """Arguments are remembered by value, and 1 == 1.0 == True, but only an int is a stride."""
    x, w = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2)
    for accepted, refused in ((1, True), (1, 1.0), ((1, 1), (1, 1.0)), ((1, 1), (True, 1))):
        conv2d(x, w, None, accepted)
        with pytest.raises(ProblemError, match=r"^stride: "):
            conv2d(x, w, None, refused)
        conv_transpose2d(x, w, None, accepted)
        with pytest.raises(ProblemError, match=r"^stride: "):
            conv_transpose2d(x, w, None, refused)
