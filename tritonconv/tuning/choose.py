"""The run-time choice, with this library's records."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from autotune import Candidate, Key

from ..device import Device
from ..launch import interpreting
from .builds import build_of

if TYPE_CHECKING:
    from autotune.resolve import Resolver
    from autotune.store import Store

# Where a worker, and the command line, find this library's problems.
PROVIDER = "tritonconv.provider:PROVIDER"
SHIPPED = Path(__file__).parent.parent / "tuned"


class Chosen(NamedTuple):
    """A candidate, where it came from, and more of that for people."""

    candidate: Candidate
    source: str
    note: str


def choose(
    key_of: Callable[[], Key],
    device: Device,
    default: Candidate,
    legal: Callable[[Candidate], bool],
) -> Chosen:
    """The candidate to launch. Records are re-validated with `legal`.

    A pinned one comes first. In the interpreter nothing is measured, so no record says anything:
    the choice is analytic, and the key, which costs a little, is not even made. Raises autotune's
    NoRecord under the policy "strict".
    """
    if _PINNED:
        pinned = _PINNED.get(key_of().digest)
        if pinned is not None and legal(pinned):
            return Chosen(pinned, "pinned", "")
    if device.vendor == "interpreter":
        return Chosen(default, "analytic", "nothing is measured in the interpreter")
    from autotune.resolve import Query

    found = resolver().choose(Query(key_of(), default, legal, build_of))
    return Chosen(found.candidate, found.source, found.note)


@cache
def resolver() -> "Resolver":
    """This process's choices. Made when the first plan for a GPU is: imports nothing before."""
    from autotune.resolve import Resolver

    return Resolver(PROVIDER, records, may_tune)


def records() -> "Store":
    """The records that choices are made from: the user's, and those that ship with the library."""
    from autotune.store import Store

    return Store(shipped=SHIPPED)


def may_tune() -> str | None:
    """None, or why nothing can be measured at this moment."""
    if interpreting():
        return "Triton interprets"
    if torch.compiler.is_compiling():
        return "torch.compile is tracing"
    if not torch.cuda.is_available():
        return "there is no GPU"
    if torch.cuda.is_current_stream_capturing():
        return "a CUDA graph is being captured"
    return None


_PINNED: dict[str, Candidate] = {}


def pin(key: Key, candidate: Candidate | None) -> None:
    """Use a candidate for a problem in this process, whatever the records say; None ends it.

    Plans that were already made stay as they are.
    """
    if candidate is None:
        _PINNED.pop(key.digest, None)
    else:
        _PINNED[key.digest] = candidate
