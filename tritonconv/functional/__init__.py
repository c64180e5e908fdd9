"""Convolution and pooling with the arguments of torch.nn.functional, and more kinds of both.

    conv                   one bank of filters for all positions
    conv_transpose         its adjoint
    unshared_conv          a bank of its own for each position; unshared_conv_transpose its adjoint
    tiled_conv             banks that take turns
    separable_conv         a channel at a time, filters that are outer products: factor_separable
    depthwise_separable_conv   a channel at a time, then the channels mixed
    conv_pool              convolution, activation and pooling as one layer
    causal_conv1d          looks back only, in chunks

Each but the last for one, two and three spatial axes. `conv1d` explains the options that they
share.

    max_pool, avg_pool     as torch's; max_unpool
    lp_pool, l2_pool       the p-norm of each window, of a p that may learn
    weighted_pool          an average by distance from the centre
    adaptive_max_pool, adaptive_avg_pool, global_max_pool, global_avg_pool, global_lp_pool
    maxout, cross_channel_pool   windows over channels

The first three lines for one, two and three spatial axes, as are the adaptive pools. `max_pool1d`
explains the options that they share.
"""

from .adaptive_pool import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
    global_avg_pool,
    global_lp_pool,
    global_max_pool,
)
from .causal import causal_conv1d
from .channel_pool import cross_channel_pool, maxout
from .conv import conv1d, conv2d, conv3d
from .conv_pool import conv_pool1d, conv_pool2d, conv_pool3d
from .depthwise_separable import (
    depthwise_separable_conv1d,
    depthwise_separable_conv2d,
    depthwise_separable_conv3d,
)
from .lp_pool import l2_pool1d, l2_pool2d, l2_pool3d, lp_pool1d, lp_pool2d, lp_pool3d
from .pool import avg_pool1d, avg_pool2d, avg_pool3d, max_pool1d, max_pool2d, max_pool3d
from .separable import factor_separable, separable_conv1d, separable_conv2d, separable_conv3d
from .tiled import tiled_conv1d, tiled_conv2d, tiled_conv3d
from .transpose import conv_transpose1d, conv_transpose2d, conv_transpose3d
from .unpool import max_unpool1d, max_unpool2d, max_unpool3d
from .unshared import (
    unshared_conv1d,
    unshared_conv2d,
    unshared_conv3d,
    unshared_conv_transpose1d,
    unshared_conv_transpose2d,
    unshared_conv_transpose3d,
)
from .weighted_pool import weighted_pool1d, weighted_pool2d, weighted_pool3d

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "causal_conv1d",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_pool1d",
    "conv_pool2d",
    "conv_pool3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cross_channel_pool",
    "depthwise_separable_conv1d",
    "depthwise_separable_conv2d",
    "depthwise_separable_conv3d",
    "factor_separable",
    "global_avg_pool",
    "global_lp_pool",
    "global_max_pool",
    "l2_pool1d",
    "l2_pool2d",
    "l2_pool3d",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "maxout",
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
    "weighted_pool1d",
    "weighted_pool2d",
    "weighted_pool3d",
]
