"""Intervals, permutation tests and effect sizes, on numpy and scipy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.special import gammaln

from emotrace.errors import EmotraceError


class Interval(NamedTuple):
    """An estimate with its 95% interval."""

    value: float
    low: float
    high: float


def independent_difference(first: Interval, second: Interval) -> Interval:
    """The first of two estimates minus the second, with the interval of independent ones, from either's own.

    Zou and Donner (2008), *Construction of confidence intervals about effect measures*: either end lies as far from the
    difference as the two ends that make it lie from theirs, squared and added. It keeps the skew of intervals within 0
    to 1. Of estimates that rise and fall together (one set of topics, read twice) it is too wide.
    """
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Interval(value, value - below, value + above)


def topic_draws(n_topics: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each topic is drawn in each bootstrap resample of whole topics: ``[draw, topic]``, rows sum to n.

    Texts on one topic are not independent, so topics, not texts, are resampled.
    """
    if n_topics < 2:
        raise EmotraceError(f"a bootstrap over topics needs at least two of them, not {n_topics}")
    return rng.multinomial(n_topics, np.full(n_topics, 1 / n_topics), size=draws).astype(np.float64)


def centred_interval(value: float, draws: np.ndarray) -> Interval:
    """The percentile interval of bootstrap ``draws``, shifted so that their mean is ``value``.

    A resample leaves about a third of the topics out, which makes centroids noisier and lowers any statistic that
    depends on their noise (a cosine of centroids, a correlation with them) by itself. The shift takes that out.
    """
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return Interval(float(value), np.nan, np.nan)
    low, high = np.percentile(draws, [2.5, 97.5]) - draws.mean() + value
    return Interval(float(value), float(low), float(high))


def percentile_interval(value: float, draws: np.ndarray) -> Interval:
    """The plain percentile interval of bootstrap ``draws``, widened to hold ``value`` (for positions, not sizes)."""
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return Interval(float(value), np.nan, np.nan)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(float(value), float(min(low, value)), float(max(high, value)))


def mean_interval(values: np.ndarray) -> Interval:
    """The mean with Student's t 95% interval, which is NaN for a single value or where one is unknown."""
    mean = float(np.mean(values)) if len(values) else np.nan
    if len(values) < 2 or not np.isfinite(values).all():
        return Interval(mean, np.nan, np.nan)
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return Interval(mean, mean - float(half), mean + float(half))


def rounding(*values: float | np.ndarray) -> float:
    """By how much equal ones of these may differ by rounding, in their own unit: draws this near count as extreme."""
    return 1e-12 * max(float(np.abs(one).max(initial=0.0)) for one in values)


def permutation_p(value: float, null: np.ndarray, alternative: str) -> float:
    """(b + 1) / (m + 1), with b of the m draws ``null`` at least as extreme as the observed ``value``.

    Never below 1 / (m + 1); NaN where the value or one of the draws is unknown. ``alternative`` is ``greater``,
    ``less`` or ``two-sided`` (by absolute value).
    """
    null = np.asarray(null, dtype=np.float64)
    if not (np.isfinite(value) and np.isfinite(null).all()):
        return np.nan
    slack = rounding(value, null)
    extreme = {
        "greater": null >= value - slack,
        "less": null <= value + slack,
        "two-sided": np.abs(null) >= abs(value) - slack,
    }[alternative]
    return float((extreme.sum() + 1) / (len(null) + 1))


