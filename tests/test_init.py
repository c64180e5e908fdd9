"""tritonconv.nn.init: random and Gabor filters by value, and what the initialisers refuse."""

import itertools
import math

import pytest
import torch

from tritonconv import ProblemError
from tritonconv.functional import conv1d, conv2d
from tritonconv.nn.init import gabor_, kmeans_patches_, random_filters_

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHAPES = {1: (6, 2, 9), 2: (6, 3, 5, 4), 3: (6, 2, 3, 2, 3)}


def empty(*shape, dtype=torch.float64):
    """A weight that holds nothing yet."""
    return torch.full(shape, float("nan"), dtype=dtype)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(weight):
    """A filter a row."""
    return weight.detach().flatten(1)


def assert_standard(weight, norm=1.0):
    """Every filter has zero mean and this norm, within the rounding of a float64 weight."""
    assert rows(weight).mean(dim=1).abs().max() < 1e-14
    torch.testing.assert_close(
        rows(weight).norm(dim=1), torch.full((len(weight),), norm, dtype=torch.float64)
    )


# -- random ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", SHAPES)
def test_random_filters_have_zero_mean_and_the_norm_asked_for(rank):
    weight = random_filters_(empty(*SHAPES[rank]), gain=1.5, generator=seeded())
    assert_standard(weight, 1.5)
    assert torch.linalg.matrix_rank(rows(weight)) == len(weight)


def test_random_filters_are_the_normal_numbers_of_the_generator():
    weight = random_filters_(empty(2, 1, 4), gain=3.0, generator=seeded(5))
    drawn = torch.randn(2, 4, dtype=torch.float64, generator=seeded(5))
    for row, u in zip(rows(weight), drawn, strict=True):
        v = [float(x) - float(sum(u)) / 4 for x in u]
        norm = math.sqrt(sum(x * x for x in v))
        assert row.tolist() == pytest.approx([3 * x / norm for x in v])


@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_random_filters_turn_white_input_into_variance_gain_squared(aten_path, gain):
    weight = random_filters_(empty(8, 3, 5, 5), gain=gain, generator=seeded(1))
    x = torch.randn(1, 3, 128, 128, dtype=torch.float64, generator=seeded(2))
    variance = conv2d(x + 7, weight).var(dim=(0, 2, 3))
    assert ((variance / gain**2 - 1).abs() < 0.08).all()


def test_without_unit_norm_the_norm_holds_on_average():
    weight = random_filters_(empty(4000, 1, 9), gain=2.0, unit_norm=False, generator=seeded(3))
    assert rows(weight).mean(dim=1).abs().max() < 1e-14
    squares = rows(weight).square().sum(dim=1)
    # A sum of squares of 8 normal numbers, of variance 4/8 each: variance 2 * 8 * (4/8)^2 = 4.
    assert squares.mean() == pytest.approx(4, abs=0.15)
    assert squares.var() == pytest.approx(4, abs=0.6)


def test_random_filters_without_a_generator_follow_the_global_seed():
    with torch.random.fork_rng():
        torch.manual_seed(11)
        first = random_filters_(empty(2, 1, 3))
        second = random_filters_(empty(2, 1, 3))
    assert torch.equal(first, random_filters_(empty(2, 1, 3), generator=seeded(11)))
    assert not torch.equal(first, second)


# -- Gabor -----------------------------------------------------------------------------------


def v(x, y, tau, F, phi, bandwidth=1.5, aspect=0.5):
    """The closed formula at one pixel, from the filter's middle."""
    ratio = 2**bandwidth
    sigma = math.sqrt(math.log(2) / 2) / (math.pi * F) * (ratio + 1) / (ratio - 1)
    along = x * math.cos(tau) + y * math.sin(tau)
    across = -x * math.sin(tau) + y * math.cos(tau)
    bell = math.exp(-(along**2) / (2 * sigma**2) - aspect**2 * across**2 / (2 * sigma**2))
    return bell * math.cos(2 * math.pi * F * along + phi)


def one(tau, F, phi, *shape, **options):
    """A weight of one wave."""
    return gabor_(empty(*shape), orientations=[tau], frequencies=F, phases=phi, **options)


