"""How far a search is: a bar on a terminal, else a line a problem."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from ..search import Progress
from .output import note, plain, short, us


class Shown(Protocol):
    """What a verb tells of its progress."""

    def begin(self, title: str) -> None:
        """The next problem."""
        ...

    def step(self, progress: Progress) -> None:
        """How far its search is."""
        ...

    def end(self, text: str) -> None:
        """It is done."""
        ...


class _Lines:
    def begin(self, title: str) -> None:
        pass

    def step(self, progress: Progress) -> None:
        pass

    def end(self, text: str) -> None:
        note(text)


class _Bar:
    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[found]}", markup=False),
            TimeElapsedColumn(),
        )
        self.bar = Bar(*columns, console=Console(stderr=True), transient=True)
        self._all = self.bar.add_task("all problems", total=total, found=f"0/{total}")
        self._one = self.bar.add_task("", total=1.0, found="", visible=False)
        self._done, self._total = 0, total

    def begin(self, title: str) -> None:
        self.bar.reset(
            self._one, description=plain(title), total=1.0, found="starting", visible=True
        )

    def step(self, progress: Progress) -> None:
        self.bar.update(self._one, completed=share(progress), found=said(progress))

    def end(self, text: str) -> None:
        self._done += 1
        self.bar.update(self._all, advance=1, found=f"{self._done}/{self._total}")
        self.bar.console.print(plain(text), markup=False, highlight=False)


@contextmanager
def shown(total: int) -> Iterator[Shown]:
    """Show the progress of so many problems on stderr."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    bar = _Bar(total)
    with bar.bar:
        yield bar


def share(progress: Progress) -> float:
    """Of the budget, what is spent: of the limit that is nearer."""
    budget = progress.budget
    spent = [0.0]
    if budget.seconds is not None:
        spent.append(progress.seconds / budget.seconds)
    if budget.trials is not None:
        spent.append(progress.trials / budget.trials)
    return min(1.0, max(spent))


def said(progress: Progress) -> str:
    """The stage, what it took, and the best so far."""
    best = "nothing yet"
    if progress.best is not None:
        best = f"{us(progress.microseconds)} us, {short(progress.best)}"
    counts = f"{progress.compiles} compiled, {progress.trials} timed, {progress.failures} failed"
    return f"{progress.stage}: {counts}; {best}"
