"""Products and rounding, and what Triton's interpreter gets wrong of them in bfloat16.

`SOFT_BF16` is set when bfloat16 is interpreted: the interpreter multiplies bfloat16 tiles as if
their bits were integers, and cuts digits off where hardware rounds to nearest.
"""

import triton
import triton.language as tl


@triton.jit
def multiply_add(a, b, acc, PRECISION: tl.constexpr, SOFT_BF16: tl.constexpr):
    """acc + a @ b in float32, which holds every bfloat16 product exactly."""
    if SOFT_BF16:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def rounded(values, DTYPE: tl.constexpr, SOFT_BF16: tl.constexpr):
    """values as DTYPE, rounded to nearest even."""
    if SOFT_BF16 and DTYPE == tl.bfloat16:
        # Half of the last kept digit, less one where that makes a tie odd; NaN must not overflow.
        bits = values.to(tl.uint32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        nan = values != values  # noqa: PLR0124
        bits = tl.where(nan, 0x7FC0, bits >> 16)
        return bits.to(tl.uint16).to(DTYPE, bitcast=True)
    else:
        return values.to(DTYPE)
