"""The model reads labelled texts, in one of three frames → their pooled activations → vectors.

``plain``: the text alone. ``chat``: as the answer to the very request that asks for it, which names the feeling.
``unnamed``: as the answer to the same request without the feeling. What ``chat`` adds to ``unnamed`` is the label in
the context, not anything the text says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emotrace import arguments
from emotrace.activations import POOLINGS, read_activations
from emotrace.errors import EmotraceError, unknown
from emotrace.files import Cache
from emotrace.instrument import corpus
from emotrace.instrument.instrument import Instrument
from emotrace.measures.geometry import permuted_label_vectors
from emotrace.stories import request_ids
from emotrace.tokens import Tokens, encode
from emotrace.vectors import EmotionVectors

if TYPE_CHECKING:
    from emotrace.models import Model

FRAMES = ("plain", "chat", "unnamed")


@dataclass(eq=False)
class Reading:
    """A labelled set of texts and what the model's residual stream held when it read them.

    Attributes:
        labels: one row a text, with the columns ``topic``, ``emotion`` and ``text``.
        pooled: for each pooling, float32 ``[text, layer, d_model]``.
        layers: the layer indices along the second axis.
        provenance: of the model, the texts and the method.
        instrument: whose emotions the labels are; default: those of ``data/``.
        unfelt: pooling → what the model held at texts without a feeling ``[layer, d_model]``, in place of *neutral*
            where no text has that class.
    """

    labels: pd.DataFrame
    pooled: dict[str, np.ndarray]
    layers: list[int]
    provenance: dict[str, str]
    instrument: Instrument | None = None
    unfelt: dict[str, np.ndarray] | None = None

    def vectors(self, pooling: str = "last", emotions: Sequence[str] | None = None) -> EmotionVectors:
        """Class means minus their grand mean (C4); of contrast pairs, minus the mean of their second texts.

        Means are accumulated in float64.

        Args:
            pooling: which of the poolings that were read.
            emotions: which to keep; the grand mean is over all classes in any case.
        """
        if pooling not in self.pooled:
            raise unknown("pooling", pooling, self.pooled)
        own = self.instrument
        known = list(corpus.emotions().index) if own is None else [*own.emotions, corpus.NEUTRAL]
        labels = set(corpus.check_texts(self.labels, "the texts that were read", known=known)["emotion"])
        present = [name for name in known if name in labels]
        names = [name for name in present if name != corpus.NEUTRAL]
        wanted = (own.check_emotions if own else corpus.check_emotions)(list(emotions)) if emotions else names
        for name in [*([corpus.NEUTRAL] if self.unfelt is None else []), *wanted]:
            if name not in present:
                raise EmotraceError(f"no text of {name!r} was read: the texts have {', '.join(present)}")
        if not names:
            raise EmotraceError(f"no text of an emotion was read: the texts have {corpus.NEUTRAL} alone")
        means = class_means(self.pooled[pooling], self.labels["emotion"], present)
        grand = means.mean(axis=0)
        unfelt = means[present.index(corpus.NEUTRAL)] if self.unfelt is None else self.unfelt[pooling]
        about = {**self.provenance, "pooling": pooling, "centring": "grand"}
        if own is not None and not own.default:
            about["norms"] = own.norms.reindex(wanted).dropna(how="all").to_json(orient="index")
        vectors = EmotionVectors(
            emotions=tuple(wanted),
            layers=tuple(self.layers),
            values=(means[[present.index(name) for name in wanted]] - grand).astype(np.float32),
            neutral_mean=unfelt.astype(np.float32),
            grand_mean=grand.astype(np.float32),
            emotions_mean=means[[present.index(name) for name in names]].mean(axis=0).astype(np.float32),
            provenance=about,
        )
        return vectors.recentre("neutral") if own is not None and own.pairs else vectors

    def permuted(self, pooling: str, count: int, rng: np.random.Generator) -> EmotionVectors:
        """``permuted-1`` …: vectors of the same texts with the emotions' labels permuted within topics.

        The first control of a claim about a direction. Like emotion vectors they are differences between means of real
        texts, so they lie where texts lie; only what the labels say is gone. (Gaussian noise of equal norm lies
        elsewhere, and can break a text that an emotion's vector leaves whole.) Each is of a permutation of its own, so
        they are independent given the texts, and of each emotion in turn, so they are means of as many texts.
        """
        own, labels = self.vectors(pooling), self.labels
        topics = labels["topic"].to_numpy(str) if "topic" in labels else np.zeros(len(labels))
        texts = self.pooled[pooling], topics, labels["emotion"].to_numpy(str)
        pairs = own.provenance["centring"] == "neutral"
        asked = [*own.emotions, corpus.NEUTRAL] if pairs else own.emotions
        drawn = permuted_label_vectors(*texts, asked, count, rng)  # [draw, emotion, layer, d_model]
        if pairs:  # each from the mean of its own shuffle's second texts, whatever the texts' own centres are
            drawn, own = drawn[:, :-1] - drawn[:, -1:], replace(own, provenance={**own.provenance, "steps": "permuted"})
        values = np.stack([vectors[number % len(own.emotions)] for number, vectors in enumerate(drawn)])
        names = tuple(f"permuted-{number}" for number in range(1, count + 1))
        return replace(own, emotions=names, values=values.astype(np.float32))


def class_means(pooled: np.ndarray, labels: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """The mean of ``pooled [text, …]`` over the texts of each name, accumulated in float64: ``[name, …]``."""
    of_text = np.asarray(labels)
    return np.stack([pooled[of_text == name].mean(axis=0, dtype=np.float64) for name in names])


@arguments.checked
def read_texts(
    model: Model,
    texts: pd.DataFrame,
    frame: str = "plain",
    *,
    author: str | None = None,
    continuation: bool = False,
    instrument: Instrument | None = None,
    layers: Sequence[int] | str | None = None,
    poolings: Sequence[str] = POOLINGS,
    cache: Cache | None = None,
    progress: Callable[[int], None] | None = None,
) -> Reading:
    """The model reads texts: comprehension, if not its own.

    Args:
        model: the model that reads.
        texts: one row a text, columns ``emotion`` and ``text``; in a frame, or with an author, also ``topic``.
        frame: what stands before each text (:func:`frame_tokens`).
        author: who wrote them, for the provenance: ``self``, or a name; default: passages, whose whole table is named.
        continuation: the beginning of a page instead of a chat.
        instrument: whose texts they are; default: those of ``data/``. Without a class *neutral* its baseline texts are
            read beside them.
        layers: layer indices; default all.
        poolings: of ``activations.POOLINGS``.
        cache: keeps finished batches.
        progress: called with the number of texts just read.

    Raises:
        EmotraceError: a table that lacks a column or has a label or text that is no string, or empty; what
            :func:`frame_tokens` refuses.
    """
    layers, frame = model.check_layers(layers), arguments.choice(frame, "frame", FRAMES)
    author = author if author is None else arguments.text(author, "an author")
    texts = corpus.check_texts(texts, topics=frame != "plain" or author is not None, emotions_known=False)
    tokens = frame_tokens(model, texts, frame, continuation=continuation, instrument=instrument)
    how: dict[str, Any] = {"layers": layers, "poolings": poolings, "cache": cache, "progress": progress}
    activations = read_activations(model, tokens, **how)
    provenance, unfelt = provenance_of(model, texts, author, frame), None
    if instrument is not None and not instrument.default:
        provenance |= {"instrument": instrument.name, "neutral": "the class neutral"}
        if corpus.NEUTRAL not in set(texts["emotion"]):
            others = read_activations(model, instrument.unfelt, **how)
            unfelt = {pooling: held.mean(axis=0, dtype=np.float64) for pooling, held in others.items()}
            provenance["neutral"] = f"{len(instrument.unfelt)} baseline texts, outside the grand mean"
    return Reading(texts.reset_index(drop=True), activations, layers, provenance, instrument, unfelt)


@arguments.checked
def frame_tokens(
    model: Model, texts: pd.DataFrame, frame: str, *, continuation: bool = False, instrument: Instrument | None = None
) -> list[Tokens]:
    """Texts in a frame, as tokens to be read: the span to be pooled is the text's own tokens in every frame.

    Args:
        model: for ``chat`` and ``unnamed`` one with a chat template.
        texts: a table with the columns ``topic``, ``emotion`` and ``text``.
        frame: one of ``FRAMES``.
        continuation: the beginning of a page instead of a chat, for base models.
        instrument: whose emotions and topics the requests name; default: those of ``data/``.

    Raises:
        EmotraceError: an unknown frame, a base model in a chat's frame, a text that is empty or too long.
    """
    arguments.choice(frame, "frame", FRAMES)
    corpus.check_texts(texts, topics=frame != "plain", emotions_known=False)
    alone = encode(model, list(texts["text"]))
    if frame == "plain":
        return alone
    framed = []
    for number, (row, text) in enumerate(zip(texts.itertuples(), alone, strict=True), 1):
        asked: dict[str, Any] = {"named": frame == "chat", "continuation": continuation, "instrument": instrument}
        before = request_ids(model, row.topic, row.emotion, **asked)
        ids = before + text.ids[text.start : text.stop]
        if len(ids) > model.context:
            raise EmotraceError(f"text {number} is too long ({len(ids)} tokens): {model.name} takes {model.context}")
        framed.append(Tokens(ids, len(before), len(ids)))
    return framed


def provenance_of(model: Model, texts: pd.DataFrame, author: str | None, frame: str) -> dict[str, str]:
    """What vectors say of the model, the method and the texts that they come from."""
    method = "generation" if author == "self" else "comprehension"
    provenance = {**model.provenance, "model": model.name, "method": method}
    if author is None:
        return {**provenance, "texts": corpus.fingerprint(texts)}
    fingerprint = corpus.fingerprint(texts[["topic", "emotion", "text"]])
    return {**provenance, "texts": fingerprint, "author": author, "frame": frame}
