"""Do models, methods and poolings lay the emotions out alike? Correlations of their dissimilarity matrices.

A geometry is the matrix of 1 − cosine between the emotion vectors, centred on the emotions, at the layer that nearest
centroid chose on one half of the topics (comprehension). The vectors of both methods are compared at that same layer,
so that within a model only the method differs. Two geometries are compared by Spearman's ρ over pairs of emotions.

Three things can move ρ: which emotions there are, which texts were read, and noise. The interval resamples emotions.
Where the run kept its texts' sums by topic, an interval over topics stands beside it, and so does the same ρ from two
disjoint halves of the topics (two models that read the same texts share their peculiarities, which raises ρ) with the ρ
of a geometry with itself across such halves, which is as high as noise lets it get; and the same beyond what the words
of the texts give by themselves (:mod:`emotrace.study.across.agreement`).
"""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emotrace.errors import EmotraceError
from emotrace.files import write_file
from emotrace.instrument import corpus
from emotrace.measures import geometry, statistics
from emotrace.measures.randomness import generator
from emotrace.study.across.agreement import Shared, beyond_words, standardised_ranks
from emotrace.study.across.facts import Facts
from emotrace.study.experiment import instruments
from emotrace.study.folder import file_name, select
from emotrace.study.study import Study, choose_layer
from emotrace.vectors import EmotionVectors

METHODS, POOLINGS = ("comprehension", "generation"), ("last", "mean")
SPLITS = 200
"""Random splits of the topics into halves."""
RESAMPLED_SPLITS, RESAMPLES = 30, 200
"""Of the splits, how many are computed anew for each of how many resamples of emotions beyond the words."""
WORDS = ("embeddings", "tfidf")
"""What the words alone give: mean embeddings without context (layer 0), and TF-IDF of the texts."""


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
        """Dissimilarities of ``emotions`` under topic weights ``[draw, topic]``: ``[draw, n, n]``; NaN without text."""
        indices = [self.emotions.index(name) for name in emotions]
        gram = self.gram[:, indices][:, :, :, indices].astype(np.float64)
        summed = np.einsum("bt,tesf,bs->bef", weights, gram, weights, optimize=True)
        counts = weights @ self.counts[:, indices]
        with np.errstate(invalid="ignore", divide="ignore"):
            grams = summed / (counts[:, :, None] * counts[:, None, :])
        return 1 - geometry.cosines_of_gram(geometry.centre_gram(grams))


@dataclass(frozen=True)
class Geometry:
    """One model's emotion vectors by one method and pooling, at one layer.

    Attributes:
        emotions: names along the first axis.
        vectors: ``[emotion, d_model]``, any centring.
        depth: layer / number of layers.
        topics: the texts' inner products, to resample topics with, or None.
        words: those of ``WORDS``, of the same texts, or none.
        instrument: the passages that were read; of generation, those that it stands beside.
    """

    model: str
    method: str
    pooling: str
    layer: int
    depth: float
    emotions: tuple[str, ...]
    vectors: np.ndarray
    topics: TopicGram | None = None
    words: tuple[TopicGram, ...] = ()
    instrument: str = corpus.MAIN_INSTRUMENT

    def rdm(self, emotions: list[str]) -> np.ndarray:
        """1 − cosine between the vectors of ``emotions``, centred on them: ``[n, n]``."""
        chosen = self.vectors[[self.emotions.index(name) for name in emotions]].astype(np.float64)
        return geometry.rdm(chosen - chosen.mean(axis=0))


def _file(path: Path, model: str, method: str, pooling: str, instrument: str, main: bool, ending: str) -> Path:
    """A file of the run's vectors; those of the main instrument do not name it."""
    parts = (file_name(model), method, pooling, *(() if main else (instrument,)))
    return path / "vectors" / ("-".join(parts) + ending)


def keep_topics(study: Study) -> None:
    """Writes, for each instrument and pooling, :class:`TopicGram` arrays beside the vectors.

    Those of the layer that nearest centroid chose, of the embeddings (mean-pooled), and of the texts' TF-IDF.
    """
    for number, part in enumerate(study.instruments.values()):
        words = {"embeddings": part.layer("mean", 0) if 0 in part.reading.layers else None, "tfidf": _tfidf(part)}
        for pooling in part.reading.pooled:
            layer = choose_layer(part, pooling, "nearest_centroid")
            arrays = {"gram": part.layer(pooling, layer), **words}
            kept: dict[str, Any] = {}
            for name, activations in arrays.items():
                if activations is None:
                    continue
                centred = activations.astype(np.float64) - activations.mean(axis=0, dtype=np.float64)
                cells = geometry.cells(centred, part.topics, part.emotions, part.names)
                kept |= {name: cells.gram.astype(np.float32), "counts": cells.counts}
            topics, emotions = np.array(list(dict.fromkeys(part.topics))), np.array(part.names)
            buffer = io.BytesIO()
            np.savez(buffer, topics=topics, emotions=emotions, layer=layer, **kept)
            names = (part.model_name, "comprehension", pooling, part.instrument)
            write_file(_file(part.run.path, *names, number == 0, "-topics.npz"), buffer.getvalue())


