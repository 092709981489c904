"""How far the work is: bars in a terminal, lines in a log."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it was just done, and how much of it there is."""


class Lines:
    """Progress in a log: a line when a kind of work begins and when it ends, with the time since the start.

    In between one a minute, where there is news.
    """

    EVERY = 60.0

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._done: dict[str, int] = {}
        self._told = 0.0

    def __call__(self, task: str, done: int, total: int) -> None:
        first = task not in self._done
        now = time.monotonic() - self._start
        self._done[task] = self._done.get(task, 0) + done
        if first or self._done[task] >= total or now - self._told >= self.EVERY:
            self._told = now
            minutes, seconds = divmod(int(now), 60)
            print(f"{minutes:3d}:{seconds:02d}  {task}: {self._done[task]} of {total}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def bars() -> Iterator[Progress]:
    """A progress bar for each kind of work, on standard error; ``progress(task, done, total)`` advances it.

    Without a terminal: lines, so that a log is never silent for long.
    """
    from rich import progress as rich_bars
    from rich.console import Console

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        yield Lines()
        return
    columns = (rich_bars.TextColumn("{task.description}"), rich_bars.BarColumn(), rich_bars.MofNCompleteColumn())
    times = (rich_bars.TimeElapsedColumn(), rich_bars.TimeRemainingColumn())
    with rich_bars.Progress(*columns, *times, console=Console(stderr=True)) as display:
        tasks: dict[str, rich_bars.TaskID] = {}

        def progress(task: str, done: int, total: int) -> None:
            if task not in tasks:
                tasks[task] = display.add_task(task, total=total)
            display.advance(tasks[task], done)

        yield progress
