"""The tests themselves: a fault planted in a kernel makes them fail (`tests/faults.py`)."""

import pytest

from .faults import FAULTS, KERNELS, ROOT, guards, notices


@pytest.mark.parametrize("name", FAULTS)
def test_fault_can_be_planted(name):
    """Its text is in the kernel, once, and the change changes something."""
    fault = FAULTS[name]
    assert (ROOT / KERNELS / fault.file).read_text().count(fault.old) == 1
    assert fault.old != fault.new


@pytest.mark.deep
@pytest.mark.parametrize(("tests", "guard"), guards(FAULTS.values()))
def test_guard_passes_without_a_fault(tests, guard):
    assert not notices(None, tests, guard)


@pytest.mark.deep
@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_noticed(name):
    fault = FAULTS[name]
    assert notices(fault, fault.tests, fault.guard)
