"""What a token reading and a what-if hold: data, and how they show themselves in a notebook, a terminal, on a page."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from emotrace.errors import unknown
from emotrace.judges import regimes
from emotrace.judges.real_words import NOT_TESTED
from emotrace.tokens import Writing
from emotrace.whatif import html, shading, terminal
from emotrace.whatif.spans import Span

ENOUGH = 19
"""Controls: the fewest of which the rank of an emotion beyond all of them is p = 0.05."""
BROKEN = (regimes.REPETITIVE, regimes.EXPLOSIVE)


@dataclass(frozen=True, repr=False, eq=False)
class TokenReading:
    """What a model's residual stream held along each emotion's vector at every token of a text.

    Two units, both ours:

    - ``projection``: of the centred stream on the unit vector, in class gaps: 1 is as far along as the mean of the
      emotion's own texts lies.
    - ``score``: how far that is from the neutral passages' tokens, in their standard deviations: 0 is what a token
      without any feeling reads on average, and emotions and layers can be compared. It does not depend on the centre.
      The neutral passages differ from another text in more than feeling (who speaks, what of, in which words): a score
      that all tokens of a text share may say no more than that.

    Attributes:
        text: the text.
        model: the model's name.
        shown: the emotion (or mixture) that is coloured; None: the strongest at each token.
        tokens: one row a token: ``token`` (0 …), ``text`` (of its characters), ``start``, ``end``, ``counted``. Not
            counted, and NaN below: special tokens and the text's first token, whose massive activation says nothing of
            the text (see :func:`~emotrace.activations.read_activations`).
        spans: the text in pieces that can be shown (see :class:`~emotrace.whatif.spans.Span`).
        emotions: names along the last axis; a mixture that was asked for stands last.
        layers: layer indices along the second axis.
        n_layers: of the model, for the depth.
        projection: float64 ``[token, layer, emotion]``.
        score: float64 ``[token, layer, emotion]``; NaN also where a later token's activation is massive at a layer
            (more than 2.5 times the neutral tokens' median norm there): a few such tokens would set the scale for all
            others.
        ceiling: float64 ``[layer]``: 95 of 100 neutral tokens have no emotion with a score above it.
        n: neutral tokens that the score rests on (at a layer where some are massive, less those).
        activation: of the whole text, pooled over its tokens as the vectors were: float32 ``[layer, d_model]``.
    """

    text: str
    model: str
    shown: str | None
    tokens: pd.DataFrame
    spans: tuple[Span, ...]
    emotions: tuple[str, ...]
    layers: tuple[int, ...]
    n_layers: int
    projection: np.ndarray
    score: np.ndarray
    ceiling: np.ndarray
    n: int
    activation: np.ndarray

    def to_frame(self) -> pd.DataFrame:
        """Tidy, one row a token, layer and emotion: ``model, token, text, start, end, counted, layer, depth, emotion,
        projection, score``."""
        n_tokens, n_layers, n_emotions = self.score.shape
        table = self.tokens.loc[self.tokens.index.repeat(n_layers * n_emotions)].reset_index(drop=True)
        table.insert(0, "model", self.model)
        layers = np.tile(np.repeat(self.layers, n_emotions), n_tokens)
        return table.assign(
            layer=layers,
            depth=layers / self.n_layers,
            emotion=np.tile(self.emotions, n_tokens * n_layers),
            projection=self.projection.ravel(),
            score=self.score.ravel(),
        )

    def strongest(self) -> pd.DataFrame:
        """One row a counted token and layer: ``token, text, layer, emotion, score`` of its highest emotion."""
        table = self.to_frame().dropna(subset="score")
        best = table.groupby(["token", "layer"])["score"].idxmax()
        return table.loc[best, ["token", "text", "layer", "emotion", "score"]].reset_index(drop=True)

    def of_spans(self) -> np.ndarray:
        """The mean score of each span's counted tokens, NaN where it has none: float64 ``[span, layer, emotion]``."""
        counted = self.tokens["counted"].to_numpy()
        members = [[token for token in span.tokens if counted[token]] for span in self.spans]
        return np.stack([mean_present(self.score[tokens]) for tokens in members])

    def cells(self, layer: int | None = None) -> list[shading.Cell]:
        """How the spans are shown at a layer, default the first."""
        return self._cells(self.of_spans(), self._place(layer))

    def _place(self, layer: int | None) -> int:
        """Where a layer stands among ``layers``, default the first."""
        if layer is not None and layer not in self.layers:
            raise unknown("layer", layer, self.layers)
        return 0 if layer is None else self.layers.index(layer)

    def _cells(self, scores: np.ndarray, index: int) -> list[shading.Cell]:
        texts = [span.text for span in self.spans]
        return shading.cells(texts, scores[:, index], self.emotions, self.shown, self.ceiling[index])

    def __str__(self) -> str:
        """The text, coloured if standard output is a terminal, and its highest tokens; a map over several layers."""
        first, last = self.layers[0], self.layers[-1]
        where = f"layer {first} of {self.n_layers}" if first == last else f"layers {first} to {last}"
        heading = f"{self.shown or 'the strongest emotion'}, token by token: {self.model}, {where}"
        unit = f"score: standard deviations from the tokens of neutral passages (n = {self.n})"
        lines = [terminal.wrapped("", heading), terminal.wrapped("", unit), ""]
        if len(self.layers) > 1:
            scores = self.of_spans()
            scores = highest_present(scores) if self.shown is None else scores[..., self.emotions.index(self.shown)]
            return "\n".join([*lines, *terminal.layer_map([span.text for span in self.spans], scores)])
        cells = self.cells()
        text = terminal.coloured(cells) if sys.stdout.isatty() else terminal.wrapped("  ", self.text)
        return "\n".join([*lines, text, "", *terminal.highest(cells, named=self.shown is None)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """For notebooks: coloured text at one layer, a map of tokens × layers over several. The text is escaped."""
        if len(self.layers) == 1:
            cells = self.cells()
            return html.render("reading.html.j2", reading=self, cells=cells, text=html.coloured(cells))
        scores = self.of_spans()
        columns = [self._cells(scores, index) for index in range(len(self.layers))]
        empty = np.isnan(scores).all(axis=(1, 2))
        rows = [
            row for row, left_out in zip(zip(*columns, strict=True), empty, strict=True) if row[0].body and not left_out
        ]
        return html.render("reading.html.j2", reading=self, rows=rows)

    def to_html(self, path: str | Path) -> Path:
        """Writes a page that stands alone: it opens from a file and loads nothing.

        Raises:
            EmotraceError: the file cannot be written.
        """
        return html.write_page(path, f"Emotions in a text, read by {self.model}", self._repr_html_())


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two texts.

    Attributes:
        name: ``plain`` or ``steered``.
        text: the continuation.
        n_tokens: that were written.
        regime: see ``regimes.REGIMES``.
        perplexity_ratio: perplexity of this text over that of the plain one, both under the unsteered model; 1 for the
            plain one itself, NaN where nothing was written.
        reading: prompt and text read again without any edit, token by token.
        real_words: share of real words; NaN where no dictionary applies.
    """

    name: str
    text: str
    n_tokens: int
    regime: str
    perplexity_ratio: float
    reading: TokenReading
    real_words: float = 1.0

    def detail(self) -> str:
        """The perplexity ratio and the length, in words; and where no dictionary was asked."""
        ratio = "–" if np.isnan(self.perplexity_ratio) else f"{self.perplexity_ratio:.3g}"
        compared = "" if self.name == "plain" else f"perplexity {ratio} times the plain text’s, "
        untested = f"; {NOT_TESTED}" if np.isnan(self.real_words) else ""
        return f"{compared}{self.n_tokens} tokens{untested}"

    def summary(self) -> str:
        """Regime and :meth:`detail` in one line."""
        return f"{self.regime}; {self.detail()}"


@dataclass(frozen=True, repr=False, eq=False)
class WhatIf:
    """One prompt, unsteered and steered.

    Attributes:
        prompt: what was continued.
        emotion: a name, or a mixture written out.
        strength: multiple of the mean residual norm at ``layer``.
        gaps: the same edit in units of the class gap, the distance between the emotion's mean and the mean of all
            classes at that layer: 1 moves an average text as far as the emotion's own texts lie.
        layer: where the vector was added; of several ``layers``, where the texts are read.
        sides: both texts, plain and steered, with their regime, perplexity ratio and token reading.
        changes: one row an emotion: ``plain``, ``steered`` (cosine of each text, read again without any edit, with the
            emotion's vector) and ``change``, largest rise first; with a ``control`` also ``permuted, permuted_low,
            permuted_high``: mean and range of the change under that many vectors of permuted labels of equal norm; and
            ``p``: (1 + how many of them change as much, in the strength's direction) / (1 + how many there are).
        targets: the emotions that are steered with.
        judged: the outside judge's highest labels of either text: ``label, plain, steered, change`` (probabilities of
            the continuations without the prompt); None if it was not asked.
        judge: its name.
        layers: every layer where the vector was added.
        control: how many vectors of permuted labels stand beside.
        writing: how both texts were written.
    """

    prompt: str
    emotion: str
    strength: float
    gaps: float
    layer: int
    sides: tuple[Side, Side]
    changes: pd.DataFrame
    targets: tuple[str, ...]
    judged: pd.DataFrame | None = None
    judge: str | None = None
    layers: tuple[int, ...] = ()
    control: int = 0
    writing: Writing | None = None

    @property
    def plain(self) -> str:
        """The unsteered continuation."""
        return self.sides[0].text

    @property
    def steered(self) -> str:
        """The steered continuation."""
        return self.sides[1].text

    def side(self, name: str) -> Side:
        """The ``plain`` or the ``steered`` side."""
        return next(side for side in self.sides if side.name == name)

    def to_frame(self) -> pd.DataFrame:
        """The data underneath: the changes, with the texts, settings, regimes and ratio in ``attrs``."""
        table = self.changes.copy()
        names = ("prompt", "emotion", "strength", "layer", "plain", "steered")
        table.attrs = {name: getattr(self, name) for name in names}
        table.attrs |= {f"{side.name}_regime": side.regime for side in self.sides}
        table.attrs["perplexity_ratio"] = self.side("steered").perplexity_ratio
        return table

    def settings(self) -> str:
        """Emotion, strength in both units and layer, in one line."""
        others = f", and added at {len(self.layers) - 1} others" if len(self.layers) > 1 else ""
        unit = f"{self.strength:+g} × residual norm ({self.gaps:+.1f} class gaps)"
        return f"{self.emotion} {unit} at layer {self.layer}{others}{self._written()}"

    def _written(self) -> str:
        if self.writing is None:
            return ""
        drawn = f"sampled at temperature {self.writing.temperature:g}, seed {self.writing.seeds[0]}"
        return f"; texts {drawn if self.writing.temperature else 'greedy'}"

    def advice(self) -> str:
        """What to try where a text broke, in one sentence; empty where none did."""
        broken = [side.name for side in self.sides if side.regime in BROKEN]
        greedy = self.writing is not None and not self.writing.temperature
        again = "sample the texts (temperature 0.7)" if greedy else "take another seed"
        if "plain" in broken:
            return f"The plain text breaks down by itself, whatever is added: {again}."
        if "steered" in broken:
            return f"Steering broke the text: take less strength ({self.strength / 2:.2g}, say), or {again}."
        return ""

    def ranks(self) -> str:
        """How far the emotions that were steered with change beyond the control, in words; empty without one."""
        if not self.control:
            return ""
        ranks, lowest = self.changes.set_index("emotion")["p"], 1 / (self.control + 1)
        told = ", ".join(f"{name} {ranks[name]:.2g}" for name in self.targets)
        few = f" ({self.control} allow none below {lowest:.2g}: take {ENOUGH} for 0.05)"
        return f"rank p of the change among them: {told}{few if self.control < ENOUGH else ''}"

    def __str__(self) -> str:
        """Both texts, what became of the language, the judge's opinion and all changes, within 80 columns."""
        lines = [terminal.wrapped("prompt   ", self.prompt), ""]
        for side in self.sides:
            text = terminal.wrapped(f"{side.name:<9}", side.text.strip() or "(nothing)")
            lines += [text, terminal.wrapped(" " * 9, f"[{side.summary()}]"), ""]
        lines += [terminal.wrapped("", self.settings()), ""]
        if advice := self.advice():
            lines += [terminal.wrapped("", advice), ""]
        if self.judged is not None:
            lines += [terminal.wrapped("", f"an outside judge ({self.judge}), plain → steered:")]
            for label, plain, steered in self.judged[["label", "plain", "steered"]].to_numpy():
                lines += [f"  {terminal.shortened(label, 16):>16}  {plain:.2f} → {steered:.2f}"]
            lines += [""]
        unit = "change in what the model reads in the text (cosine with each emotion's vector):"
        changes = list(zip(self.changes["emotion"], self.changes["change"], strict=True))
        drawn = terminal.bars(changes, self.targets)
        if self.control:
            unit = f"{unit[:-1]}; at the end of a line: from … to under {self.beside()}:"
            ends = self.changes[["permuted_low", "permuted_high"]].to_numpy()
            drawn = [f"{line:<62} {low:+.2f} … {high:+.2f}" for line, (low, high) in zip(drawn, ends, strict=True)]
        if ranks := self.ranks():
            drawn += ["", terminal.wrapped("", ranks)]
        return "\n".join([*lines, terminal.wrapped("", unit), *drawn])

    def beside(self) -> str:
        """The control, in words."""
        return f"{self.control} vectors of permuted labels of equal norm"

    __repr__ = __str__  # what a notebook keeps beside the page, and a terminal shows

    def _repr_html_(self) -> str:
        """For notebooks. Prompt and texts are escaped: markup in them shows as text."""
        return html.render(
            "whatif.html.j2",
            result=self,
            texts=[html.coloured(side.reading.cells(), prompt=len(self.prompt)) for side in self.sides],
            longest=max(float(self.changes["change"].abs().max()), 0.1),
            changes=self.changes.to_dict("records"),
            judged=None if self.judged is None else self.judged.to_dict("records"),
        )

    def to_html(self, path: str | Path) -> Path:
        """Writes a page that stands alone: it opens from a file and loads nothing.

        Raises:
            EmotraceError: the file cannot be written.
        """
        return html.write_page(path, "A prompt, continued plain and steered", self._repr_html_())


def mean_present(values: np.ndarray) -> np.ndarray:
    """The mean along the first axis of what is not NaN; NaN where nothing is."""
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=0) / (~np.isnan(values)).sum(axis=0)


def highest_present(values: np.ndarray) -> np.ndarray:
    """The highest along the last axis of what is not NaN; NaN where nothing is."""
    return np.where(np.isnan(values).all(axis=-1), np.nan, np.nan_to_num(values, nan=-np.inf).max(axis=-1))
