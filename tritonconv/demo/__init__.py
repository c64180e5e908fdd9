"""The demonstration: edges in a photograph, a network that reads digits, and its deviations. And
the gallery: filters that need no labels."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from ..launch import interpreting
from . import deviations, digits, edges, gallery

INTERPRET = "TRITON_INTERPRET"


def run(out: Path, epochs: int, seed: int) -> int:
    """All three parts; pictures go to `out`. Returns the exit status: 0 if all deviations are
    within tolerance.

    Triton decides once a process whether kernels are interpreted. Training must not be, and
    without a GPU the check has to be, so one of them runs in a process of its own.
    """
    if interpreting():
        arguments = ["--out", str(out), "--epochs", str(epochs), "--seed", str(seed)]
        return _again(["demo", *arguments], interpret=False)
    out.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)
    edges.run(out, console)
    trained = digits.run(out, epochs, seed, console)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "digits.npz"
        digits.save(checkpoint, trained)
        if torch.cuda.is_available():
            return deviations.run(checkpoint, console)
        return _again(["demo", "--deviations-only", str(checkpoint)], interpret=True)


def check(checkpoint: Path) -> int:
    """The third part alone, of a network that `digits.save` wrote. Returns the exit status."""
    return deviations.run(checkpoint, Console(highlight=False))


def run_gallery(out: Path, seed: int) -> int:
    """Draw the filter banks to `out`; returns the exit status. Never interpreted: too slow."""
    if interpreting():
        return _again(["gallery", "--out", str(out), "--seed", str(seed)], interpret=False)
    out.mkdir(parents=True, exist_ok=True)
    gallery.run(out, seed, Console(highlight=False))
    return 0


def _again(arguments: Sequence[str], *, interpret: bool) -> int:
    """Run a command of this package in a new process, with or without Triton's interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != INTERPRET}
    if interpret:
        environment[INTERPRET] = "1"
    sys.stdout.flush()
    command = [sys.executable, "-m", "tritonconv", *arguments]
    return subprocess.run(command, env=environment, check=False).returncode
