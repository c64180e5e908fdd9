"""Records decide what the library launches, under the policy in force, in both directions."""

import dataclasses
import threading
import time

import pytest
import torch

import autotune
from autotune import Candidate
from autotune.lookup import NoRecord
from autotune.parts import BuildRecord, CandidateRecord, KeyRecord
from autotune.records import Record
from autotune.store import Store
from benchmarks import overhead
from tritonconv import functional as F
from tritonconv import planning, tuning
from tritonconv.device import INTERPRETER, TARGETS
from tritonconv.ops import _policy, _run
from tritonconv.planning import make_plan
from tritonconv.pool_problem import PoolPass
from tritonconv.pooling import candidates as pool_candidates
from tritonconv.pooling import pool_plan
from tritonconv.problem import Pass
from tritonconv.tuning import build_of, conv_key, pool_key

from .test_pool_planning import problem_of as pool_problem_of
from .test_tuning_keys import conv

H200 = TARGETS["sm_90"]
SIZES = {"shape": (64, 64, 28, 28), "weight": (64, 64, 3, 3)}


@pytest.fixture
def store(tmp_path):
    """The library's records, in a directory of their own."""
    found = Store(tmp_path, environ={})
    before = tuning.resolver().store
    tuning.resolver().use_store(found)
    yield found
    tuning.resolver().use_store(before)


def record(key, best, build=None, **more):
    return Record(
        key=KeyRecord.of(key),
        best=CandidateRecord.of(best),
        default=CandidateRecord.of(best),
        best_us=5.0,
        default_us=10.0,
        samples=9,
        validated=True,
        build=BuildRecord.of(build or build_of(best)),
        **more,
    )


def another(problem, which=Pass.FPROP, variant=None):
    """A legal candidate that is not the analytic choice."""
    default = make_plan(problem, which, H200)
    found = planning.candidates(problem, which, H200)
    return next(
        c for c in found if c != (default.variant, default.config) and variant in (None, c.variant)
    )


def test_a_record_decides_variant_and_config(store):
    one = conv(**SIZES)
    best = another(one, variant="direct")
    store.put(record(conv_key(one, Pass.FPROP, H200, True), best))
    plan = make_plan(one, Pass.FPROP, H200)
    assert (plan.variant, plan.config, plan.source) == (*best, "exact")
    assert str(store.directory) in plan.note
    assert ("implicit_gemm", "a record prefers direct") in plan.rejected
    assert "direct" not in dict(plan.rejected)
    assert plan.launches[0].config == best.config
    other = make_plan(one, Pass.DGRAD, H200)
    assert (other.source, other.note) == ("analytic", "no record")


def test_a_record_of_other_kernels_is_stale_and_of_other_sizes_near(store):
    one, near = conv(**SIZES), conv((32, 64, 28, 28), SIZES["weight"])
    best = another(one)
    build = dataclasses.replace(build_of(best), kernels="0123456789abcdef")
    store.put(record(conv_key(one, Pass.FPROP, H200, True), best, build))
    plan = make_plan(one, Pass.FPROP, H200)
    assert (plan.config, plan.source) == (best.config, "stale") and "kernels" in plan.note
    plan = make_plan(near, Pass.FPROP, H200)
    assert (plan.config, plan.source) == (best.config, "nearest") and "N 64 for 32" in plan.note
    with autotune.policy("cached"):
        assert make_plan(near, Pass.FPROP, H200).source == "analytic"
    with autotune.policy("off"):
        assert make_plan(one, Pass.FPROP, H200).note == "the policy is off"


def test_strict_names_what_differs(store):
    one, near = conv(**SIZES), conv((32, 64, 28, 28), SIZES["weight"])
    store.put(record(conv_key(one, Pass.FPROP, H200, True), another(one)))
    with autotune.policy("strict"):
        assert make_plan(one, Pass.FPROP, H200).source == "exact"
        with pytest.raises(NoRecord, match=r"N"):
            make_plan(near, Pass.FPROP, H200)


def test_a_record_that_is_not_legal_here_is_passed_over(store):
    one = conv(**SIZES)
    bad = Candidate("implicit_gemm", autotune.Config.of(4, 9, BLOCK_M=512, BLOCK_N=512))
    store.put(record(conv_key(one, Pass.FPROP, H200, True), bad))
    assert make_plan(one, Pass.FPROP, H200).source == "analytic"


def test_pooling_takes_records_too(store):
    one = pool_problem_of((8, 64, 56, 56))
    analytic = pool_plan(one, PoolPass.FORWARD, H200)
    best = next(
        c for c in pool_candidates(one, PoolPass.FORWARD, H200) if c.config != analytic.config
    )
    store.put(record(pool_key(one, PoolPass.FORWARD, H200, True), best))
    plan = pool_plan(one, PoolPass.FORWARD, H200)
    assert (plan.config, plan.source) == (best.config, "exact")
    assert plan.launches[0].config == best.config


