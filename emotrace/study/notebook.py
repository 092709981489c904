"""What a notebook shows: figures with their captions, tables of claims, headline numbers, passing progress.

Every output says in its metadata what it is, so that ``scripts/run_notebooks.py`` can tell a figure that is missing or
a headline that moved from one that is there.
"""

from __future__ import annotations

import base64
import html
import io
import re
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from emotrace.instrument import corpus
from emotrace.study.folder import read_manifest
from emotrace.study.verdicts import (
    INCONCLUSIVE,
    NOT_REPRODUCED,
    NOT_TESTABLE,
    REPRODUCED,
    format_interval,
    format_number,
)
from emotrace.whatif.live import in_notebook

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADLINE = "application/vnd.emotrace.headline+json"
"""The MIME type under which a headline number stands in a notebook's output."""
MARKS = {REPRODUCED: "✓", NOT_REPRODUCED: "✗", INCONCLUSIVE: "?", NOT_TESTABLE: "–"}
_DPI, _SCREEN_DPI, _COLOURS = 110, 80, 128
_BLANK = re.compile(r"\{([\w ]*)\}")


class Table:
    """A table to be read: all of every text, escaped; plain text in a terminal.

    Attributes:
        frame: the data underneath.
        notes: lines that are folded away below the table.
    """

    def __init__(self, frame: pd.DataFrame, notes: Mapping[str, str] | None = None, fold: str = "notes") -> None:
        self.frame, self.notes, self._fold = frame, dict(notes or {}), fold

    def to_frame(self) -> pd.DataFrame:
        return self.frame

    def __repr__(self) -> str:
        return self.frame.to_string(index=False)

    def _repr_html_(self) -> str:
        with pd.option_context("display.max_colwidth", None):
            body = self.frame.to_html(index=False, border=0, na_rep="–", float_format=format_number)
        body = body.replace("<td>", '<td style="text-align:left;vertical-align:top">')
        body = body.replace("<th>", '<th style="text-align:left">').replace("\\n", "<br>")
        lines = "".join(f"<p><b>{html.escape(key)}</b>: {html.escape(text)}</p>" for key, text in self.notes.items())
        return body + (f"<details><summary>{html.escape(self._fold)}</summary>{lines}</details>" if lines else "")


def claims_table(claims: pd.DataFrame) -> Table:
    """The rows of ``claims.csv`` for a reader; how each was measured and judged is folded away below."""
    rows = pd.DataFrame(
        {
            "claim": claims["claim"],
            "the paper": claims["paper"],
            "measured": claims["measured"].map(format_number),
            "95% interval": [format_interval(*bounds) for bounds in zip(claims["low"], claims["high"], strict=True)],
            "n": claims["n"].map(format_number),
            "verdict": claims["verdict"].map(lambda verdict: f"{MARKS[verdict]} {verdict}"),
        }
    )
    if claims["instrument"].nunique() > 1:
        rows.insert(1, "passages", claims["instrument"])
    labels = (claims["claim"] + (" (" + claims["instrument"] + ")").where(claims["instrument"] != "", "")).tolist()
    return Table(rows, dict(zip(labels, claims["how"], strict=True)), "how each was measured and judged")


def claims_of_models(claims: pd.DataFrame) -> Table:
    """One row a claim, one column a model: verdict, value and interval."""
    cells = []
    for row in claims.to_dict("records"):
        value = f" {format_number(row['measured'])}" if pd.notna(row["measured"]) else ""
        interval = f" ({format_interval(row['low'], row['high'])})" if value and pd.notna(row["low"]) else ""
        cells.append(MARKS[row["verdict"]] + value + interval)
    if "instrument" in claims and claims["instrument"].nunique() > 1:
        claims = claims.assign(claim=claims["claim"] + " (" + claims["instrument"].fillna("") + ")")
    wide = claims.assign(cell=cells).pivot(index="claim", columns="model", values="cell")
    paper = claims.drop_duplicates("claim").set_index("claim")["paper"]
    wide = wide.loc[paper.index, list(dict.fromkeys(claims["model"]))].fillna("")
    wide.insert(0, "the paper", paper)
    return Table(wide.rename_axis(None, axis=1).reset_index())


