"""Emotion vectors of labelled texts, and where other activations lie along them: arrays in, numbers out.

A vector is the unit vector from the mean of the emotions' centroids to one emotion's centroid. Its control keeps the
texts and shuffles their labels within topics: vectors of the same texts and topics, without an emotion.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import permutations

import numpy as np
from scipy import stats

from emotrace.measures.geometry import plane_distances, shuffle_within_topics, unit


@dataclass(frozen=True)
class Texts:
    """Labelled texts as rows of features: activations at one layer, or counts of words.

    Attributes:
        features: ``[text, d]``.
        topics, emotions: of each text, ``[text]``.
        names: the emotions, in the order of the vectors.
    """

    features: np.ndarray
    topics: np.ndarray
    emotions: np.ndarray
    names: Sequence[str]

    @cached_property
    def weights(self) -> np.ndarray:
        """What each text counts in each vector before it is scaled: ``[emotion, text]``; every row sums to 0."""
        members = np.asarray(self.names)[:, None] == self.emotions
        means = members / members.sum(axis=1, keepdims=True)
        return means - means.mean(axis=0)

    def vectors(self) -> np.ndarray:
        """The emotions' unit vectors: float64 ``[emotion, d]``."""
        return unit(self.weights @ (self.features - self.features.mean(axis=0, dtype=np.float64)))


class Projections:
    """Where states lie along the vectors of texts, and along those of the same texts under shuffled labels.

    From inner products between texts, so that a shuffle costs the same whatever the number of features. The states' own
    mean is subtracted: all of them share the tokens before the reply, which no passage has.

    Args:
        texts: the labelled texts.
        states: the same features of other texts, ``[state, d]``.
    """

    def __init__(self, texts: Texts, states: np.ndarray) -> None:
        features = texts.features - texts.features.mean(axis=0, dtype=np.float64)
        self._texts, self._gram = texts, features @ features.T
        self._with_texts = (states - states.mean(axis=0, dtype=np.float64)) @ features.T

    def own(self) -> np.ndarray:
        """Along the emotions' unit vectors: ``[state, emotion]``."""
        return self._along(self._texts.weights)

    def shuffled(self, count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Along those of labels shuffled within topics, ``count`` times: ``[state, emotion]`` each."""
        texts = self._texts
        for _ in range(count):
            order = shuffle_within_topics(np.arange(len(texts.emotions)), texts.topics, rng)
            yield self._along(texts.weights[:, order])

    def _along(self, weights: np.ndarray) -> np.ndarray:
        squares = np.einsum("et,et->e", weights @ self._gram, weights)
        return self._with_texts @ weights.T / np.sqrt(np.where(squares > 0, squares, 1))


# -- the rank of a target ---------------------------------------------------------------------------------------------


def ranks(scored: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The rank of each state's target among the emotions, 1 the highest: ``[state]``; of equal scores the mean rank.

    Args:
        scored: ``[state, emotion]``.
        targets: the index of each state's target, ``[state]``.
    """
    own = scored[np.arange(len(scored)), targets][:, None]
    return 1 + (scored > own).sum(axis=1) + ((scored == own).sum(axis=1) - 1) / 2


def near(valence: np.ndarray, arousal: np.ndarray, distance: float) -> np.ndarray:
    """Which emotions are as near each other in the plane of the norms, itself among them: bool ``[emotion, emotion]``.

    An emotion that is not in the norms is near itself alone.
    """
    distances = plane_distances(valence, arousal)
    return (np.nan_to_num(distances, nan=np.inf) <= distance) | np.eye(len(valence), dtype=bool)


def near_hits(scored: np.ndarray, targets: np.ndarray, family: np.ndarray, top: int) -> np.ndarray:
    """Whether the target or an emotion near it is among the ``top`` highest scores: bool ``[state]``."""
    highest = np.argsort(-scored, axis=1, kind="stable")[:, :top]
    return family[targets[:, None], highest].any(axis=1)


def chance_near(targets: np.ndarray, family: np.ndarray, top: int) -> float:
    """The mean of :func:`near_hits` if every order of the emotions is as likely as another."""
    n = len(family)
    return float(np.mean([stats.hypergeom.sf(0, n, int(family[target].sum()), top) for target in targets]))


def cluster_draws(values: np.ndarray, clusters: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """The mean of ``values [unit]`` in bootstrap resamples of whole clusters (``clusters [unit]``): ``[draw]``."""
    names, index = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(index, values), np.bincount(index)
    drawn = rng.integers(len(names), size=(draws, len(names)))
    return sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)


# -- the order of doses -----------------------------------------------------------------------------------------------


def rho(values: np.ndarray) -> np.ndarray:
    """Spearman's ρ between ascending levels and ``values [..., level]``: ``[...]``; NaN where all values are equal."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = _centred_ranks(values) @ _centred_ranks(np.arange(values.shape[-1]))
    return found.round(12)  # equal orders have equal ρ, whatever the rounding


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis with mean 0 and length 1."""
    ranked = stats.rankdata(values, axis=-1)
    ranked = ranked - ranked.mean(axis=-1, keepdims=True)
    return ranked / np.linalg.norm(ranked, axis=-1, keepdims=True)


def rho_p(values: np.ndarray) -> float:
    """One-sided p of :func:`rho` of ``values [level]`` over every order of the levels (n!, up to eight levels).

    Raises:
        ValueError: more levels, for which this takes too long.
    """
    if len(values) > 8:
        raise ValueError(f"all orders of {len(values)} levels are too many")
    null = _centred_ranks(values)[_orders(len(values))] @ _centred_ranks(np.arange(len(values)))
    return float((null >= float(rho(values)) - 1e-12).mean())


@cache
def _orders(n: int) -> np.ndarray:
    """Every order of n things: ``[order, n]``."""
    return np.array(list(permutations(range(n))))
