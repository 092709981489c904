"""This prompt, that emotion, this strength: what changes? Plain and steered text side by side, and what differs in them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emotrace.activations import residual_norms
from emotrace.errors import EmotraceError
from emotrace.judges import regimes
from emotrace.steering import calibrated, mixture_name, steer, steered_layers
from emotrace.whatif.text_reading import cached_vectors, cosines
from emotrace.whatif.token_reading import TokenReading, read_emotions

if TYPE_CHECKING:
    from emotrace.judges.classifiers import Classifier
    from emotrace.models import Model
    from emotrace.vectors import EmotionVectors

LABELS_SHOWN = 6


@dataclass(frozen=True)
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
    """

    name: str
    text: str
    n_tokens: int
    regime: str
    perplexity_ratio: float
    reading: TokenReading

    def detail(self) -> str:
        """The perplexity ratio and the length, in words."""
        ratio = "–" if np.isnan(self.perplexity_ratio) else f"{self.perplexity_ratio:.3g}"
        compared = "" if self.name == "plain" else f"perplexity {ratio} times the plain text’s, "
        return f"{compared}{self.n_tokens} tokens"

    def summary(self) -> str:
        """Regime and :meth:`detail` in one line."""
        return f"{self.regime}; {self.detail()}"


@dataclass(frozen=True, repr=False)
class WhatIf:
    """One prompt, unsteered and steered.

    Attributes:
        prompt: what was continued.
        emotion: a name, or a mixture written out.
        strength: multiple of the mean residual norm at ``layer``.
        gaps: the same edit in units of the class gap, the distance between the emotion's mean and the mean of all
            classes at that layer: 1 moves an average text as far as the emotion's own texts lie.
        layer: where the vector was added.
        plain: the unsteered continuation.
        steered: the steered one.
        changes: one row an emotion: ``plain``, ``steered`` (cosine of each text, read again without any edit, with the
            emotion's vector) and ``change``, largest rise first.
        targets: the emotions that are steered with.
        sides: both texts with their regime, perplexity ratio and token reading.
        judged: the outside judge's highest labels of either text: ``label, plain, steered, change`` (probabilities of
            the continuations without the prompt); None if it was not asked.
        judge: its name.
    """

    prompt: str
    emotion: str
    strength: float
    gaps: float
    layer: int
    plain: str
    steered: str
    changes: pd.DataFrame
    targets: tuple[str, ...] = ()
    sides: tuple[Side, ...] = ()
    judged: pd.DataFrame | None = None
    judge: str | None = None

    def to_frame(self) -> pd.DataFrame:
        """The data underneath: the changes, with the texts, settings, regimes and ratio in ``attrs``."""
        table = self.changes.copy()
        names = ("prompt", "emotion", "strength", "layer", "plain", "steered")
        table.attrs = {name: getattr(self, name) for name in names}
        table.attrs |= {f"{side.name}_regime": side.regime for side in self.sides}
        if steered := self.side("steered"):
            table.attrs["perplexity_ratio"] = steered.perplexity_ratio
        return table

    def side(self, name: str) -> Side | None:
        """The ``plain`` or the ``steered`` side."""
        return next((side for side in self.sides if side.name == name), None)

    def settings(self) -> str:
        """Emotion, strength in both units and layer, in one line."""
        return f"{self.emotion} {self.strength:+g} × residual norm ({self.gaps:+.1f} class gaps) at layer {self.layer}"

    def __str__(self) -> str:
        from emotrace.whatif.terminal import what_if_text

        return what_if_text(self)

    __repr__ = __str__  # what a notebook keeps beside the page, and a terminal shows

    def _repr_html_(self) -> str:
        """For notebooks. Prompt and texts are escaped: markup in them shows as text."""
        from emotrace.whatif.html import what_if_html

        return what_if_html(self)

    def to_html(self, path: str | Path) -> Path:
        """Writes a page that stands alone: it opens from a file and loads nothing.

        Raises:
            EmotraceError: the file cannot be written.
        """
        from emotrace.whatif.html import write_page

        return write_page(path, "A prompt, continued plain and steered", self._repr_html_())


