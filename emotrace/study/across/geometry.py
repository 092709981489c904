"""Do models, methods and poolings lay the emotions out alike? Correlations of their dissimilarity matrices.

A geometry is the matrix of 1 − cosine between the emotion vectors, centred on the emotions, at the layer that nearest
centroid chose on one half of the topics (comprehension). The vectors of both methods are compared at that same layer, so
that within a model the method is all that differs. Two geometries are compared by Spearman's ρ over pairs of emotions.

Three things can move ρ: which emotions there are, which texts were read, and noise. The interval resamples emotions.
Where the run kept its texts' sums by topic, an interval over topics stands beside it, and so does the same ρ from two
disjoint halves of the topics (two models that read the same texts share their peculiarities, which raises ρ) with the ρ
of a geometry with itself across such halves, which is as high as noise lets it get.
"""

from __future__ import annotations

import io
import itertools
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from emotrace.errors import EmotraceError
from emotrace.measures import geometry, statistics
from emotrace.study.folder import file_name, select
from emotrace.study.study import Study, choose_layer
from emotrace.vectors import EmotionVectors

if TYPE_CHECKING:
    from emotrace.study.across.measure import Facts

METHODS, POOLINGS = ("comprehension", "generation"), ("last", "mean")
# Random splits of the topics into halves.
SPLITS = 200


@dataclass(frozen=True)
class Geometry:
    """One model's emotion vectors by one method and pooling, at one layer.

    Attributes:
        emotions: names along the first axis.
        vectors: ``[emotion, d_model]``, any centring.
        depth: layer / number of layers.
        topics: the texts' inner products, to resample topics with, or None.
    """

    model: str
    method: str
    pooling: str
    layer: int
    depth: float
    emotions: tuple[str, ...]
    vectors: np.ndarray
    topics: TopicGram | None = None

    def rdm(self, emotions: list[str]) -> np.ndarray:
        """1 − cosine between the vectors of ``emotions``, centred on them: ``[n, n]``."""
        chosen = self.vectors[[self.emotions.index(name) for name in emotions]].astype(np.float64)
        return geometry.rdm(chosen - chosen.mean(axis=0))


@dataclass(frozen=True)
class TopicGram:
    """Inner products between the activations of topic × emotion cells at one layer: all that resampling topics needs.

    Attributes:
        topics: names along the axes of topics.
        emotions: names along the axes of emotions.
        gram: float32 ``[topic, emotion, topic, emotion]``, of sums measured from the mean of all texts.
        counts: texts in each cell, ``[topic, emotion]``.
    """

    topics: tuple[str, ...]
    emotions: tuple[str, ...]
    gram: np.ndarray
    counts: np.ndarray

    def rdms(self, weights: np.ndarray, emotions: list[str]) -> np.ndarray:
        """Dissimilarities of ``emotions`` under topic weights ``[draw, topic]``: ``[draw, n, n]``, NaN where a text lacks."""
        places = [self.emotions.index(name) for name in emotions]
        gram = self.gram[:, places][:, :, :, places].astype(np.float64)
        summed = np.einsum("bt,tesf,bs->bef", weights, gram, weights, optimize=True)
        counts = weights @ self.counts[:, places]
        with np.errstate(invalid="ignore", divide="ignore"):
            grams = summed / (counts[:, :, None] * counts[:, None, :])
        return 1 - geometry.cosines_of_gram(geometry.centre_gram(grams))


def keep_topics(study: Study) -> None:
    """Keeps what resampling topics needs, for each pooling at the layer that nearest centroid chose, beside the vectors."""
    for pooling in study.reading.pooled:
        layer = choose_layer(study, pooling, "nearest_centroid")
        activations = study.layer(pooling, layer).astype(np.float64)
        cells = geometry.cells(activations - activations.mean(axis=0), study.topics, study.emotions, study.names)
        buffer = io.BytesIO()
        np.savez(
            buffer, topics=np.array(list(dict.fromkeys(study.topics))), emotions=np.array(study.names), layer=layer,
            gram=cells.gram.astype(np.float32), counts=cells.counts,
        )  # fmt: skip
        study.run.write(_topics_file(study.run.path, study.model, pooling), buffer.getvalue())


