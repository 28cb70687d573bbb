"""Progress bars on stderr, where that is a terminal; elsewhere nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")


class Bars:
    """Bars for loops, one below the other while one loop runs inside another."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    def track(self, items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
        """The items themselves, with a bar named `what` while they last; no bar for a single one."""
        if self._progress is None or total < 2:
            yield from items
            return
        task = self._progress.add_task(what, total=total)
        try:
            yield from self._progress.track(items, task_id=task, total=total)
        finally:
            self._progress.remove_task(task)

    def count(self, items: Iterable[Item], what: str) -> Iterator[Item]:
        """The items themselves, counted while they last; their number is not known before."""
        if self._progress is None:
            yield from items
            return
        task = self._progress.add_task(what, total=None)
        try:
            for item in items:
                yield item
                self._progress.advance(task)
        finally:
            self._progress.remove_task(task)


@contextmanager
def progress_bars() -> Iterator[Bars]:
    """Bars that disappear when the block ends."""
    if not sys.stderr.isatty():
        yield Bars(None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Rich may print what goes to stdout above the bars only where both are the same terminal.
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as progress:
        yield Bars(progress)
