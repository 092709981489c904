"""What the residual stream held, over depth → tables: how alike texts are, how well emotions separate.

No function here touches a model; each works on a :class:`~emotrace.study.study.Study`, layer by layer, and every layer
is a unit of work that a run folder keeps. Every random draw comes from the seed and the name of what it is drawn for,
so that the order of work, or an interruption, changes nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from emotrace.measures import geometry, groups, statistics, words_floor
from emotrace.study.separation.spreads import SPREADS, spreads
from emotrace.study.study import GROUP_REPEATS, Study

WORDS = "words"
"""The column ``pooling`` of what a text's words give away without a model."""


def anisotropy(study: Study) -> pd.DataFrame:
    """How alike the activations of *unrelated* texts are, layer by layer (C7).

    Metrics: ``cosine``, mean pairwise cosine of single texts, interval by bootstrap over texts; ``group_cosine``, of
    the means of random disjoint groups with as many texts as an emotion has, the baseline that is fair to centroids;
    ``top_dimension_share``, the share of the mean squared norm that lies in the single largest dimension;
    ``mean_norm``, the mean Euclidean norm (in the units of this model's residual stream: not comparable to another's).
    """

    def rows(pooling: str, layer: int) -> list[dict[str, Any]]:
        activations = study.baseline[pooling][:, study.reading.layers.index(layer)].astype(np.float64)
        n, sizes = len(activations), study.group_sizes()
        draws = statistics.topic_draws(n, study.settings.bootstrap, study.rng("anisotropy"))
        value = float(geometry.mean_pairwise_cosine(activations))
        cosine = statistics.centred_interval(value, geometry.resampled_pairwise_cosine(activations, draws))
        group = groups.group_cosine(activations, sizes, GROUP_REPEATS, study.rng("groups"))
        squares = (activations**2).mean(axis=0)
        return [
            study.row(pooling, layer, metric="cosine", **cosine._asdict(), n=n),
            study.row(pooling, layer, metric="group_cosine", value=group, n=groups.group_count(n, sizes)),
            study.row(pooling, layer, metric="top_dimension_share", value=squares.max() / squares.sum(), n=n),
            study.row(pooling, layer, metric="mean_norm", value=np.linalg.norm(activations, axis=1).mean(), n=n),
        ]

    return study.each_layer("anisotropy", rows)


def separation(study: Study) -> pd.DataFrame:
    """How well the emotions separate, layer by layer, with intervals over topics.

    Metrics: ``cosine``, mean pairwise cosine of the emotions' centroids before centring (lower = better separated; the
    paper's measure as we read it), beside the mean (column ``null``) and the p of labels shuffled within topics;
    ``shuffled_cosine``, that null over depth; ``noise_cosine``, what is left of it without the emotions' own variance:
    the space alone; ``shuffle_excess``, cosine − null; ``ratio``, R = (1 − cosine) /
    (1 − null), 1 where a label says nothing; ``intraclass``, the emotions' share of variance, cross-validated over
    topics (:mod:`emotrace.measures.spread`). The null is recomputed in every resample of topics. ``silhouette``;
    ``nearest_centroid`` and ``logistic_regression``, accuracy on held-out topics (``null`` is chance: what the
    commonest emotion's name alone gets). At layer 0 with mean pooling these two are the bag-of-embeddings baseline.

    Rows without a layer, pooling ``words``: what is decoded from the texts without a model, ``tfidf`` from their words,
    ``surface_counts`` from punctuation and lengths (:mod:`emotrace.measures.words_floor`).
    """
    n_topics, chance = len(set(study.topics)), _commonest(study.emotions)

    def rows(pooling: str, layer: int) -> list[dict[str, Any]]:
        activations, found = study.layer(pooling, layer), spreads(study, pooling, layer)
        # Where all texts are alike, as the full stops at layer 0, there is no spread to measure by.
        apart = found.null[0] < 1 - 1e-12
        tests = {"p": found.p, "m": found.m, "n": n_topics}
        table = []
        for metric, null in SPREADS.items():
            if not apart and metric in ("ratio", "intraclass"):
                continue
            values = found.interval(metric)._asdict() | {"null": found.null[0] if metric == "cosine" else null}
            table.append(study.row(pooling, layer, metric=metric, **values, **tests))
        scores = {"silhouette": geometry.silhouettes(activations, study.emotions)}
        for decoder in geometry.DECODERS:
            scores[decoder] = study.decoded(decoder, pooling, layer).astype(float)
        for metric, by_text in scores.items():
            values = _accuracy(study, by_text)._asdict() | {"null": None if metric == "silhouette" else chance}
            table.append(study.row(pooling, layer, metric=metric, **values, n=n_topics))
        return table

    def words() -> list[dict[str, Any]]:
        texts = study.reading.labels["text"].to_numpy()[study.emotional]
        tokens = [study.source.words(text) for text in texts]
        counts = words_floor.surface_counts(texts, tokens)
        found = {
            "tfidf": words_floor.decode_tfidf(tokens, study.emotions, study.topics),
            "surface_counts": words_floor.decode_counts(counts, study.emotions, study.topics),
        }
        return [
            study.row(WORDS, np.nan, metric=metric, **_accuracy(study, correct)._asdict(), null=chance, n=n_topics)
            for metric, correct in found.items()
        ]

    table = study.each_layer("separation", rows)
    return pd.concat([table, pd.DataFrame(study.unit("separation words", words))], ignore_index=True)


def _accuracy(study: Study, by_text: np.ndarray) -> statistics.Interval:
    """The mean of a score of each text ``[text]`` with its interval over topics."""
    by_topic, sizes = _by_topic(by_text.astype(float), study.topics)
    draws = by_topic @ study.draws().T / (study.draws() @ sizes)
    return statistics.centred_interval(float(by_text.mean()), draws)


def _by_topic(scores: np.ndarray, topics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sum of per-text scores ``[text]`` in each topic, in order of appearance, and its number of texts.

    Both ``[topic]``, in units of the mean number of texts a topic: 1 for each where all have as many.
    """
    names = list(dict.fromkeys(topics))
    sizes = np.array([(topics == name).sum() for name in names]) / (len(topics) / len(names))
    return np.array([scores[topics == name].mean() for name in names]) * sizes, sizes


def _commonest(emotions: np.ndarray) -> float:
    """The share of the commonest emotion among the texts."""
    return float(np.unique(emotions, return_counts=True)[1].max() / len(emotions))
