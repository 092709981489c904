"""How far the emotions' centroids lie apart, and how far they would without an emotion: scale-free separation. Ours.

The paper's measure, the mean pairwise cosine C of the emotions' centroids, follows the shape of the activation space:
where all texts point the same way, C is near 1 whatever the labels. Its control N is the same cosine with labels
shuffled within topics. N moves with the space as C does, hence

    R = (1 − C) / (1 − N)

is free of it: the emotions' spread over chance spread, 1 where a label says nothing. Every resample of topics has its
own N, from the same shuffles, so that what topics do to C and N alike leaves R alone.

N is not the space alone: shuffled centroids hold the emotions' variance too, spread over all labels, so that emotions
that stand out in the middle bend N as they bend C. What the space does is :func:`noise_cosine`, N less that part.

R grows with the texts a centroid, since their noise averages out. :func:`intraclass` does not: it is the squared
distance between two emotions, cross-validated over topics, over the squared distance between two texts on one topic,

    Σ_{t≠u} (x_ta − x_tb)·(x_ua − x_ub)  over  Σ_t |x_ta − x_tb|²,  each a mean, over pairs of emotions a < b.

Noise is independent between topics t and u, so the numerator's expectation is the squared distance of the emotions'
true means, and 0 where there is none: it is the mean over all splits of the topics into disjoint halves.

All work on inner products between texts (:class:`Products`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.special import gammaln

from emotrace.measures.geometry import Labels

_AT_ONCE, _PRODUCTS = 100, 5_000_000
"""Shuffles that are held at once, and inner products."""


@dataclass(frozen=True)
class Products:
    """Inner products between texts at one layer.

    Attributes:
        gram: of each two, float64 ``[text, text]``.
        texts: their activations, float64 ``[text, d_model]``.
    """

    gram: np.ndarray
    texts: np.ndarray

    @classmethod
    def of(cls, texts: np.ndarray) -> Products:
        """Those of activations ``[text, d_model]``."""
        return cls(texts @ texts.T, texts)

    def squares(self, sums: np.ndarray) -> np.ndarray:
        """Squared norms of sums of texts, each text so many times: ``[sum, text]`` → ``[sum]``.

        By d_model where texts are more, so that time grows with their number and not with its square.
        """
        if len(self.texts) > self.texts.shape[1]:
            squares: np.ndarray = ((sums @ self.texts) ** 2).sum(axis=1)
        else:
            squares = ((sums @ self.gram) * sums).sum(axis=1)
        return squares


@dataclass(frozen=True)
class Crossed:
    """Which text is on which topic and of which emotion.

    Attributes:
        texts: rows of the activations that are of one of the emotions asked for, ``[text]``.
        topics, emotions: indices of each of those texts.
        shape: numbers of topics and emotions.
    """

    texts: np.ndarray
    topics: np.ndarray
    emotions: np.ndarray
    shape: tuple[int, int]

    @classmethod
    def of(cls, topics: Labels, emotions: Labels, names: Sequence[str]) -> Crossed:
        """Topics in order of appearance, the emotions ``names``; texts of other emotions are left out."""
        topic_index = {topic: index for index, topic in enumerate(dict.fromkeys(topics))}
        emotion_index = {name: index for index, name in enumerate(names)}
        rows = [row for row, name in enumerate(emotions) if name in emotion_index]
        return cls(
            np.array(rows, dtype=int),
            np.array([topic_index[topics[row]] for row in rows], dtype=int),
            np.array([emotion_index[emotions[row]] for row in rows], dtype=int),
            (len(topic_index), len(names)),
        )

    @property
    def counts(self) -> np.ndarray:
        """Texts in each cell, float64 ``[topic, emotion]``; shuffles within topics leave them as they are."""
        counts = np.zeros(self.shape)
        np.add.at(counts, (self.topics, self.emotions), 1)
        return counts

    def orders(self, shuffles: int, rng: np.random.Generator) -> np.ndarray:
        """Which text takes whose place, ``[1 + shuffle, text]``: first every text its own, then shuffled in topics."""
        own = np.arange(len(self.texts))
        orders = np.tile(own, (1 + shuffles, 1))
        for topic in range(self.shape[0]):
            places = own[self.topics == topic]
            orders[1:, places] = rng.permuted(np.tile(places, (shuffles, 1)), axis=1)
        return orders

    def groupings(self, within: np.ndarray) -> float:
        """Ways in which shuffles can group the texts of the topics ``within`` (bool ``[topic]``); inf for very many.

        Ways that differ in the emotions' names alone count once: their centroids are the same.
        """
        counts = self.counts[within]
        arrangements = gammaln(counts.sum(axis=1) + 1).sum() - gammaln(counts + 1).sum()
        alike = np.unique(counts, axis=1, return_counts=True)[1]
        with np.errstate(over="ignore"):
            return max(1.0, float(np.round(np.exp(arrangements - gammaln(alike + 1).sum()))))

    def products(self, activations: np.ndarray) -> Products:
        """Those between the design's texts at one layer, from all activations ``[…, d_model]``."""
        return Products.of(activations[self.texts].astype(np.float64))

    def cells(self, gram: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Inner products between the cells' sums with texts in this order, ``[topic, topic, emotion, emotion]``."""
        topics, emotions = self.shape
        place = self.topics * emotions + self.emotions, order
        members = csr_array((np.ones(len(order)), place), shape=(topics * emotions, len(order)))
        grams = (members @ (members @ gram).T).reshape(topics, emotions, topics, emotions)
        return grams.transpose(0, 2, 1, 3)

    def effective(self, weights: np.ndarray) -> np.ndarray:
        """Texts a centroid, a text that counts twice discounted for its noise does so too: ``[draw, topic]`` → draw."""
        counts = self.counts
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = (weights**2 @ counts) / (weights @ counts) ** 2
        return 1 / np.nanmean(shares, axis=1)


def centroid_cosines(products: Products, crossed: Crossed, orders: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The centroids' mean pairwise cosine for every order of the texts and row of topic weights.

    Args:
        products: inner products between texts.
        crossed: their topics and emotions.
        orders: of :meth:`Crossed.orders`, ``[order, text]``.
        weights: how often each topic counts, ``[draw, topic]``.

    Returns:
        ``[order, draw]``; NaN in a draw where an emotion has no text.
    """
    emotions, texts = crossed.shape[1], len(crossed.texts)
    members = [np.flatnonzero(crossed.emotions == emotion) for emotion in range(emotions)]
    lost = ((weights @ crossed.counts) == 0).any(axis=1)
    cosines = np.empty((len(orders), len(weights)))
    for index, order in enumerate(orders):
        squares = np.empty((len(weights), emotions))
        for emotion, places in enumerate(members):
            own, of_topic = order[places], weights[:, crossed.topics[places]]
            squares[:, emotion] = ((of_topic @ products.gram[np.ix_(own, own)]) * of_topic).sum(axis=1)
        units = np.empty((len(weights), texts))
        with np.errstate(invalid="ignore", divide="ignore"):
            units[:, order] = weights[:, crossed.topics] / np.sqrt(squares)[:, crossed.emotions]
            cosines[index] = _mean_cosine(units, products, emotions)
    cosines[:, lost] = np.nan
    return cosines


def _mean_cosine(units: np.ndarray, products: Products, emotions: int) -> np.ndarray:
    """Of ``units [row, text]``, how much each text adds to its emotion's centroid of length 1: ``[row]``.

    n unit vectors' sum has the squared norm n + Σ_{i≠j} cos_ij, so that no matrix of cosines is needed, whose size
    grows with the square of the emotions in every draw.
    """
    return (products.squares(units) - emotions) / (emotions * (emotions - 1))


def whole_cosines(products: Products, crossed: Crossed, orders: np.ndarray, within: np.ndarray) -> np.ndarray:
    """:func:`centroid_cosines` where each topic counts once or, by ``within`` (bool ``[topic]``), not at all: fast.

    Returns:
        ``[order]``.
    """
    inside = np.flatnonzero(within[crossed.topics])
    emotions, labels = crossed.shape[1], crossed.emotions[inside]
    members = [inside[labels == emotion] for emotion in range(emotions)]
    if not all(map(len, members)):
        return np.full(len(orders), np.nan)
    at_once = max(1, min(_AT_ONCE, _PRODUCTS // max(map(len, members)) ** 2))
    cosines = np.empty(len(orders))
    for start in range(0, len(orders), at_once):
        part = orders[start : start + at_once]
        own = (part[:, places] for places in members)
        squares = np.stack([products.gram[rows[:, :, None], rows[:, None, :]].sum(axis=(1, 2)) for rows in own], axis=1)
        units = np.zeros(part.shape)
        with np.errstate(invalid="ignore", divide="ignore"):
            units[np.arange(len(part))[:, None], part[:, inside]] = 1 / np.sqrt(squares)[:, labels]
            cosines[start : start + at_once] = _mean_cosine(units, products, emotions)
    return cosines


def intraclass(gram: np.ndarray, crossed: Crossed, weights: np.ndarray) -> np.ndarray:
    """The share of the variance among texts on one topic that is their emotion's, cross-validated over topics.

    Of cells with several texts their mean counts. A topic never pairs with itself, nor with its copy in a resample.

    Args:
        gram: inner products between texts ``[text, text]``.
        crossed: their topics and emotions.
        weights: how often each topic counts, ``[draw, topic]``.

    Returns:
        ``[draw]``: 0 on average where a label says nothing (then often below 0), at most 1 on average.
    """
    counts = crossed.counts
    present = (counts > 0).astype(np.float64)
    cells = crossed.cells(gram, np.arange(len(crossed.texts)))
    cells = cells / np.maximum(counts, 1)[:, None, :, None] / np.maximum(counts, 1)[None, :, None, :]
    both = present[:, None] * present[None]  # emotions that two topics share: [topic, topic, emotion]
    shared = both.sum(axis=2)
    own = np.einsum("tuee,tue->tu", cells, both)
    squares = shared * own - np.einsum("tuef,tue,tuf->tu", cells, both, both, optimize=True)
    pairs = shared * (shared - 1) / 2
    alone = np.eye(len(counts), dtype=bool)
    apart = np.where(alone, 0, squares), np.where(alone, 0, pairs)
    within = np.diagonal(squares), np.diagonal(pairs)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = [np.einsum("bt,tu,bu->b", weights, part, weights, optimize=True) for part in apart]
        return (between[0] / between[1]) / ((weights @ within[0]) / (weights @ within[1]))


def ratio(cosine: np.ndarray, null: np.ndarray, effective: np.ndarray) -> np.ndarray:
    """R = (1 − cosine) / (1 − null) of each draw ``[draw]``, the first of which is what was measured.

    A resample leaves a third of the topics out, so its centroids are noisier and its R is nearer to 1. R − 1 is
    proportional to the texts a centroid (``effective``, of :meth:`Crossed.effective`) less one, hence every draw is
    brought to the number of the first.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        excess = (1 - cosine) / (1 - null) - 1
        return 1 + excess * (effective[..., :1] - 1) / (effective - 1)


def noise_cosine(cosine: np.ndarray, null: np.ndarray, effective: np.ndarray) -> np.ndarray:
    """The centroids' cosine if emotions had no effect and all else were as it is: ``[draw]``.

    With the centroids' mean of length 1, s the emotions' spread about it and v that of texts about an emotion, all at
    right angles to it, (1 − C) / C is s + v / n for n texts a centroid and (1 − N) / N is (s + v) / n, whence v / n. Of
    two curves over depth, C's and N's, each holds s; of C's and this one's only the former does.

    Args:
        cosine: C ``[draw]``.
        null: N ``[draw]``.
        effective: n ``[draw]``.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        noise = (effective * (1 - null) / null - (1 - cosine) / cosine) / (effective - 1)
        return 1 / (1 + noise)
