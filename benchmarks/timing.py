"""Two calls against each other on a CPU: time, interleaved, and peak memory."""

import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Call = Callable[[], Any]

# One sample lasts about this long, so that the clock's own cost disappears in it.
SAMPLE_SECONDS = 0.0005
FEWEST_REPETITIONS = 7


def interleaved(theirs: Call, ours: Call, seconds: float) -> tuple[float, float, int]:
    """Medians in microseconds a call of both, and the number of repetitions.

    Every repetition times both sides back to back, and who goes first alternates, so a machine
    that slows down slows both.
    """
    calls = max(1, round(SAMPLE_SECONDS / max(_sample(theirs, 3), 1e-9)))
    samples: tuple[list[float], list[float]] = ([], [])
    collecting = gc.isenabled()
    gc.disable()
    try:
        stop = time.perf_counter() + seconds
        while time.perf_counter() < stop or len(samples[0]) < FEWEST_REPETITIONS:
            sides = ((0, theirs), (1, ours))
            for side, call in sides if len(samples[0]) % 2 else sides[::-1]:
                samples[side].append(_sample(call, calls))
    finally:
        if collecting:
            gc.enable()
    torch_us, ours_us = (1e6 * statistics.median(side) for side in samples)
    return torch_us, ours_us, len(samples[0])


def peak_megabytes(call: Call) -> float:
    """How much a call adds to the process's memory at its peak, its result included; NaN where the
    kernel does not say (Linux alone lets a process reset its own peak)."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _kilobytes("VmRSS")
        result = call()
        peak = _kilobytes("VmHWM")
        del result
    except OSError:
        return float("nan")
    return max(peak - before, 0) / 1024


def _kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _sample(call: Call, calls: int) -> float:
    """Seconds a call, over `calls` of them."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls
