"""PyTorch's own samples of its convolutions and poolings: values and gradients against ATen, and
its errors."""

import random

import pytest
import torch
from hypothesis import settings
from torch.testing._internal.common_methods_invocations import op_db

from tritonconv import functional
from tritonconv.testing.agreement import kernel_device

from .conftest import DEEP

# Importing torch's samples loads a Hypothesis profile of torch's own where CI is set.
settings.load_profile("deep" if DEEP else "default")

CONVS = [f"conv{kind}{rank}d" for kind in ("", "_transpose") for rank in (1, 2, 3)]
KINDS = ("max", "avg", "adaptive_max", "adaptive_avg")
POOLS = [f"{kind}_pool{rank}d" for kind in KINDS for rank in (1, 2, 3)]
NAMES = CONVS + POOLS
OPS = {op.name.split(".")[-1]: op for op in op_db if op.name.startswith("nn.functional.")}
# Of more samples than these only so many are tried in every run: max_pool2d alone has 1440.
MOST = 45
# Torch refuses it, and this library has it.
SUPPORTED_HERE = "padding='same' is not supported for strided convolutions"
# How many there are: samples that no longer exist are noticed.
FEWEST = {
    "conv1d": (10, 10),
    "conv2d": (30, 10),
    "conv3d": (20, 9),
    "conv_transpose1d": (10, 0),
    "conv_transpose2d": (12, 0),
    "conv_transpose3d": (10, 0),
    "max_pool1d": (800, 20),
    "max_pool2d": (1400, 7),
    "max_pool3d": (500, 7),
    "avg_pool1d": (9, 2),
    "avg_pool2d": (7, 5),
    "avg_pool3d": (8, 6),
    "adaptive_max_pool1d": (8, 2),
    "adaptive_max_pool2d": (20, 3),
    "adaptive_max_pool3d": (20, 3),
    "adaptive_avg_pool1d": (6, 2),
    "adaptive_avg_pool2d": (10, 3),
    "adaptive_avg_pool3d": (12, 3),
}


@pytest.mark.parametrize("name", NAMES)
def test_samples(name):
    ours, theirs = getattr(functional, name), getattr(torch.nn.functional, name)
    samples = list(OPS[name].sample_inputs(kernel_device(), torch.float64, requires_grad=True))
    assert len(samples) >= FEWEST[name][0]
    if not DEEP and len(samples) > MOST:
        samples = random.Random(name).sample(samples, MOST)
    for sample in samples:
        args, kwargs = (sample.input, *sample.args), sample.kwargs
        leaves = [a for a in args if isinstance(a, torch.Tensor) and a.requires_grad]
        got, want = ours(*args, **kwargs), theirs(*args, **kwargs)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        assert leaves[0] is sample.input and (name in POOLS or leaves[1] is args[1])
        if isinstance(want, tuple):  # with the indices
            got, want = got[0], want[0]
        dy = torch.randn_like(want)
        for mine, reference in zip(
            torch.autograd.grad(got, leaves, dy),
            torch.autograd.grad(want, leaves, dy),
            strict=True,
        ):
            torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in NAMES if OPS[n].error_inputs_func is not None])
def test_errors(name):
    errors = [
        error
        for error in OPS[name].error_inputs(kernel_device())
        if SUPPORTED_HERE not in error.error_regex
    ]
    assert len(errors) >= FEWEST[name][1]
    for error in errors:
        sample = error.sample_input
        with pytest.raises(error.error_type):
            getattr(functional, name)(sample.input, *sample.args, **sample.kwargs)
