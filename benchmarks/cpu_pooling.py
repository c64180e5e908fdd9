"""Pooling on a CPU, against torch's function or the composition that a user would write.

`benchmarks.cpu` prints these after the rest of the family. Inputs to torch's `lp_pool` of p = 3 are
made positive: of negative ones its answer is another.
"""

from torch.nn import functional as T

from tritonconv import functional as F

from .cpu_family import Pair

IMAGE = (8, 64, 56, 56)
WEIGHTS = (3, 3)
PAIRS = (
    Pair(
        "max 3x3/2, 8x64x56x56: max_pool2d",
        (IMAGE,),
        lambda x: T.max_pool2d(x, 3, 2, 1),
        lambda x: F.max_pool2d(x, 3, 2, 1),
    ),
    Pair(
        "average 2x2, 8x64x56x56: avg_pool2d",
        (IMAGE,),
        lambda x: T.avg_pool2d(x, 2),
        lambda x: F.avg_pool2d(x, 2),
    ),
    Pair(
        "L2 2x2, 8x64x56x56: lp_pool2d",
        (IMAGE,),
        lambda x: T.lp_pool2d(x, 2.0, 2),
        lambda x: F.l2_pool2d(x, 2),
    ),
    Pair(
        "p = 3, 3x3/2, 8x64x56x56: lp_pool2d of |x|",
        (IMAGE,),
        lambda x: T.lp_pool2d(x.abs(), 3.0, 3, 2),
        lambda x: F.lp_pool2d(x.abs(), 3.0, 3, 2),
    ),
    Pair(
        "weighted 3x3/2, 8x64x56x56: depthwise conv2d",
        (IMAGE, WEIGHTS),
        lambda x, w: T.conv2d(x, w.expand(64, 1, 3, 3), stride=2, groups=64),
        lambda x, w: F.weighted_pool2d(x, 3, 2, weights=w, normalize=False),
    ),
    Pair(
        "maxout of 2, 8x64x56x56: unflatten + amax",
        (IMAGE,),
        lambda x: x.unflatten(1, (32, 2)).amax(2),
        lambda x: F.maxout(x, 2),
    ),
)
