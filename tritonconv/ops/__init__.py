"""Registration of the library's operators under `torch.ops.tritonconv`."""

from . import conv

SCHEMAS = conv.SCHEMAS

__all__ = ["SCHEMAS"]
