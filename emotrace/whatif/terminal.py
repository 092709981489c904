"""Text for a terminal, plain in a pipe and coloured on a screen, within 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from emotrace.whatif.shading import Cell, palette, visible

if TYPE_CHECKING:
    from rich.text import Text

WIDTH = 80
_BAR = 16


def wrapped(label: str, text: str, width: int = WIDTH) -> str:
    """A labelled text, wrapped with the label hanging to its left; its own line breaks are kept."""
    hanging = " " * len(label)
    lines = [
        line
        for paragraph in visible(text).expandtabs(4).split("\n")
        for line in textwrap.wrap(paragraph, width - len(label)) or [""]
    ]
    return "\n".join(f"{hanging if number else label}{line}".rstrip() for number, line in enumerate(lines))


def shortened(text: str, width: int = 18) -> str:
    """A text on one line, cut to a width."""
    line = visible(text.strip().replace("\n", "↵").replace("\t", " "))
    return line if len(line) <= width else line[: width - 1] + "…"


def styled(cells: Sequence[Cell]) -> Text:
    """The text with the backgrounds of the light theme."""
    from rich.text import Text

    colours, line = palette("light"), Text()
    for cell in cells:
        line.append(visible(cell.space))
        line.append(visible(cell.body), f"#1b1f24 on {colours[cell.style]}" if cell.style else "")
        if cell.label:
            line.append(f"({cell.label})", "italic dim")
    return line


def coloured(cells: Sequence[Cell]) -> str:
    """:func:`styled`, as far as the terminal has the colours (none with ``NO_COLOR``)."""
    from rich.console import Console

    console = Console(width=WIDTH, highlight=False)
    with console.capture() as captured:
        console.print(styled(cells))
    return captured.get().rstrip("\n")


def highest(cells: Sequence[Cell], named: bool, count: int = 8) -> list[str]:
    """One line each for the cells with the highest scores, with a bar, and with the emotion if cells differ in it."""
    top = sorted((cell for cell in cells if cell.body and not np.isnan(cell.score)), key=lambda cell: -cell.score)
    top = top[:count]
    longest = max((abs(cell.score) for cell in top), default=1) or 1
    lines = []
    for cell in top:
        name = f" {cell.name or '(none)':<13}" if named else ""
        bar = ("█" if cell.score > 0 else "░") * round(_BAR * abs(cell.score) / longest)
        lines.append(f"  {shortened(cell.body):<18}{name} {cell.score:+6.2f}  {bar}".rstrip())
    return lines


def layer_map(texts: Sequence[str], scores: np.ndarray) -> list[str]:
    """One line a span, one character a layer, from scores ``[span, layer]``; spans without any are left out."""
    rows = [
        f"  {name:<16} {''.join(map(_sign, row))}"
        for name, row in zip((shortened(text, 16) for text in texts), scores, strict=True)
        if name and not np.isnan(row).all()
    ]
    return [*rows, "", "  · below 0.5  ░ 0.5 to 1  ▒ 1 to 2  ▓ 2 to 3  █ above 3; one column a layer"]


def _sign(score: float) -> str:
    return " " if np.isnan(score) else "·░▒▓█"[np.searchsorted((0.5, 1.0, 2.0, 3.0), score, side="right")]


def bars(
    changes: Sequence[tuple[str, float]], marked: Collection[str], half: int = 20, longest: float = 0.1
) -> list[str]:
    """One line a name and change, the bar to the right of the middle for a rise and to its left for a fall; the
    longest bar is of the largest change, of ``longest`` at least."""
    longest = max([longest, *(abs(change) for _, change in changes)])
    lines = []
    for name, change in changes:
        size = round(half * min(abs(change) / longest, 1))
        bar = " " * half + "│" + "█" * size if change >= 0 else f"{'░' * size:>{half}}│"
        lines.append(f"{'▸' if name in marked else ' '} {name:>14} {change:+.3f} {bar}")
    return lines
