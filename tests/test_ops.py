"""torch.ops.tritonconv: registration, gradients, compilation, transforms, threads, memory."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

import tritonconv
from tritonconv import functional as F
from tritonconv.device import TARGETS
from tritonconv.launch import interpreting
from tritonconv.ops import SCHEMAS, conv, fused, separable
from tritonconv.ops._run import CALLS, run
from tritonconv.planning import make_plan
from tritonconv.problem import ConvArguments, Pass, fprop_problem, wgrad_problem
from tritonconv.reference import aten
from tritonconv.testing.agreement import kernel_device, oracle
from tritonconv.testing.strategies import ConvCase
from tritonconv.testing.strategies import conv_cases as draw_cases

OPS = torch.ops.tritonconv
LINEAR = ("conv", "conv_dgrad", "conv_wgrad")
# Those of pooling are tested in test_pool_ops.
CONVOLUTIONS = conv.SCHEMAS | fused.SCHEMAS | separable.SCHEMAS
# (rank, weight period or None, stride, padding pairs, dilation, groups, flip, padding mode)
GEOMETRIES = {
    "1-D": (1, None, [2], [1, 0], [1], 1, False, "zeros"),
    "2-D grouped, strided": (2, None, [2, 1], [1, 1, 0, 1], [1, 1], 2, False, "zeros"),
    "2-D flipped": (2, None, [1, 1], [1, 1, 1, 1], [1, 2], 1, True, "zeros"),
    "2-D tiled": (2, (2, 1), [1, 1], [0, 0, 1, 1], [1, 1], 1, False, "zeros"),
    "2-D circular": (2, None, [1, 2], [1, 1, 1, 0], [1, 1], 1, False, "circular"),
    "3-D": (3, None, [1, 1, 1], [0] * 6, [1, 1, 1], 1, False, "zeros"),
}


def operands(name, dtype=torch.float64, grad=True):
    """(x, w, bias, rest of the op's arguments), requiring gradients."""
    rank, period, stride, padding, dilation, groups, flip, mode = GEOMETRIES[name]
    generator = torch.Generator().manual_seed(0)
    shapes = (
        (2, 2 * groups, *[4 if rank < 3 else 3] * rank),
        (*(period or ()), 2 * groups, 2, *[2] * rank),
        (2 * groups,),
    )
    tensors = [
        torch.randn(s, dtype=dtype, generator=generator).requires_grad_(grad) for s in shapes
    ]
    return (*tensors, (stride, padding, dilation, groups, flip, mode))


def separable_weights(x):
    """A filter for each channel of x, and three mixtures of the channels."""
    generator = torch.Generator().manual_seed(2)
    rank, channels = x.dim() - 2, x.shape[1]
    shapes = ((channels, 1, *[2] * rank), (3, channels, *[1] * rank))
    tensors = [torch.randn(s, dtype=x.dtype, generator=generator) for s in shapes]
    return [t.requires_grad_(x.requires_grad) for t in tensors]


def calls(name, dtype=torch.float64):
    """The arguments of every op for one geometry."""
    x, w, bias, rest = operands(name, dtype)
    with torch.no_grad():
        y = OPS.conv(x, w, bias, *rest)
    generator = torch.Generator().manual_seed(1)
    # A bias of the input's channels, untied along the last axis.
    last = torch.randn(*[1] * (x.dim() - 3), 2, x.shape[1], dtype=dtype, generator=generator)
    dy, residual = (torch.randn(t.shape, dtype=dtype, generator=generator) for t in (y, y))
    dy, last, residual = (t.requires_grad_() for t in (dy, last, residual))
    return {
        "conv": (x, w, bias, *rest),
        "conv_dgrad": (dy, w, list(x.shape), *rest),
        "conv_wgrad": (dy, x, list(w.shape), *rest),
        "conv_fused": (x, w, bias, residual, *rest, "gelu", True),
        "depthwise_separable": (x, *separable_weights(x), None, *rest[:3], *rest[4:]),
        "conv_dgrad_fused": (dy, w, last, None, list(x.shape), *rest, "tanh", False),
    }


def test_schemas_are_registered_as_documented():
    for name, schema in SCHEMAS.items():
        assert str(getattr(OPS, name).default._schema) == f"tritonconv::{schema}"


@pytest.mark.parametrize("op", CONVOLUTIONS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_opcheck(name, op, aten_path):
    results = opcheck(getattr(OPS, op).default, calls(name, torch.float32)[op])
    assert set(results.values()) == {"SUCCESS"} and len(results) >= 4


@pytest.mark.parametrize("op", CONVOLUTIONS)
def test_opcheck_on_the_kernels(op):
    arguments = calls("1-D", torch.float32)[op]
    moved = [
        a.detach().to(kernel_device()).requires_grad_() if isinstance(a, torch.Tensor) else a
        for a in arguments
    ]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    results = opcheck(getattr(OPS, op).default, tuple(moved), test_utils=checks)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("path", ["aten_path", "aten_passes"])
@pytest.mark.parametrize("op", CONVOLUTIONS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_gradients_and_double_backward(name, op, path, request):
    request.getfixturevalue(path)
    arguments = calls(name)[op]
    call = getattr(OPS, op)
    tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
    others = arguments[len(tensors) :]

    def function(*tensors):
        result = call(*tensors, *others)
        results = result if isinstance(result, tuple) else (result,)
        return tuple(t for t in results if t.numel())

    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


def test_gradients_and_double_backward_through_the_kernels():
    x, w, bias, rest = operands("1-D")
    tensors = [t.detach().to(kernel_device()).requires_grad_() for t in (x, w, bias)]
    assert torch.autograd.gradcheck(lambda *t: OPS.conv(*t, *rest), tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *t: OPS.conv(*t, *rest), tensors, fast_mode=True)


@given(case=draw_cases(dtypes=(torch.float64,)))
def test_aten_path_agrees_with_the_textbook(case: ConvCase):
    x, w, dy = case.tensors()
    results = {
        Pass.FPROP: aten.conv(x, w, None, case.arguments),
        Pass.DGRAD: aten.dgrad(dy, w, case.input_shape, case.arguments),
        Pass.WGRAD: aten.wgrad(dy, x, case.weight_shape, case.arguments),
    }
    for which, got in results.items():
        exact = torch.from_numpy(oracle(case, which, x, w, dy))
        torch.testing.assert_close(got, exact, rtol=1e-12, atol=1e-12)


def test_only_the_gradients_asked_for_are_computed(aten_passes):
    class Calls(TorchDispatchMode):
        names: list[str]

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(func._opname)
            return func(*args, **(kwargs or {}))

    x, w, bias, rest = operands("2-D flipped")
    for wanted, expected in (
        ([x], {"conv_dgrad"}),
        ([w], {"conv_wgrad"}),
        ([bias], set()),
        ([x, w, bias], {"conv_dgrad", "conv_wgrad"}),
    ):
        inputs = [t if any(t is v for v in wanted) else t.detach() for t in (x, w, bias)]
        y = OPS.conv(*inputs, *rest)
        mode = Calls()
        mode.names = []
        with mode:
            torch.autograd.grad(y.sum(), wanted)
        assert {n for n in mode.names if n.startswith("conv_")} == expected


def test_aten_records_its_own_gradients_in_our_memory_formats(aten_path):
    """On the CPU path a channels-last operand makes channels-last gradients in every rank."""
    for rank, own in ((1, True), (2, False), (3, False)):
        x = torch.randn(2, 3, *[4] * rank).movedim(1, -1).contiguous().movedim(-1, 1)
        x, w = x.requires_grad_(), torch.randn(4, 3, *[2] * rank).requires_grad_()
        y = OPS.conv(x, w, None, [1] * rank, [0] * 2 * rank, [1] * rank, 1)
        assert ("Eager_conv" in type(y.grad_fn).__name__) == own
        for gradient in torch.autograd.grad(y.square().sum(), (x, w)):
            assert gradient.stride(1) == 1


def test_expanded_gradient():
    """.sum().backward() hands back a gradient of stride 0."""
    x, w, _, rest = operands("2-D grouped, strided")
    x, w = (t.detach().to(kernel_device()).requires_grad_() for t in (x, w))
    OPS.conv(x, w, None, *rest).sum().backward()
    xr, wr = (t.detach().cpu().requires_grad_() for t in (x, w))
    pads = rest[1]
    padded = torch.nn.functional.pad(xr, (pads[2], pads[3], pads[0], pads[1]))
    torch.nn.functional.conv2d(padded, wr, None, rest[0], 0, rest[2], rest[3]).sum().backward()
    torch.testing.assert_close(x.grad.cpu(), xr.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(w.grad.cpu(), wr.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.deep)])
def test_compile_fullgraph(backend, aten_path):
    def step(x, w, bias):
        y = F.conv2d(x, w, bias, stride=2, padding="same")
        return y.relu().square().sum()

    x, w = torch.randn(2, 3, 7, 6), torch.randn(4, 3, 3, 3)
    bias = torch.randn(4)
    tensors = [t.requires_grad_() for t in (x, w, bias)]
    expected = torch.autograd.grad(step(*tensors), tensors)
    got = torch.autograd.grad(
        torch.compile(step, fullgraph=True, backend=backend)(*tensors), tensors
    )
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_compile_with_dynamic_shapes_does_not_recompile(aten_path):
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(
        lambda x, w: F.conv2d(x, w, stride=2, padding="same"),
        fullgraph=True,
        dynamic=True,
        backend=backend,
    )
    w = torch.randn(4, 3, 3, 3)
    for size in (9, 14, 23, 31):
        x = torch.randn(2, 3, size, size + 1)
        torch.testing.assert_close(compiled(x, w), F.conv2d(x, w, stride=2, padding="same"))
    assert len(compilations) == 1


def test_func_grad_and_vmap_over_it(aten_path):
    x, w, bias, rest = operands("2-D grouped, strided", grad=False)

    def loss(w, bias, x):
        return OPS.conv(x[None], w, bias, *rest).square().sum()

    each = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), (None, None, 0))(w, bias, x)
    for n in range(x.shape[0]):
        ws, bs = w.clone().requires_grad_(), bias.clone().requires_grad_()
        expected = torch.autograd.grad(loss(ws, bs, x[n]), (ws, bs))
        for got, want in zip(each, expected, strict=True):
            torch.testing.assert_close(got[n], want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "batched", [(0, None, None), (None, 1, None), (0, 0, None), (1, 0, 0), (None, None, 0)]
)
@pytest.mark.parametrize("name", ["2-D grouped, strided", "2-D tiled"])
def test_vmap_of_every_argument(name, batched, aten_path):
    x, w, bias, rest = operands(name, grad=False)
    stacked = [
        t if d is None else torch.stack([t, 2 * t + 1, -t], dim=d)
        for t, d in zip((x, w, bias), batched, strict=True)
    ]
    got = torch.func.vmap(lambda *t: OPS.conv(*t, *rest), batched)(*stacked)
    for n in range(3):
        one = [t if d is None else t.select(d, n) for t, d in zip(stacked, batched, strict=True)]
        torch.testing.assert_close(got[n], OPS.conv(*one, *rest), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batched", [(0, None), (None, 1), (0, 0)])
@pytest.mark.parametrize("op", ["conv_dgrad", "conv_wgrad"])
@pytest.mark.parametrize("name", ["2-D grouped, strided", "2-D tiled"])
def test_vmap_of_the_gradients(name, op, batched, aten_path):
    a, b, *others = calls(name)[op]
    a, b = a.detach(), b.detach()
    stacked = [
        t if d is None else torch.stack([t, 2 * t + 1, -t], dim=d)
        for t, d in zip((a, b), batched, strict=True)
    ]
    call = getattr(OPS, op)
    got = torch.func.vmap(lambda *t: call(*t, *others), batched)(*stacked)
    for n in range(3):
        one = [t if d is None else t.select(d, n) for t, d in zip(stacked, batched, strict=True)]
        torch.testing.assert_close(got[n], call(*one, *others), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("op", ["conv_fused", "conv_dgrad_fused"])
@pytest.mark.parametrize("name", ["2-D circular", "2-D tiled"])
def test_vmap_and_func_grad_of_the_fused_ops(name, op, aten_path):
    a, w, *others = calls(name)[op]
    a, w = torch.stack([a.detach(), 2 * a.detach() + 1]), w.detach()

    def call(a, w):
        return getattr(OPS, op)(a, w, *others)[0]

    got = torch.func.vmap(call, (0, None))(a, w)
    slopes = torch.func.vmap(torch.func.grad(lambda w, a: call(a, w).square().sum()), (None, 0))
    for n, slope in enumerate(slopes(w, a)):
        torch.testing.assert_close(got[n], call(a[n], w), rtol=1e-12, atol=1e-12)
        leaf = w.clone().requires_grad_()
        (expected,) = torch.autograd.grad(call(a[n], leaf).square().sum(), leaf)
        torch.testing.assert_close(slope, expected, rtol=1e-10, atol=1e-10)


def test_concurrent_threads(aten_path):
    cases = []
    for size in range(4, 12):
        x, w = torch.randn(1, 2, size, size), torch.randn(3, 2, 3, 3)
        cases.append((x, w, torch.nn.functional.conv2d(x, w, padding=1)))
    barrier = threading.Barrier(4)

    def work(number):
        barrier.wait()
        for _ in range(5):
            for x, w, expected in cases[number:] + cases[:number]:
                torch.testing.assert_close(F.conv2d(x, w, padding=1), expected)
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_concurrent_threads_through_the_kernels():
    x, w = torch.randn(1, 1, 4, dtype=torch.float64), torch.randn(1, 1, 2, dtype=torch.float64)
    expected = torch.nn.functional.conv1d(x, w)
    x, w = x.to(kernel_device()), w.to(kernel_device())
    with ThreadPoolExecutor(3) as pool:
        for y in pool.map(lambda _: F.conv1d(x, w), range(3)):
            torch.testing.assert_close(y.cpu(), expected, rtol=1e-12, atol=1e-12)


def test_explain_runs_nothing_and_names_the_reasons():
    x, w = torch.randn(1, 64, 8, 8), torch.randn(64, 64, 3, 3)
    x, w = x.to(kernel_device()), w.to(kernel_device())
    known = len(CALLS)
    text = str(tritonconv.explain(F.conv2d, x, w, padding=1))
    assert "variant   implicit_gemm" in text and "not direct: implicit_gemm comes before it" in text
    assert "source    analytic" in text and "gather_gemm x" in text and "BLOCK_M=" in text
    assert "fprop of 1x64x8x8 with 64x64x3x3 -> 1x64x8x8, torch.float32" in text
    assert len(CALLS) == known
    backend = "interpreter" if interpreting() else "triton"
    assert f"backend   {backend}" in text


def test_explain_on_the_cpu_says_why_no_kernel_runs(aten_path):
    plan = tritonconv.explain(F.conv1d, torch.randn(1, 1, 5), torch.randn(1, 1, 2)).plans[0]
    assert plan.backend == "aten" and "TRITON_INTERPRET is not set" in plan.rejected[0][1]


def test_no_hidden_buffers():
    """The only allocations of a pass are its result and the workspace that the problem states."""

    class Allocations(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                storage = out.untyped_storage()
                if storage.data_ptr() not in known:
                    sizes[storage.data_ptr()] = storage.nbytes()
            return out

    # Expanded, sliced and channels-last operands: none of them is copied.
    x = torch.randn(1, 2, 6, 70).transpose(2, 3)[..., ::2].expand(2, 2, 70, 3)
    w = torch.randn(3, 3, 3, 2).permute(0, 3, 1, 2)
    x, w = x.to(kernel_device()), w.to(kernel_device())
    rest = ([1, 1], [1, 1, 1, 1], [1, 1], 1, False, "zeros")
    dy = torch.randn(2, 3, 70, 3).to(kernel_device())
    known = {t.untyped_storage().data_ptr() for t in (x, w, dy)}
    for which, operands, result in (
        (Pass.FPROP, (x, w, None), 4 * dy.numel()),
        (Pass.DGRAD, (dy, w, x.shape), 4 * x.numel()),
        (Pass.WGRAD, (dy, x, w.shape), 4 * w.numel()),
    ):
        sizes: dict[int, int] = {}
        # The op's own body: inside the op a dispatch mode sees nothing.
        with Allocations():
            run(which, *operands, *rest)
        first, *others = sizes.values()
        assert first == result
        assert sum(others) <= (64 * w.numel() * 4 if which is Pass.WGRAD else 0), sizes
        assert len(others) <= 1


def test_workspace_is_stated_by_the_problem():
    x, dy = torch.empty(8, 2, 64, 64), torch.empty(8, 3, 64, 64)
    arguments = ConvArguments([1, 1], [1, 1, 1, 1], [1, 1], 1)
    problem = wgrad_problem(dy, x, (3, 2, 3, 3), arguments)
    plan = make_plan(problem, Pass.WGRAD, TARGETS["sm_90"])
    assert 0 < plan.workspace * 4 <= problem.workspace_limit(Pass.WGRAD)
    # One image leaves most multiprocessors idle: its forward pass is split too.
    x, w = torch.empty(1, 512, 7, 7), torch.empty(512, 512, 3, 3)
    problem = fprop_problem(x, w, None, arguments)
    plan = make_plan(problem, Pass.FPROP, TARGETS["sm_90"])
    assert plan.variant == "split_k"
    assert 0 < plan.workspace * 4 <= problem.workspace_limit(Pass.FPROP)
