"""The smallest kernel with every sort of argument: what a way of launching is tried with."""

import triton.language as tl

from ._jit import kernel


@kernel
def probe(src_ptr, unused_ptr, dst_ptr, number: tl.int64, SIZE: tl.constexpr, SHAPE: tl.constexpr):
    """dst[i] = src[i] + number, 0 <= i < SIZE. One program."""
    offs = tl.arange(0, SIZE)
    value = tl.load(src_ptr + offs) + number.to(tl.float32)
    if unused_ptr is None:
        tl.store(dst_ptr + offs + (SHAPE[0] - SHAPE[1]), value)