def what_if(
    model: Model,
    prompt: str,
    emotion: str | Mapping[str, float],
    strength: float | None = None,
    *,
    vectors: EmotionVectors | None = None,
    layer: int | None = None,
    max_new_tokens: int = 60,
    temperature: float = 0.0,
    seed: int = 0,
    chat: bool = False,
    judge: bool | Classifier = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> WhatIf:
    """Continues a prompt without and with an emotion added to the residual stream.

    Args:
        model: the model.
        prompt: what to continue.
        emotion: a name, or a mixture (emotion → weight): the weighted sum of their vectors.
        strength: multiple of the mean residual norm at the layer; negative steers away, 0 changes nothing. Default: what
            the vectors are calibrated to, else 0.2.
        vectors: default: mean-pooled comprehension vectors, extracted once for a model and cached.
        layer: layer index; default: what the vectors are calibrated at, else half depth.
        max_new_tokens: at most.
        temperature: 0 is greedy; otherwise both texts are sampled with the same ``seed``.
        seed: of the sampling.
        chat: put the prompt into the model's chat template as the user's words.
        judge: ask the embedded classifier for its opinion of both texts; another classifier is taken as it is.
        progress: called while vectors are extracted the first time.

    Raises:
        EmotraceError: whatever :func:`~emotrace.steering.steer` refuses; no classifier where one is asked for.
    """
    vectors = cached_vectors(model, progress=progress) if vectors is None else vectors
    layer = steered_layers(model, vectors, None)[0] if layer is None else layer
    if strength is None:
        strength = calibrated(vectors).get("strength") or 0.2
    settings = {
        "layers": [layer], "max_new_tokens": max_new_tokens, "temperature": temperature, "seeds": [seed], "chat": chat,
    }  # fmt: skip
    written = steer(model, prompt, vectors, [0.0, strength], emotions=[emotion], **settings)
    plain, steered = written["text"]
    # In a chat the answer does not go on in the middle of the user's last word.
    read = [prompt + ("\n\n" if chat else "") + text for text in (plain, steered)]
    try:
        before, after = (cosines(model, vectors, text, layer) for text in read)
        readings = [read_emotions(model, text, emotion, layer=layer, vectors=vectors) for text in read]
    except EmotraceError as error:
        raise EmotraceError(f"the texts cannot be read again: {error}") from None
    changes = pd.DataFrame({"emotion": vectors.emotions, "plain": before, "steered": after, "change": after - before})
    gap = np.linalg.norm((vectors[emotion] if isinstance(emotion, str) else vectors.mix(emotion))[vectors.place(layer)])
    judged, name = _judged([plain, steered], judge)
    return WhatIf(
        prompt, mixture_name(emotion), float(strength), float(strength * residual_norms(model)[layer] / gap), layer,
        plain, steered, changes.sort_values("change", ascending=False, ignore_index=True, kind="stable"),
        targets=(emotion,) if isinstance(emotion, str) else tuple(emotion),
        sides=_sides(model, written, chat, readings), judged=judged, judge=name,
    )  # fmt: skip


def _sides(model: Model, written: pd.DataFrame, chat: bool, readings: list[TokenReading]) -> tuple[Side, ...]:
    """Each text with its regime; each is scored by itself, so that two equal texts get equal numbers."""
    compared = regimes.references(model, written.iloc[[0]], chat)
    sides = []
    for place, name in enumerate(("plain", "steered")):
        row = regimes.measure(model, written.iloc[[place]], compared, chat=chat).iloc[0]
        side = Side(
            name, row["text"], int(row["n_tokens"]), row["regime"], float(row["perplexity_ratio"]), readings[place]
        )
        sides.append(side)
    return tuple(sides)


def _judged(texts: list[str], judge: bool | Classifier) -> tuple[pd.DataFrame | None, str | None]:
    """The labels that score highest in either text, the largest change first, and the judge's name."""
    if judge is False:
        return None, None
    classifier = _default_judge() if judge is True else judge
    scores = classifier.scores(texts)
    table = pd.DataFrame({"label": classifier.labels, "plain": scores[0], "steered": scores[1]})
    table["change"] = table["steered"] - table["plain"]
    highest = table[["plain", "steered"]].max(axis=1).nlargest(LABELS_SHOWN).index
    table = table.loc[highest].sort_values("change", ascending=False, ignore_index=True, kind="stable")
    return table, classifier.name


@functools.cache
def _default_judge() -> Classifier:
    from emotrace.judges.classifiers import load_classifier

    try:
        return load_classifier()
    except EmotraceError as error:
        raise EmotraceError(f"{error}; without an outside judge: judge=False (--no-judge)") from None
