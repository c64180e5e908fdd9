"""The pooling kernels against the definition in float64, over random windows; outputs poisoned."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tritonconv.pool_problem import INTEGERS, PoolArguments
from tritonconv.testing.agreement import kernel_device
from tritonconv.testing.pool_agreement import assert_pool_agrees
from tritonconv.testing.pool_strategies import POOL_KINDS, PoolCase, pool_cases

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("kind", POOL_KINDS)
@given(data=st.data())
def test_agrees_with_the_definition(kind, dtype, data):
    assert_pool_agrees(data.draw(pool_cases(kinds=(kind,), dtypes=(dtype,))), kernel_device())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("kind", POOL_KINDS)
@given(data=st.data())
def test_torchs_own_functions_agree_with_the_definition(aten_path, kind, dtype, data):
    """The CPU path."""
    assert_pool_agrees(data.draw(pool_cases(kinds=(kind,), dtypes=(dtype,))))


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@given(data=st.data())
def test_max_of_integers(dtype, data):
    assert_pool_agrees(data.draw(pool_cases(kinds=("max",), dtypes=(dtype,))), kernel_device())


WIDE = PoolArguments((3, 2), (2, 1), (1, 0, 1, 2), (1, 2), True, ())


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "expanded"])
@pytest.mark.parametrize("kind", POOL_KINDS)
def test_example_of_each_layout(kind, layout):
    """Channels in whole vectors, several tiles of them, and a rest."""
    for channels in (8, 136, 5):
        case = PoolCase(
            (2, channels, 5, 4),
            WIDE,
            kind,
            torch.bfloat16,
            (layout, layout),
            "valid" if kind == "sum" else "none",
            exponents=(2.7,),
        )
        assert_pool_agrees(case, kernel_device())
        assert_pool_agrees(dataclasses.replace(case, dtype=torch.float32), kernel_device())


@pytest.mark.parametrize("kind", POOL_KINDS)
def test_windows_of_many_taps(kind):
    """More than are written out, and more than a byte can number."""
    for arguments in (
        PoolArguments((7, 6), (3, 4), (0, 0, 0, 0), (1, 1)),
        PoolArguments((17, 17), (1, 2), (8, 8, 8, 8), (1, 1)),
        PoolArguments((0, 0), (0, 0), (0,) * 4, (0, 0), False, (1, 1)),
    ):
        divisor = "padded" if kind == "sum" else "none"
        case = PoolCase((1, 2, 17, 18), arguments, kind, torch.float32, divisor=divisor)
        assert_pool_agrees(case, kernel_device())