def _topics_file(path: Path, model: str, pooling: str) -> Path:
    return path / "vectors" / f"{file_name(model)}-comprehension-{pooling}-topics.npz"


def load(path: Path, localisation: pd.DataFrame, models: list[str]) -> list[Geometry]:
    """The geometries of a run folder: every model, method and pooling whose vectors it holds."""
    found = []
    for model, method, pooling in itertools.product(models, METHODS, POOLINGS):
        chosen = select(localisation, model=model, pooling=pooling, criterion="nearest_centroid")
        file = path / "vectors" / f"{file_name(model)}-{method}-{pooling}.safetensors"
        if chosen.empty or not file.exists():
            continue
        layer, vectors = int(chosen["chosen_layer"].iloc[0]), EmotionVectors.load(file)
        topics = _topics(path, model, pooling, layer) if method == "comprehension" else None
        depth = float(chosen["chosen_depth"].iloc[0])
        found.append(Geometry(model, method, pooling, layer, depth, vectors.emotions, vectors.at(layer), topics))
    return found


def _topics(path: Path, model: str, pooling: str, layer: int) -> TopicGram | None:
    """What a run kept by topic; None where it kept nothing, as folders of older versions did."""
    try:
        with np.load(_topics_file(path, model, pooling), allow_pickle=False) as kept:
            if int(kept["layer"]) != layer:
                return None
            names = (tuple(map(str, kept[name])) for name in ("topics", "emotions"))
            return TopicGram(*names, kept["gram"], kept["counts"])
    except (OSError, ValueError, KeyError):
        return None


# -- correlations -------------------------------------------------------------------------------------------------------


