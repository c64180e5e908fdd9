"""How window reductions are planned: tiles, offsets and vectors, for GPUs that are not there."""

import pytest
import torch
import triton.language as tl

from tritonconv.device import TARGETS
from tritonconv.pool_problem import (
    PoolArguments,
    PoolOperands,
    PoolPass,
    Reduction,
    pool_problem,
    windows_of,
)
from tritonconv.pooling import cover, default_config, default_configs, pool_plan, programs

HALVES = PoolArguments((2, 2), (2, 2), (0,) * 4, (1, 1))
OVERLAPPING = PoolArguments((3, 3), (1, 2), (1,) * 4, (1, 1))
H200 = TARGETS["sm_90"]


def problem_of(shape, arguments=HALVES, kind="max", which=PoolPass.FORWARD, last=True):
    """One pass over bfloat16 tensors without memory."""
    memory = torch.channels_last if last else torch.contiguous_format

    def empty(shape, dtype=torch.bfloat16):
        return torch.empty(shape, dtype=dtype, device="meta").contiguous(memory_format=memory)

    x, y = empty(shape), (*shape[:2], *windows_of(shape[2:], arguments)[1])
    if which is PoolPass.FORWARD:
        operands = PoolOperands(x)
    else:
        operands = PoolOperands(None, empty(y), empty(y, torch.uint8), shape, last)
    return pool_problem(operands, Reduction(kind), arguments)


def arguments_of(problem, which=PoolPass.FORWARD, aligned=True):
    """What the one launch of a pass is given."""
    (launch,) = pool_plan(problem, which, H200, aligned=aligned).launches
    return launch.arguments


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("which", [PoolPass.FORWARD, PoolPass.BACKWARD])
def test_offsets_have_64_bits_where_they_need_them(which, last):
    small = problem_of((64, 128, 56, 56), which=which, last=last)
    large = problem_of((64, 128, 513, 513), which=which, last=last)
    assert arguments_of(small, which)["INDEX"] == tl.int32
    assert arguments_of(large, which)["INDEX"] == tl.int64


def test_vectors_are_16_bytes_where_they_are_aligned():
    width = {
        "channels of 8": (problem_of((2, 64, 8, 8)), True, 8),
        "a channel too many": (problem_of((2, 65, 8, 8)), True, 1),
        "stored by channel": (problem_of((2, 64, 8, 8), last=False), True, 1),
        "an odd pointer": (problem_of((2, 64, 8, 8)), False, 1),
    }
    for name, (problem, aligned, expected) in width.items():
        assert arguments_of(problem, aligned=aligned)["VECTOR"] == expected, name


def test_tiles_are_as_wide_as_the_channels_and_small_where_there_are_few():
    wide = default_config(problem_of((256, 64, 112, 112)), PoolPass.FORWARD, H200)
    assert dict(wide.constants) == {"BLOCK_M": 16, "BLOCK_N": 64} and wide.num_warps == 4
    few = default_config(problem_of((1, 512, 7, 7)), PoolPass.FORWARD, H200)
    assert dict(few.constants) == {"BLOCK_M": 4, "BLOCK_N": 128} and few.num_warps == 2
    for problem in (problem_of((4, 24, 9, 9)), problem_of((4, 24, 9, 9), last=False)):
        table = default_configs(problem, PoolPass.FORWARD, H200)
        assert default_config(problem, PoolPass.FORWARD, H200) in table


@pytest.mark.parametrize("last", [True, False])
def test_every_output_is_in_one_tile(last):
    problem = problem_of((3, 20, 11, 10), last=last)
    outputs = 3 * 20 * 5 * 5
    for config in default_configs(problem, PoolPass.FORWARD, H200):
        tile = config["BLOCK_M"] * config["BLOCK_N"]
        columns = -(-20 // config["BLOCK_N"]) * config["BLOCK_N"] if last else 1
        rows = 3 * 5 * 5 if last else outputs
        assert programs(problem, PoolPass.FORWARD, config) * tile >= rows * columns


def test_how_many_windows_may_hold_a_position():
    assert cover(problem_of((1, 8, 8, 8))) == (1, 1, 1)
    assert cover(problem_of((1, 8, 8, 8), OVERLAPPING)) == (1, 3, 2)
    whole = PoolArguments((8, 8), (1, 1), (0,) * 4, (1, 1))  # one window alone, if it had others
    assert cover(problem_of((1, 8, 8, 8), whole)) == (1, 1, 1)
    none = (0, 0)
    adaptive = PoolArguments(none, none, (0,) * 4, none, False, (3, 5))
    # Thirds of 8: 0-2, 2-5, 5-7. Fifths: 0-1, 1-3, 3-4, 4-6, 6-7.
    assert cover(problem_of((1, 8, 8, 8), adaptive)) == (1, 2, 2)


def test_the_loop_over_taps_is_written_out_up_to_a_size():
    seven = PoolArguments((7, 7), (1, 1), (0,) * 4, (1, 1))
    assert arguments_of(problem_of((1, 8, 9, 9), OVERLAPPING))["UNROLL"] == 9
    assert arguments_of(problem_of((1, 8, 9, 9), seven))["UNROLL"] == 1
    x = torch.empty(1, 8, 9, 9, device="meta")
    cube = pool_problem(PoolOperands(x), Reduction("lp", exponent=3.0), HALVES)
    assert arguments_of(cube)["UNROLL"] == 1