def _tfidf(study: Study) -> np.ndarray:
    """TF-IDF of the emotional texts, with logarithmic counts, normalised: ``[text, word]``."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = study.reading.labels["text"].to_numpy()[study.emotional]
    return TfidfVectorizer(analyzer=study.source.words, sublinear_tf=True).fit_transform(texts).toarray()


def _load_topics(file: Path, layer: int) -> tuple[TopicGram | None, tuple[TopicGram, ...]]:
    """What a run folder keeps by topic, of the geometry and of the words; None and () where it keeps nothing."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if int(arrays["layer"]) != layer:
                return None, ()
            topics, emotions = (tuple(map(str, arrays[name])) for name in ("topics", "emotions"))
            grams = [
                TopicGram(topics, emotions, arrays[name], arrays["counts"])
                for name in ("gram", *WORDS)
                if name in arrays
            ]
            return grams[0], tuple(grams[1:])
    except (OSError, ValueError, KeyError):
        return None, ()


def load(path: Path, localisation: pd.DataFrame, models: list[str]) -> list[Geometry]:
    """The geometries of a run folder: every model, method, pooling and instrument whose vectors it holds."""
    geometries = []
    sets = instruments({"localisation": localisation}) or [corpus.MAIN_INSTRUMENT]
    for number, instrument in enumerate(sets):
        rows = select(localisation, instrument=instrument) if "instrument" in localisation else localisation
        for model, method, pooling in itertools.product(models, METHODS, POOLINGS):
            chosen = select(rows, model=model, pooling=pooling, criterion="nearest_centroid")
            names = (path, model, method, pooling, instrument, number == 0)
            file = _file(*names, ".safetensors")
            if chosen.empty or not file.exists():
                continue
            layer, depth = int(chosen["chosen_layer"].iloc[0]), float(chosen["chosen_depth"].iloc[0])
            vectors, kept = EmotionVectors.load(file), _load_topics(_file(*names, "-topics.npz"), layer)
            at = (layer, depth, vectors.emotions, vectors.at(layer))
            geometries.append(Geometry(model, method, pooling, *at, *kept, instrument=instrument))
    return geometries


def correlations(
    geometries: list[Geometry], facts: dict[str, Facts], draws: int, permutations: int, seed: int
) -> pd.DataFrame:
    """``across_rdm``: Spearman's ρ between every two geometries, on the emotions that all of them have.

    One row a pair (columns: ``docs/tables.md``). ``draws`` resample emotions, and topics; ``permutations`` of the
    emotions' names give the one-sided Mantel p.

    Raises:
        EmotraceError: fewer than four emotions in common.
    """
    if len(geometries) < 2:
        return pd.DataFrame()
    shared = [name for name in geometries[0].emotions if all(name in other.emotions for other in geometries)]
    n = len(shared)
    if n < 4:
        raise EmotraceError(f"geometries are compared on four common emotions or more, not {n}")
    rdms = np.stack([one.rdm(shared) for one in geometries])
    resampled = _over_emotions(rdms, generator(seed, "across geometry", "emotions").integers(n, size=(draws, n)))
    topics = [_topic_ranks(one.topics, shared, draws, seed) for one in geometries]
    rows = []
    for a, b in itertools.combinations(range(len(geometries)), 2):
        rho, p = statistics.mantel(rdms[a], rdms[b], permutations, generator(seed, "across geometry", "mantel"))
        interval = statistics.percentile_interval(rho, resampled[:, a, b])._asdict()
        pair = _pair(geometries[a], geometries[b], facts)
        row = {**pair, **interval, "n": n, "p": p, "m": permutations, **_over_topics(topics[a], topics[b], rho)}
        rows.append(row | _given_words(geometries[a], geometries[b], shared, draws, seed))
    return pd.DataFrame(rows)


