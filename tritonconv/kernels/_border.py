"""What a tap reads beyond the image: nothing, or by `BORDER` an element of the image itself.

`fold` maps a position to the one that is read in its place. The input gradient needs the inverse,
which has several values: position i is read as itself and, near the border, as its *images*, the
positions outside the image that fold onto i. There is a short list of them an axis:

    reflect     v = -i near the low end, v = 2(size - 1) - i near the high end
    circular    v = i - size near the high end, v = i + size near the low end
    replicate   v = -1, -2, .. for i = 0, and v = size, size + 1, .. for i = size - 1

Each is an affine map of i, so a residue class of positions keeps one tap list for each image.
"""

import triton
import triton.language as tl

from ._index import in_range


@triton.jit
def fold(position, size, BORDER: tl.constexpr):
    """The position that is read in place of `position`, along one axis."""
    if BORDER == "reflect":
        position = tl.where(position < 0, -position, position)
        return tl.where(position >= size, 2 * (size - 1) - position, position)
    elif BORDER == "replicate":
        return tl.minimum(tl.maximum(position, 0), size - 1)
    elif BORDER == "circular":
        position = tl.where(position < 0, position + size, position)
        return tl.where(position >= size, position - size, position)
    else:
        return position


@triton.jit
def read_at(position, size, live, BORDER: tl.constexpr):
    """Where a tap at `position` (d, h, w) reads the image, and whether it reads anything."""
    if BORDER == "zeros":
        inside = in_range(position[1], size[1]) & in_range(position[2], size[2])
        live = live & in_range(position[0], size[0]) & inside
    d = fold(position[0], size[0], BORDER)
    h = fold(position[1], size[1], BORDER)
    return d, h, fold(position[2], size[2], BORDER), live


@triton.jit
def images_of_axis(
    pad,
    size,
    outputs,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    BORDER: tl.constexpr,
):
    """`(low, high, last)`: numbers of images below and above, and the last position read."""
    last = (outputs - 1) * STRIDE - pad + (FILTER - 1) * DILATION
    above = tl.maximum(last - (size - 1), 0)
    if BORDER == "replicate":
        return pad, above, last
    else:
        return tl.minimum(pad, 1), tl.minimum(above, 1), last


@triton.jit
def image_counts(
    pad,
    size,
    outputs,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    BORDER: tl.constexpr,
):
    """`images_of_axis` along (D, H, W): low, high and last."""
    low_d, high_d, last_d = images_of_axis(
        pad[0], size[0], outputs[0], FILTER[0], STRIDE[0], DILATION[0], BORDER
    )
    low_h, high_h, last_h = images_of_axis(
        pad[1], size[1], outputs[1], FILTER[1], STRIDE[1], DILATION[1], BORDER
    )
    low_w, high_w, last_w = images_of_axis(
        pad[2], size[2], outputs[2], FILTER[2], STRIDE[2], DILATION[2], BORDER
    )
    return (low_d, low_h, low_w), (high_d, high_h, high_w), (last_d, last_h, last_w)


@triton.jit
def image_of(image, position, low, pad, last, size, BORDER: tl.constexpr):
    """`(sign, offset, ok)` along one axis: image number `image` of i is sign*i + offset, which a
    window reaches for those of `position` that are `ok`. Number 0 is i itself."""
    sign = image * 0 + 1
    offset = image * 0
    ok = position == position  # noqa: PLR0124
    is_low = (image > 0) & (image <= low)
    is_high = image > low
    if BORDER == "reflect":
        sign = tl.where(image == 0, 1, -1)
        offset = tl.where(is_high, 2 * (size - 1), 0).to(image.dtype)
        # The border itself is no image of itself.
        ok = tl.where(is_low, position > 0, ok)
        ok = tl.where(is_high, position < size - 1, ok)
    elif BORDER == "circular":
        offset = tl.where(is_low, -size, tl.where(is_high, size, 0)).to(image.dtype)
    elif BORDER == "replicate":
        offset = tl.where(is_low, -image, tl.where(is_high, image - low, 0)).to(image.dtype)
        ok = tl.where(is_low, position == 0, ok)
        ok = tl.where(is_high, position == size - 1, ok)
    sign = sign.to(image.dtype)
    seen = sign * position + offset
    return sign, offset, ok & (seen >= -pad) & (seen <= last)


@triton.jit
def image_walk(
    image,
    residue,
    step,
    position,
    row_ok,
    pad,
    size,
    outputs,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    BORDER: tl.constexpr,
):
    """`(live, anchor, walk)`: image number `image` of the class `residue` starts at `anchor`, its
    source moves by `walk` from one position to the next, and a row takes part if it is `live`."""
    low, high, last = image_counts(pad, size, outputs, FILTER, STRIDE, DILATION, BORDER)
    images_h, images_w = 1 + low[1] + high[1], 1 + low[2] + high[2]
    e_d, e_h, e_w = image // (images_h * images_w), (image // images_w) % images_h, image % images_w
    sign_d, off_d, ok_d = image_of(e_d, position[0], low[0], pad[0], last[0], size[0], BORDER)
    sign_h, off_h, ok_h = image_of(e_h, position[1], low[1], pad[1], last[1], size[1], BORDER)
    sign_w, off_w, ok_w = image_of(e_w, position[2], low[2], pad[2], last[2], size[2], BORDER)
    anchor = (
        sign_d * residue[0] + off_d,
        sign_h * residue[1] + off_h,
        sign_w * residue[2] + off_w,
    )
    walk = (sign_d * step[0], sign_h * step[1], sign_w * step[2])
    return row_ok & ok_d & ok_h & ok_w, anchor, walk


@triton.jit
def image_total(
    pad,
    size,
    outputs,
    FILTER: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    BORDER: tl.constexpr,
):
    """Number of images of a position, itself included."""
    low, high, _ = image_counts(pad, size, outputs, FILTER, STRIDE, DILATION, BORDER)
    return (1 + low[0] + high[0]) * (1 + low[1] + high[1]) * (1 + low[2] + high[2])
