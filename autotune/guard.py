"""Errors and Ctrl-C held back while other processes wait for this one."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


class Guard:
    """Within `with Guard() as guard`, what would end this process is kept as `guard.error`, and is
    raised where the block ends, unless another exception is already on its way.

    That is Ctrl-C anywhere, and whatever is raised in `guard.holding()`. In `guard.interruptible()`
    Ctrl-C does what it did before. Of several the first is kept. Outside the main thread signals
    are left alone: they do not come there.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._before: Callable[[int, FrameType | None], Any] | None = None

    def __enter__(self) -> "Guard":
        before = signal.getsignal(signal.SIGINT)
        # Where SIGINT is ignored, or someone else's outside Python, it stays so.
        if threading.current_thread() is threading.main_thread() and callable(before):
            self._before = before
            self._defer()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        if error is None and self.error is not None:
            raise self.error

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Keep what is raised in the block, of whatever kind."""
        try:
            yield
        except BaseException as error:
            # Ctrl-C may have come between two lines of `interruptible`.
            self._defer()
            self._keep(error)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let Ctrl-C end the block; at once, if it has come before. Belongs in `holding()`."""
        if isinstance(self.error, KeyboardInterrupt):
            raise self.error
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        try:
            yield
        finally:
            self._defer()

    def _defer(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._keep(KeyboardInterrupt())

    def _keep(self, error: BaseException) -> None:
        self.error = self.error or error
