"""Pooling inside a tile: units of members, in an order that keeps each unit in one thread.

A thread holds two neighbouring columns of a matrix product, and then those 8, 16, .. further on;
four threads share a row (of mma and wgmma alike). So members stay together in pairs and four units
take turns: units of four members lie along the columns as

    unit    0 0 1 1 2 2 3 3   0 0 1 1 2 2 3 3   4 4 ..
    member  0 1 0 1 0 1 0 1   2 3 2 3 2 3 2 3   0 1 ..

and to combine the members of a unit moves nothing. With any other order it would be right too.
"""

import triton
import triton.language as tl

PAIR = tl.constexpr(2)
LANES = tl.constexpr(4)
# A scale between these has an inverse that is a normal number, as is it itself.
SMALLEST_SCALE = tl.constexpr(2.0**-126)
LARGEST_SCALE = tl.constexpr(2.0**126)


@triton.constexpr_function
def levels_of(padded):
    """How often `padded`, a power of two, can be halved."""
    return padded.bit_length() - 1


@triton.constexpr_function
def turns_of(columns, padded):
    """How many units take turns."""
    return min(LANES.value, columns // padded)


@triton.jit
def interleaved(BLOCK: tl.constexpr, PADDED: tl.constexpr):
    """`(unit, member)` of each of BLOCK places, for units of PADDED members, a power of two."""
    place = tl.arange(0, BLOCK)
    if PADDED == 1:
        return place, place * 0
    else:
        TURNS: tl.constexpr = turns_of(BLOCK, PADDED)
        PAIRS: tl.constexpr = PADDED // PAIR
        pair = place // (PAIR * TURNS)
        unit = pair // PAIRS * TURNS + place // PAIR % TURNS
        return unit, pair % PAIRS * PAIR + place % PAIR


@triton.jit
def halves(z, TURNS: tl.constexpr):
    """The members 0, 2, .. of each unit, and the members 1, 3, .., which lie TURNS further on."""
    ROWS: tl.constexpr = z.shape[0]
    HALF: tl.constexpr = z.shape[1] // 2
    z = z.reshape(ROWS, HALF // TURNS, 2, TURNS)
    even, odd = tl.split(tl.permute(z, (0, 1, 3, 2)))
    return even.reshape(ROWS, HALF), odd.reshape(ROWS, HALF)


@triton.jit
def members_of(z, PADDED: tl.constexpr):
    """The members of each unit, PADDED tensors (rows, units) of a tile (rows, places)."""
    TURNS: tl.constexpr = turns_of(z.shape[1], PADDED)
    members = (z,)
    for level in tl.static_range(levels_of(PADDED)):
        evens = ()
        odds = ()
        for i in tl.static_range(1 << level):
            even, odd = halves(members[i], 1 if level == 0 else TURNS)
            evens += (even,)
            odds += (odd,)
        # Halving goes from the lowest bit of a member's number to the highest.
        members = evens + odds
    return members


@triton.jit
def largest(members, COUNT: tl.constexpr):
    """The largest member of each unit, or NaN if one of them is."""
    value = members[0]
    for i in tl.static_range(1, COUNT):
        value = tl.maximum(value, members[i], propagate_nan=tl.PropagateNan.ALL)
    return value


@triton.jit
def winner(members, COUNT: tl.constexpr):
    """`(value, number)` of each unit's largest member or first NaN; the first one of equals."""
    value = members[0]
    number = tl.zeros_like(value).to(tl.int32)
    for i in tl.static_range(1, COUNT):
        # NaN is neither less nor equal, so it wins, but not against a NaN before it.
        stays = (members[i] <= value) | (value != value)  # noqa: PLR0124
        value = tl.where(stays, value, members[i])
        number = tl.where(stays, number, i)
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
    scale = tl.minimum(tl.maximum(scale, SMALLEST_SCALE), LARGEST_SCALE)
    inverse = 1.0 / scale
    value = tl.zeros_like(scale)
    for i in tl.static_range(COUNT):
        scaled = members[i] * inverse
        value += scaled * scaled
    return tl.sqrt(value) * scale