def _given_words(a: Geometry, b: Geometry, emotions: list[str], draws: int, seed: int) -> dict[str, float]:
    """The columns on what two geometries share beyond the words; none for one reading of one model, two poolings or
    other topics. ``words`` is ρ between the geometries of their embeddings.
    """
    same = (a.model, a.instrument) == (b.model, b.instrument) or a.pooling != b.pooling
    if same or a.topics is None or b.topics is None or not (a.words and b.words):
        return {}
    n = len(a.topics.topics)
    if a.topics.topics != b.topics.topics or n < 4:
        return {}
    everything = np.ones((1, n))
    words = np.concatenate([gram.rdms(everything, emotions) for gram in (*a.words, *b.words)])
    if a.instrument == b.instrument:  # the TF-IDF of the same texts once
        words = words[:-1]
    half = np.tile(np.arange(n) < n // 2, (RESAMPLED_SPLITS, 1))
    first = generator(seed, "across geometry", "halves", n).permuted(half, axis=1)
    halves = [
        np.stack([topics.rdms(part.astype(float), emotions) for part in (first, ~first)])
        for topics in (a.topics, b.topics)
    ]
    count = min(draws, RESAMPLES)
    picks = generator(seed, "across geometry", "emotions").integers(len(emotions), size=(count, len(emotions)))
    found: Shared = beyond_words((a.rdm(emotions), b.rdm(emotions)), (halves[0], halves[1]), words, picks)
    upper = np.triu_indices(len(emotions), 1)
    embeddings = [gram.rdms(everything, emotions)[0][upper] for gram in (a.words[0], b.words[0])]
    return {
        "words": float(standardised_ranks(embeddings[0]) @ standardised_ranks(embeddings[1])),
        "given_words": found.given_words,
        "disjoint_given_words": found.disjoint,
        "ceiling_given_words": found.ceiling,
        "shared": found.shared.value,
        "shared_low": found.shared.low,
        "shared_high": found.shared.high,
    }


def _pair(a: Geometry, b: Geometry, facts: dict[str, Facts]) -> dict[str, Any]:
    """The columns that say which two geometries are compared and what they have in common."""
    row: dict[str, Any] = {}
    for side, one in (("a", a), ("b", b)):
        fields = ("model", "instrument", "method", "pooling", "layer", "depth")
        row |= {f"{field}_{side}": getattr(one, field) for field in fields}
        row |= {f"{field}_{side}": getattr(facts[one.model], field) for field in ("family", "kind")}
    row |= {
        f"same_{field}": row[f"{field}_a"] == row[f"{field}_b"]
        for field in ("model", "family", "instrument", "method", "pooling")
    }
    return row | {"kinds": " × ".join(sorted((row["kind_a"], row["kind_b"])))}


def _over_emotions(rdms: np.ndarray, picks: np.ndarray) -> np.ndarray:
    """ρ between all geometries ``[g, n, n]`` in resamples of emotions ``picks [draw, n]``: ``[draw, g, g]``.

    Pairs of an emotion with itself, which have dissimilarity 0 in every geometry, are left out.
    """
    rows, columns = np.triu_indices(rdms.shape[1], 1)
    rho = np.empty((len(picks), len(rdms), len(rdms)))
    for draw, pick in enumerate(picks):
        first, second = pick[rows], pick[columns]
        distinct = first != second
        ranks = standardised_ranks(rdms[:, first[distinct], second[distinct]])
        rho[draw] = ranks @ ranks.T
    return rho


class _TopicRanks(NamedTuple):
    """One geometry's dissimilarities under other topics, as standardised ranks of the pairs of emotions.

    Attributes:
        topics: names of the topics.
        resampled: ``[draw, pair]``, topics drawn with replacement; NaN for a draw that lacks an emotion.
        halves: ``[half, split, pair]``, either half of each random split, likewise.
    """

    topics: tuple[str, ...]
    resampled: np.ndarray
    halves: np.ndarray


def _topic_ranks(gram: TopicGram | None, emotions: list[str], draws: int, seed: int) -> _TopicRanks | None:
    """With the same draws and splits for all geometries that have as many topics; None below four topics."""
    if gram is None or len(gram.topics) < 4:
        return None
    upper = np.triu_indices(len(emotions), 1)

    def ranks(weights: np.ndarray) -> np.ndarray:
        values = gram.rdms(weights, emotions)[:, *upper]
        return np.where(np.isfinite(values).all(axis=1, keepdims=True), standardised_ranks(values), np.nan)

    n = len(gram.topics)
    weights = statistics.topic_draws(n, draws, generator(seed, "across geometry", "topics", n))
    half = np.tile(np.arange(n) < n // 2, (SPLITS, 1))
    first = generator(seed, "across geometry", "halves", n).permuted(half, axis=1)
    return _TopicRanks(
        gram.topics, ranks(weights), np.stack([ranks(first.astype(float)), ranks((~first).astype(float))])
    )


def _over_topics(a: _TopicRanks | None, b: _TopicRanks | None, rho: float) -> dict[str, float]:
    """The columns that rest on topics, for two geometries that correlate at ``rho``; none if their topics differ.

    ``disjoint`` is the mean ρ over the splits, one half for either geometry; ``ceiling`` the geometric mean of each
    one's ρ with itself across the halves.
    """
    if a is None or b is None or a.topics != b.topics:
        return {}
    interval = statistics.centred_interval(rho, (a.resampled * b.resampled).sum(axis=-1))
    crossed = (a.halves * b.halves[::-1]).sum(axis=-1).mean(axis=0)
    low, high = np.nanpercentile(crossed, [2.5, 97.5])
    own_a, own_b = (np.nanmean((ranks.halves[0] * ranks.halves[1]).sum(axis=-1)) for ranks in (a, b))
    ceiling = float(np.sqrt(max(own_a, 0) * max(own_b, 0)))
    row = {"topics_low": interval.low, "topics_high": min(interval.high, 1.0), "disjoint": float(np.nanmean(crossed))}
    return row | {"disjoint_low": low, "disjoint_high": high, "ceiling": ceiling, "n_topics": len(a.topics)}
