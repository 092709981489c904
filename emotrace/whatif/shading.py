"""How a text is shown, whatever shows it: each span's colour, name and score, and characters that are safe to print.

Colours are tints of Okabe and Ito's blue and orange, which stay apart for colour-blind readers, on a light or a dark
background.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from emotrace.instrument import corpus

EDGES = (0.5, 1.0, 1.5, 2.0, 3.0)
"""Scores at which a token's colour gets stronger."""
_SHARES = {"light": (0.14, 0.26, 0.38, 0.50, 0.62), "dark": (0.28, 0.38, 0.48, 0.58, 0.68)}
_HUES = {"up": "#0072b2", "down": "#d55e00", "other": "#8a7a94"}
_BACKGROUNDS = {"light": "#ffffff", "dark": "#1a1f24"}
# Control characters but tab and newline, and marks that turn the direction of what follows.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """The text with every character that could command a terminal, or turn a page round, replaced by a visible sign."""
    return _UNSAFE.sub(lambda unsafe: chr(0x2400 + ord(unsafe[0])) if unsafe[0] < " " else "\ufffd", text)


def palette(theme: str) -> dict[str, str]:
    """The background of each style of cell, ``up1`` … ``other5``, in the ``light`` or the ``dark`` theme."""
    return {
        f"{kind}{level}": _mixed(hue, _BACKGROUNDS[theme], share)
        for kind, hue in _HUES.items()
        for level, share in enumerate(_SHARES[theme], 1)
    }


def _mixed(colour: str, background: str, share: float) -> str:
    pairs = zip(bytes.fromhex(colour[1:]), bytes.fromhex(background[1:]), strict=True)
    return "#" + "".join(f"{round(share * front + (1 - share) * back):02x}" for front, back in pairs)


def level(score: float) -> int:
    """How strong the colour of a score is: 0 (none) to 5."""
    return 0 if np.isnan(score) else int(np.searchsorted(EDGES, abs(score), side="right"))


def pleasantness(emotion: str) -> str:
    """``up`` for an emotion whose valence norm is above neutral's, ``down`` for one below, ``other`` without a norm."""
    valences = corpus.emotions()["valence"]
    if emotion not in valences.index or np.isnan(valences[emotion]):
        return "other"
    return "up" if valences[emotion] > valences[corpus.NEUTRAL] else "down"


@dataclass(frozen=True)
class Cell:
    """How one span of a text is shown at one layer.

    Attributes:
        style: its colour, a key of :func:`palette`; empty for none.
        name: the emotion that is shown; empty where the strongest one is not unusual.
        score: of that emotion, NaN where the span has no counted token.
        title: that score and the highest beside it, in words.
        text: of the span.
        label: the name, where it stands beside the text.
    """

    style: str
    name: str
    score: float
    title: str
    text: str
    label: str = ""

    @property
    def body(self) -> str:
        """The text without its leading space."""
        return self.text.lstrip()

    @property
    def space(self) -> str:
        """The text's leading space."""
        return self.text[: len(self.text) - len(self.body)]


def cells(
    texts: Sequence[str], scores: np.ndarray, emotions: Sequence[str], shown: str | None, ceiling: float
) -> list[Cell]:
    """How the spans of a text are shown at one layer.

    Args:
        texts: of the spans.
        scores: ``[span, emotion]``, NaN where a span has no counted token.
        emotions: names along the scores' last axis.
        shown: the emotion that is coloured; None: the strongest of each span, where its score is above the ceiling.
        ceiling: the score above which a strongest emotion is unusual.
    """
    shaded: list[Cell] = []
    for text, row in zip(texts, scores, strict=True):
        cell = _cell(text, row, emotions, shown, ceiling)
        # Of neighbours with one emotion only the first is labelled.
        previous = shaded[-1].name if shaded and shaded[-1].style else ""
        labelled = shown is None and cell.style and cell.name != previous
        shaded.append(replace(cell, label=cell.name) if labelled else cell)
    return shaded


def _cell(text: str, scores: np.ndarray, emotions: Sequence[str], shown: str | None, ceiling: float) -> Cell:
    if np.isnan(scores).all():
        return Cell("", "", np.nan, "left out: special, the text's first token, or a massive activation", text)
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
    index = int(order[0]) if shown is None else emotions.index(shown)
    name, score = emotions[index], float(scores[index])
    title = f"{name} {score:+.2f}"
    others = [f"{emotions[other]} {scores[other]:+.2f}" for other in order[:4] if other != index][:3]
    if others:
        title += f"\nhighest beside it: {', '.join(others)}"
    if shown is None:
        # The palest colour begins at the ceiling.
        kind, strength = pleasantness(name), level(score - ceiling + EDGES[0]) if score > ceiling else 0
        name = name if score > ceiling else ""
    else:
        kind, strength = "up" if score > 0 else "down", level(score)
    return Cell(f"{kind}{strength}" if strength else "", name, score, title, text)
