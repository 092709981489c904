"""Vectors by another estimator than the difference of means, and what a model must read for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emotrace.activations import read_activations, read_tokens
from emotrace.instrument import corpus
from emotrace.instrument.instrument import Instrument
from emotrace.measures.estimators import ESTIMATORS, Texts, estimate
from emotrace.tokens import encode
from emotrace.vectors import EmotionVectors

if TYPE_CHECKING:
    from emotrace.models import Model


def estimated(
    model: Model,
    labels: pd.DataFrame,
    activations: np.ndarray,
    plain: EmotionVectors,
    estimator: str,
    embeddings: np.ndarray | None = None,
    progress: Callable[[int], None] | None = None,
    instrument: Instrument | None = None,
) -> EmotionVectors:
    """The vectors ``plain`` computed by another estimator from the same texts, layer by layer.

    Args:
        model: the model, which reads what the estimator needs beside the texts.
        labels: one row a text, with the columns ``emotion`` and, for some estimators, ``topic``.
        activations: what the vectors were computed from, ``[text, layer, d_model]``.
        plain: their differences of means.
        estimator: one of ``ESTIMATORS``.
        embeddings: the texts' mean token embeddings ``[text, d_model]``, for the floor of embeddings.
        progress: called with the number of texts just read.
        instrument: whose baseline texts are the unrelated ones; default: those of ``data/``.
    """
    one = ESTIMATORS[estimator]
    texts = Texts(
        activations[:, 0],
        labels["emotion"].to_numpy(dtype=str),
        labels["topic"].to_numpy(dtype=str) if "topic" in labels else None,
        embeddings=embeddings,
        names=name_embeddings(model, list(labels["emotion"].unique())) if "names" in one.needs else None,
    )
    unrelated = read_unrelated(model, plain, progress, instrument) if "unrelated" in one.needs else None
    rows, values = [texts.classes.index(name) for name in plain.emotions], np.empty_like(plain.values)
    for index in range(len(plain.layers)):
        at = None if unrelated is None else unrelated[:, index]
        here = replace(texts, activations=activations[:, index], unrelated=at)
        values[:, index] = estimate(estimator, here)[rows]
    named = {**plain.provenance, "estimator": estimator, "centring": one.centring}
    return replace(plain, values=values, provenance=named)


def read_unrelated(
    model: Model,
    vectors: EmotionVectors,
    progress: Callable[[int], None] | None = None,
    instrument: Instrument | None = None,
) -> np.ndarray:
    """The baseline texts at the vectors' layers, pooled as they are: ``[text, layer, d_model]``."""
    table = corpus.baseline_texts() if instrument is None else instrument.baseline_texts
    texts, pooling = list(table["text"]), vectors.provenance["pooling"]
    return read_activations(model, texts, layers=vectors.layers, poolings=(pooling,), progress=progress)[pooling]


def name_embeddings(model: Model, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Each word's own embedding, the mean over its tokens after a space: name → float32 ``[d_model]``."""
    tokens = encode(model, [f" {name}" for name in names])
    streams = read_tokens(model, tokens, layers=[0])
    return {
        name: stream[text.start : text.stop, 0].mean(axis=0)
        for name, text, stream in zip(names, tokens, streams, strict=True)
    }
