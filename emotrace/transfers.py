"""What carries over from one instrument to another in one model → ``transfer``: the model's emotions, or the texts'?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emotrace import arguments
from emotrace.activations import POOLINGS
from emotrace.errors import EmotraceError
from emotrace.instrument.instrument import Instrument
from emotrace.instrument.loading import Source, load_instrument
from emotrace.measures import geometry, statistics
from emotrace.measures.randomness import generator
from emotrace.measures.transfer import centred_vectors, decode_by_vectors, decode_by_words, mean_cosine
from emotrace.readings import Reading, read_texts

if TYPE_CHECKING:
    from emotrace.models import Model

WORDS = "words"
"""The column ``pooling`` of what the words alone carry over."""
PERMUTATIONS, DRAWS = 999, 1000
COLUMNS = ["model", "train", "test", "pooling", "layer", "depth", "metric", "value", "low", "high", "null", "p", "n"]
COLUMNS += ["chosen"]
FEWEST = 3
"""Fewer emotions in common say nothing of a geometry."""


@arguments.checked
def transfer(
    model: Model,
    first: Source,
    second: Source,
    *,
    poolings: Sequence[str] = POOLINGS,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Decodes each instrument's texts by the other's vectors, over the emotions that both have (not *neutral*).

    Vectors are class means centred on their mean over these emotions; texts are centred on their own mean. Where the
    two have topics in common, a text is decoded by what was learnt on other topics: both authors may have put the same
    thing into one topic and emotion.

    Args:
        model: the model that reads both.
        first, second: instruments, as :func:`emotrace.load_instrument` takes them.
        poolings: of ``activations.POOLINGS``.
        seed: of the bootstrap over topics and the permutations.
        progress: called with the number of texts just read.

    Returns:
        One row a direction (``train`` → ``test``), pooling, layer and metric: ``accuracy`` of the other's vectors, with
        its interval over the tested topics (folds of texts, where there are none) and ``null``, the share of the
        commonest emotion; ``within``, of nearest centroids of the tested texts themselves with topics held out;
        ``cosine``, the mean over emotions between both sets' vectors; ``rdm_rho``, Spearman's ρ between their
        dissimilarities with its one-sided Mantel ``p`` (the last two in one direction alone). ``chosen`` marks the
        layer that decodes best *within* the training texts. Rows of pooling ``words``, without a layer: ``accuracy`` of
        TF-IDF learnt on the other's texts. ``n``: texts tested, or emotions.

    Raises:
        EmotraceError: fewer than three emotions in common; an instrument without texts; what loading refuses.
    """
    pair = [load_instrument(source) for source in (first, second)]
    if pair[0].name == pair[1].name:
        raise EmotraceError(f"two instruments are called {pair[0].name!r}: give one of them another name")
    texts = [set(one.passages["emotion"]) for one in pair]
    own = [name for name in pair[0].emotions if name in texts[0]]
    names = common_emotions(pair[0].name, own, pair[1].name, texts[1] & set(pair[1].emotions))
    poolings = [arguments.choice(name, "pooling", POOLINGS) for name in arguments.names(poolings, "pooling")]
    sides = [_read(model, one, names, poolings, seed, progress) for one in pair]
    return both_ways(sides[0], sides[1], names, seed)


def common_emotions(first: str, emotions: Sequence[str], second: str, others: Collection[str]) -> list[str]:
    """The emotions that two instruments, by their names, both have texts of; in the first one's order.

    Raises:
        EmotraceError: fewer than three.
    """
    names = [name for name in emotions if name in others]
    if len(names) < FEWEST:
        raise EmotraceError(
            f"{first} and {second} have {len(names)} emotions in common ({', '.join(names) or 'none'}): "
            f"{FEWEST} are needed"
        )
    return names


def _read(
    model: Model,
    instrument: Instrument,
    names: Sequence[str],
    poolings: Sequence[str],
    seed: int,
    progress: Callable[[int], None] | None,
) -> Side:
    table = instrument.passages[instrument.passages["emotion"].isin(names)].reset_index(drop=True)
    reading = read_texts(model, table[["emotion", "topic", "text"]], poolings=poolings, progress=progress)
    return Side(model.name, model.n_layers, instrument, instrument.name, names, reading, seed)


