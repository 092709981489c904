"""Leaving one topic out: intervals and an exact test for a statistic of few topics. Ours.

A statistic that squares sums over topics (a cosine of centroids, an intraclass correlation) is no mean of one value a
topic. Its jackknife *pseudo-values* are such values: n θ − (n − 1) θ without topic t, whose spread is that of θ's
sampling (Tukey 1958). On them Student's interval and an exact sign-flip test stand. Where two methods read texts on the
same topics, flipping the sign of a topic's pseudo-value of the difference exchanges the methods on that topic. To
exchange the texts themselves would mix two displaced clouds: centroids of a mixture lie between them, so that neither
pseudo-method is separated as either method is.
"""

from __future__ import annotations

import itertools

import numpy as np

from emotrace.measures import statistics

EXACT = 14
"""Up to so many pseudo-values all signs are tried: 16,384 of them."""


def leave_one_out(topics: int) -> np.ndarray:
    """Weights of the topics ``[1 + topic, topic]``: all of them, then without each in turn."""
    return np.vstack([np.ones(topics), 1 - np.eye(topics)])


def pseudo_values(values: np.ndarray) -> np.ndarray:
    """Pseudo-values ``[topic]``, whose mean is the statistic, from its values under :func:`leave_one_out`.

    Their mean would be the statistic without its bias of order 1/n; they are shifted, so that value, interval and test
    are of one quantity. NaN where the statistic does not exist without some topic.
    """
    whole, without = values[0], values[1:]
    if not np.isfinite(values).all():
        return np.full(len(without), np.nan)
    pseudo = len(without) * whole - (len(without) - 1) * without
    return pseudo - pseudo.mean() + whole


def flip_p(pseudo: np.ndarray, alternative: str = "greater", seed: int = 0) -> tuple[float, int]:
    """The p of a mean of 0 by flipping the signs of pseudo-values ``[topic]``, and the number of sign patterns tried.

    Exact up to ``EXACT`` values (never below 2⁻ⁿ), else from 9,999 random patterns and the observed one.
    ``alternative`` is ``greater``, ``less`` or ``two-sided``. NaN where a value is unknown.
    """
    if not np.isfinite(pseudo).all():
        return np.nan, 0
    n = len(pseudo)
    if n <= EXACT:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=n)))
    else:
        signs = np.vstack([np.ones(n), np.random.default_rng(seed).choice((1.0, -1.0), size=(9_999, n))])
    sums, observed = signs @ pseudo, pseudo.sum()
    slack = statistics.rounding(np.abs(pseudo).sum())
    extreme = {
        "greater": sums >= observed - slack,
        "less": sums <= observed + slack,
        "two-sided": np.abs(sums) >= abs(observed) - slack,
    }[alternative]
    return float(extreme.mean()), len(signs)
