"""What a tuning record answers: a problem on a device."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

Value: TypeAlias = "bool | int | float | str | tuple[Value, ...] | None"


@dataclass(frozen=True, order=True)
class Gpu:
    """A GPU model: `vendor` "cuda" or "hip", `arch` like "sm_90" or "gfx942", the marketing name,
    and its number of multiprocessors."""

    vendor: str
    arch: str
    model: str
    multiprocessors: int


@dataclass(frozen=True)
class Key:
    """One problem on one device.

    `provider` names the library that can build the problem again, `op` what is computed.
    `fields` must match for a record to be of use; `sizes` may be near. Both are pairs by name,
    sorted, and together they say everything: the problem can be built again from them.
    """

    provider: str
    op: str
    fields: tuple[tuple[str, Value], ...]
    sizes: tuple[tuple[str, int], ...]
    gpu: Gpu

    @classmethod
    def of(
        cls,
        provider: str,
        op: str,
        fields: Mapping[str, Any],
        sizes: Mapping[str, int],
        gpu: Gpu,
    ) -> "Key":
        """Build a key; lists become tuples, names are sorted."""
        pairs = tuple((name, frozen(fields[name])) for name in sorted(fields))
        return cls(provider, op, pairs, tuple(sorted(sizes.items())), gpu)

    @cached_property
    def family(self) -> str:
        """Digest of what must match, the device's model aside: vendor and arch count."""
        gpu = (self.gpu.vendor, self.gpu.arch)
        return digest((self.provider, self.op, self.fields, gpu, [name for name, _ in self.sizes]))

    @cached_property
    def digest(self) -> str:
        """Digest of the whole key: the name of its record."""
        gpu = self.gpu
        whole = (gpu.vendor, gpu.arch, gpu.model, gpu.multiprocessors)
        return digest((self.provider, self.op, self.fields, self.sizes, whole))

    def differences(self, other: "Key") -> dict[str, tuple[Any, Any]]:
        """The names on which two keys differ, with both values; None where a name is missing."""
        found: dict[str, tuple[Any, Any]] = {}
        for name in ("provider", "op", "gpu"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                found[name] = (mine, theirs)
        for own, others in ((self.fields, other.fields), (self.sizes, other.sizes)):
            a, b = dict(own), dict(others)
            for name in sorted(a.keys() | b.keys()):
                if _canonical(a.get(name)) != _canonical(b.get(name)):
                    found[name] = (a.get(name), b.get(name))
        return found

    def __str__(self) -> str:
        sizes = " ".join(f"{name}={value}" for name, value in self.sizes)
        return f"{self.op} {sizes} on {self.gpu.model}"


def frozen(value: Any) -> Value:
    """`value` with tuples for lists, at any depth."""
    return tuple(frozen(v) for v in value) if isinstance(value, (list, tuple)) else value


def digest(value: Any) -> str:
    """32 hexadecimal digits that depend on a JSON value and on nothing else."""
    return hashlib.blake2b(_canonical(value).encode(), digest_size=16).hexdigest()


def _canonical(value: Any) -> str:
    # 1, 1.0 and True are equal in Python, and mean different problems.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
