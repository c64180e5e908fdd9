"""Which of two records of one key is better: one total order, so that merging has no history."""

import re
from collections.abc import Iterable
from functools import cmp_to_key
from typing import Any

import msgspec

from .config import Candidate
from .parts import joined
from .records import Record, encode

# The hashes of the kernels that are installed; empty where a merge knows of none.
Current = frozenset[str]


def merge(a: Record, b: Record, current: Current = frozenset()) -> Record:
    """The better record of a key, with the failures of both.

    Commutative, associative and idempotent for any one `current`. Better is, in this order: checked
    for correctness; of kernels in `current`; of a newer Triton; a higher speed-up over the default
    of the same run; more samples; newer; the smaller candidate; and last its bytes, so that no two
    different records are equal. Raises ValueError if the keys differ.
    """
    if a.key.key().digest != b.key.key().digest:
        raise ValueError("merge: expected two records of one key, got two keys; group them first")
    first, second = _body(a), _body(b)
    better = max(first, second, key=lambda record: rank(record, current))
    return msgspec.structs.replace(better, failures=joined((*a.failures, *b.failures)))


def merge_all(records: Iterable[Record], current: Current = frozenset()) -> dict[str, Record]:
    """One record a key, by the key's digest."""
    merged: dict[str, Record] = {}
    for record in records:
        name = record.key.key().digest
        merged[name] = merge(merged[name], record, current) if name in merged else record
    return merged


def rank(record: Record, current: Current = frozenset()) -> tuple[Any, ...]:
    """What the order compares: larger is better."""
    body = _body(record)
    return (
        body.validated,
        body.build is not None and body.build.kernels in current,
        _version(body.build.triton if body.build else ""),
        body.speedup,
        body.samples,
        body.created,
        _descending(body.best.candidate()),
        encode(body),
    )


# Failures say nothing about what is best, and are joined, not chosen.
def _body(record: Record) -> Record:
    return msgspec.structs.replace(record, failures=()) if record.failures else record


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall("[0-9]+", text))


def _smaller_first(a: Candidate, b: Candidate) -> int:
    return (a < b) - (a > b)


_descending = cmp_to_key(_smaller_first)
