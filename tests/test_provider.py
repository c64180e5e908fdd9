"""What the tuner is told: candidates, trials that notice a wrong kernel, the problems of calls."""

import dataclasses

import pytest
import torch

from autotune import Candidate, Config, Key
from autotune.providers import installed, load
from tritonconv import nn as _  # noqa: F401  (the whole package, as a user has it)
from tritonconv import planning, pooling
from tritonconv.errors import UnsupportedProblem
from tritonconv.provider import PROVIDER
from tritonconv.provider.suite import ROWS
from tritonconv.tuning import problem_of

TARGET = PROVIDER.gpu("sm_90")
INTERPRETED = PROVIDER.gpu()

CALLS = {
    "channels-last float16": {
        "op": "conv2d",
        "input": [1, 16, 5, 5],
        "weight": [16, 16, 3, 3],
        "padding": 1,
        "dtype": "float16",
        "layout": "channels_last",
    },
    "groups, stride, bias and gelu": {
        "op": "conv1d",
        "input": [2, 4, 9],
        "weight": [6, 2, 3],
        "groups": 2,
        "stride": 2,
        "bias": [6],
        "activation": "gelu",
    },
    "unshared": {"op": "unshared_conv1d", "input": [2, 3, 7], "weight": [5, 4, 3, 3]},
    "tiled bfloat16": {
        "op": "tiled_conv2d",
        "input": [1, 3, 4, 4],
        "weight": [2, 2, 4, 3, 2, 2],
        "dtype": "bfloat16",
        "bias": [4],
    },
    "transposed with a residual": {
        "op": "conv_transpose2d",
        "input": [1, 4, 3, 3],
        "weight": [4, 2, 3, 3],
        "stride": 2,
        "residual": [1, 2, 7, 7],
    },
    "depthwise, reflected, float64": {
        "op": "conv1d",
        "input": [1, 4, 6],
        "weight": [4, 1, 3],
        "padding": 1,
        "groups": 4,
        "padding_mode": "reflect",
        "dtype": "float64",
    },
    "max": {"op": "max_pool2d", "input": [1, 3, 6, 6], "kernel_size": 3, "padding": 1},
    "avg, ceil": {
        "op": "avg_pool2d",
        "input": [1, 16, 6, 6],
        "kernel_size": 3,
        "stride": 2,
        "ceil_mode": True,
        "layout": "channels_last",
    },
    "norm": {"op": "lp_pool2d", "input": [1, 3, 6, 6], "kernel_size": 2, "norm_type": 3.0},
    "adaptive": {"op": "adaptive_avg_pool1d", "input": [1, 3, 7], "output_size": 2},
    "weighted": {"op": "weighted_pool1d", "input": [1, 3, 7], "kernel_size": 3, "sigma": 1.0},
}


def keys_of(row, gpu=INTERPRETED):
    return list(PROVIDER.from_shape(row, gpu))


@pytest.mark.parametrize("name", CALLS)
def test_a_trial_accepts_the_default_and_notices_a_wrong_result(name, monkeypatch):
    for key in keys_of(CALLS[name]):
        task = PROVIDER.task(key)
        trial = task.prepare()
        assert trial.check(task.default()) is None, key
        # The same launch on other operands is a kernel that computes something else.
        given = [t for slot, t in trial._tensors.items() if t.dtype.is_floating_point]
        for tensor in given[1:]:
            tensor.mul_(-1).sub_(1)
        reason = trial.check(task.default())
        assert reason is not None and ("off" in reason or "differ" in reason), key


def test_every_candidate_of_a_small_problem_is_right():
    (key, *_rest) = keys_of(CALLS["unshared"])
    task = PROVIDER.task(key)
    trial = task.prepare()
    by_variant = {}
    for candidate in task.candidates():
        by_variant.setdefault(candidate.variant, candidate)
    assert set(by_variant) == {"direct", "implicit_gemm", "split_k", "unshared"}
    for candidate in by_variant.values():
        assert trial.check(candidate) is None, candidate


def test_a_result_that_is_not_written_is_wrong(monkeypatch):
    (key, *_rest) = keys_of(CALLS["unshared"])
    task = PROVIDER.task(key)
    trial = task.prepare()
    assert trial.check(task.default()) is None  # the right result stands there now
    monkeypatch.setattr(trial, "launch", lambda candidate: None)
    assert "is nan, expected" in trial.check(task.default())


