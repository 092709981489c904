"""Texts → activations → :class:`~emotrace.vectors.EmotionVectors`.

Comprehension (paper, claims C3 and C4): the model reads prewritten passages; an emotion's vector is the mean of its
passages' activations minus the mean over all classes, *neutral* included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from . import corpus
from .activations import POOLINGS, Cache, read_activations
from .errors import EmotraceError, unknown
from .vectors import EmotionVectors

if TYPE_CHECKING:
    from .models import Model

METHODS = ("comprehension",)


@dataclass
class Reading:
    """A labelled set of texts and what the model's residual stream held when it read them.

    Attributes:
        labels: one row a text, with the columns ``topic``, ``emotion`` and ``text``.
        pooled: for each pooling, float32 ``[text, layer, d_model]``.
        layers: the layer indices along the second axis.
        provenance: of the model, the texts and the method.
    """

    labels: pd.DataFrame
    pooled: dict[str, np.ndarray]
    layers: list[int]
    provenance: dict[str, str]

    def vectors(self, pooling: str = "last", emotions: Sequence[str] | None = None) -> EmotionVectors:
        """Class means minus their grand mean (C4). Means are accumulated in float64.

        Args:
            pooling: which of the poolings that were read.
            emotions: which of the 20 to keep; the grand mean is over all 21 classes in any case.
        """
        if pooling not in self.pooled:
            raise unknown("pooling", pooling, self.pooled)
        present = [name for name in corpus.emotions().index if name in set(self.labels["emotion"])]
        for name in [corpus.NEUTRAL, *(corpus.check_emotions(list(emotions)) if emotions else [])]:
            if name not in present:
                raise EmotraceError(f"no text of {name!r} was read: the texts have {', '.join(present)}")
        means = class_means(self.pooled[pooling], self.labels["emotion"], present)
        names = [name for name in present if name != corpus.NEUTRAL]
        kept = list(emotions) if emotions else names
        grand = means.mean(axis=0)
        return EmotionVectors(
            emotions=tuple(kept),
            layers=tuple(self.layers),
            values=(means[[present.index(name) for name in kept]] - grand).astype(np.float32),
            neutral_mean=means[present.index(corpus.NEUTRAL)].astype(np.float32),
            grand_mean=grand.astype(np.float32),
            emotions_mean=means[[present.index(name) for name in names]].mean(axis=0).astype(np.float32),
            provenance={**self.provenance, "pooling": pooling, "centring": "grand"},
        )


def class_means(pooled: np.ndarray, labels: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """The mean of ``pooled [text, …]`` over the texts of each name, accumulated in float64: ``[name, …]``."""
    labels = np.asarray(labels)
    return np.stack([pooled[labels == name].mean(axis=0, dtype=np.float64) for name in names])


def read_passages(
    model: Model,
    passages: pd.DataFrame,
    *,
    layers: list[int] | str | None = None,
    poolings: Sequence[str] = POOLINGS,
    cache: Cache | None = None,
    progress: Callable[[int], None] | None = None,
) -> Reading:
    """Comprehension: the model reads the passages (table of :func:`corpus.passages`)."""
    layers = model.check_layers(layers)
    texts = list(passages["text"])
    pooled = read_activations(model, texts, layers=layers, poolings=poolings, cache=cache, progress=progress)
    provenance = {
        **model.provenance,
        "model": model.name,
        "method": "comprehension",
        "texts": corpus.fingerprint(passages),
    }
    return Reading(passages.reset_index(drop=True), pooled, layers, provenance)


def extract(
    model: Model,
    *,
    method: str = "comprehension",
    pooling: str = "last",
    layers: list[int] | str | None = None,
    emotions: Sequence[str] | None = None,
    passages: pd.DataFrame | None = None,
    progress: Callable[[int], None] | None = None,
) -> EmotionVectors:
    """Emotion vectors of a model, from ``data/passages.csv`` or passages of one's own.

    Args:
        model: from :func:`emotrace.load`.
        method: ``comprehension``.
        pooling: ``last`` (the paper's for comprehension) or ``mean``.
        layers: layer indices; default all.
        emotions: which of the 20; default all.
        passages: a table like :func:`corpus.passages`.
        progress: called with the number of texts just read.

    Raises:
        EmotraceError: an unknown method, pooling, emotion or layer.

    Example:
        >>> vectors = emotrace.extract(emotrace.load())
        >>> vectors["desperate", 15]            # float32 [d_model]
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if pooling not in POOLINGS:
        raise unknown("pooling", pooling, POOLINGS)
    if emotions:
        corpus.check_emotions(list(emotions))
    table = corpus.passages() if passages is None else passages
    return read_passages(model, table, layers=layers, poolings=(pooling,), progress=progress).vectors(pooling, emotions)
