"""Faults planted in a copy of the kernels, each of which the test-suite must notice.

    python -m tests.faults [NAME ..]

copies the project to a temporary folder once for each fault, changes one piece of a kernel there,
and runs the kernel tests that are its guard. A fault that no test notices is an error of the
tests. The control, the same tests over an unchanged copy, must pass.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
KERNELS = Path("tritonconv") / "kernels"
COPIED = ("tritonconv", "autotune", "tests", "pyproject.toml", "README.md")


@dataclass(frozen=True)
class Fault:
    """`old`, which occurs once in a kernel's file, becomes `new`; `guard` selects tests by -k."""

    file: str
    old: str
    new: str
    guard: str


FAULTS = {
    # index arithmetic that every kernel shares
    "a tap step of one": Fault(
        "_index.py",
        "taps = (FILTER - first + TAP_STEP - 1) // TAP_STEP",
        "taps = FILTER - first",
        "dgrad and direct",
    ),
    "a class one off": Fault(
        "_index.py",
        "base = residue * STRIDE - pad",
        "base = residue * STRIDE - pad + 1",
        "fprop and direct",
    ),
    "a swapped stride": Fault(
        "_index.py",
        "strided = (period[0] * STRIDE[0], period[1] * STRIDE[1], period[2] * STRIDE[2])",
        "strided = (period[0] * STRIDE[0], period[1] * STRIDE[2], period[2] * STRIDE[1])",
        "fprop and direct",
    ),
    "a lost carry": Fault(
        "_index.py",
        "h = q[1] + by[1] + carry.to(w.dtype)",
        "h = q[1] + by[1]",
        "wgrad and implicit_gemm",
    ),
    "a split that ends early": Fault(
        "_index.py",
        "return start, tl.maximum(tl.minimum(start + chunk, total), start)",
        "return start, tl.maximum(tl.minimum(start + chunk, total) - 1, start)",
        "wgrad and implicit_gemm",
    ),
    # the gather GEMM
    "a dropped tap mask": Fault(
        "gather_gemm.py",
        "valid = ((bits >> j.to(tl.int32)) & 1) != 0",
        "valid = live",
        "fprop and implicit_gemm",
    ),
    "a tap one off": Fault(
        "gather_gemm.py",
        "tap_off += (first[2] + j_w * TAP_STEP[2]) * tap_stride[2]",
        "tap_off += (first[2] + (j_w + 1) % taps[2] * TAP_STEP[2]) * tap_stride[2]",
        "fprop and implicit_gemm",
    ),
    "a missing accumulation": Fault(
        "gather_gemm.py",
        "acc = multiply_add(a, b, acc, PRECISION, SOFT_BF16)",
        "acc = multiply_add(a, b, acc * 0, PRECISION, SOFT_BF16)",
        "fprop and implicit_gemm",
    ),
    "the next bank": Fault(
        "gather_gemm.py",
        "tap_off += ((bank_w + period[2]) % period[2]) * stride_bank_w.to(INDEX)",
        "tap_off += ((bank_w + 1 + period[2]) % period[2]) * stride_bank_w.to(INDEX)",
        "dgrad and implicit_gemm",
    ),
    "the first group only": Fault(
        "gather_gemm.py",
        "weight_ptr += weight_base + group * stride_wg",
        "weight_ptr += weight_base",
        "fprop and implicit_gemm",
    ),
    "a split that starts at the first tap": Fault(
        "gather_gemm.py",
        "c = (start % deep) * BLOCK_K",
        "c = start * 0",
        "fprop and split_k",
    ),
    # borders
    "a reflection that repeats the border": Fault(
        "_border.py",
        "return tl.where(position >= size, 2 * (size - 1) - position, position)",
        "return tl.where(position >= size, 2 * size - 1 - position, position)",
        "fprop and direct",
    ),
    "an image without its sign": Fault(
        "_border.py",
        "sign = tl.where(image == 0, 1, -1)",
        "sign = tl.where(image == 0, 1, 1)",
        "dgrad and direct",
    ),
    # what follows the sum
    "an untied bias by another period": Fault(
        "_epilogue.py",
        "bank += (position[2] % bias_period[2]) * bias_stride[2]",
        "bank += (position[2] % bias_period[1]) * bias_stride[2]",
        "epilogue and direct",
    ),
    "no residual": Fault(
        "_epilogue.py",
        "acc += residual.to(acc.dtype)",
        "acc += residual.to(acc.dtype) * 0",
        "epilogue and direct",
    ),
    "a first split left out": Fault(
        "sum_splits.py",
        "for split in range(splits.to(INDEX)):",
        "for split in range(1, splits.to(INDEX)):",
        "wgrad and implicit_gemm",
    ),
    # wgrad
    "a position mask left out": Fault(
        "wgrad_gemm.py",
        "live = offs_k < stop",
        "live = offs_k >= start",
        "wgrad and implicit_gemm",
    ),
    # the kernels of one kind
    "a row of taps read backwards": Fault(
        "depthwise_gather.py",
        "w = across(weights[OFFSET + j], ROWS_FIRST)",
        "w = across(weights[OFFSET + COUNT - 1 - j], ROWS_FIRST)",
        "fprop and depthwise",
    ),
    "a last row left out": Fault(
        "depthwise_wgrad.py",
        "begin, stop = split_range(split, splits, rows, BLOCK_M)",
        "begin, stop = split_range(split, splits, rows - 1, BLOCK_M)",
        "wgrad and depthwise",
    ),
    "a sum that forgets, unshared": Fault(
        "unshared_gather.py",
        "acc += a.to(ACC)[:, None, :] * b.to(ACC)[None, :, :]",
        "acc = a.to(ACC)[:, None, :] * b.to(ACC)[None, :, :]",
        "dgrad and unshared",
    ),
    "the last image alone": Fault(
        "unshared_wgrad.py",
        "acc += dy.to(ACC)[:, None] * x.to(ACC)[None, :]",
        "acc = dy.to(ACC)[:, None] * x.to(ACC)[None, :]",
        "wgrad and unshared",
    ),
    "a sum that forgets, 1x1": Fault(
        "pointwise_gemm.py",
        "acc = multiply_add(a, b, acc, PRECISION, SOFT_BF16)",
        "acc = multiply_add(a, b, acc * 0, PRECISION, SOFT_BF16)",
        "fprop and pointwise",
    ),
    "a sum that forgets, 1x1 wgrad": Fault(
        "pointwise_wgrad.py",
        "acc = multiply_add(a, b, acc, PRECISION, SOFT_BF16)",
        "acc = multiply_add(a, b, acc * 0, PRECISION, SOFT_BF16)",
        "wgrad and pointwise",
    ),
    "a sum that forgets, stem": Fault(
        "stem_gemm.py",
        "acc = multiply_add(a, tl.trans(b), acc, PRECISION, SOFT_BF16)",
        "acc = multiply_add(a, tl.trans(b), acc * 0, PRECISION, SOFT_BF16)",
        "fprop and stem",
    ),
    "a sum that forgets, stem wgrad": Fault(
        "stem_wgrad.py",
        "acc = multiply_add(a, b, acc, PRECISION, SOFT_BF16)",
        "acc = multiply_add(a, b, acc * 0, PRECISION, SOFT_BF16)",
        "wgrad and stem",
    ),
}


