"""The pooling ops as torch ops: opcheck, gradients of gradients, torch.compile, transforms."""

import pytest
import torch
from torch.library import opcheck

import tritonconv
from tritonconv import functional as F
from tritonconv.launch import interpreting
from tritonconv.ops import SCHEMAS, conv_pool, pool
from tritonconv.testing.agreement import kernel_device

from .test_ops import CONVOLUTIONS

OPS = torch.ops.tritonconv
POOLING = pool.SCHEMAS | conv_pool.SCHEMAS
# Where the windows lie: size, stride, padding, dilation, ceil_mode, adaptive sizes.
WINDOWS = {
    "1-D": ([3], [2], [1, 0], [1], False, []),
    "2-D": ([3, 2], [2, 1], [1, 0, 2, 1], [1, 2], True, []),
    "2-D adaptive": ([0, 0], [0, 0], [0, 0, 0, 0], [0, 0], False, [2, 3]),
    "3-D": ([2, 2, 2], [1, 2, 1], [0] * 6, [1, 1, 1], False, []),
}
SIZES = {"1-D": (7,), "2-D": (5, 4), "2-D adaptive": (5, 4), "3-D": (3, 4, 3)}


def calls(name, dtype=torch.float64):
    """The arguments of every op for one geometry; no two elements of x are near a tie or 0."""
    window = WINDOWS[name]
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, *SIZES[name])
    count = torch.Size(shape).numel()
    order = torch.randperm(count, generator=generator)
    x = ((order - count // 2).to(dtype) + 0.5).reshape(shape) / count
    with torch.no_grad():
        y, taps = OPS.max_pool(x, *window)
        norm = OPS.lp_pool(x, None, 3.0, *window)
    taps_a_window = [3, 2] if name == "2-D adaptive" else window[0]
    real = torch.float64 if dtype == torch.float64 else torch.float32
    weights = torch.rand(taps_a_window, generator=generator, dtype=real) + 0.5
    exponents = torch.tensor([1.7, 2.0, 3.1], dtype=real)
    dy = torch.randn(y.shape, generator=generator, dtype=dtype)
    for tensor in (x, dy, norm, weights, exponents):
        tensor.requires_grad_()
    found = {
        "max_pool": (x, *window),
        "max_pool_grad": (dy, taps, shape, *window),
        "sum_pool": (x, weights, "weights", 1.0, *window),
        "sum_pool_grad": (dy, shape, weights, "padded", 1.0, *window),
        "lp_pool": (x, exponents, 2.0, *window),
        "lp_pool_log": (x, norm, exponents, 2.0, *window),
        "lp_pool_grad": (dy, x, norm, exponents, 2.0, *window),
    }
    if name != "2-D adaptive":
        rank = x.dim() - 2
        w = torch.randn(4, 3, *[2] * rank, generator=generator, dtype=dtype).requires_grad_()
        bias = torch.randn(4, generator=generator, dtype=dtype).requires_grad_()
        rest = ([1] * rank, [1, 0] * rank, [1] * rank, 1, False, "zeros")
        found["conv_pool"] = (x, w, bias, *rest, "tanh", "max", [2] * rank, [2] * rank)
    return found


CASES = [pytest.param(name, op, id=f"{op}-{name}") for name in WINDOWS for op in calls(name)]


def test_every_op_is_tested_here_or_in_test_ops():
    assert set(SCHEMAS) == set(POOLING) | set(CONVOLUTIONS)
    assert {p.values[1] for p in CASES} == set(POOLING)


@pytest.mark.parametrize(("name", "op"), CASES)
def test_opcheck(name, op, aten_path):
    results = opcheck(getattr(OPS, op).default, calls(name, torch.float32)[op])
    assert set(results.values()) == {"SUCCESS"} and len(results) >= 4


@pytest.mark.parametrize("op", POOLING)
def test_opcheck_on_the_kernels(op):
    arguments = calls("1-D", torch.float32)[op]
    moved = [
        a.detach().to(kernel_device()).requires_grad_(a.requires_grad)
        if isinstance(a, torch.Tensor)
        else a
        for a in arguments
    ]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    results = opcheck(getattr(OPS, op).default, tuple(moved), test_utils=checks)
    assert set(results.values()) == {"SUCCESS"}


def differentiable(arguments, op):
    """A function of the floating-point tensors among `arguments`, and these."""
    leaves = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]

    def function(*tensors):
        given = iter(tensors)
        own = [
            next(given) if isinstance(a, torch.Tensor) and a.requires_grad else a for a in arguments
        ]
        result = getattr(OPS, op)(*own)
        return result[0] if isinstance(result, tuple) else result

    return function, leaves


@pytest.mark.parametrize(("name", "op"), CASES)
def test_gradients_and_double_backward(name, op, aten_path):
    function, leaves = differentiable(calls(name)[op], op)
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("op", [op for op in pool.SCHEMAS if op != "lp_pool_log"])
def test_gradients_through_the_kernels(op):
    arguments = [
        a.detach().to(kernel_device()).requires_grad_(a.requires_grad)
        if isinstance(a, torch.Tensor)
        else a
        for a in calls("1-D")[op]
    ]
    function, leaves = differentiable(arguments, op)
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize(("name", "op"), CASES)
def test_func_grad_and_vmap_over_it(name, op, aten_path):
    function, leaves = differentiable(calls(name)[op], op)
    leaves = [leaf.detach() for leaf in leaves]
    first = torch.stack([leaves[0], -leaves[0] * 2])

    def loss(first, *others):
        return function(first, *others).square().sum()

    several = torch.func.vmap(torch.func.grad(loss), (0, *[None] * (len(leaves) - 1)))
    found = several(first, *leaves[1:])
    for n in range(2):
        leaf = first[n].clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(leaf, *leaves[1:]), leaf)
        torch.testing.assert_close(found[n], expected, rtol=1e-9, atol=1e-9)


