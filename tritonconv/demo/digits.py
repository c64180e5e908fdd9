"""A network of three convolutions that learns to read handwritten digits."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from ..functional import conv2d, conv_pool2d

BATCH = 64
LEARNING_RATE = 5e-3
# Images of the minibatch whose deviations are measured.
CHECKED = 8


class Conv(nn.Module):
    """One convolution by tritonconv, with its parameters written out.

    weight: (K, C, R, S); bias: (K,). stride and padding are the same on both axes.
    """

    def __init__(
        self, in_channels: int, out_channels: int, size: int, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, size, size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> (N, K, P, Q)"""
        return conv2d(x, self.weight, self.bias, self.stride, self.padding)


class ConvPool(Conv):
    """The textbook's layer of three stages: convolution, detector (ReLU), max pooling by 2x2.

    Source: Deep Learning, section 9.3 and figure 9.7.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> (N, K, P // 2, Q // 2)"""
        return conv_pool2d(x, self.weight, self.bias, self.stride, self.padding)


class DigitNet(nn.Module):
    """Convolution, detector and pooling as one layer; convolution and ReLU; one that classifies.

    The last filter covers the whole of what is left, 4x4, so it is a fully connected layer.
    """

    def __init__(self, filters: int = 16, features: int = 32) -> None:
        super().__init__()
        self.filters = ConvPool(1, filters, 5, padding=2)
        self.combine = Conv(filters, features, 3, padding=1)
        self.classify = Conv(features, 10, 4)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, 1, 8, 8) -> one score a digit, (N, 10)"""
        x = torch.relu(self.combine(self.filters(x)))
        x = nn.functional.dropout(x, 0.5, self.training)
        return self.classify(x).flatten(1)


@dataclass(frozen=True)
class Split:
    """Images (N, 1, 8, 8) from 0 to 1 and labels (N,), for training and held out."""

    images: Tensor
    labels: Tensor
    held_out_images: Tensor
    held_out_labels: Tensor


@dataclass(frozen=True)
class Trained:
    """A network with the data it was trained and judged on."""

    net: DigitNet
    split: Split
    seconds: float

    def predictions(self) -> Tensor:
        """The digit read in each held-out image, (N,)."""
        self.net.eval()
        with torch.no_grad():
            return self.net(self.split.held_out_images).argmax(dim=1)

    def accuracy(self) -> float:
        """Share of held-out images read correctly."""
        return float((self.predictions() == self.split.held_out_labels).float().mean())


def load_split(seed: int, device: str = "cpu") -> Split:
    """The 1,797 scanned digits of scikit-learn; a quarter of each digit's images is held out."""
    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(pixels, labels, test_size=0.25, stratify=labels, random_state=seed)
    train_x, test_x, train_y, test_y = (torch.as_tensor(part, device=device) for part in parts)

    def images(x: Tensor) -> Tensor:
        return (x / 16).float().reshape(-1, 1, 8, 8)

    return Split(images(train_x), train_y, images(test_x), test_y)


