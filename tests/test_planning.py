"""Plans without tensors: bounded grids, few binaries, few configs, no wasted products, reasons."""

import itertools
import random

import pytest
import torch
from hypothesis import given
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime.jit import KernelParam, create_function_from_signature, native_specialize_impl

from autotune import Candidate, Config
from tritonconv import UnsupportedProblem, tuning
from tritonconv.device import INTERPRETER, TARGETS
from tritonconv.gemm_view import class_residues, gemm_view, tap_list
from tritonconv.launch import Slot
from tritonconv.planning import BoundedCache, make_plan, select
from tritonconv.problem import ConvArguments, Pass, dgrad_problem, fprop_problem, wgrad_problem
from tritonconv.reference import textbook
from tritonconv.testing.agreement import problem_of_case
from tritonconv.testing.strategies import KINDS, conv_cases
from tritonconv.variants import VARIANTS, base

H200 = TARGETS["sm_90"]
CORE = next(v for v in VARIANTS if v.name == "implicit_gemm")


def problem(x_shape, w_shape, which=Pass.FPROP, dtype=torch.bfloat16, **options):
    """A problem over meta tensors, which have shapes and no memory."""
    rank = len(x_shape) - 2
    last = options.pop("channels_last", False)
    arguments = ConvArguments(
        options.get("stride", [1] * rank),
        options.get("padding", [1] * (2 * rank)),
        options.get("dilation", [1] * rank),
        options.get("groups", 1),
    )
    x, w = (torch.empty(s, dtype=dtype, device="meta") for s in (x_shape, w_shape))
    if last:
        x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
    fprop = fprop_problem(x, w, None, arguments)
    if which is Pass.FPROP:
        return fprop
    dy = torch.empty_strided(
        fprop.output_shape, fprop.result_strides(Pass.FPROP), dtype=dtype, device="meta"
    )
    if which is Pass.DGRAD:
        return dgrad_problem(dy, w, x_shape, arguments)
    return wgrad_problem(dy, x, w_shape, arguments)


def image_sizes():
    """100 random image batches."""
    draw = random.Random(7)
    return [(draw.randint(1, 64), draw.randint(7, 240), draw.randint(7, 240)) for _ in range(100)]


def specialisation_key(launch, dtype):
    """What Triton's launcher would derive from the arguments to look up a binary."""
    key = []
    for number, (name, parameter) in enumerate(launch_parameters(launch).items()):
        value = launch.arguments[name]
        if isinstance(value, Slot):
            value = torch.empty(1, dtype=dtype)
        if parameter.is_constexpr:
            key.append((name, str(value)))
            continue
        kind, extra = native_specialize_impl(
            CUDABackend,
            value,
            False,
            not parameter.do_not_specialize,
            not parameter.do_not_specialize_on_alignment,
        )
        key.append((number, parameter.annotation_type or kind, extra))
    return tuple(key)


def launch_parameters(launch):
    """The kernel's parameters as Triton's compiling launcher sees them, interpreted or not."""
    kernel = launch.kernel
    if hasattr(kernel, "params"):
        return {p.name: p for p in kernel.params}
    import inspect

    skipped = kernel.kwargs["do_not_specialize"]
    aligned = kernel.kwargs["do_not_specialize_on_alignment"]
    return {
        name: KernelParam(i, parameter, name in skipped, name in aligned)
        for i, (name, parameter) in enumerate(inspect.signature(kernel.fn).parameters.items())
    }


# Channels, filters and groups of a problem of each kind, to be met at many image sizes.
SIZELESS = {
    "shared": (24, (40, 24, 3, 3), 1),
    "depthwise": (24, (24, 1, 3, 3), 24),
    "pointwise": (24, (40, 24, 1, 1), 1),
    "stem": (3, (40, 3, 3, 3), 1),
    "unshared": (8, (8, 8, 3, 3), 1),
}


