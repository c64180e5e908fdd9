"""What is refused, and in which words; and the odd calls that are valid."""

import re

import pytest
import torch
from torch._subclasses import FakeTensorMode

from tritonconv import ProblemError
from tritonconv.functional import conv1d, conv2d, conv3d
from tritonconv.ops import _run
from tritonconv.ops.conv import conv, conv_dgrad, conv_wgrad

# The arguments of the ops for two spatial axes: stride, padding (low, high), dilation, groups.
PLAIN = ([1, 1], [0, 0, 0, 0], [1, 1], 1)


def zeros(*shape, dtype=torch.float32, device="cpu"):
    """A tensor as most calls have them."""
    return torch.zeros(shape, dtype=dtype, device=device)


def recorded(*shape, dtype=torch.float32, device="cpu"):
    """The same, with its gradient asked for where it can have one."""
    tensor = zeros(*shape, dtype=dtype, device=device)
    return tensor.requires_grad_(dtype.is_floating_point or dtype.is_complex)


def input_1d(**options):
    """conv1d of a good input and filter with these options."""
    return lambda t: conv1d(t(1, 4, 5), t(2, 4, 3), **options)


def image(**options):
    """conv2d of a good input and filter with these options."""
    return lambda t: conv2d(t(1, 4, 5, 5), t(2, 4, 3, 3), **options)


def volume(**options):
    """conv3d of a good input and filter with these options."""
    return lambda t: conv3d(t(1, 4, 3, 3, 3), t(2, 4, 1, 1, 1), **options)


def op(stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1):
    """The op itself, with these arguments."""
    lists = [list(stride), list(padding), list(dilation), groups]
    return lambda t: conv(t(1, 4, 5, 5), t(2, 4, 3, 3), None, *lists)


HALF, DOUBLE = torch.float16, torch.float64

