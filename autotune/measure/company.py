"""Who else is on the GPU, read from what the driver's tools print."""

import re
import shutil
import subprocess
from collections.abc import Collection

_UNKNOWN = "it is not known whether another process uses the GPU"


def disturbance(listed: set[int] | None, own: Collection[int]) -> str | None:
    """A sentence on processes on the GPU besides `own`; None if there are none.

    `own[0]` is this process, which uses the GPU: a list without it comes from another namespace
    of process ids, so nothing can be said.
    """
    own = list(own)
    if listed is None or own[0] not in listed:
        return f"{_UNKNOWN}: times may be off if one does"
    others = sorted(listed - set(own))
    if not others:
        return None
    return f"other processes are on the GPU ({', '.join(map(str, others))}): times may be off"


def torch_list(printed: str) -> set[int] | None:
    """Process ids of `torch.cuda.list_gpu_processes`; None if it had no way to know."""
    if not printed.startswith("GPU:"):
        return None
    return {int(pid) for pid in re.findall(r"^process\s+(\d+) uses", printed, re.MULTILINE)}


def smi_list(uuid: str) -> set[int] | None:
    """Process ids that `nvidia-smi` sees on a GPU; None if there is no such program."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, f"--id={uuid}", "--query-compute-apps=pid", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return {int(line) for line in done.stdout.split() if line.isdigit()}
