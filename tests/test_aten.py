"""The CPU path: every border, every form of a weight period, all dtypes.

The data are small whole numbers. So sums are exact in float32 and float64, whatever their order,
and a 16-bit result must be the exact one rounded once: every check asks for equality.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tritonconv.checks import ConvArguments
from tritonconv.reference import aten, textbook, windows
from tritonconv.reference.border import border

MODES = ("zeros", "reflect", "replicate", "circular")


@dataclass(frozen=True)
class Case:
    """x (n, c, *size), w (*period, k, c / groups, *taps); padding is (low, high) an axis."""

    size: tuple[int, ...]
    taps: tuple[int, ...]
    padding: tuple[int, ...]
    stride: tuple[int, ...] = (1, 1, 1)
    dilation: tuple[int, ...] = (1, 1, 1)
    groups: int = 1
    flip: bool = False
    period: tuple[int, ...] = ()
    n: int = 2
    c: int = 2
    k: int = 4

    @property
    def rank(self):
        return len(self.size)

    def arguments(self, mode="zeros"):
        stride, dilation = self.stride[: self.rank], self.dilation[: self.rank]
        return ConvArguments(stride, self.padding, dilation, self.groups, self.flip, mode)

    def draw(self, seed=0, most=9):
        """x, w, dy and bias of whole numbers up to `most`."""
        rng = np.random.default_rng(seed)
        out = textbook.output_size(self.size, self.taps, self.geometry())
        shapes = (
            (self.n, self.c, *self.size),
            (*self.period, self.k, self.c // self.groups, *self.taps),
            (self.n, self.k, *out),
            (self.k,),
        )
        return [
            torch.from_numpy(rng.integers(-most, most + 1, s).astype(np.float64)) for s in shapes
        ]

    def geometry(self):
        pads = tuple(zip(self.padding[::2], self.padding[1::2], strict=True))
        stride, dilation = self.stride[: self.rank], self.dilation[: self.rank]
        return textbook.Geometry(stride, pads, dilation, self.groups, self.flip)


# Pads are small enough for every mode: below the size for reflect.
CASES = {
    "1d": Case((7,), (3,), (2, 1)),
    "1d-crop": Case((7,), (3,), (2, -3), flip=True),
    "1d-tiled": Case((9,), (2,), (3, 2), dilation=(2,), period=(3,)),
    "1d-tiled-uneven": Case((9,), (3,), (1, 1), period=(4,), groups=2, flip=True),
    "1d-unshared": Case((8,), (3,), (1, 2), stride=(2,), period=(5,), n=1),
    "1d-period-over-output": Case((5,), (3,), (1, -1), period=(4,)),
    "2d": Case((5, 6), (3, 2), (1, 1, 2, 2)),
    "2d-uneven": Case((6, 7), (2, 3), (3, 0, 1, 4), stride=(3, 2), dilation=(1, 2), flip=True),
    "2d-crop": Case((6, 5), (3, 3), (2, -1, 0, -2), groups=2),
    "2d-stride-over-filter": Case((7, 7), (1, 2), (1, 0, 1, 1), stride=(3, 4)),
    "2d-empty-batch": Case((4, 5), (2, 2), (1, 0, 1, 1), period=(4, 5), n=0),
    "2d-tiled": Case((7, 6), (2, 3), (1, 2, 2, 1), period=(2, 3)),
    "2d-tiled-crop": Case((7, 6), (2, 2), (3, -1, 0, 2), stride=(1, 2), period=(3, 2), groups=2),
    "2d-row-shared": Case((4, 5), (3, 3), (1, 1, 1, 1), period=(1, 5)),
    "2d-unshared": Case((5, 6), (3, 2), (1, 2, 0, 1), period=(6, 6), groups=2, flip=True),
    "2d-unshared-one-image": Case((5, 4), (2, 3), (1, 1, 1, 1), period=(6, 4), n=1),
    "3d": Case((3, 4, 3), (2, 3, 2), (1, 0, 2, 1, 1, 1), stride=(1, 2, 1)),
    "3d-tiled": Case((3, 3, 4), (2, 1, 3), (1, 1, 0, 0, 1, 2), period=(2, 1, 3), flip=True),
    "3d-unshared": Case((3, 4, 3), (2, 2, 2), (1, -1, 0, 1, 1, 1), period=(2, 4, 4)),
}

# What makes a period take each form: (numbers a block, numbers that may be copied, turns a bank).
FORMS = {
    "turns": (2**20, 0, (0, 0)),
    "copied": (2**20, 2**20, (10**9, 10**9)),
    "copied-in-blocks": (2**6, 2**20, (10**9, 10**9)),
    "windows": (2**20, 0, (10**9, 10**9)),
    "windows-in-blocks": (2**6, 0, (10**9, 10**9)),
}


def in_every_form(names):
    """The named cases; those with a period once in each form."""
    forms = {name: FORMS if CASES[name].period else ("shared",) for name in names}
    pairs = {f"{n}-{form}": (CASES[n], form) for n, found in forms.items() for form in found}
    return pytest.mark.parametrize(
        ("case", "form"), pairs.values(), ids=pairs.keys(), indirect=["form"]
    )


@pytest.fixture
def form(request, monkeypatch):
    if request.param in FORMS:
        block, small, turns = FORMS[request.param]
        monkeypatch.setattr(windows, "BLOCK", block)
        monkeypatch.setattr(aten, "SMALL", small)
        monkeypatch.setattr(aten, "TURNS", turns)


def extended(x, arguments):
    """The image with its border, by `F.pad` and a crop."""
    ends = list(zip(arguments.padding[::2], arguments.padding[1::2], strict=True))
    sizes = [size + low + high for size, (low, high) in zip(x.shape[2:], ends, strict=True)]
    pads = [pad for low, high in reversed(ends) for pad in (low, max(0, high))]
    name = "constant" if arguments.padding_mode == "zeros" else arguments.padding_mode
    x = F.pad(x, pads, mode=name)
    return x[(..., *map(slice, sizes))]


def composed(x, w, bias, arguments):
    """y by one einsum over every window, each bank copied to its positions."""
    rank, groups = x.dim() - 2, arguments.groups
    w = w.flip(tuple(range(-rank, 0))) if arguments.flip else w
    if w.dim() == x.dim():
        convolve = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
        x = extended(x, arguments)
        return convolve(x, w, bias, arguments.stride, 0, arguments.dilation, groups)
    seen = extended(x, arguments).unflatten(1, (groups, x.shape[1] // groups))
    for axis, (taps, d) in enumerate(zip(w.shape[-rank:], arguments.dilation, strict=True)):
        seen = seen.unfold(3 + axis, (taps - 1) * d + 1, arguments.stride[axis])[..., ::d]
        w = w.index_select(axis, torch.arange(seen.shape[3 + axis]) % w.shape[axis])
    o, f = "xyz"[:rank], "rst"[:rank]
    y = torch.einsum(f"ngc{o}{f},{o}gkc{f}->ngk{o}", seen, w.unflatten(rank, (groups, -1)))
    return y.flatten(1, 2) + bias.reshape(-1, *[1] * rank)


def passes(x, w, dy, bias, arguments):
    return (
        aten.conv(x, w, bias, arguments),
        aten.dgrad(dy, w, x.shape, arguments),
        aten.wgrad(dy, x, w.shape, arguments),
    )


def assert_same(got, exact):
    for name, a, b in zip(("conv", "dgrad", "wgrad"), got, exact, strict=True):
        assert a.dtype == got[0].dtype
        torch.testing.assert_close(
            a, b.to(a.dtype), rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


def exact_passes(operands, arguments):
    x, w, dy, bias = operands
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    y = composed(x, w, bias, arguments)
    return y.detach(), *torch.autograd.grad(y, (x, w), dy)


@in_every_form(CASES)
def test_zeros_and_crops_equal_the_textbook(case, form):
    x, w, dy, bias = operands = case.draw()
    geometry = case.geometry()
    exact = (
        textbook.conv(x.numpy(), w.numpy(), geometry, bias.numpy()),
        textbook.dgrad(dy.numpy(), w.numpy(), case.size, geometry),
        textbook.wgrad(dy.numpy(), x.numpy(), tuple(w.shape), geometry),
    )
    assert_same(passes(*operands, case.arguments()), map(torch.from_numpy, exact))


@pytest.mark.parametrize("mode", MODES[1:])
@in_every_form(CASES)
def test_borders_equal_padding_and_autograd(case, mode, form):
    operands, arguments = case.draw(1), case.arguments(mode)
    assert_same(passes(*operands, arguments), exact_passes(operands, arguments))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@in_every_form(["1d-unshared", "2d-tiled-crop", "2d-unshared", "3d-tiled"])
def test_results_are_rounded_once(case, mode, dtype, form):
    # Sums beyond what 16 bits hold, from numbers that they do.
    operands, arguments = case.draw(2, most=60), case.arguments(mode)
    narrow = [t.to(dtype) for t in operands]
    assert_same(passes(*narrow, arguments), exact_passes(operands, arguments))


@pytest.mark.parametrize("mode", MODES[1:])
def test_a_border_folds_before_rounding(mode):
    # The four corners of each mode add numbers that bfloat16 cannot hold apart from their sum.
    arguments = ConvArguments((1, 1), (2, 2, 2, 2), (1, 1), 1, False, mode)
    torch.manual_seed(0)
    w = torch.randint(-60, 60, (8, 3, 3, 3)).double()
    dy = torch.randint(-60, 60, (1, 8, 5, 6)).double()
    x = torch.zeros(1, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(composed(x, w, None, arguments), x, dy)

    got = aten.dgrad(dy.bfloat16(), w.bfloat16(), x.shape, arguments)
    assert torch.equal(got, exact.bfloat16())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["1d-crop", "2d-uneven", "3d"])
def test_aten_can_record_the_gradients(name, mode):
    case = CASES[name]
    (x, w, dy, bias), arguments = case.draw(3), case.arguments(mode)
    x.requires_grad_(), w.requires_grad_(), dy.requires_grad_()
    y = aten.conv(x, w, bias, arguments)
    exact = exact_passes((x.detach(), w.detach(), dy.detach(), bias), arguments)
    assert_same((y.detach(), *torch.autograd.grad(y, (x, w), dy)), exact)

    # The gradient of <dx, v> with respect to dy is the convolution of v.
    v = torch.arange(x.numel(), dtype=x.dtype).reshape(x.shape) % 7
    dx = aten.dgrad(dy, w, x.shape, arguments)
    (ddy,) = torch.autograd.grad(dx, dy, v)
    assert torch.equal(ddy, composed(v, w.detach(), None, arguments))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", [(0, 0), (1, 2), (3, 0), (2, -1), (0, -3)])
@pytest.mark.parametrize("explicit", [False, True])
def test_fold_is_the_adjoint_of_extend(mode, padding, explicit):
    arguments = ConvArguments((1, 1), (1, 1, *padding), (1, 1), 1, False, mode)
    around = border(arguments, explicit)
    x = torch.randint(-9, 9, (2, 1, 3, 4)).double()
    y = around.extend(x)
    g = torch.randint(-9, 9, y.shape).double()

    assert list(y.shape[2:]) == around.sizes(x.shape[2:])
    assert (g * y).sum() == (around.fold(g.clone()) * x).sum()
    if explicit:
        assert torch.equal(y, extended(x, arguments))


def test_symmetric_zeros_are_left_to_aten():
    left = border(ConvArguments((1, 1), (2, 2, 1, 1), (1, 1), 1), explicit=False)
    assert left.zeros == [2, 1]
    assert not left.changes
    rest = border(ConvArguments((1, 1), (2, 3, 1, -1), (1, 1), 1), explicit=False)
    assert (rest.zeros, rest.pads, rest.crops) == ([2, 0], [(0, 1), (1, 0)], [0, 1])
    none = border(ConvArguments((1,), (0, 0), (1,), 1, False, "reflect"), explicit=True)
    assert not none.changes


@in_every_form(["2d", "2d-unshared", "2d-unshared-one-image"])
def test_operands_of_any_strides(case, form):
    operands, arguments = case.draw(6), case.arguments("circular")
    x, w, dy, bias = operands
    dy[:] = dy[:1, :1, :1, :1]
    exact = exact_passes(operands, arguments)

    last = w.dim() - 3
    sliced = F.pad(x, (1, 2, 0, 1))[..., :-1, 1:-2]
    inner = w.movedim(last, -1).contiguous().movedim(-1, last)
    expanded = dy[:1, :1, :1, :1].expand(dy.shape)
    assert_same(passes(sliced, inner, expanded, bias, arguments), exact)
    channels_last = x.contiguous(memory_format=torch.channels_last)
    assert_same(passes(channels_last, w, dy.mT.contiguous().mT, bias, arguments), exact)


@pytest.mark.parametrize("mode", ["zeros", "replicate"])
@pytest.mark.parametrize("period", [(), (2,)])
def test_a_crop_may_take_the_whole_image(mode, period):
    # 4 low, and of the 2 elements and their low border only the first 3 positions are left.
    case = Case((2,), (2,), (4, -3), period=period)
    operands, arguments = case.draw(4), case.arguments(mode)
    y, dx, dw = got = passes(*operands, arguments)
    assert_same(got, exact_passes(operands, arguments))
    if mode == "zeros":
        assert torch.equal(y, operands[3].reshape(-1, 1).expand_as(y))
        assert not dx.any()
        assert not dw.any()
    else:
        assert not dx[..., 1].any()  # all was read from the first element


@pytest.mark.parametrize(
    ("size", "period", "form"),
    [
        ((58, 58), (2, 2), "Turns"),
        ((602,), (2,), "Turns"),
        ((10, 10), (2, 2), "Copied"),
        ((10, 10), (1, 8), "Copied"),
        ((10, 10), (8, 8), "Windows"),
        ((122, 122), (15, 15), "Windows"),
    ],
)
def test_the_form_of_a_period(size, period, form):
    rank = len(size)
    arguments = ConvArguments([1] * rank, [0] * 2 * rank, [1] * rank, 1)
    chosen = aten._passes(arguments)((2, 16, *size), (*period, 16, 16, *[3] * rank))
    assert type(chosen).__name__ == form


@pytest.mark.parametrize("most", [1, 3, 4, 20, 10**6])
@pytest.mark.parametrize(("sizes", "period"), [((5, 7), (5, 7)), ((5, 7), (2, 3)), ((4,), (6,))])
def test_blocks_meet_every_position_once(sizes, period, most):
    seen = np.zeros(sizes, int)
    positions = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"))
    for box, banks in windows._blocks(sizes, period, most):
        seen[box] += 1
        inside = positions[(slice(None), *box)]
        assert inside[0].size <= most
        for axis, (found, t) in enumerate(zip(inside, period, strict=True)):
            expected = np.arange(t)[banks[axis]]
            shape = [-1 if a == axis else 1 for a in range(len(sizes))]
            assert (found % t == expected.reshape(shape)).all()
    assert (seen == 1).all()


class _Largest(TorchDispatchMode):
    """The most bytes that a tensor made inside holds, the given ones and their views apart."""

    def __init__(self, *given):
        super().__init__()
        self.given = {t.untyped_storage().data_ptr() for t in given}
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            storage = result.untyped_storage()
            if storage.data_ptr() not in self.given:
                self.bytes = max(self.bytes, storage.nbytes())
        return result


def test_no_weight_and_no_window_is_copied_as_a_whole(monkeypatch):
    monkeypatch.setattr(windows, "BLOCK", 2**12)
    case = Case((12, 12), (3, 3), (0, 0, 0, 0), period=(10, 10), c=8, k=8)
    (x, w, dy, bias), arguments = case.draw(5), case.arguments()
    for run in (
        lambda: aten.conv(x, w, bias, arguments),
        lambda: aten.dgrad(dy, w, x.shape, arguments),
    ):
        with _Largest(x, w, dy) as largest:
            run()
        assert 0 < largest.bytes <= 2**12 * x.itemsize < w.nbytes // 4


def test_input_gradients_repeat_bit_for_bit():
    x, w = torch.randn(2, 3, 9, 9), torch.randn(7, 7, 4, 3, 3, 3)
    for arguments, weight in (
        (ConvArguments((1, 1), (0, 0, 0, 0), (1, 1), 1), w),
        (ConvArguments((1, 1), (2, 2, 3, 3), (1, 1), 1, False, "circular"), w[0, 0]),
    ):
        dy = torch.randn_like(aten.conv(x, weight, None, arguments))
        first, *others = [aten.dgrad(dy, weight, x.shape, arguments) for _ in range(3)]
        assert all(torch.equal(first, other) for other in others)