# name: (call, given a maker of tensors; argument that the message starts with; what else is in it)
REFUSED = {
    # ranks
    "input-2-axes-1d": (
        lambda t: conv1d(t(5), t(2, 4, 3)),
        "input",
        ["3 axes", "2 without", "1 in", r"\[5\]"],
    ),
    "input-5-axes-2d": (
        lambda t: conv2d(t(1, 4, 5, 5, 5), t(2, 4, 3, 3)),
        "input",
        ["conv2d", "4 axes", "3 without a batch", r"5 in \[1, 4, 5, 5, 5\]"],
    ),
    "input-3-axes-3d": (
        lambda t: conv3d(t(4, 5, 5), t(2, 4, 1, 1, 1)),
        "input",
        ["conv3d", "5 axes", r"\[4, 5, 5\]"],
    ),
    "weight-3-axes-2d": (
        lambda t: conv2d(t(1, 4, 5, 5), t(2, 4, 3)),
        "weight",
        ["4 axes", "K, C/groups", r"3 in \[2, 4, 3\]"],
    ),
    "weight-4-axes-1d": (
        lambda t: conv1d(t(1, 4, 5), t(1, 2, 4, 3)),
        "weight",
        ["3 axes", r"\[1, 2, 4, 3\]"],
    ),
    "weight-0-axes": (lambda t: conv3d(t(1, 4, 3, 3, 3), t()), "weight", ["5 axes", r"0 in \[\]"]),
    "op-input-2-axes": (
        lambda t: conv(t(4, 5), t(2, 4, 3, 3), None, *PLAIN),
        "input",
        ["3, 4 or 5 axes", r"2 in \[4, 5\]"],
    ),
    "op-input-6-axes": (
        lambda t: conv(t(1, 4, 1, 1, 1, 1), t(2, 4, 3, 3), None, *PLAIN),
        "input",
        ["3, 4 or 5 axes", "6 in"],
    ),
    "op-weight-5-axes": (
        lambda t: conv(t(1, 4, 5, 5), t(1, 2, 4, 3, 3), None, *PLAIN),
        "weight",
        ["4 axes", "or 6 with a period", r"\[1, 2, 4, 3, 3\]"],
    ),
    "op-weight-0-axes-and-bias": (
        lambda t: conv(t(1, 4, 5, 5), t(), t(2), *PLAIN),
        "weight",
        ["4 axes", r"\[\]"],
    ),
    # channels and groups
    "channels": (
        lambda t: conv2d(t(1, 3, 5, 5), t(2, 4, 3, 3)),
        "input",
        [r"1 \* 4 = 4 channels", r"\[2, 4, 3, 3\]", r"3 in \[1, 3, 5, 5\]"],
    ),
    "channels-of-groups": (image(groups=2), "input", [r"2 \* 4 = 8 channels", "got 4"]),
    "channels-unbatched": (lambda t: conv1d(t(3, 5), t(2, 4, 3)), "input", ["4 channels", "got 3"]),
    "out-channels": (
        lambda t: conv2d(t(1, 4, 5, 5), t(3, 2, 3, 3), groups=2),
        "weight",
        ["output channels divisible by groups = 2", "got 3"],
    ),
    "no-out-channels": (
        lambda t: conv1d(t(1, 4, 5), t(0, 4, 3)),
        "weight",
        ["at least one output channel", r"\[0, 4, 3\]"],
    ),
    # dtypes
    "weight-dtype": (
        lambda t: conv2d(t(1, 4, 5, 5), t(2, 4, 3, 3, dtype=DOUBLE)),
        "weight",
        ["dtype torch.float32, that of input", "got torch.float64", r"weight\.to\(input\.dtype\)"],
    ),
    "bias-dtype": (
        lambda t: conv1d(t(1, 4, 5), t(2, 4, 3), t(2, dtype=HALF)),
        "bias",
        ["dtype torch.float32, that of input", "got torch.float16"],
    ),
    "integers": (
        lambda t: conv2d(t(1, 4, 5, 5, dtype=torch.int64), t(2, 4, 3, 3, dtype=torch.int64)),
        "input",
        ["float16, bfloat16, float32 or float64", "got torch.int64", r"input\.float\(\)"],
    ),
    "booleans": (
        lambda t: conv1d(t(1, 4, 5), t(2, 4, 3, dtype=torch.bool)),
        "weight",
        ["got torch.bool"],
    ),
    "complex": (
        lambda t: conv3d(t(1, 4, 3, 3, 3, dtype=torch.complex64), t(2, 4, 1, 1, 1)),
        "input",
        ["float32 or float64", "got torch.complex64"],
    ),
    # bias
    "bias-length": (
        lambda t: conv2d(t(1, 4, 5, 5), t(2, 4, 3, 3), t(3)),
        "bias",
        [r"shape \[2\]", "output channel", r"\[\*period, 2\]", r"got \[3\]"],
    ),
    "bias-axes": (
        lambda t: conv1d(t(1, 4, 5), t(2, 4, 3), t(2, 1)),
        "bias",
        [r"shape \[2\]", r"got \[2, 1\]"],
    ),
    "bias-of-tiled": (
        lambda t: conv(t(1, 4, 5, 5), t(3, 1, 2, 4, 3, 3), t(3), *PLAIN),
        "bias",
        [r"shape \[2\]", r"got \[3\]"],
    ),
    # devices
    "weight-device": (
        lambda t: conv2d(t(1, 4, 5, 5), t(2, 4, 3, 3, device="meta")),
        "weight",
        ["device cpu, that of input", "got meta", r"weight\.to\(input\.device\)"],
    ),
    "input-device": (
        lambda t: conv2d(t(1, 4, 5, 5, device="meta"), t(2, 4, 3, 3)),
        "weight",
        ["device meta, that of input", "got cpu"],
    ),
    "bias-device": (
        lambda t: conv1d(t(1, 4, 5), t(2, 4, 3), t(2, device="meta")),
        "bias",
        ["device cpu, that of input", "got meta"],
    ),
    # not tensors
    "input-list": (lambda t: conv1d([[1.0]], t(2, 4, 3)), "input", ["torch.Tensor", "got list"]),
    "weight-none": (
        lambda t: conv2d(t(1, 4, 5, 5), None),
        "weight",
        ["torch.Tensor", "got NoneType"],
    ),
    "bias-number": (
        lambda t: conv2d(t(1, 4, 5, 5), t(2, 4, 3, 3), 1.0),
        "bias",
        ["torch.Tensor", "got float"],
    ),
    # stride, dilation, groups, padding: values
    "stride-0": (image(stride=0), "stride", ["positive ints", r"got \[0, 0\]"]),
    "stride-negative": (image(stride=(1, -2)), "stride", ["positive ints", r"got \[1, -2\]"]),
    "stride-0-same": (
        input_1d(stride=0, padding="same"),
        "stride",
        ["positive ints", r"got \[0\]"],
    ),
    "dilation-0": (volume(dilation=0), "dilation", ["positive ints", r"got \[0, 0, 0\]"]),
    "dilation-negative-full": (
        image(dilation=-1, padding="full"),
        "dilation",
        ["positive ints", "-1"],
    ),
    "groups-0": (image(groups=0), "groups", ["a positive int", "got 0"]),
    "groups-negative": (input_1d(groups=-4), "groups", ["a positive int", "got -4"]),
    "padding-negative": (
        image(padding=(0, -1)),
        "padding",
        ["non-negative ints", r"got \[0, 0, -1, -1\]", "slice the input"],
    ),
    "padding-pair-negative": (
        input_1d(padding=((2, -1),)),
        "padding",
        ["non-negative", r"got \[2, -1\]"],
    ),
    # and how many
    "stride-3-of-2": (image(stride=(1, 1, 1)), "stride", ["an int or 2 ints", r"got \(1, 1, 1\)"]),
    "stride-none": (image(stride=None), "stride", ["2 ints", "got None"]),
    "stride-empty": (image(stride=()), "stride", ["2 ints", r"got \(\)"]),
    "stride-word": (image(stride="same"), "stride", ["2 ints", "got 'same'"]),
    "padding-3-of-2": (image(padding=[1, 2, 3]), "padding", ["2", r"got \[1, 2, 3\]"]),
    "padding-2-pairs-of-3": (volume(padding=((1, 1), (1, 1))), "padding", ["3 pairs", "low, high"]),
    "padding-triple": (image(padding=((1, 1, 1), (0, 0))), "padding", ["2 pairs", r"\(1, 1, 1\)"]),
    "padding-mixed": (image(padding=(1, (0, 1))), "padding", ["2 pairs", r"got \(1, \(0, 1\)\)"]),
    "dilation-2-of-3": (volume(dilation=(1, 2)), "dilation", ["3 ints", r"got \(1, 2\)"]),
    "groups-pair": (image(groups=(1, 1)), "groups", ["an int", r"got \(1, 1\)"]),
    "op-stride-length": (op(stride=[1]), "stride", ["2 ints, one", r"got \[1\]"]),
    "op-dilation-length": (op(dilation=[1, 1, 1]), "dilation", ["2 ints, one", r"got \[1, 1, 1\]"]),
    "op-padding-length": (
        op(padding=[0, 0]),
        "padding",
        [r"4 ints, a \(low, high\) pair for each of 2", r"got \[0, 0\]"],
    ),
    "op-groups": (op(groups=0), "groups", ["a positive int", "got 0"]),
    # and of what type
    "stride-bool": (image(stride=True), "stride", ["an int", "got True"]),
    "stride-float": (image(stride=(1, 2.0)), "stride", ["2 ints", r"got \(1, 2\.0\)"]),
    "padding-bool": (image(padding=(False, 1)), "padding", ["2 ints", r"got \(False, 1\)"]),
    "padding-float": (input_1d(padding=1.0), "padding", ["an int", r"got 1\.0"]),
    "padding-pair-float": (input_1d(padding=((1, 0.5),)), "padding", ["1 pair", r"\(1, 0\.5\)"]),
    "dilation-float": (image(dilation=1.5), "dilation", ["2 ints", r"got 1\.5"]),
    "groups-bool": (input_1d(groups=True), "groups", ["an int", "got True"]),
    "groups-float": (image(groups=2.0), "groups", ["an int", r"got 2\.0"]),
    # words
    "padding-word": (
        image(padding="some"),
        "padding",
        ["unknown word 'some'", "valid, same, same_lower, full", r"\(low, high\)"],
    ),
    "mode-word": (
        image(mode="correlation"),
        "mode",
        ["'cross_correlation' or 'convolution'", "got 'correlation'"],
    ),
    "mode-none": (input_1d(mode=None), "mode", ["'convolution'", "got None"]),
    # sizes
    "filter-empty": (
        lambda t: conv2d(t(1, 4, 5, 5), t(2, 4, 3, 0)),
        "weight",
        ["non-empty filter", r"got \[2, 4, 3, 0\]"],
    ),
    "filter-empty-full": (
        lambda t: conv1d(t(1, 4, 5), t(2, 4, 0), padding="full"),
        "weight",
        ["non-empty filter", r"got \[2, 4, 0\]"],
    ),
    "filter-too-large": (
        lambda t: conv2d(t(1, 4, 5, 3), t(2, 4, 3, 6), padding=1),
        "input",
        ["padded size 5 on spatial axis 1", "reach 6", "pad more"],
    ),
    "filter-too-dilated": (
        lambda t: conv1d(t(1, 4, 5), t(2, 4, 3), dilation=3),
        "input",
        ["padded size 5 on spatial axis 0", "reach 7"],
    ),
    "axis-empty": (
        lambda t: conv2d(t(1, 4, 0, 5), t(2, 4, 3, 3), padding=2),
        "input",
        ["at least one element along each spatial axis", r"\[1, 4, 0, 5\]", "batch may be empty"],
    ),
    "period-too-large": (
        lambda t: conv(t(1, 4, 5, 5), t(4, 1, 2, 4, 3, 3), None, *PLAIN),
        "weight",
        [r"period \[4, 1\]", r"output size \[3, 3\]", "1 <= period"],
    ),
    "period-0": (
        lambda t: conv(t(1, 4, 5, 5), t(3, 0, 2, 4, 3, 3), None, *PLAIN),
        "weight",
        ["period of at least 1", r"\[3, 0, 2, 4, 3, 3\]"],
    ),
    # the gradients
    "dgrad-shape": (
        lambda t: conv_dgrad(t(1, 2, 5, 5), t(2, 4, 3, 3), [1, 4, 5, 5], *PLAIN),
        "grad_output",
        [r"shape \[1, 2, 3, 3\]", r"input \[1, 4, 5, 5\]", r"got \[1, 2, 5, 5\]"],
    ),
    "dgrad-axes": (
        lambda t: conv_dgrad(t(2, 3), t(2, 4, 3, 3), [1, 4, 5, 5], *PLAIN),
        "grad_output",
        ["3, 4 or 5 axes", r"2 in \[2, 3\]"],
    ),
    "dgrad-size-axes": (
        lambda t: conv_dgrad(t(1, 2, 3, 3), t(2, 4, 3, 3), [4, 5, 5], *PLAIN),
        "input_size",
        ["4 sizes", r"got \[4, 5, 5\]"],
    ),
    "dgrad-size-negative": (
        lambda t: conv_dgrad(t(1, 2, 3, 3), t(2, 4, 3, 3), [1, 4, -5, 5], *PLAIN),
        "input_size",
        ["none negative", r"got \[1, 4, -5, 5\]"],
    ),
    "dgrad-dtype": (
        lambda t: conv_dgrad(t(1, 2, 3, 3), t(2, 4, 3, 3, dtype=DOUBLE), [1, 4, 5, 5], *PLAIN),
        "weight",
        ["dtype torch.float32, that of grad_output", "got torch.float64"],
    ),
    "dgrad-stride-length": (
        lambda t: conv_dgrad(t(1, 2, 3, 3), t(2, 4, 3, 3), [1, 4, 5, 5], [1], *PLAIN[1:]),
        "stride",
        ["2 ints", r"got \[1\]"],
    ),
    "wgrad-shape": (
        lambda t: conv_wgrad(t(2, 2, 3, 3), t(1, 4, 5, 5), [2, 4, 3, 3], *PLAIN),
        "grad_output",
        [r"shape \[1, 2, 3, 3\]", r"weight \[2, 4, 3, 3\]", r"got \[2, 2, 3, 3\]"],
    ),
    "wgrad-axes": (
        lambda t: conv_wgrad(t(1, 2, 3), t(1, 4, 5, 5), [2, 4, 3, 3], *PLAIN),
        "grad_output",
        ["4 axes like input", r"got \[1, 2, 3\]"],
    ),
    "wgrad-size-axes": (
        lambda t: conv_wgrad(t(1, 2, 3, 3), t(1, 4, 5, 5), [2, 4, 3], *PLAIN),
        "weight_size",
        ["4 or 6 sizes", r"got \[2, 4, 3\]"],
    ),
    "wgrad-device": (
        lambda t: conv_wgrad(t(1, 2, 3, 3), t(1, 4, 5, 5, device="meta"), [2, 4, 3, 3], *PLAIN),
        "input",
        ["device cpu, that of grad_output", "got meta"],
    ),
    "wgrad-padding-length": (
        lambda t: conv_wgrad(t(1, 2, 3, 3), t(1, 4, 5, 5), [2, 4, 3, 3], [1, 1], [0, 0], [1, 1], 1),
        "padding",
        ["4 ints", r"got \[0, 0\]"],
    ),
}


