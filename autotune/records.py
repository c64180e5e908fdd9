"""The record of one search: strict, versioned, and checked wherever it comes from.

`python -m autotune.records` writes the published JSON Schema, `record.schema.json`.
"""

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import force_setattr

from .config import Candidate
from .key import Key
from .parts import (
    MOST_FAILURES,
    BuildRecord,
    CandidateRecord,
    Count,
    FailureRecord,
    KeyRecord,
    Name,
    Strict,
    Text,
    joined,
)
from .task import Build, Failure, FailureKind, Outcome

SCHEMA = 1
# Bytes of one record. A real one has about 1,000; a hostile one must not fill memory.
LIMIT = 1 << 20
SCHEMA_FILE = Path(__file__).with_name("record.schema.json")

MOST_TIES = 64
_MOST_DETAIL = 500
# A failure is believed while these are what they were.
FAILURE_ENVIRONMENT = ("driver", "torch")
_EPOCH = "1970-01-01T00:00:00Z"

Microseconds: TypeAlias = Annotated[float, Meta(gt=0, le=1e12)]
Created: TypeAlias = Annotated[
    str, Meta(max_length=20, pattern=r"^\d{4}-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-6]\dZ$")
]


class RecordError(ValueError):
    """These bytes are not a record that this version can use; the message says why."""


class Record(Strict, frozen=True, kw_only=True):
    """What a search found, or what someone wrote by hand: then `key` and `best` suffice.

    Times are medians in microseconds, None where nothing was measured. `timing` names the method
    ("l2-cold,cuda-graph"), `validated` says that results were compared with a reference.
    `environment` is provenance and decides nothing.
    """

    schema: Literal[1] = SCHEMA
    key: KeyRecord
    best: CandidateRecord
    default: CandidateRecord | None = None
    best_us: Microseconds | None = None
    default_us: Microseconds | None = None
    noise: Annotated[float, Meta(ge=0, le=1e3)] = 0.0
    samples: Count = 0
    timing: Text = ""
    ties: Annotated[tuple[CandidateRecord, ...], Meta(max_length=MOST_TIES)] = ()
    build: BuildRecord | None = None
    validated: bool = False
    failures: Annotated[tuple[FailureRecord, ...], Meta(max_length=MOST_FAILURES)] = ()
    environment: dict[Name, Text] = field(default_factory=dict)
    created: Created = _EPOCH

    def __post_init__(self) -> None:
        # JSON knows no NaN: it would be written as null, which means "not measured".
        for name in ("best_us", "default_us", "noise"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name}: expected a finite number, got {value}")
        # So that merging a record with itself changes nothing, whoever wrote it.
        force_setattr(self, "failures", joined(self.failures))

    @classmethod
    def of(
        cls,
        key: Key,
        outcome: Outcome,
        build_of: Callable[[Candidate], Build],
        timing: str,
        environment: Mapping[str, str],
        validated: bool = True,
    ) -> "Record":
        """The record of a search that ends now. Raises RecordError if it could not be read back."""
        expiry = {name: environment[name] for name in FAILURE_ENVIRONMENT if name in environment}
        # The problem's own rules say again, for nothing, what is illegal.
        failures = [
            FailureRecord(
                candidate=CandidateRecord.of(candidate),
                kind=failure.kind,
                detail=_printable(failure.detail),
                build=BuildRecord.of(build_of(candidate)),
                environment=expiry,
            )
            for candidate, failure in outcome.failures.items()
            if failure.kind is not FailureKind.ILLEGAL
        ]
        try:
            record = cls(
                key=KeyRecord.of(key),
                best=CandidateRecord.of(outcome.best),
                default=CandidateRecord.of(outcome.default),
                best_us=outcome.times.get(outcome.best),
                default_us=outcome.times.get(outcome.default),
                noise=outcome.noise,
                samples=outcome.samples.get(outcome.best, 0),
                timing=timing,
                ties=tuple(CandidateRecord.of(c) for c in sorted(outcome.ties)[:MOST_TIES]),
                build=BuildRecord.of(build_of(outcome.best)),
                validated=validated,
                failures=tuple(failures),
                environment={name: _printable(environment[name]) for name in environment},
                created=now(),
            )
        except ValueError as error:
            raise RecordError(str(error)) from None
        return decode(encode(record))

    def outcome(self) -> Outcome:
        """The search's outcome, as far as it is kept."""
        best = self.best.candidate()
        default = self.default.candidate() if self.default else best
        measured = ((default, self.default_us), (best, self.best_us))
        return Outcome(
            best=best,
            default=default,
            times={candidate: time for candidate, time in measured if time is not None},
            samples={best: self.samples} if self.samples else {},
            failures={f.candidate.candidate(): Failure(f.kind, f.detail) for f in self.failures},
            ties=tuple(tie.candidate() for tie in self.ties),
            noise=self.noise,
        )

    @property
    def speedup(self) -> float:
        """Of the best over the default, measured in the same run; 1 where nothing was measured."""
        if self.best_us is None or self.default_us is None:
            return 1.0
        return self.default_us / self.best_us

    def remembered(
        self, build_of: Callable[[Candidate], Build], environment: Mapping[str, str]
    ) -> dict[Candidate, Failure]:
        """Failures that a search need not see again: build and environment are what they were.

        A device that ran out of memory is none of them: another process may have held it.
        """
        found = {}
        for failure in self.failures:
            candidate = failure.candidate.candidate()
            if (
                failure.kind is not FailureKind.MEMORY
                and failure.build.build() == build_of(candidate)
                and all(environment.get(n) == value for n, value in failure.environment.items())
            ):
                found[candidate] = Failure(failure.kind, failure.detail)
        return found


