"""Products by plain multiply-adds: of one tap, the channels in a loop."""

import triton
import triton.language as tl

from ._index import at, column_of, outer, outer_and, row_of
from ._members import members_of


@triton.jit
def add_channels(
    acc,
    src_ptr,
    tap_ptr,
    src_row,
    src_col,
    weight_at,
    row_ok,
    col_ok,
    red,
    src_step,
    weight_step,
    GROUPED: tl.constexpr,
    SRC_UNIT: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """acc + sum over channels m of src[row, m] * w[column, m], in acc's dtype and with its tile
    ordered as `outer` does by SRC_UNIT.

    `src_row`, `src_col` and `weight_at` are offsets of the channel 0; `weight_at` has one a column,
    or a tile of them where a row decides the filters too. GROUPED: a column reads channels of its
    own, at `src_col`. VECTOR > 1: src lies in 16-byte vectors, GROUPED of columns, else of channels
    m, and so does w.
    """
    ACC: tl.constexpr = acc.dtype
    if VECTOR > 1 and not GROUPED:
        lane = tl.arange(0, VECTOR)
        for m in range(0, red, VECTOR):
            x = tl.load(
                at(src_ptr, outer(src_row, m + lane, True), VECTOR),
                mask=outer_and(row_ok, lane >= 0, True),
                other=0.0,
            )
            w = tl.load(
                at(tap_ptr, outer(weight_at, m + lane, True), VECTOR),
                mask=outer_and(col_ok, lane >= 0, True),
                other=0.0,
            )
            xs = members_of(x, VECTOR)
            ws = members_of(w, VECTOR)
            for i in tl.static_range(VECTOR):
                acc += xs[i].to(ACC) * tl.trans(ws[i]).to(ACC)
    else:
        for m in range(red):
            if len(weight_at.shape) == 2:
                w = tl.load(
                    tap_ptr + weight_at + m * weight_step,
                    mask=outer_and(row_ok, col_ok, SRC_UNIT),
                    other=0.0,
                )
            else:
                w = tl.load(tap_ptr + weight_at + m * weight_step, mask=col_ok, other=0.0)
                w = column_of(w, SRC_UNIT)
            if GROUPED:
                x = tl.load(
                    at(src_ptr, outer(src_row, src_col + m * src_step, SRC_UNIT), VECTOR),
                    mask=outer_and(row_ok, col_ok, SRC_UNIT),
                    other=0.0,
                )
            else:
                x = tl.load(src_ptr + src_row + m * src_step, mask=row_ok, other=0.0)
                x = row_of(x, SRC_UNIT)
            acc += x.to(ACC) * w.to(ACC)
    return acc
