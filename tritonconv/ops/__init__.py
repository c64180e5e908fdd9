"""Registration of the library's operators under `torch.ops.tritonconv`."""

from . import conv, fused, separable

SCHEMAS = conv.SCHEMAS | fused.SCHEMAS | separable.SCHEMAS

__all__ = ["SCHEMAS"]
