"""The timer on a GPU, and what is said of others who use it."""

import statistics
import time
import warnings

import pytest
import torch

from autotune.measure import BenchError, WorkerBench, medians
from autotune.measure.company import disturbance, smi_list, torch_list
from autotune.measure.cuda import CudaTimer
from autotune.task import FailureKind

from . import autotune_copies as copies


def test_who_is_on_the_gpu():
    printed = (
        "GPU:0\nprocess      12345 uses      530.000 MB GPU memory\n"
        "process    7 uses    1.000 MB GPU memory"
    )
    assert torch_list(printed) == {12345, 7}
    assert torch_list("GPU:0\nno processes are running") == set()
    assert torch_list("pynvml module not found, please install nvidia-ml-py") is None
    assert disturbance({12345, 7}, (7, 12345)) is None
    assert disturbance({12345, 7, 3}, (7, 1)) == (
        "other processes are on the GPU (3, 12345): times may be off"
    )
    for listed in (None, set(), {3}):  # ourselves are not there: the list is not of our ids
        assert "not known" in disturbance(listed, (7, 1))


def test_nvidia_smi_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert smi_list("GPU-1") is None
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "$@" > "$0.asked"\nprintf "12\\n34\\n"\n')
    program.chmod(0o755)
    assert smi_list("GPU-1") == {12, 34}
    asked = (tmp_path / "nvidia-smi.asked").read_text().split()
    assert asked == ["--id=GPU-1", "--query-compute-apps=pid", "--format=csv,noheader"]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert smi_list("GPU-1") is None


def test_without_a_gpu_there_is_no_timer(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(BenchError, match="expected a CUDA device, got none"):
        CudaTimer()


def microseconds(launch, samples=30, **options):
    timer = CudaTimer(**options)
    sample = timer.ready(launch)
    return statistics.median(sample() for _ in range(samples)), timer


def bandwidth():
    """Bytes a microsecond of the device's memory, from its data sheet's clock and bus."""
    properties = torch.cuda.get_device_properties(0)
    return properties.memory_bus_width / 8 * 2 * properties.memory_clock_rate / 1e3


@pytest.mark.gpu
def test_gpu_a_copy_takes_its_bytes_time():
    x = torch.zeros(1 << 28, dtype=torch.int8, device="cuda")
    y = torch.empty_like(x)
    ideal = 2 * x.numel() / bandwidth()
    for graphs in (True, False):
        found, timer = microseconds(lambda: y.copy_(x), graphs=graphs)
        assert ideal / 10 < found < 10 * ideal
        assert timer.policy == f"l2-cold,{'cuda-graph' if graphs else 'events'}"
        assert timer.device.startswith("GPU-")


@pytest.mark.gpu
def test_gpu_cold_is_slower_than_warm():
    size = torch.cuda.get_device_properties(0).L2_cache_size // 4
    x = torch.zeros(size, dtype=torch.int8, device="cuda")
    y = torch.empty_like(x)
    cold, _ = microseconds(lambda: y.copy_(x))
    warm, timer = microseconds(lambda: y.copy_(x), cold=False)
    assert timer.policy == "l2-warm,cuda-graph"
    assert cold > 1.1 * warm


@pytest.mark.gpu
def test_gpu_graph_and_events_agree():
    x = torch.ones(1 << 26, device="cuda")

    def two_kernels():
        x.mul_(1.5)
        x.sin_()

    graph, _ = microseconds(two_kernels)
    events, _ = microseconds(two_kernels, graphs=False)
    assert 1 / 1.5 < graph / events < 1.5


@pytest.mark.gpu
def test_gpu_slow_hosts_are_not_timed():
    x = torch.zeros(1 << 20, dtype=torch.int8, device="cuda")

    def slow():
        until = time.perf_counter() + 300e-6
        while time.perf_counter() < until:
            pass
        x.zero_()

    assert microseconds(slow, graphs=False)[0] < 100


@pytest.mark.gpu
def test_gpu_what_cannot_be_captured_is_timed_by_events():
    x = torch.zeros(1 << 10, device="cuda")
    timer = CudaTimer()
    stream = torch.cuda.current_stream()
    plain = timer.ready(lambda: x.add_(1))
    assert plain() > 0 and timer.policy == "l2-cold,cuda-graph"
    waits = timer.ready(lambda: x.sum().item())
    assert timer.policy == "l2-cold,events"
    assert torch.cuda.current_stream() == stream
    assert plain() > 0 and waits() > 0
    expected = x.sum().item() + x.numel()
    x.add_(1)
    assert x.sum().item() == expected


@pytest.mark.gpu
def test_gpu_a_worker_survives_what_ruins_its_device(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    small, large = copies.candidate("copy", 64), copies.candidate("copy", 256)
    ruin, exhaust = copies.candidate("assert"), copies.candidate("exhaust")
    with WorkerBench(copies.PROVIDER, copies.KEY) as bench, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of others on the GPU: this process
        found = bench.measure([small, ruin, exhaust, large], 20)
        assert bench.policy == "l2-cold,cuda-graph"
    assert [len(found[c]) for c in (small, large)] == [20, 20]
    times = medians(found)
    assert 2 < times[large] / times[small] < 8
    assert (found[exhaust].kind, found[ruin].kind) == (FailureKind.MEMORY, FailureKind.ERROR)
    assert "device-side assert" in found[ruin].detail