@pytest.fixture
def nothing_runs(monkeypatch):
    """A call that gets as far as choosing how to compute fails, and so does a plan kept."""

    def reached(*args, **kwargs):
        raise AssertionError("a refused call was planned")

    monkeypatch.setattr(_run, "sums_by_aten", reached)
    monkeypatch.setattr(_run, "make_plan", reached)
    _run.CALLS.clear()
    yield
    assert not _run.CALLS._values, "a refused call left a plan"


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("made", ["plain", "recorded", "fake"])
@pytest.mark.parametrize(("call", "name", "pieces"), REFUSED.values(), ids=list(REFUSED))
def test_refused(call, name, pieces, made):
    """Refused in the same words with plain, with differentiated and with fake tensors."""
    if made == "fake":
        with FakeTensorMode(), pytest.raises(ProblemError) as caught:
            call(zeros)
    else:
        with pytest.raises(ProblemError) as caught:
            call(recorded if made == "recorded" else zeros)
    error = caught.value
    assert isinstance(error, ValueError)
    assert isinstance(error, RuntimeError)
    message = str(error)
    assert message.startswith(f"{name}: "), message
    for piece in pieces:
        assert re.search(piece, message), f"{piece!r} is not in {message!r}"


def test_a_good_call_is_planned(nothing_runs):
    """The fixture above does notice a call that is not refused."""
    with pytest.raises(AssertionError, match="a refused call was planned"):
        image()(zeros)


