"""Pooling inside a tile: units of members, in an order that keeps each unit in one thread.

Of a row of a matrix product a thread holds pairs of neighbouring columns, some power of two apart:
4 pairs or more, but in the same half of the row, for two groups of warps may share it. So each
half of the tile's units lies by itself, their first pairs of members before their second pairs:

    unit    0 0 1 1 2 2 3 3   0 0 1 1 2 2 3 3   4 4 5 5 ..
    member  0 1 0 1 0 1 0 1   2 3 2 3 2 3 2 3   0 1 0 1 ..

To combine the members of a unit then moves nothing. In any other order it would be right too.
"""

import triton
import triton.language as tl

# Threads that share a row.
LANES = tl.constexpr(4)
# A scale between 2**-126 and 2**126 has an inverse that is a normal number, as is it itself.
SCALE_BITS = tl.constexpr(126)
SCALE_BITS_OF_DOUBLES = tl.constexpr(1022)


@triton.constexpr_function
def levels_of(padded):
    """How often `padded`, a power of two, can be halved."""
    return padded.bit_length() - 1


@triton.constexpr_function
def turns_of(block, padded):
    """How many units lie together, pair by pair."""
    units = block // padded
    return max(units // 2, min(LANES.value, units))


@triton.jit
def places(BLOCK: tl.constexpr, PADDED: tl.constexpr):
    """`(unit, member)` at each of BLOCK places, for units of PADDED members, a power of two."""
    place = tl.arange(0, BLOCK)
    if PADDED == 1:
        return place, place * 0
    else:
        TURNS: tl.constexpr = turns_of(BLOCK, PADDED)
        pair = place // (2 * TURNS)
        unit = pair // (PADDED // 2) * TURNS + place // 2 % TURNS
        return unit, pair % (PADDED // 2) * 2 + place % 2


@triton.jit
def members_of(z, PADDED: tl.constexpr):
    """The members of each unit, PADDED tensors (rows, units) of a tile (rows, places)."""
    ROWS: tl.constexpr = z.shape[0]
    UNITS: tl.constexpr = z.shape[1] // PADDED
    TURNS: tl.constexpr = turns_of(z.shape[1], PADDED)
    LEVELS: tl.constexpr = levels_of(PADDED)
    members = (z,)
    for level in tl.static_range(1, LEVELS + 1):
        halves = ()
        for i in tl.static_range(1 << (level - 1)):
            if level < LEVELS:
                pair = members[i].reshape(ROWS, UNITS // TURNS, 2, TURNS << (LEVELS - level))
                pair = tl.permute(pair, (0, 1, 3, 2))
            else:
                pair = members[i].reshape(ROWS, UNITS, 2)
            first, second = tl.split(pair)
            halves += (first, second)
        members = halves
    return members


@triton.jit
def largest(members, COUNT: tl.constexpr):
    """The largest member of each unit, or NaN if one of them is."""
    value = members[0]
    for i in tl.static_range(1, COUNT):
        value = tl.maximum(value, members[i], propagate_nan=tl.PropagateNan.ALL)
    return value


@triton.jit
def outranks(x, best):
    """Whether x takes the place of the largest before it: it is larger, or NaN."""
    return (x > best) | (x != x)  # noqa: PLR0124


@triton.jit
def winner(members, COUNT: tl.constexpr):
    """`(value, number)` of each unit's largest member or last NaN; the first one of equals."""
    value = members[0]
    number = tl.zeros_like(value).to(tl.int32)
    for i in tl.static_range(1, COUNT):
        wins = outranks(members[i], value)
        value = tl.where(wins, members[i], value)
        number = tl.where(wins, i, number)
    return value, number


@triton.jit
def mean(members, COUNT: tl.constexpr):
    """The mean of each unit's members."""
    value = members[0]
    for i in tl.static_range(1, COUNT):
        value += members[i]
    return value / COUNT


@triton.jit
def norm(members, COUNT: tl.constexpr):
    """The root of the sum of squares of each unit's members, which are scaled to below 4."""
    scale = tl.abs(members[0])
    for i in tl.static_range(1, COUNT):
        scale = tl.maximum(scale, tl.abs(members[i]))
    scale = bounded_scale(scale)
    inverse = 1.0 / scale
    value = tl.zeros_like(scale)
    for i in tl.static_range(COUNT):
        scaled = members[i] * inverse
        value += scaled * scaled
    return tl.sqrt(value) * scale


@triton.jit
def bounded_scale(scale):
    """`scale`, or the nearest number that has a normal inverse. Of NaN, any such number."""
    BITS: tl.constexpr = SCALE_BITS_OF_DOUBLES if scale.dtype == tl.float64 else SCALE_BITS
    return tl.minimum(tl.maximum(scale, 2.0**-BITS), 2.0**BITS)


@triton.jit
def add_square(total, scale, x):
    """`(total, scale)` with one member more: total counts squares in units of scale**2, where scale
    is the largest member so far, as `bounded_scale` has it. Start at 0 and `bounded_scale` of 0."""
    larger = bounded_scale(tl.maximum(scale, tl.abs(x)))
    inverse = 1.0 / larger
    ratio = scale * inverse
    total = tl.where(larger > scale, total * (ratio * ratio), total)
    scaled = x * inverse
    return total + scaled * scaled, larger