def test_the_default_is_a_candidate_and_candidates_are_legal():
    for key in keys_of(
        {**CALLS["channels-last float16"], "input": [8, 64, 28, 28]} | {"weight": [64, 64, 3, 3]},
        TARGET,
    ):
        task = PROVIDER.task(key)
        found = task.candidates()
        assert task.default() in found and list(found) == sorted(found) and len(found) > 20
        assert all(task.is_legal(c) for c in found)
        assert not task.is_legal(Candidate("nobody", found[0].config))
        assert not task.is_legal(found[0]._replace(config=Config.of(64, 9, BLOCK_M=8)))
        assert all(task.predict(c) > 0 for c in found)
        assert len({task.predict(c) for c in found}) > 5


def test_a_default_that_no_table_has_is_a_candidate():
    (key, *_rest) = keys_of(CALLS["channels-last float16"], TARGET)
    problem, which, _aligned = problem_of(key)
    device = dataclasses.replace(PROVIDER.task(key).device, shared_memory=20_000)
    plan = planning.make_plan(
        problem, which, device, variant=planning.variant_named("implicit_gemm")
    )
    default = Candidate(plan.variant, plan.config)
    assert plan.config.num_stages == 1
    assert default in planning.candidates(problem, which, device)
    assert planning.is_legal(problem, which, device, default)


def test_a_candidate_can_be_forced_and_an_illegal_one_is_refused():
    (key, *_rest) = keys_of(CALLS["unshared"], TARGET)
    problem, which, _aligned = problem_of(key)
    task = PROVIDER.task(key)
    for candidate in task.candidates():
        plan = planning.make_plan(problem, which, task.device, candidate=candidate)
        assert (plan.variant, plan.config, plan.source) == (*candidate, "forced")
    with pytest.raises(UnsupportedProblem, match="cannot be run by direct: , num_warps=1"):
        bad = Candidate("direct", Config.of(1, 1))
        planning.make_plan(problem, which, task.device, candidate=bad)


def test_an_illegal_candidate_of_a_pooling_is_refused():
    (key, *_rest) = keys_of(CALLS["max"], TARGET)
    problem, which, _aligned = problem_of(key)
    with pytest.raises(UnsupportedProblem, match="cannot be run by window_reduce: , num_warps=1"):
        bad = Candidate("window_reduce", Config.of(1, 1))
        pooling.pool_plan(problem, which, PROVIDER.task(key).device, candidate=bad)


def test_the_source_decides_the_build(monkeypatch):
    from tritonconv.tuning import builds

    one = builds.source_hash("implicit_gemm")
    assert one != builds.source_hash("direct") and len(one) == 16
    assert builds.source_hash("nobody") == "unknown"
    read = builds.Path.read_text

    def hash_after(change):
        monkeypatch.setattr(
            builds.Path, "read_text", lambda self, *a, **k: change(self.name, read(self, *a, **k))
        )
        builds.source_hash.cache_clear()
        found = builds.source_hash("implicit_gemm")
        monkeypatch.undo()
        builds.source_hash.cache_clear()
        return found

    assert hash_after(lambda name, text: "# a comment\n\n" + text) == one
    assert hash_after(lambda name, text: text.replace('"""The', '"""All the', 1)) == one
    # The kernels, what they reach, and the planning that variants share.
    for far in ("gather_gemm.py", "wgrad_gemm.py", "_border.py", "sum_splits.py", "base.py"):
        found = hash_after(lambda name, text, far=far: text + "\nX = 1\n" if name == far else text)
        assert found != one, far
    other = "unshared_gather.py"
    assert hash_after(lambda name, text: text + "\nX = 1\n" if name == other else text) == one


def test_the_suite_has_every_row_in_both_formats():
    keys = list(PROVIDER.suite(TARGET))
    assert len({key.digest for key in keys}) >= 200
    assert len(ROWS) == 111
    assert {key.op for key in keys} == {
        "conv.fprop",
        "conv.dgrad",
        "conv.wgrad",
        "pool.forward",
        "pool.backward",
    }
    for key in keys:
        task = PROVIDER.task(key)
        assert task.key == key and task.default() in task.candidates()