def train(split: Split, epochs: int, seed: int, console: Console | None = None) -> Trained:
    """Train a new network by Adam on the cross-entropy; shows its progress on `console`."""
    torch.manual_seed(seed)
    net = DigitNet().to(split.images.device)
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE)
    batches = -(-len(split.images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=epochs * batches
    )
    start = time.perf_counter()
    with _one_thread(), _progress(console, epochs) as report:
        for _ in range(epochs):
            total = 0.0
            for chosen in torch.randperm(len(split.images)).split(BATCH):
                chosen = chosen.to(split.images.device)  # noqa: PLW2901
                scores = net(shifted(split.images[chosen]))
                loss = nn.functional.cross_entropy(scores, split.labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) * len(chosen)
            report(total / len(split.images))
    return Trained(net, split, time.perf_counter() - start)


def shifted(images: Tensor) -> Tensor:
    """The images moved by up to half a pixel along each axis, at random: more writers' hands.

    Linear interpolation between neighbours is a convolution too, with a filter of 3x3.
    """
    offsets = torch.rand(2, 1) - 0.5
    after, before = offsets.clamp(min=0), (-offsets).clamp(min=0)
    rows, columns = torch.cat([after, 1 - offsets.abs(), before], dim=1)
    return conv2d(images, torch.outer(rows, columns)[None, None].to(images.device), padding=1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Layers this small lose more by waking a second CPU thread than they win."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _progress(console: Console | None, epochs: int) -> Iterator[Any]:
    """A function to call with each epoch's loss: a bar in a terminal, a few lines elsewhere."""
    if console is None:
        yield lambda loss: None
    elif console.is_terminal:
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs, loss {task.fields[loss]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("training", total=epochs, loss="-")
            yield lambda loss: progress.update(task, advance=1, loss=f"{loss:.3f}")
    else:
        losses: list[float] = []

        def line(loss: float) -> None:
            losses.append(loss)
            if len(losses) % 10 == 0 or len(losses) == epochs:
                console.print(f"epoch {len(losses)} of {epochs}: loss {loss:.3f}")

        yield line


def run(out: Path, epochs: int, seed: int, console: Console) -> Trained:
    """Train, judge on the held-out digits and draw `out`/digits.png."""
    console.rule("[bold]2. A network that reads digits")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    split = load_split(seed, device)
    console.print(
        f"Training on {len(split.images):,} scanned digits of 8x8 pixels; "
        f"{len(split.held_out_images)} others are held out. The network is a layer of convolution, "
        "ReLU and pooling, a convolution with a ReLU, and a convolution that classifies; "
        f"torch.ops.tritonconv computes all of them and their gradients, on {_name(device)}.\n"
    )
    trained = train(split, epochs, seed, console)
    parameters = sum(p.numel() for p in trained.net.parameters())
    wrong = int((trained.predictions() != split.held_out_labels).sum())
    console.print(
        f"\n[bold]{trained.accuracy():.1%}[/bold] of the held-out digits are read correctly "
        f"({wrong} mistakes), after {trained.seconds:.1f} s of training {parameters:,} parameters."
    )
    path = out / "digits.png"
    draw(path, trained)
    console.print(
        f"The picture shows the first layer's filters and what was read: {path}\n", soft_wrap=True
    )
    return trained


def _name(device: str) -> str:
    return "the CPU by ATen" if device == "cpu" else torch.cuda.get_device_name()


def draw(path: Path, trained: Trained) -> None:
    """Save the first layer's filters, held-out digits as they were read, and the mistakes."""
    filters = trained.net.filters.weight.detach().cpu().numpy()[:, 0]
    images = trained.split.held_out_images.cpu().numpy()[:, 0]
    labels = trained.split.held_out_labels.cpu().numpy()
    read = trained.predictions().cpu().numpy()
    mistakes = np.flatnonzero(read != labels)
    shown = np.flatnonzero(read == labels)[:32]

    figure = Figure(figsize=(13, 6.4), layout="constrained")
    panels: Any = figure.subfigures(1, 3, width_ratios=[4, 8, 3], wspace=0.04)
    left, middle, right = panels
    left.suptitle(f"The {len(filters)} filters of 5×5\nthat the first layer learned")
    middle.suptitle("Held-out digits, each with\nthe digit that the network read")
    right.suptitle(_mistakes(len(mistakes), len(labels)), color="firebrick")
    limit = float(abs(filters).max())
    for axes, weights in zip(_grid(left, 4, 4), filters, strict=False):
        axes.imshow(weights, cmap="RdBu_r", vmin=-limit, vmax=limit)
    left.supxlabel("red: positive, blue: negative", fontsize=10)
    for axes, index in zip(_grid(middle, 4, 8), shown, strict=False):
        axes.imshow(images[index], cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(str(read[index]), fontsize=13)
    for axes, index in zip(_grid(right, 4, 2), mistakes, strict=False):
        axes.imshow(images[index], cmap="gray_r", vmin=0, vmax=1)
        title = f"{read[index]}, but is {labels[index]}"
        axes.set_title(title, fontsize=13, color="firebrick")
    figure.savefig(path, dpi=110)


def _mistakes(count: int, among: int) -> str:
    some = f"All {count} mistakes" if count <= 8 else f"8 of the {count} mistakes"
    return f"{some if count else 'No mistake'}\namong {among} digits"


def _grid(figure: Any, rows: int, columns: int) -> list[Any]:
    cells = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in cells:
        axes.set_axis_off()
    return cells


def save(path: Path, trained: Trained) -> None:
    """Write the weights and one held-out minibatch as plain arrays."""
    weights = {name: value.cpu().numpy() for name, value in trained.net.state_dict().items()}
    images = trained.split.held_out_images[:CHECKED].cpu().numpy()
    labels = trained.split.held_out_labels[:CHECKED].cpu().numpy()
    np.savez(path, images=images, labels=labels, **weights)


def load(path: Path) -> tuple[DigitNet, Tensor, Tensor]:
    """The network, images (N, 1, 8, 8) and labels (N,) of `save`."""
    with np.load(path, allow_pickle=False) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    images, labels = tensors.pop("images"), tensors.pop("labels")
    net = DigitNet(len(tensors["filters.weight"]), len(tensors["combine.weight"]))
    net.load_state_dict(tensors)
    return net, images, labels
