"""Faults planted in a copy of the kernels, each of which the test-suite must notice.

    python -m tests.faults [NAME ..]

copies the project to a temporary folder once for each fault, changes one piece of a kernel there,
and runs the tests that are its guard. A fault that no test notices is an error of the
tests. The control, the same tests over an unchanged copy, must pass.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
KERNELS = Path("tritonconv") / "kernels"
POOLING = "tests/test_pool_kernels.py"
NORMS = "tests/test_norm_limits.py"
LAYER = "tests/test_conv_pool.py"
FUNCTIONS = "tests/test_conv_pool_functional.py"
COPIED = ("tritonconv", "autotune", "tests", "pyproject.toml", "README.md")


@dataclass(frozen=True)
class Fault:
    """`old`, which occurs once in a kernel's file, becomes `new`; `guard` selects by -k from the
    module `tests`."""

    file: str
    old: str
    new: str
    guard: str
    tests: str = "tests/test_kernels.py"


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
        "_index.py",
        "return bank + (position[2] % period[2]) * stride[2]",
        "return bank + (position[2] % period[1]) * stride[2]",
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
    # pooling
    "padding that wins": Fault(
        "window_reduce.py",
        "larger = valid & outranks(x, acc)",
        "larger = outranks(x, acc)",
        "test_agrees and max and float32",
        POOLING,
    ),
    "the last of equals": Fault(
        "window_reduce.py",
        "larger = valid & outranks(x, acc)",
        "larger = valid & (outranks(x, acc) | (x == acc))",
        "test_agrees and max and float32",
        POOLING,
    ),
    "a norm in units of the largest": Fault(
        "window_reduce.py",
        "acc = tl.where(ordinary, unit * acc, largest)",
        "acc = tl.where(ordinary, acc, largest)",
        "test_agrees and lp and float32",
        POOLING,
    ),
    "an average over padding": Fault(
        "_window.py",
        "return below - taps_before(start * 0, start, FILTER, DILATION)",
        "return below",
        "test_agrees and sum and float32",
        POOLING,
    ),
    "an adaptive window that ends early": Fault(
        "_window.py",
        "return start, tl.cdiv((o + 1) * size, windows) - start",
        "return start, (o + 1) * size // windows - start",
        "test_agrees and max and float32",
        POOLING,
    ),
    "the window before": Fault(
        "window_spread.py",
        "o_w = last_w - j % COVER[2]\n        f_d",
        "o_w = last_w - 1 - j % COVER[2]\n        f_d",
        "test_agrees and sum and float32",
        POOLING,
    ),
    "a winner of another window": Fault(
        "window_spread.py",
        "at += o_w * stride_tw.to(INDEX)\n            kept",
        "at += last_w * stride_tw.to(INDEX)\n            kept",
        "test_agrees and max and float32",
        POOLING,
    ),
    "a tap between the taps": Fault(
        "window_spread.py",
        "return tap, holds & (tap * DILATION == back) & (tap < FILTER), start, taps",
        "return tap, holds & (back >= 0) & (tap < FILTER), start, taps",
        "test_agrees and sum and float32",
        POOLING,
    ),
    "a gradient without its sign": Fault(
        "window_spread.py",
        "acc = tl.where(x == 0, 0, tl.where(x < 0, -acc, tl.where(x > 0, acc, x)))",
        "acc = tl.where(x == 0, 0, acc)",
        "test_agrees and lp and float32",
        POOLING,
    ),
    "a share of a finite element in an infinite norm": Fault(
        "window_spread.py",
        "return size / root, (some == boundless)",
        "return size / root, boundless == boundless",
        "test_table_by_hand and kernels and float32",
        NORMS,
    ),
    "infinite elements that count one": Fault(
        "window_spread.py",
        "total = tl.where(some, count, tl.where(total > 0, total, 1))",
        "total = tl.where(some, 1, tl.where(total > 0, total, 1))",
        "test_table_by_hand and kernels and float32",
        NORMS,
    ),
    "a norm too large in units of one": Fault(
        "window_spread.py",
        "tl.where(boundless, 0, tl.abs(x)) / LARGEST)",
        "tl.where(boundless, 0, tl.abs(x)))",
        "test_table_by_hand and kernels and float32",
        NORMS,
    ),
    # convolution and pooling in one kernel
    "windows that overlap": Fault(
        "conv_pool_gemm.py",
        "src_2 = (q[2] * STEP[2] + t[2]) * STRIDE[2] - pad_w.to(INDEX)",
        "src_2 = (q[2] + t[2]) * STRIDE[2] - pad_w.to(INDEX)",
        "tiles_and_tails",
        LAYER,
    ),
    "a border that is read": Fault(
        "conv_pool_gemm.py",
        "valid = ((bits >> tap.to(tl.int32)) & 1) != 0",
        "valid = row_ok",
        "tiles_and_tails",
        LAYER,
    ),
    "no bias": Fault(
        "conv_pool_gemm.py",
        "(0, 0, 0, stride_bias_c.to(INDEX)),\n        BIAS,",
        '(0, 0, 0, stride_bias_c.to(INDEX)),\n        "none",',
        "tiles_and_tails",
        LAYER,
    ),
    "no activation": Fault(
        "conv_pool_gemm.py",
        "members_of(activate(acc, ACTIVATION), PADDED)",
        "members_of(acc, PADDED)",
        "tiles_and_tails",
        LAYER,
    ),
    "a place that holds nothing": Fault(
        "conv_pool_gemm.py",
        "value = mean(members, MEMBERS)",
        "value = mean(members, PADDED)",
        "tiles_and_tails",
        LAYER,
    ),
    "a member left out": Fault(
        "_members.py",
        "    for i in tl.static_range(1, COUNT):\n        value += members[i]",
        "    for i in tl.static_range(2, COUNT):\n        value += members[i]",
        "tiles_and_tails",
        LAYER,
    ),
    "the last of equal members": Fault(
        "_members.py",
        "wins = outranks(members[i], value)",
        "wins = outranks(members[i], value) | (members[i] == value)",
        "ties_and_nan",
        LAYER,
    ),
    "members in another order": Fault(
        "_members.py",
        "return unit, pair % (PADDED // 2) * 2 + place % 2",
        "return unit, pair % (PADDED // 2) * 2 + 1 - place % 2",
        "ties_and_nan",
        LAYER,
    ),
    "a norm that is not scaled back": Fault(
        "_members.py",
        "return tl.sqrt(value) * scale",
        "return tl.sqrt(value)",
        "tiles_and_tails",
        LAYER,
    ),
    # the same by multiply-adds
    "windows that overlap, by multiply-adds": Fault(
        "conv_pool_direct.py",
        "position = (u[0] * STEP[0] + t_d, u[1] * STEP[1] + t_h, u[2] * STEP[2] + t_w)",
        "position = (u[0] * STEP[0] + t_d, u[1] * STEP[1] + t_h, u[2] + t_w)",
        "without_matrices",
        FUNCTIONS,
    ),
    "a first member's group for all": Fault(
        "conv_pool_direct.py",
        "group = channel if DEPTHWISE else channel // group_channels.to(INDEX)",
        "group = channel if DEPTHWISE else (channel - t * ACROSS) // group_channels.to(INDEX)",
        "without_matrices",
        FUNCTIONS,
    ),
    "a first bank for all": Fault(
        "conv_pool_direct.py",
        "weight_at = outer(bank_at(position, period, bank_stride), weight_at, SRC_UNIT)",
        "weight_at = outer(bank_at(u, period, bank_stride), weight_at, SRC_UNIT)",
        "take_turns",
        FUNCTIONS,
    ),
    "a norm in one member's units": Fault(
        "_members.py",
        "total = tl.where(larger > scale, total * (ratio * ratio), total)",
        "total = tl.where(larger > scale, total * ratio, total)",
        "without_matrices",
        FUNCTIONS,
    ),
    "a chunk's first channel only": Fault(
        "_direct.py",
        "acc += xs[i].to(ACC) * tl.trans(ws[i]).to(ACC)",
        "acc += xs[0].to(ACC) * tl.trans(ws[i]).to(ACC)",
        "textbook or tiles_and_tails",
        LAYER,
    ),
}


def guards(faults: Iterable[Fault]) -> list[tuple[str, str]]:
    """What guards them, `(tests, guard)`, each once."""
    return sorted({(fault.tests, fault.guard) for fault in faults})


def run_tests(folder: Path, tests: str, guard: str) -> subprocess.CompletedProcess:
    """What `guard` selects from the module `tests`, in a copy, up to the first failure."""
    environment = dict(os.environ, PYTHONPATH=str(folder))
    environment.pop("TRITONCONV_PROFILE", None)
    options = ["-x", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-k", guard]
    command = [sys.executable, "-m", "pytest", *options, tests]
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


def notices(fault: Fault | None, tests: str, guard: str) -> bool:
    """Whether the tests fail with the fault planted, by an assertion and not by a missing file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_project(folder)
        if fault is not None:
            plant(folder, fault)
        done = run_tests(folder, tests, guard)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"the tests did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 1


def main(names: list[str]) -> int:
    """Plant each fault; 1 if one is not noticed, or if the control fails."""
    chosen = {name: FAULTS[name] for name in names} if names else FAULTS
    bad = 0
    for tests, guard in guards(chosen.values()):
        failed = notices(None, tests, guard)
        bad += failed
        print(f"{'FAILS' if failed else 'passes':10} unchanged, {tests} -k {guard!r}", flush=True)
    for name, fault in chosen.items():
        seen = notices(fault, fault.tests, fault.guard)
        bad += not seen
        print(f"{'noticed' if seen else 'NOT SEEN':10} {name} ({fault.file})", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
