"""What a search measured, candidate by candidate: raw, beside the record, and dispensable."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from . import files
from .layers import Warn
from .parts import CandidateRecord, Strict
from .records import LIMIT, Microseconds, RecordError, Text
from .task import FailureKind


class Trial(Strict, frozen=True, kw_only=True):
    """One candidate: its times in microseconds, in the order they were taken, or its failure."""

    candidate: CandidateRecord
    times: Annotated[tuple[Microseconds, ...], Meta(max_length=10_000)] = ()
    failure: FailureKind | None = None
    detail: Text = ""


_DECODER = msgspec.json.Decoder(Trial)


def write_trials(path: Path, trials: Iterable[Trial]) -> None:
    """Write trials in the place of those that are there. Raises OSError, RecordError."""
    lines = [msgspec.json.encode(trial, order="deterministic") for trial in trials]
    if any(len(line) > LIMIT for line in lines):
        raise RecordError(f"a trial of more than {LIMIT} bytes")
    files.replace(path, b"".join(line + b"\n" for line in lines))


def read_trials(path: Path, warn: Warn) -> list[Trial]:
    """The trials of a file, as far as it can be read; one warning if that is not all."""
    found = []
    try:
        for line in files.lines(path):
            found.append(_DECODER.decode(line))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, RecursionError) as error:
        warn(path, f"cannot be read further, {error}; it may be deleted")
    return found
