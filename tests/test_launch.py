"""A plan that is bound to its slots: what goes where, which way, and when Triton is asked."""

from types import SimpleNamespace

import pytest
import torch
import triton
from triton import knobs

from autotune import Config
from tritonconv import compiled, launch
from tritonconv.launch import Launch, Plan, Slot


class Kernel:
    """Stands for a kernel that Triton has compiled; remembers what it was launched with."""

    arg_names = ("src_ptr", "bias_ptr", "dst_ptr", "work_ptr", "size", "BLOCK")

    def __init__(self):
        self.by_triton, self.directly = [], []

    def __getitem__(self, grid):
        def call(**arguments):
            self.by_triton.append((grid, arguments))
            return SimpleNamespace(
                run=lambda *a: self.directly.append(a), function="function", packed_metadata="meta"
            )

        return call


@pytest.fixture
def gpu(monkeypatch):
    """Tensors count as lying on GPU 0, which is current, has stream 77 and passed its trial."""
    monkeypatch.setattr(torch.Tensor, "get_device", lambda self: 0)
    monkeypatch.setattr(launch, "_current_device", lambda: 0)
    monkeypatch.setattr(launch, "_stream_of", lambda index: 77)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(compiled, "refusal", lambda index: None)


def plan_of(kernel, workspace=0, programs=5):
    arguments = {
        "src_ptr": Slot.INPUT,
        "bias_ptr": Slot.BIAS,
        "dst_ptr": Slot.OUTPUT,
        "work_ptr": Slot.WORKSPACE if workspace else None,
        "size": 12,
        "BLOCK": 64,
    }
    one = Launch(kernel, programs, arguments, Config.of(4, 2))
    problem = SimpleNamespace(dtype=torch.float32)
    return Plan(problem, None, "triton", "fake", (one,), workspace)


def test_the_first_launch_is_tritons_and_the_second_direct(gpu):
    kernel = Kernel()
    run = plan_of(kernel).bind(Slot.OUTPUT, Slot.INPUT)
    x, y, z = torch.zeros(1), torch.ones(1), torch.ones(2)
    run(y, x)
    (grid, arguments), *_ = kernel.by_triton
    assert grid == (5,)
    assert arguments["src_ptr"] is x and arguments["dst_ptr"] is y and arguments["bias_ptr"] is None
    assert (arguments["size"], arguments["BLOCK"], arguments["num_warps"]) == (12, 64, 4)
    run(z, x)
    assert len(kernel.by_triton) == 1
    (found,) = kernel.directly
    assert found[:9] == (5, 1, 1, 77, "function", "meta", None, None, None)
    assert found[9] is x and found[10] is None and found[11] is z and found[12:] == (None, 12, 64)


def test_a_workspace_is_made_for_every_launch(gpu):
    kernel = Kernel()
    run = plan_of(kernel, workspace=30).bind(Slot.INPUT, Slot.OUTPUT)
    for _ in range(2):
        run(torch.zeros(1), torch.zeros(1))
    (_, arguments), found = kernel.by_triton[0], kernel.directly[0]
    assert arguments["work_ptr"].shape == found[12].shape == (30,)
    assert arguments["work_ptr"] is not found[12]


def test_hooks_are_tritons_to_call(gpu):
    kernel = Kernel()
    run = plan_of(kernel).bind(Slot.INPUT, Slot.OUTPUT)
    tensors = torch.zeros(1), torch.zeros(1)
    run(*tensors)

    def hook(metadata):
        pass

    knobs.runtime.launch_enter_hook.add(hook)
    try:
        run(*tensors)
    finally:
        knobs.runtime.launch_enter_hook.remove(hook)
    assert (len(kernel.by_triton), len(kernel.directly)) == (2, 0)
    run(*tensors)
    assert (len(kernel.by_triton), len(kernel.directly)) == (2, 1)


def test_a_capture_puts_the_trial_off(gpu, monkeypatch):
    kernel = Kernel()
    run = plan_of(kernel).bind(Slot.INPUT, Slot.OUTPUT)
    tensors = torch.zeros(1), torch.zeros(1)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    run(*tensors)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    run(*tensors)
    run(*tensors)
    assert (len(kernel.by_triton), len(kernel.directly)) == (2, 1)


def test_an_unknown_triton_launches_itself(gpu, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(triton, "__version__", "4.0.1")
    compiled.refusal.cache_clear()
    try:
        reason = compiled.refusal(0)
    finally:
        compiled.refusal.cache_clear()
    assert reason == "Triton 4.0 is none of 3.6, 3.9, whose compiled kernels are known"


def test_a_failed_trial_is_a_reason_and_no_error():
    compiled.refusal.cache_clear()
    try:
        reason = compiled.refusal(63)
    finally:
        compiled.refusal.cache_clear()
    assert reason is not None and reason.startswith("the trial launch raised ")


@pytest.mark.gpu
def test_the_trial_passes():
    assert compiled.refusal(0) is None


def test_an_empty_result_launches_nothing(gpu):
    kernel = Kernel()
    plan_of(kernel, programs=0).bind(Slot.INPUT, Slot.OUTPUT)(torch.zeros(1), torch.zeros(1))
    assert kernel.by_triton == kernel.directly == []


def test_run_binds_once(gpu):
    kernel = Kernel()
    plan = plan_of(kernel)
    for _ in range(3):
        plan.run({Slot.INPUT: torch.zeros(1), Slot.OUTPUT: torch.zeros(1)})
    assert (len(kernel.by_triton), len(kernel.directly)) == (1, 2)