def correlations(
    geometries: list[Geometry], facts: dict[str, Facts], draws: int, permutations: int, seed: int
) -> pd.DataFrame:
    """``across_rdm``: Spearman's ρ between every two geometries.

    Args:
        geometries: two or more; they are compared on the emotions that all have.
        facts: of each model.
        draws: resamples of emotions, and of topics.
        permutations: of the emotions' names, for the Mantel p.
        seed: of all draws.

    Returns:
        One row a pair: ``model, method, pooling, layer, depth, family, kind`` of either (``_a``, ``_b``); ``same_model``,
        ``same_family``, ``same_method``, ``same_pooling``, ``kinds`` (``base × instruct`` …); ``value, low, high`` over
        ``n`` emotions, one-sided Mantel ``p`` with ``m``; over ``n_topics``: ``topics_low, topics_high``; ``disjoint``, the
        mean ρ across ``SPLITS`` splits of the topics, one half for either, with the central 95% of the splits
        ``disjoint_low, disjoint_high``; ``ceiling``, the geometric mean of each one's ρ with itself across these halves.

    Raises:
        EmotraceError: fewer than four emotions in common.
    """
    if len(geometries) < 2:
        return pd.DataFrame()
    shared = [name for name in geometries[0].emotions if all(name in each.emotions for each in geometries)]
    if len(shared) < 4:
        raise EmotraceError(f"geometries are compared on four common emotions or more, not {len(shared)}")
    rdms = np.stack([each.rdm(shared) for each in geometries])
    resampled = _over_emotions(rdms, _rng(seed, "emotions").integers(len(shared), size=(draws, len(shared))))
    by_topic = _Topics(geometries, shared, draws, seed)
    rows = []
    for a, b in itertools.combinations(range(len(geometries)), 2):
        value, p = statistics.mantel(rdms[a], rdms[b], permutations, _rng(seed, "mantel"))
        interval = statistics.percentile_interval(value, resampled[:, a, b])
        rows.append({
            **_described(geometries[a], geometries[b], facts), **interval._asdict(), "n": len(shared), "p": p,
            "m": permutations, **by_topic.compare(a, b, value),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _described(a: Geometry, b: Geometry, facts: dict[str, Facts]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for side, each in (("a", a), ("b", b)):
        fact = facts[each.model]
        row |= {
            f"model_{side}": each.model, f"method_{side}": each.method, f"pooling_{side}": each.pooling,
            f"layer_{side}": each.layer, f"depth_{side}": each.depth, f"family_{side}": fact.family,
            f"kind_{side}": fact.kind,
        }  # fmt: skip
    return row | {
        "same_model": a.model == b.model, "same_family": facts[a.model].family == facts[b.model].family,
        "same_method": a.method == b.method, "same_pooling": a.pooling == b.pooling,
        "kinds": " × ".join(sorted((facts[a.model].kind, facts[b.model].kind))),
    }  # fmt: skip


def standardised_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis with mean 0 and norm 1, so that inner products are Spearman's ρ; constants become NaN."""
    ranks = rankdata(values, axis=-1)
    ranks = ranks - ranks.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return ranks / np.linalg.norm(ranks, axis=-1, keepdims=True)


def _over_emotions(rdms: np.ndarray, picks: np.ndarray) -> np.ndarray:
    """ρ between all geometries ``[g, n, n]`` in resamples of emotions ``picks [draw, n]``: ``[draw, g, g]``.

    Pairs of an emotion with itself, which have dissimilarity 0 in every geometry, are left out.
    """
    rows, columns = np.triu_indices(rdms.shape[1], 1)
    found = np.empty((len(picks), len(rdms), len(rdms)))
    for draw, pick in enumerate(picks):
        first, second = pick[rows], pick[columns]
        other = first != second
        ranks = standardised_ranks(rdms[:, first[other], second[other]])
        found[draw] = ranks @ ranks.T
    return found


class _Topics:
    """ρ in resamples and in halves of the topics, for the geometries whose topics were kept."""

    def __init__(self, geometries: list[Geometry], emotions: list[str], draws: int, seed: int) -> None:
        self.names = [each.topics.topics if each.topics else None for each in geometries]
        self.resampled: dict[int, np.ndarray] = {}
        self.halves: dict[int, np.ndarray] = {}
        for place, each in enumerate(geometries):
            if each.topics is None or len(each.topics.topics) < 4:
                continue
            n = len(each.topics.topics)
            weights = statistics.topic_draws(n, draws, _rng(seed, "topics", n))
            self.resampled[place] = _upper(each.topics.rdms(weights, emotions))
            first = _splits(n, _rng(seed, "halves", n))
            # [half, split, pair]
            self.halves[place] = np.stack(
                [_upper(each.topics.rdms(half.astype(float), emotions)) for half in (first, ~first)]
            )

    def compare(self, a: int, b: int, value: float) -> dict[str, float]:
        if a not in self.halves or b not in self.halves or self.names[a] != self.names[b]:
            return {}
        draws = (self.resampled[a] * self.resampled[b]).sum(axis=-1)
        interval = statistics.centred_interval(value, draws)
        crossed = (self.halves[a] * self.halves[b][::-1]).sum(axis=-1).mean(axis=0)
        own = [np.nanmean((self.halves[place][0] * self.halves[place][1]).sum(axis=-1)) for place in (a, b)]
        spread = np.nanpercentile(crossed, [2.5, 97.5])
        return {
            "topics_low": interval.low, "topics_high": min(interval.high, 1.0), "disjoint": float(np.nanmean(crossed)),
            "disjoint_low": spread[0], "disjoint_high": spread[1],
            "ceiling": float(np.sqrt(max(own[0], 0) * max(own[1], 0))), "n_topics": len(self.names[a]),
        }  # fmt: skip


def _upper(rdms: np.ndarray) -> np.ndarray:
    """Standardised ranks of the upper triangle: ``[draw, n, n]`` → ``[draw, pair]``; NaN for a draw that lacks an emotion."""
    rows, columns = np.triu_indices(rdms.shape[-1], 1)
    values = rdms[:, rows, columns]
    return np.where(np.isfinite(values).all(axis=1, keepdims=True), standardised_ranks(values), np.nan)


def _splits(n: int, rng: np.random.Generator) -> np.ndarray:
    """Random halves of ``n`` topics: bool ``[split, topic]``, ``n // 2`` True in each."""
    return rng.permuted(np.tile(np.arange(n) < n // 2, (SPLITS, 1)), axis=1)


def _rng(seed: int, *what: object) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(repr(("across geometry", *what)).encode())])
