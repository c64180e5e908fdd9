"""The second pass of split-K: add the partial sums in a fixed order, then cast."""

import triton.language as tl

from ._jit import kernel
from ._numbers import rounded


@kernel
def sum_splits(
    workspace_ptr,
    dst_ptr,
    size: tl.int64,
    splits: tl.int64,
    INDEX: tl.constexpr,
    SOFT_BF16: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dst[i] = sum over splits of workspace[split, i]. Grid axis 0: blocks of i."""
    size = size.to(INDEX)
    offs = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    ok = offs < size
    acc = tl.zeros((BLOCK,), dtype=workspace_ptr.dtype.element_ty)
    for split in range(splits.to(INDEX)):
        acc += tl.load(workspace_ptr + split * size + offs, mask=ok, other=0.0)
    tl.store(dst_ptr + offs, rounded(acc, dst_ptr.dtype.element_ty, SOFT_BF16), mask=ok)
