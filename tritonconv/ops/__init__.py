"""Registration of the library's operators under `torch.ops.tritonconv`."""

from . import conv, conv_pool, fused, pool, separable

SCHEMAS = conv.SCHEMAS | fused.SCHEMAS | separable.SCHEMAS | pool.SCHEMAS | conv_pool.SCHEMAS

__all__ = ["SCHEMAS"]