FUNCTIONS = {
    "max": lambda x: F.max_pool2d(x, 3, 2, ((1, 0), (0, 2)), return_indices=True),
    "avg": lambda x: F.avg_pool2d(x, 3, 2, "same", True, False),
    "lp": lambda x: F.lp_pool2d(x, 3.0, (3, 2), 2, True, padding=1),
    "weighted": lambda x: F.weighted_pool2d(x, 3, 1, 1, sigma=1.0),
    "maxout": lambda x: F.maxout(x, 2),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (2, 3)),
    "conv_pool": lambda x: F.conv_pool2d(x, x[:2, :, :3, :3], padding=1, pool="avg"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_torch_compile_whole_graph_with_gradient(name, aten_path):
    x = torch.randn(3, 4, 7, 6, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(FUNCTIONS[name], backend="aot_eager", fullgraph=True)
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    results = [f(leaf) for f, leaf in zip((FUNCTIONS[name], compiled), leaves, strict=True)]
    results = [r if isinstance(r, tuple) else (r,) for r in results]
    torch.testing.assert_close(*results)
    dy = torch.randn(results[0][0].shape, generator=torch.Generator().manual_seed(1))
    slopes = [torch.autograd.grad(r[0], x, dy)[0] for r, x in zip(results, leaves, strict=True)]
    torch.testing.assert_close(*slopes)


def test_no_sum_depends_on_the_order_of_threads():
    """The gradient of overlapping windows in 3-D, which torch refuses when it must be the same."""
    x = torch.randn(1, 2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    x = x.to(kernel_device()).requires_grad_()
    found = []
    for _ in range(2):
        y = F.max_pool3d(x, 3, 1, ((1, 1),) * 3)
        found.append(torch.autograd.grad(y.square().sum(), x)[0])
    assert torch.equal(*found)


def test_explain_names_the_kernel():
    x = torch.randn(1, 8, 6, 6, requires_grad=True, device=kernel_device())
    text = str(tritonconv.explain(lambda: F.l2_pool2d(x, 2).sum().backward()))
    backend = "interpreter" if interpreting() else "triton"
    assert "lp pooling, forward, of 1x8x6x6 by 2x2 -> 1x8x3x3, torch.float32" in text
    assert f"backend   {backend}" in text and "window_reduce x" in text
    assert "lp pooling, backward" in text and "window_spread x" in text


def test_explain_says_why_a_layer_takes_two_kernels():
    x, w = (t.to(kernel_device()) for t in (torch.randn(1, 64, 8, 8), torch.randn(64, 64, 3, 3)))
    one = tritonconv.explain(F.conv_pool2d, x, w)
    assert [plan.variant for plan in one.plans] == ["conv_pool_gemm"]
    two = tritonconv.explain(F.conv_pool2d, x, w, pool_size=3, pool_stride=2)
    assert [plan.variant for plan in two.plans][1:] == ["window_reduce"]
    name, reason = two.plans[0].rejected[0]
    assert name == "one kernel" and "only what does not overlap" in reason