def test_the_interpreter_reads_no_record(store, monkeypatch):
    one = conv((1, 4, 6, 6), (4, 4, 3, 3))
    monkeypatch.setattr("autotune.resolve.look_up", None)
    plan = make_plan(one, Pass.FPROP, INTERPRETER)
    assert (plan.source, plan.note) == ("analytic", "nothing is measured in the interpreter")
    with autotune.policy("strict"):
        assert make_plan(one, Pass.FPROP, INTERPRETER).source == "analytic"


def test_tune_never_starts_where_nothing_can_be_measured(monkeypatch):
    module = __import__("tritonconv.tuning.choose", fromlist=["may_tune"])
    monkeypatch.setattr(module, "interpreting", lambda: True)
    assert module.may_tune() == "Triton interprets"
    monkeypatch.setattr(module, "interpreting", lambda: False)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert module.may_tune() == "torch.compile is tracing"
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert module.may_tune() == "there is no GPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert module.may_tune() == "a CUDA graph is being captured"
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert module.may_tune() is None


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.conv2d(x, torch.ones(2, 8, 3, 3)),
        lambda x: F.conv2d(x, torch.ones(2, 8, 3, 3), activation="relu"),
        lambda x: F.l2_pool2d(x, 2),
        lambda x: F.conv_pool2d(x, torch.ones(2, 8, 3, 3)),
        lambda x: F.depthwise_separable_conv2d(x, torch.ones(8, 1, 3, 3), torch.ones(8, 8, 1, 1)),
    ],
    ids=["conv", "fused", "pool", "conv_pool", "separable"],
)
def test_backward_on_another_thread_has_its_forwards_policy(call, monkeypatch):
    seen = []
    real = planning.choose
    for module in ("tritonconv.planning", "tritonconv.pooling"):
        monkeypatch.setattr(
            f"{module}.choose",
            lambda *a: (seen.append(autotune.policies.current()), real(*a))[1],
        )
    _run.CALLS.clear()
    monkeypatch.setattr("tritonconv.ops._pool_run.CALLS", planning.BoundedCache())
    x = torch.ones(1, 8, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    with autotune.policy("cached"):
        y = call(x).sum()
    before = len(seen)
    # Autograd calls a CPU backward on the thread that asks for it, and this one has no policy.
    thread = threading.Thread(target=y.backward)
    thread.start()
    thread.join()
    assert x.grad is not None and len(seen) > before
    assert set(seen) == {"cached"}


def test_the_policy_of_forward_is_held_only_while_backward_runs():
    class Context:
        pass

    ctx, seen = Context(), []
    with autotune.policy("off"):
        _policy.hold_policy(ctx)
    run = _policy.under_forwards_policy(lambda ctx: seen.append(autotune.policies.current()))
    run(ctx)
    assert seen == ["off"] and autotune.policies.current() == "heuristic"


def test_a_plan_is_remembered_by_policy(monkeypatch):
    x, w = torch.ones(1, 2, 5, 5), torch.ones(2, 2, 3, 3)
    made = []
    real = _run.make_plan
    monkeypatch.setattr(_run, "make_plan", lambda *a, **k: (made.append(a), real(*a, **k))[1])
    _run.CALLS.clear()
    for name in ("cached", "cached", "off", "cached", "off"):
        with autotune.policy(name):
            F.conv2d(x, w)
    assert len(made) == 2


def test_the_key_of_a_plan_tells_device_alignment_and_index_width_apart():
    one, far = conv(**SIZES), conv((2**20, 64, 28, 28), SIZES["weight"])
    plans = {
        str(make_plan(p, Pass.FPROP, device, aligned=aligned).launches[0].arguments["INDEX"])
        for p in (one, far)
        for device in (H200,)
        for aligned in (True, False)
    }
    assert plans == {"int32", "int64"}
    x, w = torch.ones(1, 8, 9, 9), torch.ones(8, 8, 3, 3)
    _run.CALLS.clear()
    F.conv2d(x, w)
    F.conv2d(torch.ones(8 * 81 + 1)[1:].view(1, 8, 9, 9), w)  # 4 bytes off
    assert len(_run.CALLS) == 2
    assert all(torch.device("cpu") in key for key in _run.CALLS._values)


def test_the_cache_of_plans_is_bounded_and_takes_threads():
    cache = planning.BoundedCache(limit=50)

    def fill(start):
        for number in range(start, start + 500):
            assert cache.add(number, lambda n=number: n) == number
            cache.get(number - 1)

    threads = [threading.Thread(target=fill, args=(1000 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache) == 50


def test_a_call_costs_little_beside_its_kernel():
    # A neighbour on the machine can only make it look slower: three chances.
    for _attempt in range(3):
        with overhead.stubbed():
            rows = overhead.measure(rounds=40)
        if not overhead.broken(rows):
            break
    names = [row.name for row in rows if row.over is not None]
    assert len(names) == 4 and sum("gradient" in name for name in names) == 2
    assert overhead.broken(rows) == []
    assert len([row for row in rows if row.name.startswith(" ")]) == 4


def test_a_slow_path_breaks_the_promise(monkeypatch):
    real = _run._key_of
    monkeypatch.setattr(_run, "_key_of", lambda t: (time.sleep(0.001), real(t))[1])
    with overhead.stubbed():
        rows = overhead.measure(rounds=5)
    assert len(overhead.broken(rows)) == 4
