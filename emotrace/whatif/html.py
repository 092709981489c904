"""What people see in a browser: token readings and what-ifs as HTML, in a notebook or as a page that stands alone.

All text goes through templates that escape it. A page carries a content security policy that lets nothing be loaded.
Colours are tints of Okabe and Ito's blue and orange, which stay apart for colour-blind readers, on a card of its own
light or dark background, so that they are readable whatever stands around it.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from markupsafe import Markup

from emotrace.instrument import corpus
from emotrace.whatif.terminal import visible

if TYPE_CHECKING:
    from emotrace.whatif.compare import WhatIf
    from emotrace.whatif.token_reading import TokenReading

EDGES = (0.5, 1.0, 1.5, 2.0, 3.0)
"""Scores at which a token's colour gets stronger."""
_SHARES = {"light": (0.14, 0.26, 0.38, 0.50, 0.62), "dark": (0.28, 0.38, 0.48, 0.58, 0.68)}
_HUES = {"up": "#0072b2", "down": "#d55e00", "other": "#8a7a94"}
_BACKS = {"light": "#ffffff", "dark": "#1a1f24"}


@functools.cache
def environment() -> jinja2.Environment:
    """The templates of ``emotrace/templates``; what is put into them is escaped."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("emotrace"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    found.filters["visible"] = visible
    found.filters["signed"] = signed
    found.globals["palette"] = {theme: palette(theme) for theme in _BACKS}
    return found


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, the minus as wide as the plus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def palette(theme: str) -> dict[str, str]:
    """The background of each class of token, ``up1`` … ``other5``, in the ``light`` or the ``dark`` theme."""
    return {
        f"{name}{level}": _mixed(hue, _BACKS[theme], share)
        for name, hue in _HUES.items()
        for level, share in enumerate(_SHARES[theme], 1)
    }


def _mixed(colour: str, back: str, share: float) -> str:
    pairs = zip(_channels(colour), _channels(back), strict=True)
    return "#" + "".join(f"{round(share * one + (1 - share) * other):02x}" for one, other in pairs)


def _channels(colour: str) -> list[int]:
    return [int(colour[place : place + 2], 16) for place in (1, 3, 5)]


def level(score: float) -> int:
    """How strong the colour of a score is: 0 (none) to 5."""
    return 0 if np.isnan(score) else int(np.searchsorted(EDGES, abs(score), side="right"))


def pleasant(emotion: str) -> str:
    """``up`` for an emotion whose valence norm is above neutral's, ``down`` for one below, ``other`` where there is none."""
    valences = corpus.emotions()["valence"]
    if emotion not in valences.index or np.isnan(valences[emotion]):
        return "other"
    return "up" if valences[emotion] > valences[corpus.NEUTRAL] else "down"


# -- one span ---------------------------------------------------------------------------------------------------------


def cell(reading: TokenReading, scores: np.ndarray, place: int) -> dict[str, Any]:
    """How the scores ``[emotion]`` of one span or map cell at the layer in ``place`` are shown.

    Returns:
        ``style`` (a class of :func:`palette`, or empty), ``name`` and ``score`` of the emotion shown (the strongest
        only above the ceiling of neutral tokens), ``title``.
    """
    if np.isnan(scores).all():
        return {
            "style": "",
            "name": "",
            "score": np.nan,
            "title": "left out: special, the text's first token, or a massive activation",
        }
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
    best = int(order[0])
    if reading.shown is None:
        above = scores[best] - reading.ceiling[place]
        named = above > 0
        # The palest colour begins at the ceiling.
        style = f"{pleasant(reading.emotions[best])}{level(above + EDGES[0])}" if named else ""
        shown = best
    else:
        shown = reading.emotions.index(reading.shown)
        named, strength = True, level(scores[shown])
        style = f"{'up' if scores[shown] > 0 else 'down'}{strength}" if strength else ""
    title = f"{reading.emotions[shown]} {scores[shown]:+.2f}"
    others = [f"{reading.emotions[other]} {scores[other]:+.2f}" for other in order[:4] if other != shown][:3]
    return {
        "style": style, "name": reading.emotions[shown] if named else "", "score": float(scores[shown]),
        "title": f"{title}\nhighest beside it: {', '.join(others)}" if others else title,
    }  # fmt: skip


def cells(reading: TokenReading, layer: int | None = None) -> list[dict[str, Any]]:
    """The spans at one layer (default the first), with ``text``, split into its leading space and the rest, and :func:`cell`."""
    place = 0 if layer is None else reading.layers.index(layer)
    found = []
    for span, scores in zip(reading.spans, reading.of_spans()[:, place], strict=True):
        body = span.text.lstrip()
        facts = cell(reading, scores, place)
        facts |= {"text": span.text, "body": body, "space": span.text[: len(span.text) - len(body)]}
        # Of neighbours with one emotion only the first is labelled.
        before = found[-1]["name"] if found and found[-1]["style"] else ""
        label = reading.shown is None and facts["style"] and facts["name"] != before
        found.append({**facts, "label": facts["name"] if label else ""})
    return found


def tokens_html(reading: TokenReading, start: int = 0) -> Markup:
    """The coloured text, from a character on (what comes before is the prompt, shown softer)."""
    found, place = [], 0
    for facts in cells(reading):
        found.append({**facts, "prompt": place < start})
        place += len(facts["text"])
    return Markup(environment().get_template("tokens.html.j2").render(cells=found))


# -- fragments and pages ----------------------------------------------------------------------------------------------


def reading_html(reading: TokenReading) -> str:
    """A token reading as a fragment for a notebook: coloured text at one layer, a map of tokens × layers over several."""
    single = len(reading.layers) == 1
    facts: dict[str, Any] = {"reading": reading, "edges": EDGES, "single": single, "cells": cells(reading)}
    if single:
        facts["tokens"] = tokens_html(reading)
    else:
        scores = reading.of_spans()
        facts["map"] = [
            (span.text, [cell(reading, row[place], place) for place in range(len(reading.layers))])
            for span, row in zip(reading.spans, scores, strict=True)
            if span.text.strip() and not np.isnan(row).all()
        ]
    return environment().get_template("reading.html.j2").render(facts)


def what_if_html(result: WhatIf) -> str:
    """A what-if as a fragment for a notebook."""
    widest = max(float(result.changes["change"].abs().max()), 0.1)
    return environment().get_template("whatif.html.j2").render(
        result=result, widest=widest, edges=EDGES, target=set(result.targets),
        sides=[
            {"name": side.name, "facts": side, "text": tokens_html(side.reading, len(result.prompt))}
            for side in result.sides
        ],
        judged=None if result.judged is None else result.judged.to_dict("records"),
        changes=result.changes.to_dict("records"),
    )  # fmt: skip


def page(title: str, fragment: str, language: str = "en") -> str:
    """A whole HTML document around a fragment."""
    return environment().get_template("page.html.j2").render(
        title=title, fragment=Markup(fragment), language=language
    )  # fmt: skip


def write_page(path: str | Path, title: str, fragment: str) -> Path:
    """Writes a document around a fragment, whole or not at all.

    Raises:
        EmotraceError: it cannot be written.
    """
    from emotrace.judges.classifiers import write_file

    path = Path(path)
    write_file(path, page(title, fragment).encode())
    return path
