"""Memory formats: which strides count as channels-last, and what strides a new output gets."""

from collections.abc import Sequence


def is_channels_last(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether an (N, C, *spatial) tensor has its channels innermost, for any number of axes.

    Torch's own rule (`suggest_memory_format`), which also decides the ambiguous cases: walking
    from C to the spatial axes, last first, and then N, strides may only grow; a 1x1 image whose
    channels are laid out both ways counts as contiguous. Torch has no such format for 1-D
    signals; here the same rule serves them too.
    """
    smallest = 0
    for axis in (1, *range(len(shape) - 1, 1, -1), 0):
        size, stride = shape[axis], strides[axis]
        if size == 0 or stride < smallest or (axis == 1 and stride == 0):
            return False
        # An N111 tensor in contiguous strides: nothing tells the formats apart.
        if axis == 0 and smallest == strides[1]:
            return False
        smallest = stride * size if size > 1 else stride
    return True


def dense_strides(shape: Sequence[int], channels_last: bool, banks: int = 0) -> tuple[int, ...]:
    """Strides of a new tensor without gaps.

    `channels_last` puts axis `banks` + 1 innermost; the first `banks` axes (the period of a tiled
    weight) stay outermost in either format.
    """
    first, second = banks, banks + 1
    order = list(range(len(shape)))
    if channels_last:
        order = [*range(banks), first, *range(second + 1, len(shape)), second]
    strides = [0] * len(shape)
    step = 1
    for axis in reversed(order):
        strides[axis] = step
        step = step * max(shape[axis], 1)
    return tuple(strides)
