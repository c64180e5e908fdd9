"""What is out before it is ever launched."""

from collections.abc import Container, Iterable, Mapping

from ..config import Candidate
from ..task import Artefacts, Failure, FailureKind, Limits


def excess(artefacts: Artefacts, limits: Limits) -> str | None:
    """What a device cannot give to a compiled candidate; None if it has everything."""
    if artefacts.shared > limits.shared:
        return f"shared memory: {artefacts.shared} bytes, the device has {limits.shared}"
    if artefacts.registers > limits.registers:
        return f"registers: {artefacts.registers} a thread, the device has {limits.registers}"
    return None


def prune(
    compiled: Mapping[Candidate, Artefacts | Failure],
    limits: Limits,
    may_spill: Container[Candidate] = (),
) -> dict[Candidate, Failure]:
    """The candidates that are out, and why: they do not compile, take too much, or spill.

    Spilling is slow, not wrong: what is in `may_spill` (the default) stays in all the same.
    """
    out: dict[Candidate, Failure] = {}
    for candidate, found in compiled.items():
        if isinstance(found, Failure):
            out[candidate] = found
            continue
        detail = excess(found, limits)
        if detail is None and found.spills > 0 and candidate not in may_spill:
            detail = f"spills: {found.spills} registers"
        if detail is not None:
            out[candidate] = Failure(FailureKind.RESOURCES, detail)
    return out


def without(candidates: Iterable[Candidate], failures: Container[Candidate]) -> list[Candidate]:
    """Those that are not among the failures, in their order, each once."""
    return [c for c in dict.fromkeys(candidates) if c not in failures]