@pytest.mark.parametrize("tau, F, phi", [(0.0, 0.25, 0.0), (0.7, 0.1, 1.2), (2.5, 0.2, -2.0)])
@pytest.mark.parametrize("options", [{}, {"bandwidth": 1.0, "aspect": 1.3}])
def test_gabor_is_the_closed_formula(tau, F, phi, options):
    weight = one(tau, F, phi, 1, 1, 7, 6, **options)[0, 0]
    # Differences of pixels know nothing of the mean, and their ratio nothing of the norm.
    pixels = [(0, 0), (3, 2), (6, 5), (2, 4), (5, 1), (0, 5)]
    exact = [v(s - 2.5, r - 3, tau, F, phi, **options) for r, s in pixels]
    scale = (exact[1] - exact[0]) / float(weight[3, 2] - weight[0, 0])
    assert scale > 0
    for (r, s), value in zip(pixels, exact, strict=True):
        assert scale * float(weight[r, s] - weight[0, 0]) == pytest.approx(value - exact[0])


def test_gabor_of_a_signal_is_the_closed_formula_in_one_dimension():
    weight = gabor_(empty(1, 1, 8), frequencies=0.15, phases=0.4, aspect=9.0)[0, 0]
    exact = [v(s - 3.5, 0, 0.0, 0.15, 0.4) for s in range(8)]
    exact = [value - sum(exact) / 8 for value in exact]
    norm = math.sqrt(sum(value**2 for value in exact))
    assert weight.tolist() == pytest.approx([value / norm for value in exact])


@pytest.mark.parametrize("shape", [(40, 1, 9, 9), (40, 3, 6, 7), (9, 2, 5), (5, 1, 2, 6)])
def test_gabor_filters_have_zero_mean_norm_one_and_equal_channels(shape):
    weight = gabor_(empty(*shape))
    assert_standard(weight)
    assert torch.equal(weight, weight[:, :1].expand_as(weight))
    assert weight.flatten(2).mean(dim=2).abs().max() < 1e-14


def test_gabor_bank_counts_phases_first_and_repeats_or_spreads():
    waves = {"orientations": [0.0, 0.5], "frequencies": [0.25, 0.1], "phases": [0.0, 1.0]}
    product = list(itertools.product(*waves.values()))
    singles = torch.cat([one(tau, F, phi, 1, 1, 5, 5) for tau, F, phi in product])
    assert torch.equal(gabor_(empty(8, 1, 5, 5), **waves), singles)
    for count, expected in {
        11: [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2],
        4: [0, 2, 4, 6],
        3: [0, 2, 5],
        1: [0],
    }.items():
        assert torch.equal(gabor_(empty(count, 1, 5, 5), **waves), singles[expected])


def test_orientations_as_a_number_are_spread_over_half_a_turn():
    turned = [0.0, math.pi / 3, 2 * math.pi / 3]
    spread = gabor_(empty(12, 1, 5, 5), orientations=3)
    torch.testing.assert_close(spread, gabor_(empty(12, 1, 5, 5), orientations=turned))
    default = gabor_(empty(32, 1, 5, 5))
    assert torch.equal(default, gabor_(empty(32, 1, 5, 5), orientations=8))