def encode(record: Record) -> bytes:
    """One line of JSON, the same for equal records. Raises RecordError if it is too long."""
    try:
        data = msgspec.json.encode(record, order="deterministic")
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordError(f"not JSON: {error}") from None
    if len(data) > LIMIT:
        raise RecordError(f"{len(data)} bytes, more than the {LIMIT} that a record may have")
    return data


_DECODER = msgspec.json.Decoder(Record)


def decode(data: bytes, digest: str | None = None, family: str | None = None) -> Record:
    """The record in `data`, whose key must have that digest and family if they are given.

    Raises RecordError, and nothing else, whatever the bytes are.
    """
    if len(data) > LIMIT:
        raise RecordError(f"{len(data)} bytes, more than the {LIMIT} that a record may have")
    if not data.strip():
        raise RecordError("empty")
    try:
        record = _DECODER.decode(data)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise RecordError(_reason(data, error)) from None
    if digest is not None or family is not None:
        key = record.key.key()
        if (digest or key.digest) != key.digest or (family or key.family) != key.family:
            raise RecordError(f"named for another key: its own is {key.digest}")
    return record


def now() -> str:
    """UTC in ISO format, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def json_schema() -> bytes:
    """The JSON Schema of a record, as published."""
    schema = msgspec.json.schema(Record)
    return msgspec.json.format(msgspec.json.encode(schema, order="sorted"), indent=2) + b"\n"


class _Header(Struct):
    schema: int


def _reason(data: bytes, error: Exception) -> str:
    """Why the bytes are not a record; a newer version's ones may differ in anything else."""
    try:
        schema = msgspec.json.decode(data, type=_Header).schema
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return str(error) or type(error).__name__
    if schema > SCHEMA:
        return f"written by a newer version (schema {schema}, this reads {SCHEMA})"
    if schema < SCHEMA:
        return f"schema {schema} never was; this reads {SCHEMA}"
    return str(error)


def _printable(text: str) -> str:
    """As much of a message as a record keeps; what UTF-8 cannot say becomes a question mark."""
    return text.encode("utf-8", "replace").decode()[:_MOST_DETAIL]


if __name__ == "__main__":
    SCHEMA_FILE.write_bytes(json_schema())