def test_a_call_with_gradients_meets_three_passes():
    row = {"op": "conv2d", "input": [2, 4, 8, 8], "weight": [6, 4, 3, 3]}
    assert [k.op for k in keys_of(row)] == ["conv.fprop", "conv.dgrad", "conv.wgrad"]
    assert [k.op for k in keys_of({**row, "forward_only": True})] == ["conv.fprop"]
    assert keys_of({**row, "input": "2x4x8x8", "weight": "6,4,3,3"}) == keys_of(row)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op": "conv9d"}, "op: expected a function of tritonconv.functional, got 'conv9d'"),
        ({"op": None}, "op: expected a function"),
        ({"dtype": "int3"}, "dtype: expected one of float16"),
        ({"layout": "upside down"}, "layout: expected one of contiguous"),
        ({"input": "large"}, "input: expected its shape"),
        ({"stride": 0}, "conv2d: stride"),
        ({"speed": 9}, "conv2d: .*unexpected keyword argument 'speed'"),
    ],
)
def test_a_bad_description_says_what_is_wrong(change, message):
    row = {"op": "conv2d", "input": [2, 4, 8, 8], "weight": [6, 4, 3, 3]} | change
    with pytest.raises(ValueError, match=message):
        keys_of(row)


class Net(torch.nn.Module):
    """Layers of torch beside one of ours."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.up = torch.nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2)

    def forward(self, x):
        from tritonconv import functional as F

        return F.max_pool2d(self.up(self.first(x)), 2)


def test_a_models_problems_are_recorded_without_a_gpu():
    keys = list(PROVIDER.from_model(Net(), [torch.randn(2, 3, 8, 8)], TARGET))
    found = [(k.op, dict(k.sizes)["C"], dict(k.sizes).get("K")) for k in keys]
    assert found[:3] == [("conv.fprop", 3, 8), ("conv.dgrad", 4, 8), ("pool.forward", 4, None)]
    assert set(found[3:]) >= {("conv.fprop", 4, 8), ("conv.wgrad", 4, 8), ("conv.wgrad", 3, 8)}
    (up,) = (
        k
        for k in keys
        if k.op == "conv.dgrad" and dict(k.sizes)["K"] == 8 and dict(k.sizes)["C"] == 4
    )
    sizes, fields = dict(up.sizes), dict(up.fields)
    assert (sizes["H"], sizes["P"], fields["groups"], fields["filter"]) == (8, 4, 2, (1, 2, 2))
    assert all(k.gpu == TARGET for k in keys)


def test_the_work_that_no_algorithm_avoids():
    (forward, *_rest) = keys_of({"op": "max_pool2d", "input": [2, 4, 8, 8], "kernel_size": 2})
    # 2 x 4 planes of 4 x 4 windows of 4; x, y and a byte a winner.
    assert PROVIDER.work(forward) == (512.0, (512 + 128) * 4 + 128)
    (fprop, *_rest) = keys_of({"op": "conv1d", "input": [2, 4, 8], "weight": [6, 4, 3]})
    assert PROVIDER.work(fprop) == (2 * 2 * 6 * 6 * 4 * 3, 4 * (2 * 4 * 8 + 6 * 4 * 3 + 2 * 6 * 6))


def test_the_targets_and_what_is_not_there():
    assert TARGET.arch == "sm_90"
    with pytest.raises(RuntimeError, match="target: expected one of sm_80"):
        PROVIDER.gpu("sm_20")


def test_a_provider_is_found_by_its_name():
    assert load("tritonconv.provider:PROVIDER") is PROVIDER
    assert installed().get("tritonconv", "tritonconv.provider:PROVIDER") == (
        "tritonconv.provider:PROVIDER"
    )
    for bad in ("tritonconv.provider", "tritonconv.provider:NOBODY", "no_such_module:X"):
        with pytest.raises(ValueError, match="provider: "):
            load(bad)


def test_no_task_for_a_foreign_key():
    (key, *_rest) = keys_of(CALLS["max"])
    with pytest.raises(ValueError, match="no problem of this library"):
        PROVIDER.task(dataclasses.replace(key, op="sort.forward"))
    with pytest.raises(ValueError, match="arch"):
        PROVIDER.task(
            Key(
                key.provider,
                key.op,
                key.fields,
                key.sizes,
                dataclasses.replace(TARGET, arch="sm_20"),
            )
        )
