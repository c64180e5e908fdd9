"""From problem to tuning key and back: nothing is forgotten, and nothing else gets in."""

import dataclasses

import pytest
import torch
from hypothesis import given

from autotune import Gpu, Key
from tritonconv.device import INTERPRETER, TARGETS, device_like
from tritonconv.epilogue import Epilogue, Extras
from tritonconv.pool_problem import PoolArguments, PoolOperands, PoolPass, Reduction, pool_problem
from tritonconv.problem import ConvArguments, Pass, fprop_problem
from tritonconv.testing.agreement import problem_of_case
from tritonconv.testing.strategies import conv_cases
from tritonconv.tuning import conv_key, gpu_of, pool_key, problem_of

H200 = TARGETS["sm_90"]
NO_BIAS = Epilogue()


def conv(shape=(8, 64, 14, 14), weight=(32, 64, 3, 3), extras=None, **options):
    rank = len(shape) - 2
    arguments = {
        "stride": [1] * rank,
        "padding": [1, 1] * rank,
        "dilation": [1] * rank,
        "groups": 1,
        "flip": False,
        "padding_mode": "zeros",
    }
    x, w = torch.empty(shape, device="meta"), torch.empty(weight, device="meta")
    return fprop_problem(x, w, None, ConvArguments(**arguments | options), extras)


def pool(kind="sum", x=None, which=PoolPass.FORWARD, **reduction):
    x = torch.empty(2, 8, 9, 9, device="meta") if x is None else x
    arguments = PoolArguments([3, 3], [2, 2], [1, 1, 1, 1], [1, 1])
    return pool_problem(PoolOperands(x=x), Reduction(kind, **reduction), arguments)


@given(case=conv_cases())
@pytest.mark.parametrize("which", list(Pass))
def test_a_key_builds_its_problem_again(which, case):
    problem = problem_of_case(case, which, case.tensors())
    for aligned in (True, False):
        key = conv_key(problem, which, H200, aligned)
        assert problem_of(key) == (problem, which, aligned)


def changed(problem, name):
    """Another value of the same type for one field of a problem."""
    value = getattr(problem, name)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return {"zeros": "reflect", "ieee": "tf32", "tf32": "ieee"}[value]
    if isinstance(value, torch.dtype):
        return torch.bfloat16
    if isinstance(value, tuple) and isinstance(value[0], int):
        return (*value[:-1], value[-1] + 1)
    if isinstance(value, tuple):
        return (*value[:-1], (value[-1][0], value[-1][1] + 1))
    raise AssertionError(f"{name}: a field of a type that this test does not know")


CONV_FIELDS = [f.name for f in dataclasses.fields(conv()) if f.name != "epilogue"]
POOL_FIELDS = [f.name for f in dataclasses.fields(pool()) if f.name != "reduction"]


@pytest.mark.parametrize("which", [Pass.FPROP, Pass.DGRAD, Pass.WGRAD])
@pytest.mark.parametrize("name", CONV_FIELDS)
def test_each_field_of_a_convolution_changes_the_key(name, which):
    one = conv()
    other = dataclasses.replace(one, **{name: changed(one, name)})
    keys = [conv_key(p, which, H200, True) for p in (one, other)]
    assert keys[0].digest != keys[1].digest


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bias_period", (1, 1, 2)),
        ("bias_strides", (0, 0, 0, 1)),
        ("residual_strides", (1, 2, 3, 4, 5)),
        ("activation", "relu"),
        ("keep_pre", True),
    ],
)
def test_each_field_of_an_epilogue_changes_the_key(name, value):
    assert {name for name, _ in [(f.name, 0) for f in dataclasses.fields(NO_BIAS)]} == {
        "bias_period",
        "bias_strides",
        "residual_strides",
        "activation",
        "keep_pre",
    }
    one = conv()
    other = dataclasses.replace(one, epilogue=dataclasses.replace(NO_BIAS, **{name: value}))
    assert conv_key(one, Pass.FPROP, H200, True) != conv_key(other, Pass.FPROP, H200, True)


@pytest.mark.parametrize("name", POOL_FIELDS)
def test_each_field_of_a_pooling_changes_the_key(name):
    one = pool()
    value = changed(one, name)
    other = dataclasses.replace(one, **{name: value})
    assert pool_key(one, PoolPass.FORWARD, H200, True) != pool_key(
        other, PoolPass.FORWARD, H200, True
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", "lp"),
        ("divisor", "valid"),
        ("weighted", True),
        ("exponent", 3.0),
        ("learned", True),
        ("by_channel", True),
    ],
)
def test_each_field_of_a_reduction_changes_the_key(name, value):
    assert name in Reduction._fields and len(Reduction._fields) == 6
    one = pool()
    other = dataclasses.replace(one, reduction=one.reduction._replace(**{name: value}))
    assert pool_key(one, PoolPass.FORWARD, H200, True) != pool_key(
        other, PoolPass.FORWARD, H200, True
    )


