"""Filter banks that nobody labelled anything for, and what they see in a photograph.

Source: Goodfellow, Bengio, Courville, Deep Learning, sections 9.9 and 9.10.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.console import Console
from torch import Tensor

from ..functional import conv2d
from ..nn.init import gabor_, kmeans_patches_, random_filters_
from .edges import photograph

ROWS, COLUMNS = 8, 6
SHOWN = 5
FREQUENCIES = (1 / 4, 1 / 6, 1 / 9)
PATCHES = 50_000
FRAME = "darkorange"


@dataclass(frozen=True)
class Family:
    """A bank of 48 filters (48, 1, S, S), what to write beside it, and which responses to show."""

    name: str
    title: str
    caption: str
    bank: Tensor
    chosen: Sequence[int]
    row_labels: Sequence[str] = ()
    column_labels: Sequence[str] = ()


def run(out: Path, seed: int, console: Console) -> None:
    """Fill the three banks and draw each to `out`/filters-*.png."""
    console.rule("[bold]Filters without labels")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    image = photograph().to(device)
    console.print(
        f"Three banks of {ROWS * COLUMNS} filters, each of zero mean and norm 1, and what "
        f"torch.ops.tritonconv makes of a photograph with them.\n"
    )
    for family in families(image, seed):
        path = out / f"filters-{family.name}.png"
        draw(path, family, image)
        console.print(f"{family.title}: {path}", soft_wrap=True)


def families(image: Tensor, seed: int) -> list[Family]:
    """The random, the designed and the learned bank, on the image's device."""
    generator = torch.Generator().manual_seed(seed)
    random = random_filters_(_empty(7, image), generator=generator)
    gabor = gabor_(_empty(15, image), orientations=ROWS, frequencies=FREQUENCIES)
    learned = kmeans_patches_(_empty(9, image), image, patches=PATCHES, generator=generator)
    return [
        Family(
            "random",
            "Random filters of 7×7",
            "normal numbers minus their mean",
            random,
            range(SHOWN),
        ),
        Family(
            "gabor",
            "Gabor filters of 15×15",
            "orientation down, phase and cycles a pixel across",
            gabor,
            # Edges of four orientations, and a bar.
            [COLUMNS * row + 3 for row in range(0, ROWS, 2)] + [COLUMNS + 4],
            [f"{180 * row / ROWS:g}°" for row in range(ROWS)],
            [f"{name}\n1/{1 / f:.0f}" for f in FREQUENCIES for name in ("bar", "edge")],
        ),
        Family(
            "kmeans",
            "Filters of 9×9 learned without labels",
            "k-means on whitened patches of the photograph",
            learned,
            varied(responses(image, learned)),
        ),
    ]


def _empty(size: int, like: Tensor) -> Tensor:
    return like.new_empty(ROWS * COLUMNS, 1, size, size)


def responses(image: Tensor, bank: Tensor) -> Tensor:
    """What each filter says at each pixel, (filters, H, W)."""
    return conv2d(image, bank, padding="same", padding_mode="reflect")[0]


def varied(found: Tensor, count: int = SHOWN) -> list[int]:
    """Filters with strong responses that are unlike each other: each next one has the most energy
    among those left, after what it shares with those chosen is taken off.

    Compared by amplitude spectra, which a shift does not change: a filter of a texture has
    neighbours that differ in nothing else.
    """
    spectra = torch.fft.rfft2(found.double()).abs().flatten(1)
    energy = spectra.square().sum(dim=1)
    unit = spectra / energy.sqrt()[:, None]
    unlike = torch.ones_like(energy)
    chosen: list[int] = []
    for _ in range(count):
        chosen.append(int((energy * unlike).argmax()))
        unlike = torch.minimum(unlike, 1 - (unit @ unit[chosen[-1]]).square())
        unlike[chosen] = -1
    return chosen


def _limit(values: Tensor) -> float:
    """End of a colour scale: the few largest values would leave the rest invisible."""
    return float(values.abs().flatten().quantile(0.99))


def draw(path: Path, family: Family, image: Tensor) -> None:
    """Save the bank, and beside it the photograph and the chosen filters' responses to it."""
    figure = Figure(figsize=(13.6, 6.2), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=[4.7, 9], wspace=0.02)
    parts[0].suptitle(family.title)
    parts[0].supxlabel(family.caption, fontsize=10)
    _draw_bank(parts[0].subplots(), family)
    parts[1].suptitle("Responses to a photograph: red positive, blue negative")
    cells = list(parts[1].subplots(2, 3).flat)
    for axes in cells:
        axes.set_axis_off()
    cells[0].imshow(image[0, 0].cpu().numpy(), cmap="gray", vmin=0, vmax=1)
    cells[0].set_title("photograph")
    found = responses(image, family.bank[list(family.chosen)]).cpu()
    filters = family.bank.cpu()[:, 0]
    greys = _limit(filters)
    for letter, axes, k, response in zip("abcde", cells[1:], family.chosen, found, strict=True):
        limit = _limit(response)
        axes.imshow(response.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set_title(letter)
        inset = axes.inset_axes((0.02, 0.74, 0.21, 0.24))
        _draw_filter(inset, filters[k], greys)
    figure.savefig(path, dpi=110)


def _draw_bank(axes: Any, family: Family) -> None:
    """All filters in one picture, with one scale of grey: a row an orientation where it has one."""
    filters = family.bank.cpu()[:, 0]
    size = filters.shape[-1]
    # A pixel of nothing around each filter; NaN is drawn as background.
    framed = torch.nn.functional.pad(filters, (0, 1, 0, 1), value=math.nan)
    step = size + 1
    mosaic = framed.reshape(ROWS, COLUMNS, step, step).permute(0, 2, 1, 3)
    limit = _limit(filters)
    axes.imshow(
        mosaic.reshape(ROWS * step, COLUMNS * step).numpy(), cmap="gray", vmin=-limit, vmax=limit
    )
    for letter, k in zip("abcde", family.chosen, strict=True):
        row, column = divmod(k, COLUMNS)
        corner = (column * step - 0.5, row * step - 0.5)
        axes.add_patch(Rectangle(corner, size, size, fill=False, color=FRAME, linewidth=2))
        axes.annotate(
            letter,
            corner,
            xytext=(4, -4),
            textcoords="offset points",
            va="top",
            color="white",
            weight="bold",
            bbox={"facecolor": FRAME, "edgecolor": "none", "pad": 2},
        )
    middle = (size - 1) / 2
    axes.set_xticks([middle + step * i for i in range(len(family.column_labels))])
    axes.set_xticklabels(family.column_labels)
    axes.set_yticks([middle + step * i for i in range(len(family.row_labels))])
    axes.set_yticklabels(family.row_labels)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)


def _draw_filter(axes: Any, weights: Tensor, limit: float) -> None:
    axes.imshow(weights.numpy(), cmap="gray", vmin=-limit, vmax=limit)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(FRAME)
    axes.spines[:].set_linewidth(2)
