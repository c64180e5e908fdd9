"""PyTorch's own samples of its convolutions: values and gradients against ATen, and its errors."""

import pytest
import torch
from hypothesis import settings
from torch.testing._internal.common_methods_invocations import op_db

from tritonconv import functional
from tritonconv.testing.agreement import kernel_device

from .conftest import DEEP

# Importing torch's samples loads a Hypothesis profile of torch's own where CI is set.
settings.load_profile("deep" if DEEP else "default")

NAMES = [f"conv{kind}{rank}d" for kind in ("", "_transpose") for rank in (1, 2, 3)]
OPS = {op.name.split(".")[-1]: op for op in op_db if op.name.startswith("nn.functional.conv")}
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
}


@pytest.mark.parametrize("name", NAMES)
def test_samples(name):
    ours, theirs = getattr(functional, name), getattr(torch.nn.functional, name)
    samples = list(OPS[name].sample_inputs(kernel_device(), torch.float64, requires_grad=True))
    assert len(samples) >= FEWEST[name][0]
    for sample in samples:
        args, kwargs = (sample.input, *sample.args), sample.kwargs
        leaves = [a for a in args if isinstance(a, torch.Tensor) and a.requires_grad]
        got, want = ours(*args, **kwargs), theirs(*args, **kwargs)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        assert leaves[0] is sample.input and leaves[1] is args[1]
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