class Side:
    """One instrument's texts of the shared emotions, and what the model held when it read them.

    Args:
        model, n_layers: the model's name and number of layers.
        instrument: whose texts they are.
        name: of the instrument, in the table.
        names: the shared emotions.
        reading: of texts of these emotions, and perhaps of others.
        seed, draws: of the bootstrap over topics.
    """

    def __init__(
        self,
        model: str,
        n_layers: int,
        instrument: Instrument,
        name: str,
        names: Sequence[str],
        reading: Reading,
        seed: int,
        draws: int = DRAWS,
    ) -> None:
        inside = reading.labels["emotion"].isin(names).to_numpy()
        table = reading.labels[inside]
        self.model, self.n_layers, self.name, self.layers = model, n_layers, name, reading.layers
        self.has_topics = instrument.has_topics
        self.emotions, self.topics = (table[column].to_numpy(str) for column in ("emotion", "topic"))
        self.words = [instrument.words(text) for text in table["text"]]
        self.pooled = {pooling: held[inside] for pooling, held in reading.pooled.items()}
        order = list(dict.fromkeys(self.topics))
        self.of_topic = np.array([order.index(topic) for topic in self.topics])
        self.draws = statistics.topic_draws(len(order), draws, generator(seed, "transfer", name))
        self._within: dict[str, list[np.ndarray]] = {}

    def rate(self, correct: np.ndarray) -> dict[str, float]:
        """The share that is right, with its interval over topics."""
        weights = self.draws[:, self.of_topic]
        return statistics.centred_interval(float(correct.mean()), weights @ correct / weights.sum(axis=1))._asdict()

    def within(self, pooling: str) -> list[np.ndarray]:
        """At each layer, which texts nearest centroids decode with topics held out."""
        if pooling not in self._within:
            self._within[pooling] = [
                geometry.decode(self.pooled[pooling][:, index], self.emotions, self.topics, "nearest_centroid")
                for index in range(len(self.layers))
            ]
        return self._within[pooling]


def both_ways(
    first: Side, second: Side, names: Sequence[str], seed: int, permutations: int = PERMUTATIONS
) -> pd.DataFrame:
    """The table of :func:`transfer`, of what a model held when it read both.

    Raises:
        EmotraceError: an emotion has no texts on topics other than those tested.
    """
    rows = [row for train, test in ((first, second), (second, first)) for row in _direction(train, test, names)]
    rows += _agreement(first, second, names, seed, permutations)
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def _direction(train: Side, test: Side, names: Sequence[str]) -> list[dict[str, Any]]:
    chance = float(np.unique(test.emotions, return_counts=True)[1].max() / len(test.emotions))
    front = {"model": train.model, "train": train.name, "test": test.name, "null": chance, "n": len(test.emotions)}
    folds = _folds(train, test, names)
    carried = np.zeros(len(test.emotions), dtype=bool)
    for seen, rows_of in folds:
        words = [train.words[row] for row in seen], train.emotions[seen], [test.words[row] for row in rows_of]
        carried[rows_of] = decode_by_words(*words, test.emotions[rows_of])
    rows = [{**front, "pooling": WORDS, "metric": "accuracy", **test.rate(carried)}]
    for pooling in train.pooled:
        own = [correct.mean() for correct in train.within(pooling)]
        chosen = 1 + int(np.argmax(own[1:]))
        for index, (layer, inside) in enumerate(zip(train.layers, test.within(pooling), strict=True)):
            held, tested = train.pooled[pooling][:, index], test.pooled[pooling][:, index]
            right, centre = np.zeros(len(test.emotions), dtype=bool), tested.mean(axis=0, dtype=np.float64)
            for seen, rows_of in folds:
                vectors = centred_vectors(held[seen], train.emotions[seen], names)
                right[rows_of] = decode_by_vectors(vectors, tested[rows_of], test.emotions[rows_of], names, centre)
            at = {"pooling": pooling, "layer": layer, "depth": layer / train.n_layers, "chosen": index == chosen}
            rows.append({**front, **at, "metric": "accuracy", **test.rate(right)})
            rows.append({**front, **at, "metric": "within", **test.rate(inside)})
    return rows


def _folds(train: Side, test: Side, names: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and test rows: all by all, or, where both have topics in common, by those on other topics."""
    whole = np.arange(len(train.emotions)), np.arange(len(test.emotions))
    if not (train.has_topics and test.has_topics and set(train.topics) & set(test.topics)):
        return [whole]
    folds = []
    for _, rows in geometry.topic_folds(test.topics):
        seen = np.flatnonzero(~np.isin(train.topics, test.topics[rows]))
        if lacking := [name for name in names if name not in set(train.emotions[seen])]:
            raise EmotraceError(f"{train.name} has no text of {', '.join(lacking)} on topics other than those tested")
        folds.append((seen, rows))
    return folds


def _agreement(a: Side, b: Side, names: Sequence[str], seed: int, permutations: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    front = {"model": a.model, "train": a.name, "test": b.name, "n": len(names)}
    for pooling in a.pooled:
        for index, layer in enumerate(a.layers):
            pair = [centred_vectors(one.pooled[pooling][:, index], one.emotions, names) for one in (a, b)]
            if min(np.abs(vectors).max() for vectors in pair) <= 1e-6 * np.abs(a.pooled[pooling][:, index]).max():
                continue  # where all texts end in one full stop, what is left of its embedding is rounding
            at = {**front, "pooling": pooling, "layer": layer, "depth": layer / a.n_layers}
            rows.append({**at, "metric": "cosine", "value": mean_cosine(*pair)})
            rdms = [geometry.rdm(vectors) for vectors in pair]
            rho, p = statistics.mantel(rdms[0], rdms[1], permutations, generator(seed, "transfer", "mantel"))
            rows.append({**at, "metric": "rdm_rho", "value": rho, "p": p})
    return rows
