"""What people see in a terminal: token readings and what-ifs as text, plain in a pipe and coloured on a screen."""

from __future__ import annotations

import re
import sys
import textwrap
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from emotrace.whatif.compare import WhatIf
    from emotrace.whatif.token_reading import TokenReading

WIDTH = 80
_BAR = 16
# Control characters but tab and newline, and marks that turn the direction of what follows.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """The text with every character that could command a terminal, or turn a page round, replaced by a visible sign."""
    return _UNSAFE.sub(lambda found: chr(0x2400 + ord(found[0])) if found[0] < " " else "\ufffd", text)


def wrapped(label: str, text: str, width: int = WIDTH) -> str:
    """A labelled text, wrapped with the label hanging to its left; its own line breaks are kept."""
    hanging = " " * len(label)
    lines = [
        line
        for paragraph in visible(text).expandtabs(4).split("\n")
        for line in textwrap.wrap(paragraph, width - len(label)) or [""]
    ]
    return "\n".join(f"{label if place == 0 else hanging}{line}".rstrip() for place, line in enumerate(lines))


# -- token readings ---------------------------------------------------------------------------------------------------


def reading_text(reading: TokenReading) -> str:
    """The text, coloured if standard output is a terminal, and its highest tokens; a map over several layers."""
    what = reading.shown or "the strongest emotion"
    where = (
        f"layer {reading.layers[0]} of {reading.n_layers}" if len(reading.layers) == 1
        else f"layers {reading.layers[0]} to {reading.layers[-1]}"
    )  # fmt: skip
    head = wrapped("", f"{what}, token by token: {reading.model}, {where}")
    unit = wrapped("", f"score: standard deviations from the tokens of neutral passages (n = {reading.n})")
    if len(reading.layers) > 1:
        return "\n".join([head, unit, "", _map(reading)])
    text = _coloured(reading) if sys.stdout.isatty() else wrapped("  ", reading.text)
    return "\n".join([head, unit, "", text, "", *_highest(reading)])


def _highest(reading: TokenReading, count: int = 8) -> list[str]:
    """The spans with the highest scores, each with a bar."""
    from emotrace.whatif.html import cells

    found = [facts for facts in cells(reading) if facts["body"] and not np.isnan(facts["score"])]
    found.sort(key=lambda facts: -facts["score"])
    widest = max([abs(facts["score"]) for facts in found[:count]], default=1) or 1
    lines = []
    for facts in found[:count]:
        name = "" if reading.shown else f" {facts['name'] or '(none)':<13}"
        bar = ("█" if facts["score"] > 0 else "░") * round(_BAR * abs(facts["score"]) / widest)
        lines.append(f"  {_short(facts['body']):<18}{name} {facts['score']:+6.2f}  {bar}".rstrip())
    return lines


def _short(text: str, width: int = 18) -> str:
    line = visible(text.strip().replace("\n", "↵").replace("\t", " "))
    return line if len(line) <= width else line[: width - 1] + "…"


def _coloured(reading: TokenReading) -> str:
    """The text with the backgrounds of the light theme, as far as the terminal has them (none with ``NO_COLOR``)."""
    from rich.console import Console
    from rich.text import Text

    from emotrace.whatif.html import cells, palette

    colours, line = palette("light"), Text()
    for facts in cells(reading):
        line.append(visible(facts["space"]))
        line.append(visible(facts["body"]), f"#1b1f24 on {colours[facts['style']]}" if facts["style"] else "")
        if facts["label"]:
            line.append(f"({facts['label']})", "italic dim")
    console = Console(width=WIDTH, highlight=False)
    with console.capture() as captured:
        console.print(line)
    return captured.get().rstrip("\n")


def _map(reading: TokenReading) -> str:
    """One line a span, one character a layer."""
    names = [_short(span.text, 16) for span in reading.spans]
    scores = reading.of_spans()
    shown = _highest_scores(scores) if reading.shown is None else scores[..., reading.emotions.index(reading.shown)]
    signs = np.array(list("·░▒▓█"))
    rows = [
        f"  {name:<16} {''.join(' ' if np.isnan(score) else signs[_grade(score)] for score in row)}"
        for name, row in zip(names, shown, strict=True)
        if name and not np.isnan(row).all()
    ]
    return "\n".join([*rows, "", "  · below 0.5  ░ 0.5 to 1  ▒ 1 to 2  ▓ 2 to 3  █ above 3; one column a layer"])


def _grade(score: float) -> int:
    return int(np.searchsorted((0.5, 1.0, 2.0, 3.0), score, side="right"))


def _highest_scores(scores: np.ndarray) -> np.ndarray:
    filled = np.nan_to_num(scores, nan=-np.inf).max(axis=-1)
    return np.where(np.isinf(filled), np.nan, filled)


# -- what-ifs ---------------------------------------------------------------------------------------------------------


def what_if_text(result: WhatIf) -> str:
    """Both texts, what became of the language, the judge's opinion and all changes, within 80 columns."""
    lines = [wrapped("prompt   ", result.prompt), "", wrapped("plain    ", result.plain.strip() or "(nothing)")]
    lines += _facts(result, "plain")
    lines += ["", wrapped("steered  ", result.steered.strip() or "(nothing)")]
    lines += _facts(result, "steered")
    lines += ["", wrapped("", result.settings()), "", *_judged(result)]
    lines += [wrapped("", "change in what the model reads in the text (cosine with each emotion's vector):")]
    return "\n".join([*lines, *_bars(result)])


def _facts(result: WhatIf, name: str) -> list[str]:
    side = result.side(name)
    return [] if side is None else [wrapped("         ", f"[{side.summary()}]")]


def _judged(result: WhatIf) -> list[str]:
    if result.judged is None:
        return []
    lines = [wrapped("", f"an outside judge ({result.judge}), plain → steered:")]
    for row in result.judged.itertuples():
        lines.append(f"  {_short(row.label, 16):>16}  {row.plain:.2f} → {row.steered:.2f}")
    return [*lines, ""]


def _bars(result: WhatIf, half: int = 20) -> list[str]:
    """One line an emotion, the bar to the right of the middle for a rise and to its left for a fall."""
    changes = result.changes["change"]
    widest = max(float(changes.abs().max()), 0.1)
    lines = []
    for row in result.changes.itertuples():
        size = round(half * min(abs(row.change) / widest, 1))
        bar = " " * half + "│" + "█" * size if row.change >= 0 else f"{'░' * size:>{half}}│"
        lines.append(f"{'▸' if row.emotion in result.targets else ' '} {row.emotion:>14} {row.change:+.3f} {bar}")
    return lines
