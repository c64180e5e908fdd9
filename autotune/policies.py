"""What a call may do to find its config.

off        the analytic choice; no record is read
cached     a record that was measured for this very problem, else the analytic choice
heuristic  also a record of a near problem or a sibling device (the default)
tune       as heuristic, but a problem without a record of its own is tuned now, once
strict     a current record of this very problem, or an error that says what is missing

The policy in force is the innermost `with policy(...)`, else what `set_policy` was told, else the
environment variable AUTOTUNE_POLICY, else heuristic.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum

VARIABLE = "AUTOTUNE_POLICY"


class Policy(str, Enum):
    """What a call may do to find its config."""

    OFF = "off"
    CACHED = "cached"
    HEURISTIC = "heuristic"
    TUNE = "tune"
    STRICT = "strict"


# Plain strings: they are part of every look-up of a plan, and an Enum's hash is slow.
_inner: ContextVar[str | None] = ContextVar("autotune_policy", default=None)
_process: list[str | None] = [None]


def current() -> str:
    """The name of the policy in force in this thread."""
    return _inner.get() or _process[0] or _from_environment()


@contextmanager
def policy(name: str | Policy) -> Iterator[None]:
    """`name` inside the block, or in every call of a function that this decorates.

    Raises ValueError for an unknown name.
    """
    token = _inner.set(_checked(name, "policy"))
    try:
        yield
    finally:
        _inner.reset(token)


def set_policy(name: str | Policy | None) -> None:
    """`name` in the whole process from now on; None goes back to the environment's.

    Raises ValueError for an unknown name.
    """
    _process[0] = None if name is None else _checked(name, "policy")


def _from_environment() -> str:
    """Read once: the environment of a running process does not change by itself."""
    name = os.environ.get(VARIABLE, "")
    _process[0] = _checked(name, VARIABLE) if name else Policy.HEURISTIC.value
    return _process[0]


def _checked(name: str | Policy, where: str) -> str:
    try:
        return Policy(name).value
    except ValueError:
        names = ", ".join(p.value for p in Policy)
        raise ValueError(f"{where}: expected one of {names}, got {name!r}") from None
