"""How far two models' geometries agree beyond the words of the texts, of what their noise lets them agree. Ours.

Averaged token embeddings of the same passages agree across families about as far as the models do: which passages use
like words is a geometry, too. So the words' own dissimilarities (both models' embeddings without context, and TF-IDF of
the texts) are taken out of the ranks of either geometry before these are correlated: a partial Spearman correlation.
Each geometry is computed from a half of the topics that the other does not see, and their correlation is held against
the geometric mean of each one's correlation with itself across the same halves, which is as high as noise lets it get:
1 where the models lay the emotions out alike, whatever the number of texts. The words' dissimilarities have noise of
their own, so a part of what they give is left in: what is found beyond them is an upper bound.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from emotrace.measures import statistics

LIMIT = 2.0
"""A share of agreement is told up to here: with hardly any agreement of a geometry with itself it has no bound."""


class Shared(NamedTuple):
    """Agreement beyond the words, see above; NaN where the topics do not give it.

    Attributes:
        given_words: partial ρ of the two geometries, from all topics of both.
        disjoint, ceiling: mean partial ρ across disjoint halves, and as high as noise lets it get.
        shared: the one by the other, with its 95% interval over emotions.
    """

    given_words: float
    disjoint: float
    ceiling: float
    shared: statistics.Interval


def standardised_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis with mean 0 and norm 1: inner products are Spearman's ρ; constants become NaN."""
    ranks = rankdata(values, axis=-1)
    ranks = ranks - ranks.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return ranks / np.linalg.norm(ranks, axis=-1, keepdims=True)


def residual_ranks(values: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Standardised ranks ``[…, pair]`` without what the ranks of ``controls [control, pair]`` explain of them.

    Their inner products are partial Spearman correlations given the controls.
    """
    ranks = standardised_ranks(values)
    if not len(controls):
        return ranks
    basis = np.linalg.qr(standardised_ranks(controls).T)[0]
    rest = ranks - (ranks @ basis) @ basis.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return rest / np.linalg.norm(rest, axis=-1, keepdims=True)


def beyond_words(
    wholes: tuple[np.ndarray, np.ndarray], halves: tuple[np.ndarray, np.ndarray], words: np.ndarray, picks: np.ndarray
) -> Shared:
    """Two geometries' agreement given the words.

    Args:
        wholes: either one's dissimilarities from all topics, ``[emotion, emotion]``.
        halves: either one's from the two halves of some random splits of the topics, ``[half, split, emotion,
            emotion]``, the same splits in both; a split with a NaN is left out.
        words: the words' dissimilarities ``[control, emotion, emotion]``.
        picks: resamples of emotions ``[draw, emotion]``.
    """
    n = words.shape[-1]
    known = np.isfinite(halves[0]).all(axis=(0, 2, 3)) & np.isfinite(halves[1]).all(axis=(0, 2, 3))
    halves = halves[0][:, known], halves[1][:, known]
    upper = np.triu_indices(n, 1)
    first, second = (residual_ranks(whole[upper], words[:, *upper]) for whole in wholes)
    if not known.any():
        return Shared(float(first @ second), np.nan, np.nan, statistics.Interval(np.nan, np.nan, np.nan))
    disjoint, ceiling = _across_halves(halves, words, np.arange(n))
    draws = np.array([_ratio(*_across_halves(halves, words, pick)) for pick in picks])
    # A resample in which a geometry does not agree with itself may have any share: it counts at both ends.
    low = np.percentile(np.where(np.isfinite(draws), draws, -LIMIT), 2.5)
    high = np.percentile(np.where(np.isfinite(draws), draws, LIMIT), 97.5)
    value = _ratio(disjoint, ceiling)
    interval = statistics.Interval(value, float(np.fmin(low, value)), float(np.fmax(high, value)))
    return Shared(float(first @ second), disjoint, ceiling, interval)


def _across_halves(halves: tuple[np.ndarray, np.ndarray], words: np.ndarray, pick: np.ndarray) -> tuple[float, float]:
    """The mean partial ρ across disjoint halves, and its ceiling, on some emotions (repeats form no pair)."""
    rows, columns = np.triu_indices(len(pick), 1)
    first, second = pick[rows], pick[columns]
    pairs = (first[first != second], second[first != second])
    a, b = (residual_ranks(half[..., *pairs], words[:, *pairs]) for half in halves)  # [half, split, pair]
    disjoint = float((a * b[::-1]).sum(axis=-1).mean())
    own = [float((ranks[0] * ranks[1]).sum(axis=-1).mean()) for ranks in (a, b)]
    return disjoint, float(np.sqrt(max(own[0], 0) * max(own[1], 0)))


def _ratio(disjoint: float, ceiling: float) -> float:
    return float(np.clip(disjoint / ceiling, -LIMIT, LIMIT)) if ceiling > 0 else np.nan