def test_a_grating_excites_the_filters_of_its_orientation_most(aten_path):
    count, F = 8, 0.2
    bank = gabor_(empty(2 * count, 1, 11, 11), orientations=count, frequencies=F)
    y, x = torch.meshgrid(*[torch.arange(24.0, dtype=torch.float64)] * 2, indexing="ij")
    taus = [math.pi * i / count for i in range(count)]
    gratings = [(2 * math.pi * F * (x * math.cos(t) + y * math.sin(t))).cos() for t in taus]
    found = conv2d(torch.stack(gratings)[:, None], bank)
    # Both phases of an orientation together, as in a complex cell: (grating, orientation).
    energy = found.square().sum(dim=(2, 3)).reshape(count, count, 2).sum(dim=2)
    assert energy.argmax(dim=1).tolist() == list(range(count))
    assert (energy.diagonal() > 1.5 * energy.roll(1, dims=1).diagonal()).all()
    assert (energy.diagonal() > 50 * energy.roll(count // 2, dims=1).diagonal()).all()


@pytest.mark.parametrize("bandwidth", [0.8, 1.5])
def test_bandwidth_is_that_of_the_response_at_half_height(aten_path, bandwidth):
    F, ratio = 0.125, 2.0**bandwidth
    half = F * (ratio - 1) / (ratio + 1)
    assert (F + half) / (F - half) == pytest.approx(ratio)
    weight = gabor_(empty(1, 1, 129), frequencies=F, phases=0.0, bandwidth=bandwidth)
    n = torch.arange(129, dtype=torch.float64)
    waves = [torch.exp(-2j * math.pi * f * n) for f in (F, F - half, F + half)]
    signals = torch.stack([part for wave in waves for part in (wave.real, wave.imag)])[:, None]
    peak, low, high = conv1d(signals, weight).reshape(3, 2).norm(dim=1).tolist()
    assert (low / peak, high / peak) == pytest.approx((0.5, 0.5), rel=0.01)


# -- every initialiser -----------------------------------------------------------------------


@pytest.mark.parametrize("fill", [gabor_, lambda w: random_filters_(w, generator=seeded())])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_the_float64_bank_rounded(fill, dtype):
    assert torch.equal(fill(empty(6, 2, 5, 5, dtype=dtype)), fill(empty(6, 2, 5, 5)).to(dtype))


@pytest.mark.parametrize("fill", [gabor_, lambda w: random_filters_(w, generator=seeded())])
def test_a_parameter_is_filled_in_place_and_records_nothing(fill):
    parameter = torch.nn.Parameter(empty(6, 2, 5, 5))
    assert fill(parameter) is parameter
    assert parameter.grad_fn is None and parameter.requires_grad
    for weight in (
        empty(6, 2, 5, 5).contiguous(memory_format=torch.channels_last),
        empty(6, 2, 7, 10)[:, :, 1:6, ::2],
    ):
        assert torch.equal(fill(weight), parameter)
        assert torch.equal(weight, parameter)


@pytest.mark.gpu
@pytest.mark.parametrize("fill", [gabor_, lambda w: random_filters_(w, generator=seeded())])
def test_a_weight_on_the_gpu_gets_the_same_numbers(fill):
    weight = empty(6, 2, 5, 5)
    assert torch.equal(fill(weight.cuda()).cpu(), fill(weight))


# -- refusals --------------------------------------------------------------------------------


def random(*shape, **options):
    return lambda: random_filters_(empty(*(shape or (2, 1, 3))), **options)


def gabor(*shape, **options):
    return lambda: gabor_(empty(*(shape or (2, 1, 5, 5))), **options)


def kmeans(*shape, images=None, **options):
    images = torch.rand(2, 3, 8, 8) if images is None else images
    return lambda: kmeans_patches_(empty(*(shape or (2, 3, 5, 5))), images, **options)


# name: (call, argument that the message starts with, what else is in it)
REFUSED = {
    "weight-list": (lambda: random_filters_([1.0]), "weight", ["torch.Tensor", "got list"]),
    "weight-dtype": (
        lambda: gabor_(torch.zeros(2, 1, 3, 3, dtype=torch.int64)),
        "weight",
        ["float16, bfloat16", "got torch.int64"],
    ),
    "weight-axes": (random(3, 4), "weight", ["3, 4 or 5 axes", "got 2 in [3, 4]"]),
    "weight-empty": (random(0, 1, 3), "weight", ["at least one filter", "[0, 1, 3]"]),
    "weight-one-element": (random(4, 1, 1), "weight", ["2 elements", "[4, 1, 1]", "larger"]),
    "gain-zero": (random(gain=0), "gain", ["positive number", "got 0"]),
    "gain-nan": (random(gain=float("nan")), "gain", ["positive number", "got nan"]),
    "gain-bool": (random(gain=True), "gain", ["positive number", "got True"]),
    "unit-norm": (random(unit_norm=1), "unit_norm", ["True or False", "got 1"]),
    "generator": (random(generator=3), "generator", ["got 3", "manual_seed"]),
    "gabor-volume": (gabor(2, 1, 3, 3, 3), "weight", ["3 or 4 axes", "got 5", "[2, 1, 3, 3, 3]"]),
    "gabor-one-pixel": (gabor(2, 3, 1, 1), "weight", ["2 elements a channel", "[2, 3, 1, 1]"]),
    "gabor-orientations-zero": (
        gabor(orientations=0),
        "orientations",
        ["positive int or a sequence", "got 0"],
    ),
    "gabor-orientations-float": (
        gabor(orientations=0.5),
        "orientations",
        ["positive int or a sequence", "got 0.5"],
    ),
    "gabor-orientations-empty": (gabor(orientations=[]), "orientations", ["at least one", "[]"]),
    "gabor-orientations-1d": (
        gabor(2, 1, 5, orientations=4),
        "orientations",
        ["None for a signal", "got 4", "4 axes"],
    ),
    "gabor-frequency-high": (
        gabor(frequencies=[0.25, 1.57]),
        "frequencies",
        ["up to 0.5", "got [0.25, 1.57]", "2 pi"],
    ),
    "gabor-frequency-zero": (gabor(frequencies=0), "frequencies", ["above 0", "got 0"]),
    "gabor-frequency-word": (gabor(frequencies="low"), "frequencies", ["number", "'low'"]),
    "gabor-phases": (gabor(phases=[0, None]), "phases", ["number", "[0, None]"]),
    "gabor-bandwidth": (gabor(bandwidth=-1), "bandwidth", ["positive number", "got -1"]),
    "gabor-aspect": (gabor(aspect="wide"), "aspect", ["positive number", "got 'wide'"]),
    "gabor-flat": (
        gabor(orientations=[0.0], frequencies=0.5),
        "frequencies",
        ["5x5 pixels", "frequency 0.5 and phase 1.571", "larger filter"],
    ),
    "kmeans-images-list": (kmeans(images=[1.0]), "images", ["torch.Tensor", "got list"]),
    "kmeans-images-bytes": (
        kmeans(images=torch.zeros(1, 3, 8, 8, dtype=torch.uint8)),
        "images",
        ["got torch.uint8", "images.float()"],
    ),
    "kmeans-images-axes": (
        kmeans(images=torch.rand(3, 8, 8)),
        "images",
        ["4 axes", "got 3 in [3, 8, 8]"],
    ),
    "kmeans-groups": (
        kmeans(4, 1, 5, 5),
        "images",
        ["1 channels", "[4, 1, 5, 5]", "got 3 in [2, 3, 8, 8]", "groups"],
    ),
    "kmeans-images-small": (
        kmeans(2, 3, 5, 9),
        "images",
        ["at least [5, 9]", "got [2, 3, 8, 8]"],
    ),
    "kmeans-images-none": (
        kmeans(images=torch.rand(0, 3, 8, 8)),
        "images",
        ["at least one", "got [0, 3, 8, 8]"],
    ),
    "kmeans-patches-few": (kmeans(patches=1), "patches", ["at least 2", "got 1", "hundreds"]),
    "kmeans-patches-float": (kmeans(patches=1e4), "patches", ["an int", "got 10000.0"]),
    "kmeans-whiten": (kmeans(whiten="zca"), "whiten", ["True or False", "got 'zca'"]),
    "kmeans-epsilon": (kmeans(epsilon=0.0), "epsilon", ["positive number", "got 0.0"]),
    "kmeans-generator": (kmeans(generator=3), "generator", ["got 3", "manual_seed"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, argument, parts = REFUSED[name]
    with pytest.raises(ProblemError) as error:
        call()
    message = str(error.value)
    assert message.startswith(f"{argument}: expected ")
    for part in parts:
        assert part in message


def test_a_refused_weight_keeps_its_values():
    weight = torch.ones(2, 1, 5, 5)
    with pytest.raises(ProblemError):
        gabor_(weight, orientations=[0.0], frequencies=0.5)
    assert torch.equal(weight, torch.ones_like(weight))