def test_an_error_does_not_spoil_the_next_call():
    """The same tensors are taken once the option is right."""
    x, w = recorded(1, 2, 3, 3), recorded(1, 2, 3, 3)
    with pytest.raises(ProblemError):
        conv2d(x, w, dilation=2)
    assert conv2d(x, w).shape == (1, 1, 1, 1)


# -- odd, but valid --------------------------------------------------------------------------

TORCH = {f.__name__: getattr(torch.nn.functional, f.__name__) for f in (conv1d, conv2d, conv3d)}
# name: (function, shape of x, shape of w, options)
ODD = {
    "one-of-everything-1d": (conv1d, (1, 1, 1), (1, 1, 1), {}),
    "one-of-everything-2d": (conv2d, (1, 1, 1, 1), (1, 1, 1, 1), {}),
    "one-of-everything-3d": (conv3d, (1, 1, 1, 1, 1), (1, 1, 1, 1, 1), {}),
    "depthwise": (conv2d, (1, 3, 4, 3), (3, 1, 2, 2), {"groups": 3}),
    "depthwise-multiplied": (conv1d, (2, 3, 5), (6, 1, 3), {"groups": 3, "padding": 1}),
    "unbatched-1d": (conv1d, (2, 5), (3, 2, 3), {"stride": 2}),
    "unbatched-3d": (conv3d, (2, 2, 3, 2), (2, 2, 2, 1, 2), {}),
    "padding-beyond-data": (conv2d, (1, 2, 2, 1), (2, 2, 2, 1), {"padding": (5, 3), "stride": 2}),
    "stride-over-filter": (conv2d, (1, 2, 7, 6), (2, 2, 2, 1), {"stride": (5, 3)}),
    "filter-over-input": (conv1d, (1, 2, 2), (2, 2, 6), {"padding": 2}),
    "batch-0-1d": (conv1d, (0, 2, 5), (3, 2, 3), {"padding": 1}),
    "batch-0-2d": (conv2d, (0, 4, 5, 4), (2, 2, 3, 2), {"groups": 2, "stride": 2}),
    "batch-0-3d": (conv3d, (0, 2, 3, 3, 3), (2, 2, 2, 2, 2), {}),
}


