"""Registration of the library's operators under `torch.ops.tritonconv`."""

from . import conv, fused, pool, separable

SCHEMAS = conv.SCHEMAS | fused.SCHEMAS | separable.SCHEMAS | pool.SCHEMAS

__all__ = ["SCHEMAS"]
