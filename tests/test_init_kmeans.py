"""tritonconv.nn.init.kmeans_patches_: patches whose clusters are known, and its determinism."""

import sys

import numpy as np
import pytest
import torch

from tritonconv import ProblemError
from tritonconv.nn.init import kmeans, kmeans_patches_, random_filters_

from .test_init import DTYPES, assert_standard, empty, rows, seeded

pytest.importorskip("sklearn", reason='needs pip install "tritonconv[init]"')

SIZE = 5
# A line through the middle, in four orientations.
BARS = torch.stack(
    [
        torch.zeros(SIZE, SIZE).index_fill(0, torch.tensor(2), 1),
        torch.zeros(SIZE, SIZE).index_fill(1, torch.tensor(2), 1),
        torch.eye(SIZE),
        torch.eye(SIZE).flip(0),
    ]
).double()


def bars(count=600, noise=0.05):
    """(count, 1, 5, 5): bars of any brightness and contrast with a little noise; their kinds, of
    which the last makes up two thirds."""
    generator = seeded(4)
    kinds = (torch.arange(count) % 9).clamp(max=3)

    def draw(*shape):
        return torch.rand(shape, dtype=torch.float64, generator=generator)

    contrast, brightness = 1 + draw(count, 1, 1), 9 * draw(count, 1, 1)
    images = contrast * (BARS[kinds] + noise * (2 * draw(count, SIZE, SIZE) - 1)) + brightness
    return images[:, None], kinds


def edges(count=150, size=16):
    """(count, 1, size, size): half planes of random orientation and place, smooth by a pixel."""
    generator = seeded(6)
    y, x = torch.meshgrid(*[torch.arange(float(size)) - size / 2] * 2, indexing="ij")
    tau = 2 * torch.pi * torch.rand(count, 1, 1, generator=generator)
    place = 6 * torch.rand(count, 1, 1, generator=generator) - 3
    return torch.sigmoid(3 * (x * tau.cos() + y * tau.sin() - place))[:, None]


def standard(patches):
    """Each row with zero mean and norm 1."""
    centred = patches - patches.mean(dim=1, keepdim=True)
    return centred / centred.norm(dim=1, keepdim=True)


def similar(weight, expected):
    """Cosines of the filters with the expected ones, in an order that makes them largest."""
    cosines = standard(rows(weight)) @ standard(expected).T
    assert sorted(cosines.argmax(dim=0).tolist()) == list(range(len(expected)))
    return cosines.amax(dim=0)


def test_clusters_are_found():
    images, _ = bars()
    weight = kmeans_patches_(
        empty(4, 1, SIZE, SIZE), images, patches=2000, whiten=False, generator=seeded()
    )
    assert_standard(weight)
    assert (similar(weight, BARS.flatten(1)) > 0.999).all()


@pytest.mark.parametrize("epsilon", [0.01, 0.3])
def test_whitening_shrinks_each_eigenvalue_as_epsilon_says(epsilon):
    """The covariance after it has the same eigenvectors, and eigenvalues D / (D + epsilon)."""
    mixing = torch.randn(6, 6, dtype=torch.float64, generator=seeded(1))
    x = torch.randn(500, 6, dtype=torch.float64, generator=seeded(2)) @ mixing + 3
    W = kmeans._whitening(x, epsilon)
    before = torch.cov(x.T, correction=0)
    D, V = torch.linalg.eigh(before)
    torch.testing.assert_close(
        torch.cov((x @ W).T, correction=0), V @ (D / (D + epsilon)).diag() @ V.T
    )
    torch.testing.assert_close(W, W.T)


@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_whitening_is_folded_into_the_filters(epsilon):
    images, kinds = bars(noise=0.01)
    weight = kmeans_patches_(
        empty(4, 1, SIZE, SIZE), images, patches=20_000, epsilon=epsilon, generator=seeded()
    )
    # W^T applied to the mean whitened patch of each kind, by NumPy.
    x = images.flatten(1).numpy()
    x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    mean, (d, V) = x.mean(axis=0), np.linalg.eigh(np.cov(x.T, bias=True))
    W = V @ np.diag((d + epsilon) ** -0.5) @ V.T
    expected = [W.T @ (W @ (x[kinds.numpy() == k] - mean).T).mean(axis=1) for k in range(4)]
    assert_standard(weight)
    assert (similar(weight, torch.from_numpy(np.stack(expected))) > 0.995).all()