@pytest.mark.parametrize(("function", "x_shape", "w_shape", "options"), ODD.values(), ids=list(ODD))
def test_odd_but_valid(function, x_shape, w_shape, options):
    """The values and gradients are torch's, and their shapes, even where they hold nothing."""
    generator = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(shape, dtype=DOUBLE, generator=generator).requires_grad_()
        for shape in (x_shape, w_shape, w_shape[:1])
    ]
    expected, got = TORCH[function.__name__](*leaves, **options), function(*leaves, **options)
    dy = torch.randn(expected.shape, dtype=DOUBLE, generator=generator)
    theirs = (expected, *torch.autograd.grad(expected, leaves, dy))
    ours = (got, *torch.autograd.grad(got, leaves, dy))
    for name, a, b in zip(("output", "input", "weight", "bias"), theirs, ours, strict=True):
        assert b.shape == a.shape, name
        torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("path", ["kernels", "aten"])
def test_no_input_channels_leave_the_bias(path, request):
    """A sum over nothing is zero: y is the bias, and the gradients have no elements."""
    if path == "aten":
        request.getfixturevalue("aten_path")
    x, w = torch.zeros(1, 0, 5, requires_grad=True), torch.zeros(2, 0, 3, requires_grad=True)
    bias = torch.tensor([1.5, -2.0], requires_grad=True)
    y = conv1d(x, w, bias)
    assert torch.equal(y, bias.detach()[None, :, None].expand(1, 2, 3))
    y.sum().backward()
    assert x.grad.shape == (1, 0, 5) and w.grad.shape == (2, 0, 3)
    assert torch.equal(bias.grad, torch.tensor([3.0, 3.0]))