def published(*ids: str) -> Table:
    """The claims whose ids begin so (``C6``, ``C6.u``, …) on the packaged models, as ``docs/results`` has them.

    Where the package is installed without its checkout, a line that says where they are.
    """
    results = corpus.data_dir().parent / "docs" / "results"
    if not (results / "tables" / "claims.csv").exists():
        return Table(pd.DataFrame({"published results": ["docs/results/tables/claims.csv of the repository"]}))
    claims = pd.read_csv(results / "tables" / "claims.csv")
    begins = [any(f"{id}.".startswith(f"{first}.") for first in ids) for id in claims["id"]]
    quick = {name: f"{name} (quick)" for name in read_manifest(results).get("quick", [])}
    return claims_of_models(claims[begins].replace({"model": quick}))


def show_figure(figure: Figure, name: str, caption: str) -> None:
    """Displays a figure as a small PNG, and its caption below."""
    from IPython.display import Markdown, display

    content, width = png(figure)
    metadata = {"emotrace": {"figure": name}, "image/png": {"width": width, "alt": caption}}
    display({"image/png": base64.b64encode(content).decode(), "text/plain": caption}, raw=True, metadata=metadata)
    display(Markdown(f"*{caption}*"))


def png(figure: Figure) -> tuple[bytes, int]:
    """A figure as a PNG of few colours, and its width on the screen in pixels."""
    from PIL import Image

    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    image = Image.open(buffer).convert("RGB").quantize(_COLOURS)
    image.save(small, format="png", optimize=True)
    return small.getvalue(), round(image.width * _SCREEN_DPI / _DPI)


def headline(name: str, row: Mapping[str, Any] | pd.Series, tolerance: float, text: str, *, digits: int = 3) -> None:
    """Displays a finding with its measured number, and keeps the number for the next run to be compared with.

    Args:
        name: what the number is called; unique in the notebook.
        row: ``value`` (or ``measured``) with ``n`` and, where there is one, an interval ``low``, ``high``.
        tolerance: how far the number may lie from the committed one (absolute) before the check fails.
        text: the sentence; ``{topics}``, say, stands for the number, its interval, and its n of topics.
        digits: significant digits.
    """
    from IPython.display import display

    value, low, high = (_rounded(row.get(key)) for key in ("value", "low", "high"))
    value = _rounded(row.get("measured")) if value is None else value
    n = int(row["n"])
    estimate = "–" if value is None else f"**{value:.{digits}g}**"
    interval = f"{low:.{digits}g} to {high:.{digits}g}, " if low is not None and high is not None else ""
    sentence = _BLANK.sub(lambda blank: f"{estimate} ({interval}n = {n} {blank[1]}".rstrip() + ")", text)
    number = {"name": name, "value": value, "low": low, "high": high, "n": n, "tolerance": tolerance}
    display(
        {HEADLINE: number, "text/markdown": f"- {sentence}", "text/plain": f"- {sentence.replace('**', '')}"},
        raw=True,
        metadata={"emotrace": {"headline": name}},
    )


def _rounded(value: Any) -> float | None:
    """Six significant digits, as in the tables: free of the last bits' noise; None where there is no number."""
    return None if value is None or pd.isna(value) else float(f"{float(value):.6g}")


class Progress:
    """``progress(what, done, of)`` in a notebook: one line that changes, and is gone when the work is done.

    Outside a notebook it is silent.
    """

    def __init__(self) -> None:
        self._done: dict[str, int] = defaultdict(int)
        self._handle: Any = None
        self._last = 0.0
        self._silent = not in_notebook()

    def __call__(self, what: str, done: int, of: int) -> None:
        self._done[what] += done
        now = time.monotonic()
        if self._silent or now - self._last < 0.3:
            return
        self._last = now
        self._show(f"{what}: {self._done[what]} of {of} …")

    def _show(self, line: str) -> None:
        from IPython.display import display

        bundle = {"text/html": f"<small>{html.escape(line)}</small>", "text/plain": line}
        metadata = {"emotrace": {"progress": True}}
        if self._handle is None:
            self._handle = display(bundle, display_id=True, raw=True, metadata=metadata)
        else:
            self._handle.update(bundle, raw=True, metadata=metadata)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Takes the line away."""
        if self._handle is not None:
            self._show("")
            self._handle = None
