"""Intervals over emotions and prompts at once: what was found has to hold for other emotions *and* other prompts.

Ours. An effect of steering is measured on every emotion and every prompt, and beside a few control directions. All
three were drawn from many, so all three are random factors. Each factor's part of the variance is that of leaving one
of its members out (the jackknife, which needs no formula for the statistic); the part that emotions and prompts both
count, leaving out one emotion on one prompt, is taken off once (Cameron, Gelbach and Miller 2011). Student's interval
has Satterthwaite's degrees of freedom, so that few prompts widen it. Seeds are averaged before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

from emotrace.measures.statistics import Interval

Statistic = Callable[[np.ndarray, np.ndarray], float]
"""(weights of emotion and prompt ``[emotion, prompt]``, weights of control directions ``[direction]``) → a value."""


class Crossed(NamedTuple):
    """A value with its 95% interval and the two-sided p of a value of 0."""

    value: float
    low: float
    high: float
    p: float


def crossed(statistic: Statistic, emotions: int, prompts: int, directions: int = 1) -> Crossed:
    """The interval of a statistic over emotions × prompts and control directions.

    A factor with one member alone (one direction: the control has no sampling of its own) adds nothing to the variance;
    with fewer than two emotions and fewer than two prompts there is no interval. Nor is there one where nothing varies,
    as in a count of events that never happened: a width of 0 would claim what no data can show.
    """
    whole, all_directions = np.ones((emotions, prompts)), np.ones(directions)
    value = statistic(whole, all_directions)

    def without(*cell: int | slice) -> float:
        weights = whole.copy()
        weights[cell] = 0
        return statistic(weights, all_directions)

    rows, columns = range(emotions if emotions > 1 else 0), range(prompts if prompts > 1 else 0)
    of_emotions = _spread([without(row, slice(None)) for row in rows])
    of_prompts = _spread([without(slice(None), column) for column in columns])
    of_cells = _spread([without(row, column) for row in rows for column in columns])
    one_less = [all_directions - one for one in np.eye(directions)] if directions > 1 else []
    of_directions = _spread([statistic(whole, weights) for weights in one_less])
    both = of_emotions + of_prompts - of_cells
    # Never less than either factor alone: the difference can fall below by chance.
    texts = max(both, of_emotions, of_prompts)
    variance = texts + of_directions
    varies = variance > (1e-12 * abs(value)) ** 2  # beyond rounding; false of NaN
    if max(emotions, prompts) < 2 or not varies or not np.isfinite(value):
        return Crossed(value, np.nan, np.nan, np.nan)
    parts = ((of_emotions, emotions - 1), (of_prompts, prompts - 1), (of_directions, directions - 1))
    total = of_emotions + of_prompts + of_directions
    freedom = total**2 / sum(part**2 / freedom for part, freedom in parts if freedom)
    error = float(np.sqrt(variance))
    half = float(stats.t.ppf(0.975, freedom)) * error
    return Crossed(value, value - half, value + half, float(2 * stats.t.sf(abs(value) / error, freedom)))


def _spread(values: list[float]) -> float:
    """The jackknife's variance from a statistic without each of n members; 0 of a single one."""
    n = len(values)
    return (n - 1) / n * float(np.sum((np.array(values) - np.mean(values)) ** 2)) if n > 1 else 0.0


def crossed_mean(cells: np.ndarray, control: np.ndarray | None = None) -> Crossed:
    """The mean of ``cells [emotion, prompt]``, minus that of ``control [direction, emotion, prompt]`` if given."""
    control = np.zeros((1, *cells.shape)) if control is None else control

    def mean(weights: np.ndarray, directions: np.ndarray) -> float:
        excess = cells - np.tensordot(directions / directions.sum(), control, 1)
        return float((weights * excess).sum() / weights.sum())

    emotions, prompts = cells.shape
    return crossed(mean, emotions, prompts, len(control))


def crossed_rate(cells: np.ndarray, trials: int) -> Interval:
    """The mean of shares ``cells [emotion, prompt]`` of ``trials`` texts in all, with an interval inside 0 … 1.

    Wilson's, for as many independent texts as would spread as the emotions and prompts do (never more than ``trials``);
    where all cells agree, as many as there are emotions.
    """
    value, low, high, _ = crossed_mean(cells)
    z = float(stats.norm.ppf(0.975))
    spread = ((high - low) / (2 * z)) ** 2
    uncertain = value * (1 - value)
    n = float(len(cells)) if not spread > 0 or uncertain <= 0 else min(float(trials), uncertain / spread)
    centre, scale = (value + z**2 / (2 * n)) / (1 + z**2 / n), z / (1 + z**2 / n)
    half = scale * float(np.sqrt(uncertain / n + z**2 / (4 * n**2)))
    return Interval(value, max(0.0, centre - half), min(1.0, centre + half))
