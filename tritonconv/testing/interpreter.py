"""Triton's interpreter, made fast enough to test with, and counted."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from triton.runtime import interpreter

from ..launch import BoundLaunch, Launch


@contextmanager
def fast_interpreter() -> Iterator[None]:
    """Interpret without overflow checks, which assert nothing unless Triton's debug option is on,
    and without patching `triton.language` again for every device function inside a launch.

    Together they are about three quarters of a small launch's time. `checked_interpreter` keeps
    both.
    """
    options = interpreter.interpreter_builder.options
    patch = interpreter._patch_lang
    patched: dict[int, Any] = {}

    class Patched:
        """What the interpreter is handed instead of a patch scope: the outermost undoes all."""

        def __init__(self, outermost: bool) -> None:
            self.outermost = outermost

        def restore(self) -> None:
            if self.outermost:
                for scope in reversed(patched.values()):
                    scope.restore()
                patched.clear()

    def patch_once(fn: Any) -> Patched:
        outermost = not patched
        if id(fn.__globals__) not in patched:
            patched[id(fn.__globals__)] = patch(fn)
        return Patched(outermost)

    interpreter.interpreter_builder.options = dataclasses.replace(options, sanitize_overflow=False)
    interpreter._patch_lang = patch_once
    try:
        with np.errstate(divide="ignore"):  # log2(0) is -inf without a word on a GPU, too
            yield
    finally:
        interpreter.interpreter_builder.options = options
        interpreter._patch_lang = patch


@contextmanager
def checked_interpreter() -> Iterator[None]:
    """Interpret with Triton's debug option on: a 32-bit offset that overflows raises."""
    options = interpreter.interpreter_builder.options
    interpreter.interpreter_builder.options = dataclasses.replace(
        options, debug=True, sanitize_overflow=True
    )
    try:
        yield
    finally:
        interpreter.interpreter_builder.options = options


@contextmanager
def counted_launches() -> Iterator[list[Launch]]:
    """The launches that happen inside the block, in order."""
    launches: list[Launch] = []
    run, direct = Launch.run, BoundLaunch.directly

    def counted(self: Launch, tensors: Any) -> Any:
        launches.append(self)
        return run(self, tensors)

    def counted_directly(self: BoundLaunch, *rest: Any) -> None:
        launches.append(self.launch)
        direct(self, *rest)

    Launch.run = counted  # type: ignore[method-assign]
    BoundLaunch.directly = counted_directly  # type: ignore[method-assign]
    try:
        yield launches
    finally:
        Launch.run = run  # type: ignore[method-assign]
        BoundLaunch.directly = direct  # type: ignore[method-assign]
