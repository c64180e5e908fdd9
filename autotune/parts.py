"""What records are made of: keys, candidates, builds and failures, as strict structs."""

import math
from collections.abc import Iterable
from typing import Annotated, Any, TypeAlias

from msgspec import Meta, Struct, field
from msgspec.structs import force_setattr

from .config import Candidate, Config
from .key import Gpu, Key, frozen
from .task import Build, FailureKind

MOST_FAILURES = 128
_DEEPEST = 8
_LARGEST = 1 << 62

# No control characters, the last newline that Python's `$` overlooks included.
Name: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$(?!\n)")
]
Text: TypeAlias = Annotated[str, Meta(max_length=2000)]
Integer: TypeAlias = Annotated[int, Meta(ge=-_LARGEST, le=_LARGEST)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=_LARGEST)]
# Lists may hold lists; `KeyRecord` looks into them.
FieldValue: TypeAlias = bool | int | float | str | tuple[Any, ...] | None


class Strict(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Names exactly as declared, values never changed."""


class GpuRecord(Strict, frozen=True, kw_only=True):
    """A `Gpu`."""

    vendor: Name
    arch: Name
    model: Name
    multiprocessors: Count


class KeyRecord(Strict, frozen=True, kw_only=True):
    """A `Key`: names to values in place of sorted pairs."""

    provider: Name
    op: Name
    fields: dict[Name, FieldValue]
    sizes: dict[Name, Count]
    gpu: GpuRecord

    def __post_init__(self) -> None:
        for name, value in self.fields.items():
            _check_value(name, value, 0)
        force_setattr(self, "fields", {name: frozen(self.fields[name]) for name in self.fields})

    @classmethod
    def of(cls, key: Key) -> "KeyRecord":
        """The record of a key."""
        gpu = key.gpu
        return cls(
            provider=key.provider,
            op=key.op,
            fields=dict(key.fields),
            sizes=dict(key.sizes),
            gpu=GpuRecord(
                vendor=gpu.vendor,
                arch=gpu.arch,
                model=gpu.model,
                multiprocessors=gpu.multiprocessors,
            ),
        )

    def key(self) -> Key:
        """The key again."""
        gpu = Gpu(self.gpu.vendor, self.gpu.arch, self.gpu.model, self.gpu.multiprocessors)
        return Key.of(self.provider, self.op, self.fields, self.sizes, gpu)


class CandidateRecord(Strict, frozen=True, kw_only=True):
    """A `Candidate`, flat."""

    variant: Name
    constants: dict[Name, Integer]
    num_warps: Annotated[int, Meta(ge=1, le=1024)]
    num_stages: Annotated[int, Meta(ge=0, le=1024)]

    @classmethod
    def of(cls, candidate: Candidate) -> "CandidateRecord":
        """The record of a candidate."""
        variant, config = candidate
        return cls(
            variant=variant,
            constants=dict(config.constants),
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )

    def candidate(self) -> Candidate:
        """The candidate again."""
        constants = tuple(sorted(self.constants.items()))
        return Candidate(self.variant, Config(constants, self.num_warps, self.num_stages))


class BuildRecord(Strict, frozen=True, kw_only=True):
    """A `Build`."""

    kernels: Name
    triton: Name

    @classmethod
    def of(cls, build: Build) -> "BuildRecord":
        """The record of a build."""
        return cls(kernels=build.kernels, triton=build.triton)

    def build(self) -> Build:
        """The build again."""
        return Build(self.kernels, self.triton)


class FailureRecord(Strict, frozen=True, kw_only=True):
    """A candidate that failed, and what the failure is true of."""

    candidate: CandidateRecord
    kind: FailureKind
    detail: Text = ""
    build: BuildRecord
    environment: dict[Name, Text] = field(default_factory=dict)


def joined(failures: Iterable[FailureRecord]) -> tuple[FailureRecord, ...]:
    """One a candidate, build and environment, sorted; the first of them if there are too many."""
    found: dict[tuple[Any, ...], FailureRecord] = {}
    for failure in failures:
        name = _identity(failure)
        found[name] = max(found.get(name, failure), failure, key=lambda f: (f.kind.value, f.detail))
    return tuple(found[name] for name in sorted(found)[:MOST_FAILURES])


def _identity(failure: FailureRecord) -> tuple[Any, ...]:
    environment = tuple(sorted(failure.environment.items()))
    build = failure.build
    return (failure.candidate.candidate(), build.kernels, build.triton, environment)


def _check_value(name: str, value: Any, depth: int) -> None:
    """Raise ValueError unless a key can be made, and hashed, from the value."""
    if depth > _DEEPEST:
        raise ValueError(f"fields.{name}: lists in lists, more than {_DEEPEST} deep")
    if isinstance(value, (list, tuple)):
        for item in value:
            _check_value(name, item, depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"fields.{name}: expected a finite number, got {value}")
    elif isinstance(value, int):
        if abs(value) > _LARGEST:
            raise ValueError(f"fields.{name}: expected at most 2^62, got more")
    elif not isinstance(value, str) and value is not None:
        raise ValueError(f"fields.{name}: expected no {type(value).__name__}")