@pytest.mark.parametrize(
    "axis, taps",
    [(0, (4,)), (0, (3, 2)), (1, (2, 3)), (0, (2, 1, 3)), (1, (3, 2, 2)), (2, (2, 3, 2))],
)
def test_patches_are_windows_of_the_images(axis, taps):
    """An image with room for two windows has two patches, so two centres are those."""
    size = [f + (i == axis) for i, f in enumerate(taps)]
    image = torch.rand(1, 2, *size, dtype=torch.float64, generator=seeded(1))
    windows = torch.cat([image.narrow(2 + axis, i, taps[axis]) for i in (0, 1)])
    weight = kmeans_patches_(
        empty(2, 2, *taps), image, patches=200, whiten=False, generator=seeded()
    )
    assert (similar(weight, windows.flatten(1)) > 1 - 1e-12).all()


def coherence(weight):
    """How much the gradients of each filter agree on one line: 1 if all do, 0 if none."""
    across = (weight[:, 0, 1:-1, 2:] - weight[:, 0, 1:-1, :-2]).flatten(1)
    down = (weight[:, 0, 2:, 1:-1] - weight[:, 0, :-2, 1:-1]).flatten(1)
    # Squared, opposite gradients are the same number.
    square = torch.complex(across, down) ** 2
    return square.sum(dim=1).abs() / square.abs().sum(dim=1)


def test_filters_of_edges_are_oriented():
    learned = kmeans_patches_(empty(12, 1, 7, 7), edges(), patches=4000, generator=seeded())
    random = random_filters_(empty(12, 1, 7, 7), generator=seeded())
    assert coherence(random).mean() < 0.35
    assert coherence(learned).mean() > 0.6


def test_flat_patches_are_left_out():
    """Nine tenths of the images are almost of one value; no filter is spent on their noise."""
    images, _ = bars()
    noise = torch.rand(9 * len(images), 1, SIZE, SIZE, dtype=torch.float64, generator=seeded(9))
    weight = kmeans_patches_(
        empty(4, 1, SIZE, SIZE),
        torch.cat([images, 0.03 * noise]),
        patches=8000,
        whiten=False,
        generator=seeded(),
    )
    assert (similar(weight, BARS.flatten(1)) > 0.999).all()


def test_the_same_state_gives_the_same_filters():
    def learn(seed, images):
        return kmeans_patches_(empty(6, 1, 5, 5), images, patches=1500, generator=seeded(seed))

    images = edges().double()
    first = learn(0, images)
    assert_standard(first)
    assert torch.equal(first, learn(0, images))
    assert not torch.equal(first, learn(1, images))
    torch.testing.assert_close(first, learn(0, 200 * images + 50))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        globally = kmeans_patches_(empty(6, 1, 5, 5), images, patches=1500)
    assert torch.equal(first, globally)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype):
    images, _ = bars()
    options = {"patches": 1000, "whiten": False}
    exact = kmeans_patches_(empty(4, 1, 5, 5), images, generator=seeded(), **options)
    got = kmeans_patches_(empty(4, 1, 5, 5, dtype=dtype), images, generator=seeded(), **options)
    assert torch.equal(got, exact.to(dtype))
    parameter = torch.nn.Parameter(empty(4, 1, 5, 5))
    coarse = images.to(dtype).requires_grad_()
    assert kmeans_patches_(parameter, coarse, generator=seeded(), **options) is parameter
    assert parameter.grad_fn is None
    assert (similar(parameter, BARS.flatten(1)) > 0.99).all()


@pytest.mark.gpu
def test_weight_and_images_on_the_gpu_give_the_same_filters():
    images, _ = bars()
    options = {"patches": 1000}
    weight = kmeans_patches_(empty(4, 1, 5, 5), images, generator=seeded(), **options)
    other = kmeans_patches_(empty(4, 1, 5, 5).cuda(), images.cuda(), generator=seeded(), **options)
    assert torch.equal(other.cpu(), weight)


def test_images_without_contrast_are_refused():
    flat = torch.full((2, 1, 8, 8), 3.0)
    with pytest.raises(ProblemError, match=r"^images: expected at least 2 .* got 0 of 100; use"):
        kmeans_patches_(empty(2, 1, 5, 5), flat, patches=100)
    flat[0, 0, 0, 0] = float("inf")
    with pytest.raises(ProblemError, match=r"^images: expected finite values, got inf or NaN"):
        kmeans_patches_(empty(2, 1, 5, 5), flat, patches=100, generator=seeded())
    same = torch.rand(1, 1, 5, 5, generator=seeded()).expand(3, 1, 5, 5)
    with pytest.raises(ProblemError, match=r"^images: expected patches that differ .* fewer|other"):
        kmeans_patches_(empty(1, 1, 5, 5), same, patches=100)


def test_missing_scikit_learn_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match=r'pip install "tritonconv\[init\]"'):
        kmeans_patches_(empty(2, 1, 5, 5), edges(2))
