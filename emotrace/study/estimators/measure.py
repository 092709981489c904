"""Every estimator on the same texts, folds and layers → ``estimators``. Ours: the paper uses the difference of means.

Activations come from what the model has read already. Vectors are always judged on texts of topics that they were not
estimated from. The floors, which know words alone, read the texts' embeddings in place of the layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from emotrace.errors import EmotraceError
from emotrace.estimation import name_embeddings
from emotrace.instrument import corpus
from emotrace.measures import directions, geometry, jackknife, statistics
from emotrace.measures.estimators import ESTIMATORS, MEAN_DIFFERENCE, Texts, estimate
from emotrace.study.study import Study, choose_layer

DEPTHS = (0.25, 0.5, 0.75)
"""Layers that no label chose, by depth; beside them the one that decoding chose."""
CHOSEN, FIXED = "chosen", "fixed"
SPLITS = 5
PERMUTATIONS = 19
"""Label shuffles of every estimator: a check that nothing leaks. The tests of the table flip signs of topics."""
READINGS = ("decoding", "ranking", "transfer_decoding", "transfer_ranking")
EMBEDDINGS = "embeddings"
Names = dict[str, np.ndarray]


@dataclass(frozen=True)
class Scores:
    """How one estimator did at one layer.

    Attributes:
        by_topic: each of ``READINGS`` that there is → its mean over the texts of each topic, held out ``[topic]``.
        vectors: from all texts, ``[emotion, d_model]``.
        split_half: cosine of vectors from disjoint halves of the topics, mean over splits, ``[emotion]``.
        permuted: ``decoding``, ``ranking``, ``split_half`` → the same with labels shuffled, one each ``[shuffle]``.
    """

    by_topic: dict[str, np.ndarray]
    vectors: np.ndarray
    split_half: np.ndarray
    permuted: dict[str, np.ndarray]


def estimators_table(study: Study) -> pd.DataFrame:
    """One row a set of passages, pooling, layer, estimator and metric; see ``docs/tables.md``.

    Metrics: ``decoding`` (accuracy of the highest standardised projection, chance 1 over emotions) and ``ranking``
    (share of other emotions' texts on the topic that project lower, chance 0.5) on held-out topics; the same two with
    ``transfer_`` on the other set of passages' texts on those topics; ``…_gain``, each minus that of the difference of
    means; ``split_half``; ``in_texts``, share of the squared norm in the components that hold 90% of the texts'
    variance; ``cosine`` with the estimator ``other``.

    ``choice``: ``fixed``, a layer that no label chose, over all topics; ``chosen``, each half of the topics read at the
    layer at which nearest centroid decodes the other half best.
    """
    own = (name for part in study.instruments.values() for name in part.source.emotions)
    names = name_embeddings(study.model, list(dict.fromkeys([*corpus.emotions().index, *own])))
    parts, rows = list(study.instruments.values()), list[dict[str, Any]]()
    with threadpool_limits(1):
        for part in parts:
            other = next((one for one in parts if one is not part), None)
            for pooling in part.reading.pooled:
                against = "none" if other is None else other.reading.provenance.get("texts")
                rows += part.unit(
                    f"estimators {pooling}, transfer to {against}", partial(_rows, part, other, pooling, names)
                )
                study.progress("estimators", 1, len(parts) * len(part.reading.pooled))
    return pd.DataFrame(rows)


def texts_of(study: Study, pooling: str, layer: int | str, names: Names) -> Texts:
    """What an estimator is given of a study's reading; in place of a layer ``EMBEDDINGS``, the mean of layer 0."""
    labels, layers = study.reading.labels, study.reading.layers
    embeddings = study.reading.pooled["mean"][:, layers.index(0)]
    at = None if isinstance(layer, str) else layers.index(layer)
    return Texts(
        embeddings if at is None else study.reading.pooled[pooling][:, at],
        labels["emotion"].to_numpy(dtype=str),
        labels["topic"].to_numpy(dtype=str),
        study.baseline["mean" if at is None else pooling][:, at or 0],
        embeddings,
        names,
        corpus.NEUTRAL,
    )


def fit(estimator: str, texts: Texts, names: list[str]) -> np.ndarray:
    """The vectors of these emotions ``[emotion, d_model]``; NaN for one that has no text here."""
    found = estimate(estimator, texts)
    classes, vectors = texts.classes, np.full((len(names), found.shape[1]), np.nan)
    for row, name in enumerate(names):
        if name in classes:
            vectors[row] = found[classes.index(name)]
    return vectors


def held_out(
    vectors_of: Callable[[Texts], np.ndarray], texts: Texts, others: Texts | None, names: list[str]
) -> dict[str, np.ndarray]:
    """Each of ``READINGS`` by topic, in order of appearance ``[topic]``, from folds of topics.

    Args:
        vectors_of: texts → vectors ``[emotion, d_model]``.
        texts: what vectors are estimated from, all but one fold's topics at a time, and read on that fold.
        others: another set of texts on the same topics, read with the same vectors; None: there is none.
        names: the emotions.
    """
    assert texts.topics is not None
    order = list(dict.fromkeys(texts.topics))
    kinds = READINGS if others is not None else READINGS[:2]
    sums = {kind: np.full(len(order), np.nan) for kind in kinds}
    for train, test in geometry.topic_folds(texts.topics):
        known = texts.rows(train)
        vectors = vectors_of(known)
        reference = known.activations[np.isin(known.emotions, names)]
        for prefix, of in (("", texts), ("transfer_", others)):
            if of is None or of.topics is None:
                continue
            rows = np.flatnonzero(np.isin(of.topics, texts.topics[test]) & np.isin(of.emotions, names))
            classes = np.array([names.index(name) for name in of.emotions[rows]], dtype=int)
            right = directions.decoded(vectors, reference, of.activations[rows]) == classes
            rank = directions.ranks(vectors, of.activations[rows], classes, of.topics[rows])
            for topic in set(of.topics[rows]):
                here = of.topics[rows] == topic
                sums[f"{prefix}decoding"][order.index(topic)] = right[here].mean()
                sums[f"{prefix}ranking"][order.index(topic)] = np.nanmean(rank[here])
    return sums


def split_halves(
    vectors_of: Callable[[Texts], np.ndarray], texts: Texts, rng: np.random.Generator, splits: int
) -> np.ndarray:
    """Cosine between the vectors of two disjoint halves of the topics, mean over random splits: ``[emotion]``."""
    assert texts.topics is not None
    topics, cosines = np.array(list(dict.fromkeys(texts.topics))), []
    for _ in range(splits):
        first = np.isin(texts.topics, rng.permutation(topics)[: len(topics) // 2])
        cosines.append(directions.cosines(vectors_of(texts.rows(first)), vectors_of(texts.rows(~first))))
    return np.mean(cosines, axis=0)


def score(
    study: Study, other: Study | None, pooling: str, layer: int, estimator: str, names: Names, permutations: int
) -> Scores | None:
    """One estimator at one layer; None where these texts lack what it needs."""
    one, emotions = ESTIMATORS[estimator], study.names
    place: int | str = EMBEDDINGS if one.floor else layer
    texts = texts_of(study, pooling, place, names)
    others = None if other is None else texts_of(other, pooling, place, names)
    vectors_of = partial(fit, estimator, names=emotions)
    try:
        by_topic = held_out(vectors_of, texts, others, emotions)
        halves = split_halves(vectors_of, texts, study.rng("estimators", "halves"), SPLITS)
        permuted: dict[str, list[float]] = {"decoding": [], "ranking": [], "split_half": []}
        rng = study.rng("estimators", "shuffles")
        for _ in range(permutations if one.learns else 0):
            assert texts.topics is not None
            shuffled = replace(texts, emotions=geometry.shuffle_within_topics(texts.emotions, texts.topics, rng))
            found = held_out(vectors_of, shuffled, None, emotions)
            found["split_half"] = split_halves(vectors_of, shuffled, rng, 1)
            for metric, values in permuted.items():
                values.append(float(np.nanmean(found[metric])))
        vectors = vectors_of(texts)
    except EmotraceError:
        return None
    return Scores(by_topic, vectors, halves, {metric: np.array(values) for metric, values in permuted.items()})


def _rows(study: Study, other: Study | None, pooling: str, names: Names) -> list[dict[str, Any]]:
    chosen = [choose_layer(study, pooling, "nearest_centroid", half) for half in (0, 1)]
    fixed = fixed_layers(study)
    permutations = min(PERMUTATIONS, study.settings.decoder_permutations // 20)  # a quick run: 4
    found: dict[tuple[str, int], Scores] = {}
    for estimator in ESTIMATORS:
        start = time.perf_counter()
        for layer in dict.fromkeys([*chosen, *fixed]):
            shuffles = permutations if layer == chosen[0] else 0
            one = score(study, other, pooling, layer, estimator, names, shuffles)
            if one is not None:
                found[estimator, layer] = one
        seconds = study.run.manifest.setdefault("estimator_seconds", {}).setdefault(study.model_name, {})
        seconds[estimator] = round(seconds.get(estimator, 0) + time.perf_counter() - start, 1)
    rows = []
    for choice, pair in [(CHOSEN, chosen), *((FIXED, [layer, layer]) for layer in fixed)]:
        at = {name: [found[name, layer] for layer in pair] for name in ESTIMATORS if (name, pair[0]) in found}
        for name, both in at.items():
            rows += [
                study.row(pooling, pair[0], choice=choice, second_layer=pair[1], estimator=name, **row)
                for row in [
                    *reading_rows(study, both, at.get(MEAN_DIFFERENCE), name),
                    *_vector_rows(study, pooling, pair[0], name, {one: scores[0] for one, scores in at.items()}),
                ]
            ]
    return rows


def fixed_layers(study: Study) -> list[int]:
    """The layers at ``DEPTHS``, of which no label chose one."""
    return list(dict.fromkeys(max(1, round(depth * study.n_layers)) for depth in DEPTHS))


def _both_ways(study: Study, both: list[Scores], kind: str) -> np.ndarray:
    """By topic ``[topic]``: the second half at the layer that the first chose, the first at the second's."""
    return np.where(study.halves[1], both[0].by_topic[kind], both[1].by_topic[kind])


def reading_rows(study: Study, both: list[Scores], plain: list[Scores] | None, name: str) -> list[dict[str, Any]]:
    """The rows of what one estimator read: each half of the topics at its layer, beside the difference of means."""
    rows = []
    for kind in both[0].by_topic:
        values, permuted = _both_ways(study, both, kind), both[0].permuted.get(kind, np.empty(0))
        chance = 0.5 if kind.endswith("ranking") else 1 / len(study.names)
        row: dict[str, Any] = {"metric": kind, **_share(values), "chance": chance, "n": len(values)}
        row["p"], row["patterns"] = jackknife.flip_p(values - chance, "two-sided")
        if len(permuted):
            row |= {"null": permuted.mean(), "null_p": statistics.permutation_p(row["value"], permuted, "greater")}
            row["m"] = len(permuted)
        rows.append(row)
        if plain is not None and name != MEAN_DIFFERENCE:
            gain = values - _both_ways(study, plain, kind)
            p, patterns = jackknife.flip_p(gain, "two-sided")
            interval = statistics.mean_interval(gain)._asdict()
            rows.append({"metric": f"{kind}_gain", **interval, "chance": 0.0, "n": len(gain), "p": p})
            rows[-1]["patterns"] = patterns
    return rows


def _vector_rows(study: Study, pooling: str, layer: int, name: str, at: dict[str, Scores]) -> list[dict[str, Any]]:
    own, emotional = at[name], study.emotional
    place: int | str = EMBEDDINGS if ESTIMATORS[name].floor else layer
    activations = texts_of(study, pooling, place, {}).activations[emotional]
    rows: list[dict[str, Any]] = []
    if ESTIMATORS[name].learns:
        permuted = own.permuted["split_half"]
        rows.append({"metric": "split_half", **statistics.mean_interval(own.split_half)._asdict(), "chance": 0.0})
        if len(permuted):
            rows[-1] |= {"null": permuted.mean(), "m": len(permuted)}
            rows[-1]["null_p"] = statistics.permutation_p(rows[-1]["value"], permuted, "greater")
    shares, chance = directions.share_within(own.vectors, activations)
    rows.append({"metric": "in_texts", **_share(shares), "chance": chance})
    for other, scores in at.items():
        if other != name:
            cosine = statistics.mean_interval(directions.cosines(own.vectors, scores.vectors))._asdict()
            rows.append({"metric": "cosine", "other": other, **cosine, "chance": 0.0})
    return [{**row, "n": len(study.names)} for row in rows]


def _share(values: np.ndarray) -> dict[str, float]:
    """Mean and Student's interval of shares; it knows no ends."""
    value, low, high = statistics.mean_interval(values)
    return {"value": value, "low": max(low, 0.0), "high": min(high, 1.0)}
