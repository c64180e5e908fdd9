"""Convolution functions with the arguments of torch.nn.functional, and more kinds of convolution.

    conv                   one bank of filters for all positions
    conv_transpose         its adjoint
    unshared_conv          a bank of its own for each position; unshared_conv_transpose its adjoint
    tiled_conv             banks that take turns
    separable_conv         a channel at a time, filters that are outer products: factor_separable
    depthwise_separable_conv   a channel at a time, then the channels mixed
    causal_conv1d          looks back only, in chunks

Each but the last for one, two and three spatial axes. `conv1d` explains the options that they
share.
"""

from .causal import causal_conv1d
from .conv import conv1d, conv2d, conv3d
from .depthwise_separable import (
    depthwise_separable_conv1d,
    depthwise_separable_conv2d,
    depthwise_separable_conv3d,
)
from .separable import factor_separable, separable_conv1d, separable_conv2d, separable_conv3d
from .tiled import tiled_conv1d, tiled_conv2d, tiled_conv3d
from .transpose import conv_transpose1d, conv_transpose2d, conv_transpose3d
from .unshared import (
    unshared_conv1d,
    unshared_conv2d,
    unshared_conv3d,
    unshared_conv_transpose1d,
    unshared_conv_transpose2d,
    unshared_conv_transpose3d,
)

__all__ = [
    "causal_conv1d",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "depthwise_separable_conv1d",
    "depthwise_separable_conv2d",
    "depthwise_separable_conv3d",
    "factor_separable",
    "separable_conv1d",
    "separable_conv2d",
    "separable_conv3d",
    "tiled_conv1d",
    "tiled_conv2d",
    "tiled_conv3d",
    "unshared_conv1d",
    "unshared_conv2d",
    "unshared_conv3d",
    "unshared_conv_transpose1d",
    "unshared_conv_transpose2d",
    "unshared_conv_transpose3d",
]
