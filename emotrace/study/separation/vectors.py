"""What the emotion vectors are worth: how reliable each is, and how a decoder grows with the topics it learns from."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from emotrace.measures import geometry, statistics
from emotrace.measures.reliability import reliability
from emotrace.study.study import Study, choose_layer

TRAINING_TOPICS = (1, 2, 3, 5, 8, 11)
"""Points of the learning curve; those that the topics read allow."""


def reliability_table(study: Study) -> pd.DataFrame:
    """How far each emotion's vector can be trusted: one row a pooling and emotion, and one of their mean.

    At the layer that one half of the topics chose (nearest centroid): ``split_half``, ``spearman_brown``, ``length``
    and its ``p`` with ``m`` permuted-label vectors (:mod:`emotrace.measures.reliability`), ``n`` texts. The row
    ``emotion`` = ``all`` has the means.
    """
    rows: list[dict[str, Any]] = []
    for pooling in study.reading.pooled:
        layer = choose_layer(study, pooling, "nearest_centroid")
        rows += study.unit(f"reliability {pooling} {layer}", partial(_reliability, study, pooling, layer))
    return pd.DataFrame(rows)


def _reliability(study: Study, pooling: str, layer: int) -> list[dict[str, Any]]:
    labels = study.reading.labels
    draws = min(study.settings.permutations, 499)
    found = reliability(
        study.reading.pooled[pooling][:, study.reading.layers.index(layer)],
        labels["topic"].to_numpy(dtype=str),
        labels["emotion"].to_numpy(dtype=str),
        study.names,
        study.rng("reliability", pooling),
        draws=draws,
    )
    table = pd.DataFrame(found._asdict()).rename(columns={"texts": "n"})
    rows = [
        study.row(pooling, layer, emotion=name, **values, m=draws)
        for name, values in zip(study.names, table.to_dict("records"), strict=True)
    ]
    means = {column: float(np.nanmean(table[column])) for column in ("split_half", "spearman_brown", "length")}
    return [*rows, study.row(pooling, layer, emotion="all", **means, n=int(table["n"].sum()), m=draws)]


def learning_curve(study: Study) -> pd.DataFrame:
    """Accuracy of both decoders by the number of topics that they learn from.

    One row a pooling, decoder and number of ``topics``: accuracy on each topic of the half that did not choose the
    layer, trained on so many others of all topics, drawn at random; mean over the tested topics with Student's interval
    (a bootstrap of six is too narrow); ``texts`` trained on, on average; ``chance``.
    """
    each = itertools.product(study.reading.pooled, geometry.DECODERS)
    units = {
        f"learning curve {pooling} {decoder}": partial(_learn, study, pooling, decoder) for pooling, decoder in each
    }
    return pd.DataFrame(study.units("learning curve", units))


def _learn(study: Study, pooling: str, decoder: str) -> list[dict[str, Any]]:
    layer = choose_layer(study, pooling, decoder)
    activations, order = study.layer(pooling, layer), list(dict.fromkeys(study.topics))
    tested = [topic for topic, inside in zip(order, study.halves[1], strict=True) if inside]
    rows = []
    for number in (number for number in TRAINING_TOPICS if number < len(order)):
        rng, accuracies, trained = study.rng("learning curve", number), [], []
        for topic in tested:
            others = rng.permutation([name for name in order if name != topic])[:number]
            train, held_out = np.isin(study.topics, others), study.topics == topic
            predicted = geometry.DECODERS[decoder](activations[train], study.emotions[train], activations[held_out])
            accuracies.append(np.mean(predicted == study.emotions[held_out]))
            trained.append(train.sum())
        value, low, high = statistics.mean_interval(np.array(accuracies))
        interval = {"value": value, "low": max(low, 0.0), "high": min(high, 1.0)}  # Student's knows no ends
        values = {"metric": decoder, "topics": number, **interval, "chance": 1 / len(study.names)}
        rows.append(study.row(pooling, layer, **values, n=len(tested), texts=float(np.mean(trained))))
    return rows
