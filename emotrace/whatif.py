"""This prompt, that emotion, this strength: what changes? Plain and steered text side by side, and what differs in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .activations import residual_norms
from .errors import EmotraceError
from .reading import cached_vectors, cosines
from .steering import calibrated, mixture_name, steer, steered_layers

if TYPE_CHECKING:
    from .models import Model
    from .vectors import EmotionVectors


@dataclass(frozen=True)
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
    """

    prompt: str
    emotion: str
    strength: float
    gaps: float
    layer: int
    plain: str
    steered: str
    changes: pd.DataFrame

    def to_frame(self) -> pd.DataFrame:
        """The data underneath: the changes, with the texts and settings in ``attrs``."""
        table = self.changes.copy()
        table.attrs = {
            name: getattr(self, name) for name in ("prompt", "emotion", "strength", "layer", "plain", "steered")
        }
        return table

    def _settings(self) -> str:
        return f"{self.emotion} {self.strength:+g} × residual norm ({self.gaps:+.1f} class gaps) at layer {self.layer}"

    def __str__(self) -> str:
        rows = [*self.changes.head(5).itertuples(), None, *self.changes.tail(3).itertuples()]
        bars = [
            "             …" if row is None else f"  {row.emotion:>14} {row.change:+.3f}  {_bar(row.change)}"
            for row in rows
        ]
        return "\n".join(
            [
                f"prompt   {self.prompt}", f"plain    {self.plain.strip()}", f"steered  {self.steered.strip()}", "",
                self._settings(), "change in what the model reads in the text (cosine with each emotion's vector):", *bars,
            ]
        )  # fmt: skip

    def _repr_html_(self) -> str:
        """For notebooks. Prompt and texts are escaped: markup in them shows as text."""
        bars = "".join(
            f"<tr><td style='text-align:right'>{escape(row.emotion)}</td><td>{row.change:+.3f}</td><td><div style='height:.8em;"
            f"width:{min(abs(row.change), 1) * 12:.2f}em;background:{'#0072b2' if row.change > 0 else '#d55e00'}'></div></td></tr>"
            for row in self.changes.itertuples()
        )
        texts = "".join(
            f"<td style='width:50%;text-align:left;vertical-align:top;white-space:pre-wrap'><b>{name}</b>\n{escape(self.prompt)}"
            f"<mark>{escape(text)}</mark></td>"
            for name, text in (("plain", self.plain), ("steered", self.steered))
        )
        return (
            f"<table style='width:100%;max-width:60em'><tr>{texts}</tr></table><p>{escape(self._settings())}</p>"
            f"<details open><summary>change in what the model reads in the text</summary><table>{bars}</table></details>"
        )


def _bar(change: float) -> str:
    return ("█" if change > 0 else "░") * round(min(abs(change), 1) * 40)


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
    progress: Callable[[str, int, int], None] | None = None,
) -> WhatIf:
    """Continues a prompt without and with an emotion added to the residual stream.

    Args:
        model: the model.
        prompt: what to continue.
        emotion: a name, or a mixture (emotion → weight).
        strength: multiple of the mean residual norm at the layer; negative steers away, 0 changes nothing. Default: what
            the vectors are calibrated to, else 0.2.
        vectors: default: mean-pooled comprehension vectors, extracted once for a model and cached.
        layer: layer index; default: what the vectors are calibrated at, else half depth.
        max_new_tokens: at most.
        temperature: 0 is greedy; otherwise both texts are sampled with the same ``seed``.
        seed: of the sampling.
        chat: put the prompt into the model's chat template as the user's words.
        progress: called while vectors are extracted the first time.

    Raises:
        EmotraceError: whatever :func:`~emotrace.steering.steer` refuses.
    """
    vectors = cached_vectors(model, progress=progress) if vectors is None else vectors
    layer = steered_layers(model, vectors, None)[0] if layer is None else layer
    if strength is None:
        strength = calibrated(vectors).get("strength") or 0.2
    settings = {
        "layers": [layer], "max_new_tokens": max_new_tokens, "temperature": temperature, "seeds": [seed], "chat": chat,
    }  # fmt: skip
    texts = list(steer(model, prompt, vectors, [0.0, strength], emotions=[emotion], **settings)["text"])
    try:
        before, after = (cosines(model, vectors, prompt + text, layer) for text in texts)
    except EmotraceError as error:
        raise EmotraceError(f"the texts cannot be read again: {error}") from None
    changes = pd.DataFrame({"emotion": vectors.emotions, "plain": before, "steered": after, "change": after - before})
    gap = np.linalg.norm((vectors[emotion] if isinstance(emotion, str) else vectors.mix(emotion))[vectors.place(layer)])
    return WhatIf(
        prompt, mixture_name(emotion), float(strength), float(strength * residual_norms(model)[layer] / gap), layer, *texts,
        changes.sort_values("change", ascending=False, ignore_index=True, kind="stable"),
    )  # fmt: skip
