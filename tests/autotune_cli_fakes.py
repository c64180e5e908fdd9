"""A library of made-up kernels with known times, for the command line: workers and all."""

import os
import time

from autotune import Candidate, Config
from autotune.task import Artefacts, Limits
from tests.autotune_cases import A100, H200, LARGE, NOW, OTHER, SMALL, key_of

PROVIDER = "tests.autotune_cli_fakes:LAB"
TIMER = "tests.autotune_cli_fakes:LabTimer"
FLAT = "tests.autotune_cli_fakes:FlatTimer"
SLOW = "tests.autotune_cli_fakes:SlowTimer"
NO_GPU = "AUTOTUNE_LAB_NO_GPU"

WIDE = Candidate("gemm", Config.of(8, 4, BLOCK_M=256, BLOCK_N=256))
WRONG = Candidate("gemm", Config.of(2, 2, BLOCK_M=64, BLOCK_N=64))
# OTHER is the default.
MICROSECONDS = {OTHER: 20.0, SMALL: 10.0, LARGE: 8.0, WRONG: 1.0, WIDE: 1.0}

_launched: list[Candidate] = []


class LabTask:
    def __init__(self, key) -> None:
        self.key = key
        self.limits = Limits(232448)

    def candidates(self):
        return sorted(c for c in MICROSECONDS if self.is_legal(c))

    def default(self):
        return OTHER

    def is_legal(self, candidate):
        enough = candidate != LARGE or dict(self.key.sizes)["C"] >= 128
        return candidate in MICROSECONDS and enough

    def predict(self, candidate):
        return MICROSECONDS[candidate]

    def build(self, candidate):
        return NOW

    def compile(self, candidate):
        return Artefacts(shared=300_000 if candidate == WIDE else 4096, registers=64, spills=0)

    def prepare(self):
        return self

    def launch(self, candidate):
        _launched[:] = [candidate]

    def check(self, candidate):
        return "element 0 is 1.0, not 2.0" if candidate == WRONG else None


class Lab:
    name = "lab"

    def task(self, key):
        if key.op != "conv":
            raise ValueError(f"op: expected conv, got {key.op}")
        return LabTask(key)

    def gpu(self, target=None):
        if target is None and os.environ.get(NO_GPU):
            raise RuntimeError("gpu: expected one, got none")
        known = {None: H200, "sm_90": H200, "sm_80": A100}
        if target not in known:
            raise ValueError(f"expected sm_80 or sm_90, got {target!r}")
        return known[target]

    def environment(self):
        return {"driver": "1"}

    def suite(self, gpu):
        return [key_of(8, 64, gpu), key_of(8, 128, gpu)]

    def from_model(self, model, inputs, gpu):
        n, c = inputs[0].shape[:2]
        return [key_of(n, c, gpu, dtype=str(inputs[0].dtype).removeprefix("torch."), model=model)]

    def from_shape(self, description, gpu):
        if "C" not in description:
            raise ValueError("C: expected the number of channels, got none")
        return [key_of(description.get("N", 8), description["C"], gpu)]

    def work(self, key):
        n, c = dict(key.sizes)["N"], dict(key.sizes)["C"]
        return 2e6 * n * c * c, 4e4 * n * c


class LabTimer:
    policy = "lab"

    @property
    def device(self):
        # Runs of the tests at the same time need not wait for each other.
        return f"lab-{os.getppid()}"

    def microseconds(self, candidate):
        return MICROSECONDS[candidate]

    def ready(self, launch):
        def sample():
            launch()
            return self.microseconds(_launched[0])

        return sample

    def disturbance(self):
        return None


class FlatTimer(LabTimer):
    """Every candidate takes as long."""

    def microseconds(self, candidate):
        return 10.0


class SlowTimer(LabTimer):
    """And really; a byte a sample goes to the file that AUTOTUNE_LAB_LOG names."""

    def microseconds(self, candidate):
        if os.environ.get("AUTOTUNE_LAB_LOG"):
            with open(os.environ["AUTOTUNE_LAB_LOG"], "a") as file:
                file.write(".")
        time.sleep(0.05)
        return MICROSECONDS[candidate]


def build_model():
    return "made"


LAB = Lab()