def test_device_pass_and_alignment_are_in_the_key():
    one = conv()
    keys = {
        conv_key(one, which, device, aligned).digest
        for which in Pass
        for device in (H200, TARGETS["sm_80"], dataclasses.replace(H200, multiprocessors=114))
        for aligned in (True, False)
    }
    assert len(keys) == 18


@pytest.mark.parametrize("exponent", [2.0, 3.5, float("inf"), float("-inf")])
def test_a_pooling_is_built_again_from_its_key(exponent):
    for kind in ("max", "sum", "lp"):
        problem = pool(kind, exponent=exponent)
        key = pool_key(problem, PoolPass.FORWARD, H200, True)
        assert problem_of(key) == (problem, PoolPass.FORWARD, True)


def test_one_family_for_all_sizes_of_a_memory_format():
    keys = [conv_key(conv((n, 64, h, h)), Pass.FPROP, H200, True) for n, h in ((8, 14), (3, 30))]
    assert keys[0].family == keys[1].family and keys[0].digest != keys[1].digest
    assert set(keys[0].differences(keys[1])) == {"N", "H", "W", "P", "Q"}
    last = torch.empty(8, 64, 14, 14, device="meta").to(memory_format=torch.channels_last)
    w = torch.empty(32, 64, 3, 3, device="meta")
    other = fprop_problem(last, w, None, ConvArguments([1, 1], [1] * 4, [1, 1], 1, False, "zeros"))
    key = conv_key(other, Pass.FPROP, H200, True)
    assert key.family != keys[0].family
    assert {k: v for k, v in key.differences(keys[0]).items()} == {
        "input": ("channels_last", "contiguous"),
        "output": ("channels_last", "contiguous"),
    }


def test_a_slice_keeps_its_strides():
    x = torch.empty(8, 64, 14, 28, device="meta")[..., ::2]
    w = torch.empty(32, 64, 3, 3, device="meta")
    problem = fprop_problem(x, w, None, ConvArguments([1, 1], [1] * 4, [1, 1], 1, False, "zeros"))
    key = conv_key(problem, Pass.FPROP, H200, True)
    assert dict(key.fields)["input"] == (25088, 392, 0, 28, 2)
    assert problem_of(key)[0] == problem


def test_epilogues_are_built_again():
    bias, residual = (
        torch.empty(2, 2, 32, device="meta"),
        torch.empty(8, 32, 14, 14, device="meta"),
    )
    for extras in (
        Extras(torch.empty(32, device="meta")),
        Extras(bias, residual, "gelu", True),
        Extras(torch.empty(64, device="meta")[::2], residual.transpose(2, 3), "relu"),
    ):
        problem = conv(extras=extras)
        assert problem_of(conv_key(problem, Pass.FPROP, H200, True))[0] == problem


@pytest.mark.parametrize(
    "change",
    [
        {"groups": 0},
        {"groups": "many"},
        {"dtype": "nn"},
        {"dtype": "float99"},
        {"input": "sideways"},
        {"padding": 3},
        {"period": (2, 2)},
        {"surplus": 1},
    ],
)
def test_a_hostile_key_is_refused(change):
    key = conv_key(conv(), Pass.FPROP, H200, True)
    fields = dict(key.fields) | change
    bad = Key.of(key.provider, key.op, fields, dict(key.sizes), key.gpu)
    with pytest.raises(ValueError, match="cannot be built"):
        problem_of(bad)


def test_a_foreign_key_is_refused():
    key = conv_key(conv(), Pass.FPROP, H200, True)
    for provider, op in (("other", key.op), (key.provider, "conv.sideways"), (key.provider, "x")):
        with pytest.raises(ValueError, match="cannot be built"):
            problem_of(Key(provider, op, key.fields, key.sizes, key.gpu))


def test_devices_and_their_names():
    assert device_like(gpu_of(INTERPRETER)) is INTERPRETER
    assert device_like(gpu_of(H200)) == H200
    h100 = Gpu("cuda", "sm_90", "NVIDIA H100 PCIe", 114)
    found = device_like(h100)
    assert (found.name, found.multiprocessors) == ("NVIDIA H100 PCIe", 114)
    assert found.shared_memory == H200.shared_memory
    assert gpu_of(found) == h100
    with pytest.raises(ValueError, match=r"arch: expected one of sm_80.*got 'sm_20'"):
        device_like(Gpu("cuda", "sm_20", "old", 1))
