"""Convolutions of every kind as hand-written Triton kernels, under torch.ops.tritonconv."""

from . import functional, nn, ops
from .errors import ProblemError, UnsupportedProblem
from .explain import explain

__version__ = "0.1.0"

__all__ = ["ProblemError", "UnsupportedProblem", "explain", "functional", "nn", "ops"]
