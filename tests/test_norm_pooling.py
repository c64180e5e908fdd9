"""Lp pooling on inputs that torch gets wrong: the entries of the README's table."""

import math

import numpy as np
import pytest

from tritonconv.reference import pooling, pooling_gradients
from tritonconv.testing import norm_pooling
from tritonconv.testing.agreement import kernel_device
from tritonconv.testing.norm_pooling import (
    ENTRIES,
    is_right,
    norm_pooling_table,
    ours_of,
    right_of,
    theirs_of,
    wrong_in_torch,
)

each = pytest.mark.parametrize("entry", ENTRIES, ids=[entry.what for entry in ENTRIES])


def by_definition(entry):
    """The answer of the reference, which works in float64."""
    x = entry.input.double().numpy()
    rank = x.ndim - 2
    windows = pooling.PoolWindows(
        x.shape[2:],
        (entry.kernel,) * rank,
        (entry.stride or entry.kernel,) * rank,
        ((0, 0),) * rank,
        (1,) * rank,
        entry.ceil_mode,
    )
    y = pooling.lp_pool(x, windows, entry.norm_type)
    if entry.gradient:
        return pooling_gradients.lp_pool_gradient(np.ones(y.shape), x, windows, entry.norm_type)[0]
    return y


@each
def test_what_is_called_right_is_the_definition(entry):
    np.testing.assert_allclose(right_of(entry), by_definition(entry).ravel(), rtol=1e-12)


@each
def test_ours_is_right(entry):
    answer = ours_of(entry, kernel_device())
    assert is_right(entry, answer), (answer, right_of(entry))


@each
def test_ours_by_torchs_functions_is_right(entry, aten_passes):
    answer = ours_of(entry)
    assert is_right(entry, answer), (answer, right_of(entry))


def test_torchs_is_wrong_in_each_entry_listed():
    """And not by a rounding: by a hundredth at least, or by not being a number."""
    for entry in wrong_in_torch():
        found, right = np.array(theirs_of(entry)), by_definition(entry).ravel()
        with np.errstate(invalid="ignore"):
            off = ~(np.abs(found - right) <= 0.01 * np.abs(right))
        assert off.any(), entry


def test_an_entry_that_torch_gets_right_drops_out(monkeypatch):
    (entry,) = (entry for entry in ENTRIES if entry.what == "p = 4, [−3, 4]")
    assert entry.what not in norm_pooling_table()
    monkeypatch.setattr(norm_pooling, "theirs_of", lambda entry: [4.3])
    assert f"| {entry.what} | 4.3 | 4.28 | 4.28 |" in norm_pooling_table()
    monkeypatch.setattr(norm_pooling, "theirs_of", right_of)
    assert norm_pooling_table().count("\n") == 2  # the head alone


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 0.0, 599.0, -600.0])
def test_a_wrong_answer_is_noticed(wrong):
    (entry,) = (entry for entry in ENTRIES if entry.what == "p = 2, float16, [300 ×4]")
    assert is_right(entry, [600.0])
    assert not is_right(entry, [wrong])
