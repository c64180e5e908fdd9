"""The patches of an image as a matrix: a row a window, a lane for each channel of each tap.

Row and lane of an element add up to its position and to its offset in memory, so what belongs to
a row or to a lane is computed once, outside the tile. `MASK` says how the elements outside the
image are found:

    none     there are none
    compare  by their coordinates
    bits     by a word a row, with a bit for each tap of each axis that lies inside, and the bits
             that a lane needs of it: worth it where the lanes stay and the rows change
"""

import triton
import triton.language as tl

from ._border import read_at
from ._index import in_range, outer, outer_and
from ._rows import at_run


@triton.jit
def split_line(lane, TAPS: tl.constexpr, CHANNELS: tl.constexpr, CHANNELS_FAST: tl.constexpr):
    """(channel, tap) of a lane of one line of the filter, with those that are neighbours in
    memory next to each other. Unsigned: such a division is a multiplication and a shift."""
    lane = lane.to(tl.uint32)
    if CHANNELS_FAST:
        return lane % CHANNELS, lane // CHANNELS
    else:
        return lane // TAPS, lane % TAPS


@triton.jit
def dot3(position, stride):
    """position . stride"""
    return position[0] * stride[0] + position[1] * stride[1] + position[2] * stride[2]


@triton.jit
def axis_word(position, size, FILTER: tl.constexpr, DILATION: tl.constexpr):
    """Bit f is set if position + f*DILATION lies in 0..size-1, for the taps f along one axis."""
    stop = tl.maximum(size - position + (DILATION - 1), 0) // DILATION
    stop = tl.minimum(stop, FILTER).to(tl.int32)
    first = tl.maximum(DILATION - 1 - position, 0) // DILATION
    first = tl.minimum(first.to(tl.int32), stop)
    one = stop * 0 + 1
    return (one << stop) - (one << first)


@triton.jit
def window_word(ok, anchor, size, FILTER: tl.constexpr, DILATION: tl.constexpr):
    """The words of all axes of the windows at `anchor`, one after the other; 0 if not `ok`."""
    word = axis_word(anchor[2], size[2], FILTER[2], DILATION[2])
    word |= axis_word(anchor[1], size[1], FILTER[1], DILATION[1]) << FILTER[2]
    word |= axis_word(anchor[0], size[0], FILTER[0], DILATION[0]) << (FILTER[1] + FILTER[2])
    return tl.where(ok, word, 0)


@triton.jit
def lane_word(ok, tap, FILTER: tl.constexpr):
    """What a lane needs of a row's word: one bit an axis; if not `ok`, one that no row has."""
    one = ok.to(tl.int32) * 0 + 1
    word = one << tap[2].to(tl.int32)
    word |= one << (tap[1] + FILTER[2]).to(tl.int32)
    word |= one << (tap[0] + (FILTER[1] + FILTER[2])).to(tl.int32)
    return tl.where(ok, word, one << (FILTER[0] + FILTER[1] + FILTER[2]))


@triton.jit
def load_patches(
    src_ptr,
    row,
    anchor,
    row_live,
    lane,
    reach,
    lane_live,
    shift,
    size,
    stride,
    MASK: tl.constexpr,
    BORDER: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """A tile of patches: rows x lanes in whole vectors of lanes, or else lanes x rows.

    `row` and `lane` are offsets without position; `anchor`, `reach` and `shift` are the positions
    (d, h, w) of a window, of a tap in it, and of the whole tile: the image is read at their sum.
    What is `live` is read: booleans, or with `bits` the words of the functions above.
    """
    LANES_FAST: tl.constexpr = VECTOR > 1
    live = outer_and(row_live, lane_live, LANES_FAST)
    if MASK == "bits":
        live = live == (lane_live[None, :] if LANES_FAST else lane_live[:, None])
    if MASK == "compare":
        position = (
            outer(anchor[0] + shift[0], reach[0], LANES_FAST),
            outer(anchor[1] + shift[1], reach[1], LANES_FAST),
            outer(anchor[2] + shift[2], reach[2], LANES_FAST),
        )
    if MASK == "compare" and BORDER != "zeros":
        d, h, w, live = read_at(position, size, live, BORDER)
        offset = outer(row, lane, LANES_FAST) + dot3((d, h, w), stride)
    else:
        if MASK == "compare":
            live = live & in_range(position[0], size[0]) & in_range(position[1], size[1])
            live = live & in_range(position[2], size[2])
        # The offsets of rows and lanes stay; the tile as a whole moves.
        src_ptr += dot3(shift, stride)
        offset = outer(row + dot3(anchor, stride), lane + dot3(reach, stride), LANES_FAST)
    if VECTOR > 1:
        live = tl.max_constancy(live, (1, VECTOR))
    return tl.load(at_run(src_ptr, offset, VECTOR), mask=live, other=0.0)