def sized(kind, which, image, channels_last=False):
    """The problem of a kind for images of this (batch, height, width)."""
    batch, height, width = image
    channels, w_shape, groups = SIZELESS[kind]
    banks = (height, width) if kind == "unshared" else ()
    return problem(
        (batch, channels, height, width),
        (*banks, *w_shape),
        which,
        channels_last=channels_last and kind != "unshared",
        groups=groups,
        padding=[w_shape[-1] // 2] * 4,
    )


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("which", Pass, ids=lambda w: w.value)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_a_hundred_image_sizes_share_binaries_and_configs(variant, which, channels_last):
    kind = next(k for k in SIZELESS if k in variant.kinds)
    keys, configs = {}, set()
    if variant.supports(sized(kind, which, (2, 9, 9)), which) is not None:
        assert (variant.name, which) in ONE_SIDED
        return
    for image in image_sizes():
        plan = make_plan(sized(kind, which, image, channels_last), which, H200, variant=variant)
        configs.add(plan.config)
        for launch in plan.launches:
            name = (launch.kernel.__name__, plan.config)
            keys.setdefault(name, set()).add(specialisation_key(launch, torch.bfloat16))
    # Two heights, each for images whose rows make vectors and for those whose do not.
    assert len(configs) <= 4
    assert max(len(found) for found in keys.values()) <= 4


# Passes that a variant leaves to the others.
ONE_SIDED = {("stem", Pass.DGRAD), ("split_k", Pass.WGRAD)}


@pytest.mark.parametrize(
    ("name", "which", "shapes", "options"),
    [
        ("implicit_gemm", Pass.FPROP, ((32, 64, 56, 56), (64, 64, 3, 3)), {}),
        ("implicit_gemm", Pass.WGRAD, ((1, 512, 7, 7), (512, 512, 3, 3)), {}),
        ("split_k", Pass.FPROP, ((1, 512, 7, 7), (512, 512, 3, 3)), {}),
        ("split_k", Pass.DGRAD, ((1, 512, 7, 7), (512, 512, 3, 3)), {}),
        ("pointwise", Pass.FPROP, ((256, 64, 56, 56), (256, 64, 1, 1)), {"padding": [0] * 4}),
        ("stem", Pass.FPROP, ((256, 3, 224, 224), (64, 3, 7, 7)), {"padding": [3] * 4}),
        ("depthwise", Pass.FPROP, ((8, 96, 14, 14), (96, 1, 3, 3)), {"groups": 96}),
        ("depthwise", Pass.DGRAD, ((8, 96, 14, 14), (96, 1, 3, 3)), {"groups": 96}),
        ("depthwise", Pass.WGRAD, ((8, 96, 14, 14), (96, 1, 3, 3)), {"groups": 96}),
        ("unshared", Pass.FPROP, ((8, 16, 55, 55), (55, 55, 16, 16, 3, 3)), {}),
        ("unshared", Pass.WGRAD, ((8, 16, 55, 55), (55, 55, 16, 16, 3, 3)), {}),
    ],
)
def test_a_problem_goes_to_its_kernel_and_the_others_say_why_not(name, which, shapes, options):
    plan = make_plan(problem(*shapes, which, **options), which, H200)
    assert plan.variant == name
    assert [other for other, _ in plan.rejected] == [v.name for v in VARIANTS if v.name != name]
    assert all(reason for _, reason in plan.rejected)


def test_a_specialised_size_would_be_seen():
    """The check above can fail: Triton does specialise an argument that is 1 or 16."""
    one, sixteen, five = (
        native_specialize_impl(CUDABackend, value, False, True, True) for value in (1, 16, 5)
    )
    assert len({one, sixteen, five}) == 3
    assert create_function_from_signature is not None


@pytest.mark.parametrize("which", Pass, ids=lambda w: w.value)
@given(case=conv_cases(kinds=KINDS))
def test_planned_grids_are_bounded_and_workspaces_stated(which, case):
    one = problem_of_case(case, which, case.tensors())
    for variant in VARIANTS:
        if variant.supports(one, which) is not None:
            continue
        for device in (INTERPRETER, H200):
            plan = make_plan(one, which, device, variant=variant)
            assert all(0 <= launch.programs < 2**31 for launch in plan.launches)
            assert plan.workspace * one.accumulator_bytes <= one.workspace_limit(which)


def test_a_large_problem_fits_the_grid():
    large = problem((64, 128, 513, 513), (128, 128, 3, 3), stride=[2, 2])
    (launch,) = make_plan(large, Pass.FPROP, H200).launches
    assert launch.programs * 8 > 65_535 and launch.programs < 2**31
    unshared = problem((1, 16, 55, 55), (55, 55, 16, 16, 7, 7), padding=[3] * 4)
    assert make_plan(unshared, Pass.FPROP, H200).launches[0].programs >= 55 * 55


@pytest.mark.parametrize("which", [Pass.FPROP, Pass.DGRAD], ids=lambda w: w.value)
@given(case=conv_cases())
def test_taps_of_a_class_are_exactly_those_that_reach_it(which, case):
    """Counted from the textbook's own pairs: a filter of ones against an image of ones."""
    one = problem_of_case(case, which, case.tensors())
    view = gemm_view(one, which)
    written = one.output_size if which is Pass.FPROP else one.input_size
    for residues in class_residues(view):
        for axis, residue in enumerate(residues):
            taps = tap_list(one, which, residue, axis)
            stride, low = one.stride[axis], one.padding[axis][0]
            if which is Pass.DGRAD:
                for tap, position in itertools.product(
                    range(one.filter_size[axis]),
                    range(residue, written[axis], view.residues[axis]),
                ):
                    exact = (position + low - tap * one.dilation[axis]) % stride == 0
                    assert (tap in taps) == exact
                steps = {b - a for a, b in itertools.pairwise(taps)}
                assert steps <= {view.tap_step[axis]}
            else:
                assert taps == list(range(one.filter_size[axis]))


def test_strided_dgrad_multiplies_no_more_than_needed():
    """Stride 2 splits a 3x3 filter into 4 + 2 + 2 + 1 taps: 9 products for 4 positions, not 36."""
    one = problem((1, 16, 8, 8), (16, 16, 3, 3), Pass.DGRAD, stride=[2, 2])
    view = gemm_view(one, Pass.DGRAD)
    products = 0
    for _, r_h, r_w in class_residues(view):
        products += len(tap_list(one, Pass.DGRAD, r_h, 1)) * len(tap_list(one, Pass.DGRAD, r_w, 2))
    assert products == 9


@given(case=conv_cases(kinds=("shared",)))
def test_useful_work_is_what_the_textbook_counts(case):
    """Sums of ones count the products that touch the image."""
    one = problem_of_case(case, Pass.FPROP, case.tensors())
    x, w = (torch.ones(s).numpy() for s in (case.input_shape, case.weight_shape))
    products = textbook.conv(x, w, case.geometry).sum()
    assert one.useful_flops() == 2 * products
    assert one.matrix_nonzeros() == products / case.input_shape[0]


def test_float64_never_takes_the_gemm():
    plan = make_plan(problem((1, 64, 8, 8), (64, 64, 3, 3), dtype=torch.float64), Pass.FPROP, H200)
    assert plan.variant == "direct"
    assert ("implicit_gemm", "float64 has no tl.dot on every target") in plan.rejected
    with pytest.raises(UnsupportedProblem, match=r"implicit_gemm: float64 has no tl\.dot"):
        select(plan.problem, Pass.FPROP, H200, (CORE,))


def test_a_pinned_candidate_is_used_and_an_illegal_one_is_not():
    one = problem((64, 64, 28, 28), (64, 64, 3, 3), channels_last=True)
    legal = Candidate(CORE.name, CORE.configs(one, Pass.FPROP, H200)[-1])
    key = tuning.conv_key(one, Pass.FPROP, H200, True)
    analytic = make_plan(one, Pass.FPROP, H200)
    assert analytic.source == "analytic" and analytic.config != legal.config
    try:
        tuning.pin(key, legal)
        plan = make_plan(one, Pass.FPROP, H200)
        assert (plan.variant, plan.config, plan.source) == (*legal, "pinned")
        assert make_plan(one, Pass.FPROP, H200, aligned=False).source == "analytic"
        tuning.pin(key, Candidate(CORE.name, Config.of(4, 9, BLOCK_M=512)))
        assert make_plan(one, Pass.FPROP, H200).config == analytic.config
    finally:
        tuning.pin(key, None)
    assert make_plan(one, Pass.FPROP, H200).source == "analytic"


def test_alignment_is_a_flag_of_the_plan():
    one = problem((8, 64, 14, 14), (64, 64, 3, 3), channels_last=True)
    wide, narrow = (
        make_plan(one, Pass.FPROP, H200, aligned=a, variant=CORE).launches[0] for a in (True, False)
    )
    assert wide.arguments["SRC_VECTOR"] == wide.arguments["WEIGHT_VECTOR"] == 8
    assert narrow.arguments["SRC_VECTOR"] == narrow.arguments["WEIGHT_VECTOR"] == 1
    odd = problem((8, 63, 14, 14), (64, 63, 3, 3), channels_last=True)
    assert make_plan(odd, Pass.FPROP, H200).launches[0].arguments["SRC_VECTOR"] == 1


@pytest.mark.parametrize("device", TARGETS.values(), ids=lambda d: d.name)
def test_defaults_fit_every_device(device):
    for which, last in itertools.product(Pass, (False, True)):
        for dtype in (torch.bfloat16, torch.float32):
            one = problem((32, 256, 56, 56), (256, 256, 3, 3), which, dtype, channels_last=last)
            config = CORE.default_config(one, which, device)
            assert config in CORE.configs(one, which, device) or config.num_stages == 1


def test_small_images_take_smaller_tiles():
    one = problem((1, 256, 7, 7), (256, 256, 3, 3), channels_last=True)
    many = problem((256, 256, 56, 56), (256, 256, 3, 3), channels_last=True)
    plans = [make_plan(p, Pass.FPROP, H200, variant=CORE) for p in (one, many)]
    heights = [plan.config["BLOCK_M"] for plan in plans]
    assert heights == [64, 128]


def test_split_count_fills_the_device_and_stays_bounded():
    assert base.split_count(tiles=1000, depth=10**6, block_k=64, multiprocessors=132) == 1
    assert base.split_count(tiles=10, depth=10**6, block_k=64, multiprocessors=132) == 27
    assert base.split_count(tiles=1, depth=64, block_k=64, multiprocessors=132) == 1
    assert base.split_count(tiles=1, depth=10**9, block_k=64, multiprocessors=132) == 64


def test_cache_is_bounded_and_drops_the_oldest():
    cache = BoundedCache(limit=2)
    for key in "abc":
        cache.add(key, lambda key=key: key.upper())
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (None, "B", "C")
