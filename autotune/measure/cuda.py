"""Times a launch on a CUDA or ROCm device, with nothing of it in the L2 cache.

Between the flush and the end of the launch the host must not be waited for. So the flush, which is
written over and over until the host has caught up, runs while the host enqueues the rest; and a
CUDA graph, where the launch can be captured, is one thing to enqueue however many kernels it has.
"""

import math
import os
import socket
import time
from collections.abc import Callable

import torch

from .company import disturbance, smi_list, torch_list
from .errors import BenchError
from .failures import poisons

WARM_UP = 3
# A launch that waits for the device would ask for ever more of them.
MOST_FLUSHES = 256
# Where torch does not say how large the L2 cache is.
L2_BYTES = 64 << 20


class CudaTimer:
    """Times launches on the current device, by CUDA graphs until one cannot be captured.

    `graphs=False` times by events alone. `cold=False` leaves the cache warm: for tests of this.
    """

    def __init__(self, *, graphs: bool = True, cold: bool = True) -> None:
        if not torch.cuda.is_available():
            raise BenchError(
                "CudaTimer: expected a CUDA device, got none; choose another timer, or compile only"
            )
        self._index = torch.cuda.current_device()
        self._properties = torch.cuda.get_device_properties(self._index)
        self._graphs = graphs
        self._cold = cold
        self._pool = torch.cuda.graph_pool_handle()
        l2 = getattr(self._properties, "L2_cache_size", 0) or L2_BYTES
        # Twice the cache's size, because not every cache evicts the oldest line.
        self._buffer = torch.empty(2 * l2, dtype=torch.int8, device="cuda")
        for _ in range(WARM_UP):
            self._buffer.zero_()
        self._flush = min(self._microseconds(self._buffer.zero_, 0) for _ in range(5))

    @property
    def policy(self) -> str:
        """How launches are timed now."""
        cache = "l2-cold" if self._cold else "l2-warm"
        return f"{cache},{'cuda-graph' if self._graphs else 'events'}"

    @property
    def device(self) -> str:
        """The GPU's UUID; its index on this host where there is none."""
        uuid = self._uuid()
        return uuid or f"{socket.gethostname()}-gpu{self._index}"

    def ready(self, launch: Callable[[], None]) -> Callable[[], float]:
        """Warm a launch up. What is returned runs it once, to its end, and gives microseconds."""
        for _ in range(WARM_UP):
            launch()
        torch.cuda.synchronize()
        graph = self._captured(launch) if self._graphs else None
        flushes = min(1 + math.ceil(_host_microseconds(launch) / self._flush), MOST_FLUSHES)

        def sample() -> float:
            # One launch that cannot be captured makes all be timed by events.
            run = launch if graph is None or not self._graphs else graph.replay
            return self._microseconds(run, flushes if self._cold else 0)

        sample()
        return sample

    def disturbance(self) -> str | None:
        """A sentence on who else uses the GPU, or that it is not known; else None."""
        try:
            listed = torch_list(torch.cuda.list_gpu_processes(self._index))
        except Exception:  # whatever the driver's bindings raise, it only means not to know
            listed = None
        if listed is None:
            listed = smi_list(self._uuid())
        # Of a worker, the parent: it waits for us.
        return disturbance(listed, (os.getpid(), os.getppid()))

    def _uuid(self) -> str:
        uuid = getattr(self._properties, "uuid", None)
        return f"GPU-{uuid}" if uuid is not None else ""

    def _captured(self, launch: Callable[[], None]) -> "torch.cuda.CUDAGraph | None":
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # One pool for all: what a replay leaves in it is never read again.
            with torch.cuda.graph(graph, pool=self._pool):
                launch()
        except RuntimeError as error:
            if poisons(error):
                raise
            torch.cuda.set_stream(stream)  # a capture that fails leaves its own in place
            torch.cuda.synchronize()
            self._graphs = False
            return None
        return graph

    def _microseconds(self, run: Callable[[], object], flushes: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(flushes):
            self._buffer.zero_()
        start.record()
        run()
        end.record()
        end.synchronize()
        return 1000 * start.elapsed_time(end)


def _host_microseconds(launch: Callable[[], None]) -> float:
    """How long the host takes to enqueue it, at its quickest."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        launch()
        times.append(time.perf_counter() - start)
        torch.cuda.synchronize()
    return 1e6 * min(times)
