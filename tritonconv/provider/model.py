"""The time of a candidate by a model: it ranks candidates for a search, and promises nothing.

Clock cycles of one multiprocessor, from what its program tiles compute, load and write: the
slowest of arithmetic, second-level cache and memory, in whole waves.
"""

import math
from typing import Any

from ..device import Device
from ..gemm_view import gemm_view
from ..launch import Launch, Plan
from ..pool_problem import PoolProblem
from ..problem import ConvProblem
from ..variants.implicit_gemm import matrix_advantage_of

# Per cycle and multiprocessor, rounded from data sheets of the A100 to the B200: multiply-adds
# without matrix units, bytes from the cache, bytes from memory.
VECTOR, CACHE, MEMORY = 128, 64, 16
# Filling a pipeline, writing a tile, starting a launch: cycles.
TILE_CYCLES, LAUNCH_CYCLES = 1000, 4000
THREADS = 2048


def predicted_cycles(plan: Plan, device: Device) -> float:
    """Of all launches of a plan."""
    return sum(_launch_cycles(plan, launch, device) for launch in plan.launches)


def _launch_cycles(plan: Plan, launch: Launch, device: Device) -> float:
    programs = max(launch.programs, 1)
    arithmetic, loaded = _tile(plan, launch, device, programs)
    config = launch.config
    threads = config.num_warps * device.warp_size
    resident = max(min(THREADS // threads, 8), 1)
    # Few warps and a shallow pipeline leave the latency of a load uncovered.
    hidden = min(1.0, config.num_warps * resident * max(config.num_stages, 1) / 24)
    waves = math.ceil(programs / (device.multiprocessors * resident))
    one = max(arithmetic, loaded / CACHE) / hidden + TILE_CYCLES
    memory = _bytes(plan) / (MEMORY * device.multiprocessors * len(plan.launches))
    return max(waves * resident * one, memory) + LAUNCH_CYCLES


def _tile(plan: Plan, launch: Launch, device: Device, programs: int) -> tuple[float, float]:
    """`(cycles of arithmetic, bytes loaded)` of one program."""
    problem, constants = plan.problem, dict(launch.config.constants)
    if not isinstance(problem, ConvProblem):
        return combinations(problem) / programs / VECTOR, _bytes(plan) / programs
    size = problem.dtype.itemsize
    if problem.groups in (problem.in_channels, problem.out_channels):
        products = problem.useful_flops() / 2 / programs
        return products / VECTOR, products * size
    m, n, k = (constants.get(f"BLOCK_{axis}", 1) for axis in "MNK")
    splits = max(launch.arguments.get("splits", 1), 1)
    depth = math.ceil(gemm_view(problem, plan.which).depth / splits / k) * k
    rate = VECTOR * (matrix_advantage_of(problem, device) if "BLOCK_K" in constants else 1)
    return m * n * depth / rate, (m + n) * depth * size


def combinations(problem: PoolProblem) -> int:
    """Elements that the windows of a pooling combine."""
    return problem.batch * problem.channels * math.prod(problem.output_size) * problem.taps


def _bytes(plan: Plan) -> int:
    problem: Any = plan.problem
    if isinstance(problem, PoolProblem):
        return problem.useful_bytes(plan.which)
    workspace = 2 * plan.workspace * problem.accumulator_bytes
    return problem.useful_bytes() + workspace
