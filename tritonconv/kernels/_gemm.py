"""The multiply-accumulate step of the GEMM kernels."""

import triton
import triton.language as tl


@triton.jit
def multiply_add(a, b, acc, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    """acc + a @ b in float32.

    UPCAST widens the operands first: Triton's interpreter multiplies bfloat16 tiles as if their
    bits were integers, and float32 holds every bfloat16 product exactly.
    """
    if UPCAST:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)
