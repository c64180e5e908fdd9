"""Registration of the library's operators under `torch.ops.tritonconv`."""

from . import conv, fused

SCHEMAS = conv.SCHEMAS | fused.SCHEMAS

__all__ = ["SCHEMAS"]
