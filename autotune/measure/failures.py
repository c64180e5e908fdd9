"""What an exception says of a candidate, by its name and its text.

By name, because neither torch nor Triton is imported here.
"""

from collections.abc import Iterator

from ..task import Failure, FailureKind

# After one of these every later call on the device fails too, in this process.
_POISON = (
    "illegal memory access",
    "illegal address",
    "illegal instruction",
    "misaligned address",
    "device-side assert",
    "unspecified launch failure",
    "hardware exception",
    "launch timed out",
    "ecc error",
)
_DETAIL = 1000


def failure_of(error: BaseException, compiling: bool) -> Failure:
    """The failure of a candidate that raised, or whose error was caused by what was raised."""
    return Failure(_kind(error, compiling), _text(error)[:_DETAIL])


def poisons(error: BaseException) -> bool:
    """Whether the process can no longer use the device after this."""
    return any(sign in _text(cause).lower() for cause in _causes(error) for sign in _POISON)


def _kind(error: BaseException, compiling: bool) -> FailureKind:
    for cause in _causes(error):
        names = {base.__name__ for base in type(cause).__mro__}
        # Torch's has a name of its own; the driver's is an error like any other but for its text.
        if names & {"OutOfMemoryError", "MemoryError"} or "out of memory" in _text(cause).lower():
            return FailureKind.MEMORY
        if "OutOfResources" in names:
            return FailureKind.RESOURCES
    return FailureKind.COMPILE if compiling else FailureKind.ERROR


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        yield cause
        seen.add(id(cause))
        cause = cause.__cause__


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
