"""The decorator of every kernel: `triton.jit` without implicit specialisation."""

import inspect

import triton
import triton.language as tl


def kernel(fn):
    """Compile `fn` with Triton, one binary for all run-time values.

    Triton would make a binary of its own for each argument that is 1 or a multiple of 16, so a
    new image size could mean a new compilation. Here nothing is specialised: what a kernel may
    assume (16-byte vectors, a unit stride, the index width) is said by its constexpr flags.
    """
    names = [
        name
        for name, parameter in inspect.signature(fn).parameters.items()
        if parameter.annotation is not tl.constexpr
    ]
    return triton.jit(fn, do_not_specialize=names, do_not_specialize_on_alignment=names)
