"""Fixtures and the budget: launches and seconds a module, printed, kept, and bounded."""

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

import tritonconv
from tritonconv.launch import interpreting
from tritonconv.testing.interpreter import counted_launches, fast_interpreter

from .budget import LAUNCHES

# What a shell starts in the background is deaf to Ctrl-C, and so would be all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

PROFILE = os.environ.get("TRITONCONV_PROFILE", "default")
DEEP = PROFILE == "deep"
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
settings.register_profile("default", max_examples=10, derandomize=True, **QUIET)
settings.register_profile("deep", max_examples=200, **QUIET)
settings.load_profile("deep" if DEEP else "default")

_spent: dict[str, Counter] = {}
_skips: Counter = Counter()


def pytest_collection_modifyitems(items):
    """`gpu` needs a CUDA device, `deep` the deep profile: skipped with that reason otherwise."""
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if "deep" in item.keywords and not DEEP:
            item.add_marker(pytest.mark.skip(reason="runs in the deep profile (make test-deep)"))


@pytest.fixture(scope="session", autouse=True)
def _no_records(tmp_path_factory):
    """The tests find an empty cache, whatever the user's has, and fill none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOTUNE_CACHE_DIR", str(tmp_path_factory.mktemp("autotune")))
        for name in ("AUTOTUNE_OVERRIDE", "AUTOTUNE_EXTRA", "AUTOTUNE_POLICY"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _interpreter():
    """Without a GPU the kernels run in Triton's interpreter, made fast."""
    if not interpreting():
        yield
        return
    with fast_interpreter():
        yield


@pytest.fixture(autouse=True)
def _poison():
    """torch fills fresh memory with NaN, so an element that no kernel wrote is seen."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def aten_path(monkeypatch, aten_passes):
    """CPU tensors take the ATen path, as in a process that does not interpret."""
    monkeypatch.setattr("tritonconv.ops.conv.interpreting", lambda: False)
    monkeypatch.setattr("tritonconv.ops.entry.interpreting", lambda: False)


@pytest.fixture
def aten_passes(monkeypatch):
    """Each pass is computed by ATen, but the library's own autograd functions connect them."""
    monkeypatch.setattr("tritonconv.planning.interpreting", lambda: False)
    monkeypatch.setattr("tritonconv.ops.conv.interpreting", lambda: True)
    ops = tritonconv.ops
    kept = (ops._run.CALLS, ops._pool_run.CALLS, ops.conv_pool._PLANS)
    for calls in kept:
        calls.clear()
    yield
    for calls in kept:
        calls.clear()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """Count what each test module launches and how long it takes."""
    start = time.perf_counter()
    with counted_launches() as launches:
        yield
    spent = _spent.setdefault(item.path.stem, Counter())
    spent["tests"] += 1
    spent["launches"] += len(launches)
    spent["programs"] += sum(launch.programs for launch in launches)
    spent["milliseconds"] += round(1000 * (time.perf_counter() - start))


def pytest_runtest_logreport(report):
    """Count skips by reason; under xdist the controller sees every report."""
    if report.skipped and isinstance(report.longrepr, tuple):
        _skips[report.longrepr[2]] += 1


def pytest_sessionfinish(session):
    """A worker hands its counts to the controller, which holds them against the budget."""
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["spent"] = {name: dict(count) for name, count in _spent.items()}
    elif not DEEP and interpreting():
        over = _over_budget()
        if over and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_configure(config):
    """Collect the workers' counts when they end; xdist is there only if it is installed."""
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_Collector())


class _Collector:
    def pytest_testnodedown(self, node, error):
        """Add one worker's counts to ours."""
        for name, count in getattr(node, "workeroutput", {}).get("spent", {}).items():
            _spent.setdefault(name, Counter()).update(count)


def pytest_terminal_summary(terminalreporter, config):
    """Print the table, and keep it in build/test-budget.json."""
    write = terminalreporter.write_line
    terminalreporter.section("budget")
    write(f"{'module':28}{'tests':>7}{'launches':>10}{'of':>8}{'programs':>10}{'seconds':>9}")
    for name, spent in sorted(_spent.items()):
        limit = LAUNCHES.get(name, 0)
        seconds = spent["milliseconds"] / 1000
        write(
            f"{name:28}{spent['tests']:7}{spent['launches']:10}{limit:8}"
            f"{spent['programs']:10}{seconds:9.1f}"
        )
    for reason, count in sorted(_skips.items()):
        write(f"skipped {count}: {reason}")
    if not DEEP and interpreting():
        for line in _over_budget():
            write(line, red=True)
    path = Path(str(config.rootpath)) / "build" / "test-budget.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({n: dict(c) for n, c in sorted(_spent.items())}, indent=1))


def _over_budget():
    return [
        f"{name}: {spent['launches']} launches, budget {LAUNCHES.get(name, 0)} (tests/budget.py)"
        for name, spent in sorted(_spent.items())
        if spent["launches"] > LAUNCHES.get(name, 0)
    ]
