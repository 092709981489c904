"""The same texts read with weights of other precisions → ``precision``: what of activations and vectors stays. Ours.

Weights are rounded and the model computes as before, which costs a reading of the texts each and separates what is
stored from what is computed with; half-precision arithmetic, slow on a CPU, is tried on a few texts. The reference is
the model as it was loaded. Where its weights come from a 4-bit file, that is what the reference holds, and what 8 or 4
bits add is a second rounding.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from emotrace.errors import EmotraceError
from emotrace.hosts.precision import ARITHMETIC, PRECISIONS, stored_as
from emotrace.instrument import corpus
from emotrace.judges import layer_choice
from emotrace.judges.calibration import shipped
from emotrace.measures import directions, geometry, jackknife, statistics
from emotrace.readings import class_means, read_texts
from emotrace.study.effects.crossed import crossed_mean
from emotrace.study.estimators.measure import fixed_layers
from emotrace.study.steered import FALLBACK_STRENGTH, POOLING
from emotrace.study.study import Study, choose_layer

DRAWS = 200
"""Resamples of topics behind the intervals of the geometries."""
ARITHMETIC_TOPICS, STEERED_EMOTIONS = 2, 10
Pooled = dict[str, np.ndarray]


def precision_table(study: Study) -> pd.DataFrame:
    """One row a pooling, layer, precision, reference and metric; see ``docs/tables.md``.

    Each precision against the model as loaded, and ``int8`` against ``float16``. Metrics: ``finite``, 0 where some
    activation is no number, which leaves no other row; ``activations``, cosine of a text's activations with the
    reference's; ``vectors``, of the emotion vectors; ``rdm``, Spearman's ρ of the two geometries (raw cosines of 21
    classes, the sequel's), and ``rdm_change``, 1 − ρ; ``decoding``, accuracy on held-out topics, and
    ``decoding_change``, minus the reference's. ``rdm_halves``, in rows of the reference alone: ρ of the geometries of
    disjoint halves of the topics, what the choice of texts does. ``steering``, what adding these vectors does to the
    next token (kin words, nats) in the model of that precision, and ``steering_change``.
    """
    return pd.DataFrame(study.unit("precision", partial(_rows, study)))


def _rows(study: Study) -> list[dict[str, Any]]:
    own = study.model.provenance["dtype"]
    readings: dict[str, Pooled] = {own: study.reading.pooled}
    rows: list[dict[str, Any]] = []
    steered = {own: _steered(study, own, study.reading.pooled)}
    for precision in PRECISIONS[1:]:  # wider weights hold the same
        if precision == own:
            continue
        found = _read(study, precision, study.reading.labels)
        finite = float(found is not None)
        rows.append(study.row("", np.nan, precision=precision, reference=own, metric="finite", value=finite))
        if found is not None:
            readings[precision], steered[precision] = found, _steered(study, precision, found)
        study.progress("reading at other precisions", 1, len(PRECISIONS) - 1)
    rows += _arithmetic(study, own)
    pairs = [(own, precision) for precision in readings if precision != own]
    if {"float16", "int8"} <= {*readings} and own != "float16":
        pairs.append(("float16", "int8"))
    rows += _steering_rows(study, steered, pairs)
    for pooling in study.reading.pooled:
        for choice, layer in _layers(study, pooling):
            at = {name: pooled[pooling][:, study.reading.layers.index(layer)] for name, pooled in readings.items()}
            common = {"choice": choice, "precision": own, "reference": own}
            halves = statistics.mean_interval(_halves(study, at[own]))._asdict()
            rows.append(study.row(pooling, layer, **common, metric="rdm_halves", **halves, n=10))
            for reference, precision in pairs:
                common = {"choice": choice, "precision": precision, "reference": reference}
                rows += [
                    study.row(pooling, layer, **common, **row)
                    for row in _compare(study, at[precision], at[reference], layer)
                ]
    return rows


def _read(study: Study, precision: str, labels: pd.DataFrame) -> Pooled | None:
    """Texts read by the study's model at a precision; None where something in it is not finite."""
    model = study.model
    try:
        with stored_as(model.nn._module, precision):
            reading = read_texts(model, labels, layers=study.reading.layers)
    except EmotraceError:
        return None
    return reading.pooled


def _arithmetic(study: Study, own: str) -> list[dict[str, Any]]:
    """A few topics' texts read in half-precision arithmetic: whether it overflows, and how far activations move."""
    labels, rows = study.reading.labels, list[dict[str, Any]]()
    few = labels["topic"].isin(list(dict.fromkeys(labels["topic"]))[:ARITHMETIC_TOPICS]).to_numpy()
    for precision in ARITHMETIC:
        found = _read(study, precision, labels[few])
        common = {"precision": precision, "reference": own}
        rows.append(study.row("", np.nan, **common, metric="finite", value=float(found is not None), n=int(few.sum())))
        for pooling, pooled in (found or {}).items():
            for choice, layer in _layers(study, pooling):
                place = study.reading.layers.index(layer)
                pair = (values[:, place].astype(np.float64) for values in (pooled, study.reading.pooled[pooling][few]))
                cosine = {"metric": "activations", "value": float(directions.cosines(*pair).mean())}
                rows.append(study.row(pooling, layer, choice=choice, **common, **cosine, n=int(few.sum())))
    return rows


def _steered(study: Study, precision: str, pooled: Pooled) -> np.ndarray | None:
    """What steering does to the next token ``[emotion, prompt]`` with the vectors and the model of a precision.

    None where no emotion has kin words that a token holds, or the steered model's logits are not finite.
    """
    model, layer = study.model, choose_layer(study, POOLING, "nearest_centroid")
    names = layer_choice.readable(model, study.names)[::2][:STEERED_EMOTIONS]
    known = shipped(model)
    strength = FALLBACK_STRENGTH if known is None or known.layers != [layer] else known.strength or FALLBACK_STRENGTH
    if not names:
        return None
    vectors = replace(study.reading, pooled=pooled).vectors(POOLING)
    with stored_as(model.nn._module, precision):
        try:
            return layer_choice.effect(model, vectors, [layer], strength, corpus.prompts("dose"), names)
        except EmotraceError:
            return None


def _steering_rows(
    study: Study, steered: dict[str, np.ndarray | None], pairs: list[tuple[str, str]]
) -> list[dict[str, Any]]:
    layer, rows = choose_layer(study, POOLING, "nearest_centroid"), list[dict[str, Any]]()
    own = next(iter(steered))
    for reference, precision in [(own, own), *pairs]:
        cells, against = steered[precision], steered[reference]
        if cells is None or against is None:
            continue
        common = {"choice": "chosen", "precision": precision, "reference": reference}
        sizes = {"n": len(cells), "prompts": cells.shape[1]}
        found = {"steering": cells} | ({"steering_change": cells - against} if precision != reference else {})
        for metric, values in found.items():
            rows.append(study.row(POOLING, layer, **common, metric=metric, **crossed_mean(values)._asdict(), **sizes))
    return rows


def _layers(study: Study, pooling: str) -> list[tuple[str, int]]:
    return [
        ("chosen", choose_layer(study, pooling, "nearest_centroid")),
        *(("fixed", layer) for layer in fixed_layers(study)),
    ]


def _compare(study: Study, texts: np.ndarray, reference: np.ndarray, layer: int) -> list[dict[str, Any]]:
    labels = study.reading.labels["emotion"].to_numpy(dtype=str)
    classes = list(dict.fromkeys(labels))
    emotions = [classes.index(name) for name in study.names]
    means = [class_means(values, labels, classes) for values in (texts, reference)]
    vectors = [(values - values.mean(axis=0))[emotions] for values in means]
    changed = rdm_change(study, texts, reference)
    rho = statistics.Interval(1 - changed.value, 1 - changed.high, 1 - changed.low)
    right = [_by_topic(study, values) for values in (texts, reference)]
    n, change = len(right[0]), right[0] - right[1]
    cosines = directions.cosines(texts.astype(np.float64), reference.astype(np.float64))
    return [
        {"metric": "activations", "value": float(cosines.mean()), "n": len(texts)},
        {"metric": "vectors", **statistics.mean_interval(directions.cosines(*vectors))._asdict(), "n": len(emotions)},
        {"metric": "rdm", **rho._asdict(), "n": n},
        {"metric": "rdm_change", **changed._asdict(), "n": n},
        {"metric": "decoding", **statistics.mean_interval(right[0])._asdict(), "n": n},
        {
            "metric": "decoding_change",
            **statistics.mean_interval(change)._asdict(),
            "n": n,
            "p": jackknife.flip_p(change, "two-sided")[0],
        },
    ]


def _by_topic(study: Study, texts: np.ndarray) -> np.ndarray:
    """Accuracy of the nearest centroid on each topic when it was held out ``[topic]``."""
    right = geometry.decode(texts[study.emotional], study.emotions, study.topics, "nearest_centroid")
    return np.array([right[study.topics == topic].mean() for topic in dict.fromkeys(study.topics)])


def _upper_cosines(study: Study, texts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Cosines between the means of all classes, each pair once, under rows of topic weights: ``[draw, pair]``."""
    labels = study.reading.labels
    classes = list(dict.fromkeys(labels["emotion"]))
    cells = geometry.cells(texts, labels["topic"].to_numpy(str), labels["emotion"].to_numpy(str), classes)
    cosines = geometry.cosines_of_gram(cells.centroid_grams(weights))
    return cosines[:, *np.triu_indices(len(classes), 1)]


def _spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's ρ of the rows of two tables ``[draw, pair]`` → ``[draw]``; NaN where a value is unknown."""
    a, b = (rankdata(values, axis=1) for values in (first, second))
    a, b = (values - values.mean(axis=1, keepdims=True) for values in (a, b))
    rho = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return np.where(np.isfinite(first + second).all(axis=1), rho, np.nan)


def rdm_change(study: Study, texts: np.ndarray, reference: np.ndarray) -> statistics.Interval:
    """1 − ρ of the geometries of the same texts in two readings, both computed anew in every resample of topics."""
    topics = len(set(study.reading.labels["topic"]))
    draws = statistics.topic_draws(topics, min(DRAWS, study.settings.bootstrap), study.rng("precision"))
    weights = np.vstack([np.ones(topics), draws])
    change = 1 - _spearman(_upper_cosines(study, texts, weights), _upper_cosines(study, reference, weights))
    return statistics.centred_interval(float(change[0]), change[1:])


def _halves(study: Study, texts: np.ndarray) -> np.ndarray:
    """ρ of the geometries of two disjoint halves of the topics, for ten random splits."""
    topics, rng = len(set(study.reading.labels["topic"])), study.rng("precision halves")
    first = np.stack([rng.permutation(topics) < topics // 2 for _ in range(10)]).astype(np.float64)
    return _spearman(_upper_cosines(study, texts, first), _upper_cosines(study, texts, 1 - first))