def run_tests(folder: Path, guard: str) -> subprocess.CompletedProcess:
    """The kernel tests that `guard` selects, in a copy, up to the first failure."""
    environment = dict(os.environ, PYTHONPATH=str(folder))
    environment.pop("TRITONCONV_PROFILE", None)
    options = ["-x", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-k", guard]
    command = [sys.executable, "-m", "pytest", *options, "tests/test_kernels.py"]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def copy_project(folder: Path) -> None:
    """What the tests need."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)


def plant(folder: Path, fault: Fault) -> None:
    """Change the copy."""
    path = folder / KERNELS / fault.file
    text = path.read_text()
    if text.count(fault.old) != 1:
        raise ValueError(
            f"{fault.file}: {fault.old!r} occurs {text.count(fault.old)} times, not once"
        )
    path.write_text(text.replace(fault.old, fault.new))


def notices(fault: Fault | None, guard: str) -> bool:
    """Whether the tests fail with the fault planted, by an assertion and not by a missing file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_project(folder)
        if fault is not None:
            plant(folder, fault)
        done = run_tests(folder, guard)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"the tests did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 1


def main(names: list[str]) -> int:
    """Plant each fault; 1 if one is not noticed, or if the control fails."""
    chosen = {name: FAULTS[name] for name in names} if names else FAULTS
    bad = 0
    for guard in sorted({fault.guard for fault in chosen.values()}):
        failed = notices(None, guard)
        bad += failed
        print(f"{'FAILS' if failed else 'passes':10} unchanged, -k {guard!r}", flush=True)
    for name, fault in chosen.items():
        seen = notices(fault, fault.guard)
        bad += not seen
        print(f"{'noticed' if seen else 'NOT SEEN':10} {name} ({fault.file})", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