def pearson(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> Interval:
    """Pearson's r with Fisher's z interval, over the pairs where both are known.

    Raises:
        EmotraceError: fewer than four pairs, for which the interval does not exist.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 4:
        raise EmotraceError(f"a correlation with an interval needs four pairs or more, not {known.sum()}")
    if np.ptp(a[known]) == 0 or np.ptp(b[known]) == 0:
        return Interval(np.nan, np.nan, np.nan)  # a constant correlates with nothing
    result = stats.pearsonr(a[known], b[known])
    interval = result.confidence_interval(0.95)
    return Interval(float(result.statistic), float(interval.low), float(interval.high))


def mantel(first: np.ndarray, second: np.ndarray, permutations: int, rng: np.random.Generator) -> tuple[float, float]:
    """Spearman's ρ between the upper triangles of two dissimilarity matrices, and its one-sided Mantel p.

    The rows and columns of one matrix are permuted together, since its entries are not independent.
    """
    upper = np.triu_indices(len(first), 1)
    ranked = stats.rankdata(second[upper])
    ranked = (ranked - ranked.mean()) / ranked.std()
    # Spearman on permuted rows is Pearson on the permuted matrix of ranks.
    ranks = np.zeros_like(first, dtype=np.float64)
    ranks[upper] = stats.rankdata(first[upper])
    ranks += ranks.T
    spread, centre = ranks[upper].std(), ranks[upper].mean()

    def rho(order: np.ndarray) -> float:
        return float(((ranks[np.ix_(order, order)][upper] - centre) * ranked).mean() / spread)

    observed = rho(np.arange(len(first)))
    null = np.array([rho(rng.permutation(len(first))) for _ in range(permutations)])
    return observed, permutation_p(observed, null, "greater")


def wilson(successes: int, trials: int) -> Interval:
    """A rate with Wilson's 95% interval."""
    if trials < 1:
        raise EmotraceError("a rate needs at least one trial")
    interval = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return Interval(successes / trials, float(interval.low), float(interval.high))


MIN_COURSE = 6
"""Layers from which on two curves over depth can be compared by their course."""


class Contrast(NamedTuple):
    """How two samples x and y differ; negative where x is lower.

    Attributes:
        u: Mann–Whitney's U of x, the number of pairs (x, y) with x > y, ties counting half: 0 … n_x · n_y.
        p: its two-sided p, exact for small samples without ties (scipy), and valid for independent values only.
        d: Cohen's d with the pooled standard deviation.
        g: Hedges' g, d without its bias in small samples.
        rank_biserial: 2 U / (n_x n_y) − 1, from −1 (every x below every y) to 1.
    """

    u: float
    p: float
    d: float
    g: float
    rank_biserial: float


def contrast(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> Contrast:
    """Compares two samples by ranks and by means.

    Raises:
        EmotraceError: a sample of fewer than two values, or one with a value that is not known.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if min(len(a), len(b)) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise EmotraceError(f"an effect size needs two known values or more on either side, not {len(a)} and {len(b)}")
    u, p = stats.mannwhitneyu(a, b)
    d = float(cohens_d(a, b))
    g = d * hedges_correction(len(a) + len(b) - 2)
    return Contrast(float(u), float(p), d, g, float(2 * u / (len(a) * len(b)) - 1))


def cohens_d(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(mean x − mean y) / pooled standard deviation, along the last axis: ``[…, n_x]``, ``[…, n_y]`` → ``[…]``.

    Pooled: √(((n_x − 1) s_x² + (n_y − 1) s_y²) / (n_x + n_y − 2)). Infinite where neither sample has any spread, NaN
    where they do not differ either.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    (mean_x, squares_x), (mean_y, squares_y) = _moments(x), _moments(y)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (mean_x - mean_y) / np.sqrt((squares_x + squares_y) / (x.shape[-1] + y.shape[-1] - 2))


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and summed squares from it along the last axis; exact of equal values, which rounding gives a spread."""
    equal = np.ptp(values, axis=-1) == 0
    squares = (values.shape[-1] - 1) * values.var(axis=-1, ddof=1)
    return np.where(equal, values[..., 0], values.mean(axis=-1)), np.where(equal, 0.0, squares)


def hedges_correction(freedom: int) -> float:
    """J = Γ(m/2) / (√(m/2) Γ((m − 1)/2)) for m degrees of freedom (Hedges 1981).

    0 for m = 1, where the expectation of d does not exist.
    """
    if freedom < 2:
        return 0.0
    half = freedom / 2
    return float(np.exp(gammaln(half) - gammaln(half - 0.5)) / np.sqrt(half))
