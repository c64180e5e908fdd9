"""Edges of a photograph by a filter of two weights, and what the same would cost as a matrix.

Source: Goodfellow, Bengio, Courville, Deep Learning, section 9.2, figure 9.6.
"""

import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_image
from torch import Tensor

from ..explain import explain
from ..functional import conv2d
from ..problem import ConvArguments, ConvProblem, fprop_problem

HEIGHT, WIDTH = 280, 320
# Where the pagoda is in the photograph of 427 x 640 pixels.
TOP, LEFT = 20, 60


def photograph() -> Tensor:
    """A part of a real photograph in grey, (1, 1, 280, 320) float32 from 0 to 1.

    Cut out, not scaled, so each pixel is the camera's: the mean of red, green and blue.
    """
    photo = torch.tensor(load_sample_image("china.jpg"), dtype=torch.float32)
    grey = photo.mean(dim=2) / 255
    return grey[None, None, TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH].contiguous()


def left_neighbour_filter() -> Tensor:
    """The filter (1, 1, 1, 2) that subtracts from each pixel its left neighbour."""
    return torch.tensor([-1.0, 1.0]).reshape(1, 1, 1, 2)


def detect(image: Tensor) -> Tensor:
    """edges[p, q] = image[p, q + 1] - image[p, q]: large where grey changes from left to right."""
    return conv2d(image, left_neighbour_filter().to(image.device))


def problem_of(image: Tensor) -> ConvProblem:
    """The problem object of `detect(image)`, which knows the costs."""
    plain = ConvArguments(stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1)
    return fprop_problem(image, left_neighbour_filter().to(image.device), None, plain)


def run(out: Path, console: Console) -> None:
    """Detect, count and draw `out`/edges.png."""
    console.rule("[bold]1. Edges of a photograph")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    image = photograph().to(device)
    edges = detect(image)
    problem = problem_of(image)
    (plan,) = explain(detect, image).plans

    height, width = edges.shape[-2:]
    console.print(
        f"Every pixel of a photograph of {WIDTH}x{HEIGHT} pixels minus its left neighbour gives "
        f"{width}x{height} outputs, far from zero on vertical edges. "
        f"torch.ops.tritonconv.conv computed it; its backend was {plan.backend}"
        f"{': ' + plan.rejected[0][1] if plan.backend == 'aten' else ''}.\n"
    )
    console.print(_costs(problem))
    ratio = problem.matrix_operations() / problem.operations()
    console.print(
        "Both columns describe the same linear map. Convolution uses that its matrix is almost "
        f"all zeros and repeats two numbers: {ratio:,.0f} times fewer operations."
    )
    path = out / "edges.png"
    draw(path, image.cpu(), edges.cpu())
    console.print(f"Picture: {path}\n", soft_wrap=True)


def _costs(problem: ConvProblem) -> Table:
    elements = math.prod(problem.input_shape) * math.prod(problem.output_shape)
    table = Table(box=SIMPLE)
    table.add_column("for one photograph")
    table.add_column("convolution", justify="right")
    table.add_column("dense matrix", justify="right")
    table.add_row(
        "multiplications and additions",
        f"{problem.operations():,}",
        f"{problem.matrix_operations():,}",
    )
    table.add_row("numbers stored", f"{problem.weight_elements:,}", f"{elements:,}")
    table.add_row(
        "  of these not zero", f"{problem.weight_elements:,}", f"{problem.matrix_nonzeros():,}"
    )
    return table


def draw(path: Path, image: Tensor, edges: Tensor) -> None:
    """Save the photograph and its edge map side by side."""
    figure = Figure(figsize=(11, 4.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(image[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
    left.set_title("Photograph, 320×280 pixels")
    # The few strongest edges would leave the rest invisible.
    limit = float(edges.abs().flatten().kthvalue(int(0.99 * edges.numel())).values)
    shown = right.imshow(edges[0, 0].numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
    right.set_title("Each pixel minus its left neighbour, 319×280 outputs")
    bar = figure.colorbar(shown, ax=right, shrink=0.75, extend="both")
    bar.set_label("darker than the left neighbour   |   brighter")
    for axes in (left, right):
        axes.set_axis_off()
    figure.savefig(path, dpi=110)
