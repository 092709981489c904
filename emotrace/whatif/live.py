"""A text that is being written, with a row of bars: drawn again and again in a notebook or a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from emotrace.whatif import html, terminal
from emotrace.whatif.shading import Cell, cells

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

INTERVAL, SHARE = 0.2, 0.05
"""Seconds between two drawings at least, and the share of the time that drawing may take: a page takes longer to make
than a small model a token, and longer the longer the text."""


class Shown(Protocol):
    """What is shown of a token (:class:`~emotrace.whatif.watching.WatchedToken`)."""

    @property
    def text(self) -> str: ...
    @property
    def written(self) -> bool: ...
    @property
    def score(self) -> np.ndarray: ...


class Live:
    """``with Live(emotions, ceiling) as tell: tell(token)``: the text so far, and the last token's score as a bar each.

    Args:
        emotions: names along a token's scores. A single one colours the text; of several, the strongest does.
        ceiling: the score above which a strongest emotion is unusual.
        marked: the emotions that are steered by, if any.
    """

    def __init__(self, emotions: Sequence[str], ceiling: float, marked: Sequence[str] = ()) -> None:
        self.emotions, self.ceiling, self.marked = emotions, ceiling, marked
        self.tokens: list[Shown] = []
        self.due = 0.0
        self.screen: Any = None  # rich's display of a terminal, IPython's of a notebook

    def __enter__(self) -> Live:
        if in_notebook():
            from IPython.display import HTML, display

            self.screen = display(HTML(""), display_id=True)
        else:
            from rich.console import Console
            from rich.live import Live as Display

            self.screen = Display(console=Console(highlight=False), transient=True, auto_refresh=False)
            self.screen.start()
        return self

    def __call__(self, token: Shown) -> None:
        self.tokens.append(token)
        if token.written and (begun := time.monotonic()) >= self.due:
            self._draw()
            done = time.monotonic()
            self.due = done + max(INTERVAL, (done - begun) / SHARE)

    def __exit__(self, *_: object) -> None:
        if in_notebook():
            self._draw()
            return
        self.screen.stop()
        self.screen.console.print(self.on_terminal(None))

    def _draw(self) -> None:
        if in_notebook():
            from IPython.display import HTML

            self.screen.update(HTML(self.as_html()))
        else:
            self.screen.update(self.on_terminal(self.screen.console), refresh=True)

    def _cells(self) -> list[Cell]:
        shown = self.emotions[0] if len(self.emotions) == 1 else None
        told = [token for token in self.tokens if token.text]
        scores = np.array([token.score for token in told]).reshape(len(told), len(self.emotions))
        return cells([token.text for token in told], scores, self.emotions, shown, self.ceiling)

    def _bars(self) -> tuple[list[tuple[str, float]], float]:
        """The last token's scores by emotion, 0 where it has none, and the largest of the text so far."""
        scores = np.nan_to_num([token.score for token in self.tokens] or np.zeros((1, len(self.emotions))))
        return list(zip(self.emotions, scores[-1].tolist(), strict=True)), max(1.0, float(np.abs(scores).max()))

    def on_terminal(self, console: Console | None) -> Text:
        """Text and bars; of the text the last lines that the console has room for, all without one."""
        from rich.text import Text

        # Without the names beside the tokens: a token may end within a word, and the bars have names.
        (bars, longest), text = self._bars(), terminal.styled([replace(cell, label="") for cell in self._cells()])
        rows = terminal.bars(bars, self.marked, longest=longest)
        if console is not None:
            room = max(1, console.height - len(rows) - 2)
            text = Text("\n").join(text.wrap(console, min(terminal.WIDTH, console.width))[-room:])
        return Text("\n").join([text, Text(), *map(Text, rows)])

    def as_html(self) -> str:
        """Text and bars for a notebook; the text is escaped."""
        bars, longest = self._bars()
        prompt = sum(len(token.text) for token in self.tokens if not token.written)
        shown = self.emotions[0] if len(self.emotions) == 1 else None
        text = html.coloured(self._cells(), prompt=prompt)
        return html.render("live.html.j2", text=text, bars=bars, longest=longest, shown=shown, marked=self.marked)


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return hasattr(get_ipython(), "kernel")
