"""Where a record lies: names of folders and files, safe whatever a key says."""

import re
from pathlib import Path

from .key import Gpu, Key

# Of the layout below; a record says its own schema.
LAYOUT = "v1"
RECORD = re.compile(r"[0-9a-f]{32}\.json")
TRIALS = re.compile(r"[0-9a-f]{32}\.trials\.jsonl")
_LONGEST = 48


def slug(text: str) -> str:
    """`text` in lower case, with a hyphen for whatever is not a letter, digit, _ or -.

    Different texts may meet in one slug. That is harmless: a record is believed for its key.
    """
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")[:_LONGEST] or "unnamed"


def family_folder(key: Key) -> Path:
    """Of all records that differ in sizes and device model alone, below the folder of records."""
    arch = f"{slug(key.gpu.vendor)}-{slug(key.gpu.arch)}"
    return Path(LAYOUT, arch, slug(key.op), key.family)


def pack_prefix(gpu: Gpu) -> str:
    """How the names of packs begin that hold records of this architecture."""
    return f"{slug(gpu.vendor)}-{slug(gpu.arch)}-"


def pack_suffix(op: str) -> str:
    """How the names of packs end that hold records of this op."""
    return f".{slug(op)}.jsonl"


def pack_name(gpu: Gpu, op: str) -> str:
    """The pack of a device model and an op, such as `cuda-sm_90-nvidia-h200-132.conv.jsonl`."""
    return f"{pack_prefix(gpu)}{slug(gpu.model)}-{gpu.multiprocessors}{pack_suffix(op)}"
