"""Filters learned without labels: k-means on whitened patches of images."""

from typing import Any

import torch
from torch import Tensor

from ...checks import check_tensors, shape_of
from ...errors import ProblemError
from ._weight import (
    centred,
    check_flag,
    check_generator,
    check_positive,
    check_weight,
    device_of,
    unit,
    write,
)

# Patches with less than this part of the mean variance are left out: without their brightness they
# are mostly noise, which dividing by their contrast would make as loud as an edge.
LEAST_CONTRAST = 0.1
# Patches a step of the clustering.
BATCH = 2048
# A centre shorter than this is rounding; patches have the norm sqrt(L), and L is 2 or more.
LEAST_CENTRE = 1e-4


def kmeans_patches_(
    weight: Tensor,
    images: Tensor,
    *,
    patches: int = 50_000,
    whiten: bool = True,
    epsilon: float = 0.3,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a weight with the cluster centres of random patches of images.

    x[i] = (p[i] - mean of p[i]) / sqrt(variance of p[i])
    W = V (D + epsilon)^(-1/2) V^T     where V D V^T is the covariance of x, and m its mean
    minimise sum over i of |W (x[i] - m) - c[k(i)]|^2  over the centres c and the clusters k(i)
    w[k] = W^T c[k] / |W^T c[k]|       minus the mean, which is 0 but for rounding

    p[i] is a patch of the filter's size, all channels, from an image and a place drawn uniformly;
    patches with less than a tenth of the mean variance are left out. x removes brightness and
    contrast, W makes all directions count alike. The centres live among whitened patches, the
    filters do not: since c . W x = (W^T c) . x, whitening is folded into w, which is meant for
    images as they are.

    Args:
        weight: (K, C, *filter) with one to three axes of the filter; float16, bfloat16, float32 or
            float64; any device and strides. Groups see a part of the channels, so fill each
            group's filters from its own channels of the images.
        images: (N, C, *spatial), at least as large as the filter; any of those dtypes, any device.
        patches: number of patches, at least K. Default 50,000.
        whiten: False leaves W out: filters are then averages of similar patches. Default True.
        epsilon: keeps W from raising noise, on a scale where the mean eigenvalue is 1 or a little
            less; more of it gives smoother filters. Default 0.3.
        generator: source of the places and of the clustering's seed. Default None, torch's own
            generator of the CPU. The same state gives the same filters.

    Returns:
        The weight, changed in place; no gradient is recorded.

    Raises:
        ProblemError: bad arguments, or images with too little to tell apart; says which, why and
            what to do.
        ImportError: scikit-learn is missing, which clusters: pip install "tritonconv[init]".

    Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.9; Coates and Ng, Learning
    Feature Representations with K-Means, 2012.
    """
    check_weight(weight)
    _check_images(images, weight)
    check_flag("whiten", whiten)
    check_positive("epsilon", epsilon)
    check_generator(generator)
    _check_count(patches, len(weight))
    cluster, threads = _clustering()

    x = _normalised(_draw(images, weight.shape[2:], patches, generator), len(weight))
    transform = _whitening(x, epsilon) if whiten else None
    if transform is not None:
        x = (x - x.mean(dim=0)) @ transform
    seed = torch.randint(2**31 - 1, (), device=device_of(generator), generator=generator)
    found = cluster(len(weight), random_state=int(seed), batch_size=BATCH, n_init=3)
    # Several threads add up in the order in which they end, so not always the same sum.
    with threads(limits=1):
        centres = torch.from_numpy(found.fit(x.numpy()).cluster_centers_)
    if transform is not None:
        centres = centres @ transform
    centres = centred(centres)
    if (centres.norm(dim=1) < LEAST_CENTRE).any():
        raise ProblemError(
            "images: expected patches that differ by more than brightness and contrast, got a "
            "cluster whose centre is 0; use more images, larger ones, or another number of filters"
        )
    return write(weight, unit(centres))


def _check_images(images: Any, weight: Tensor) -> None:
    check_tensors({"images": images})
    if images.dim() != weight.dim():
        raise ProblemError(
            f"images: expected {weight.dim()} axes (N, C and {weight.dim() - 2} spatial) for "
            f"weight {shape_of(weight)}, got {images.dim()} in {shape_of(images)}"
        )
    if images.shape[1] != weight.shape[1]:
        raise ProblemError(
            f"images: expected {weight.shape[1]} channels, those of weight {shape_of(weight)}, "
            f"got {images.shape[1]} in {shape_of(images)}; for groups, fill each group's part of "
            "the weight from its channels of the images"
        )
    sizes, taps = images.shape[2:], weight.shape[2:]
    if len(images) == 0 or any(i < f for i, f in zip(sizes, taps, strict=True)):
        raise ProblemError(
            f"images: expected at least one, and spatial sizes of at least {list(taps)}, the "
            f"filter's, got {shape_of(images)}"
        )


def _check_count(patches: Any, clusters: int) -> None:
    if isinstance(patches, bool) or not isinstance(patches, int) or patches < clusters:
        raise ProblemError(
            f"patches: expected an int of at least {clusters}, one a filter, got {patches!r}; "
            "use hundreds a filter"
        )


def _clustering() -> tuple[Any, Any]:
    """scikit-learn's k-means, and what limits its threads."""
    try:
        from sklearn.cluster import MiniBatchKMeans
        from threadpoolctl import threadpool_limits  # scikit-learn depends on it
    except ImportError as error:
        raise ImportError(
            "kmeans_patches_ needs scikit-learn, which this Python lacks. Install it with: "
            'pip install "tritonconv[init]"'
        ) from error
    return MiniBatchKMeans, threadpool_limits


def _draw(
    images: Tensor, taps: torch.Size, count: int, generator: torch.Generator | None
) -> Tensor:
    """`count` patches as rows (c, *f), float32, or float64 from float64, on the CPU."""
    device = device_of(generator)

    def places(bound: int) -> Tensor:
        drawn = torch.randint(bound, (count,), device=device, generator=generator)
        return drawn.to(images.device)

    rank = len(taps)
    index: list[Any] = [places(len(images)).reshape(-1, *[1] * rank), slice(None)]
    for axis, size in enumerate(taps):
        start = places(images.shape[2 + axis] - size + 1).reshape(-1, *[1] * rank)
        offset = torch.arange(size, device=images.device)
        index.append(start + offset.reshape(-1, *[1] * (rank - 1 - axis)))
    # A slice between index tensors leaves its axis last: (count, *f, C).
    drawn = images.detach()[tuple(index)].movedim(-1, 1).flatten(1).cpu()
    return drawn.to(torch.promote_types(drawn.dtype, torch.float32))


def _normalised(patches: Tensor, least: int) -> Tensor:
    """The patches with enough contrast, at least `least`, each with mean 0 and variance 1."""
    if not patches.isfinite().all():
        raise ProblemError("images: expected finite values, got inf or NaN")
    x = centred(patches)
    variance = x.square().mean(dim=1)
    kept = (variance > 0) & (variance >= LEAST_CONTRAST * variance.mean())
    if int(kept.sum()) < least:
        raise ProblemError(
            f"images: expected at least {least} patches with contrast, one a filter, got "
            f"{int(kept.sum())} of {len(patches)}; use more patches, or images with more in them"
        )
    return x[kept] / variance[kept, None].sqrt()


def _whitening(x: Tensor, epsilon: float) -> Tensor:
    """W, symmetric: what it whitens stays as close as can be to what it was (ZCA)."""
    x = x - x.mean(dim=0)
    values, vectors = torch.linalg.eigh((x.T @ x / len(x)).double())
    # Rounding may leave an eigenvalue of 0 a little below.
    scale = (values.clamp_min(0) + epsilon).rsqrt()
    return ((vectors * scale) @ vectors.T).to(x.dtype)
