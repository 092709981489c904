"""Whether a curve over depth is a U: with the noise of its topics, and against walks that wander. Ours.

A parabola with positive curvature is no U: any drop that levels off has one. What is asked here:

- **net depth**: how far the lower end stands above the lowest point, minus the largest movement against the U (a rise
  before that point, a fall after it), over the curve's range. 1 is a U whose ends are equally high, 0 or less a curve
  that falls, rises, steps, levels off, or bends the other way; a W is brought down by its middle.
- **two lines** (after Simonsohn 2018): with the break where two separate lines fit best, one falls and one rises.
  Neighbouring layers are not independent, so no residual is trusted: the break is found, and both slopes are fitted,
  anew in every resample of topics.
- **p**: the increments from layer to layer change places at random. A random walk, with or without drift, is as likely
  in any order; the p is the share of orders that are at least as deep a U.
- **smooth walks**: walks whose increments remember the one before are Us by chance more often. The net depth that one
  in twenty of them reaches (:func:`smooth_walk_depth`, about 0.6) is what one model's curve has to outdo.

All of it on the curve's running median of three layers, so that no single layer makes a U.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from emotrace.errors import EmotraceError
from emotrace.measures import statistics
from emotrace.measures.randomness import generator_for

MIN_LAYERS = 9
"""Fewer leave no three medians of three to either side."""
MEMORIES = (0.5, 0.8)
"""How much of the one before an increment of a smooth walk keeps. With more, walks are Us less often again."""
SMOOTH_WALKS = 20_000


class Shape(NamedTuple):
    """How much of a U a curve is.

    Attributes:
        net: net depth over the curve's range, at most 1.
        low, high: its 95% interval over resamples, shifted by the bias that their noise has on it (a wobble goes
            against a U); ``high`` may exceed 1.
        opposed: share of resamples in which the line before the break falls and the one after it rises.
        p: share of orders of the increments that make as deep a U, (b + 1) / (m + 1).
        lowest: position of the lowest point on the running median, 0 … L − 1.
    """

    net: float
    low: float
    high: float
    opposed: float
    p: float
    lowest: int


def shape(curve: np.ndarray, resampled: np.ndarray, rng: np.random.Generator, orders: int = 1999) -> Shape:
    """:class:`Shape` of a curve ``[layer]`` and of its resamples ``[draw, layer]``; lower is better separated.

    Raises:
        EmotraceError: fewer layers than ``MIN_LAYERS``.
    """
    if len(curve) < MIN_LAYERS:
        raise EmotraceError(f"a U over depth needs at least {MIN_LAYERS} layers, not {len(curve)}")
    smooth = running_median(np.vstack([curve, resampled]))
    net = net_depth(smooth) / _scale(np.ptp(smooth, axis=1))
    interval = statistics.centred_interval(float(net[0]), net[1:])
    falls, rises = two_lines(smooth[1:] if len(resampled) else smooth)
    opposed = float(((falls < 0) & (rises > 0)).mean())
    return Shape(*interval, opposed, walk_p(curve, orders, rng), int(smooth[0].argmin()))


def running_median(curves: np.ndarray) -> np.ndarray:
    """Medians of three neighbours, the first and last repeated: ``[…, layer]`` → ``[…, layer]``."""
    middle = np.median(np.stack([curves[..., :-2], curves[..., 1:-1], curves[..., 2:]]), axis=0)
    return np.concatenate([middle[..., :1], middle, middle[..., -1:]], axis=-1)


def net_depth(curves: np.ndarray) -> np.ndarray:
    """The lower end above the lowest point, minus the largest movement against a U: ``[…, layer]`` → ``[…]``.

    In units of the curve.
    """
    lowest = curves.argmin(axis=-1)[..., None]
    last = curves.shape[-1] - 1
    depth = np.minimum(curves[..., 0], curves[..., -1]) - curves.min(axis=-1)
    against = np.maximum(_rise(curves, lowest), _rise(curves[..., ::-1], last - lowest))
    return depth - against


def _rise(curves: np.ndarray, until: np.ndarray) -> np.ndarray:
    """The largest rise from any layer to a later one, up to layer ``until``."""
    rises = curves - np.minimum.accumulate(curves, axis=-1)
    return np.where(np.arange(curves.shape[-1]) <= until, rises, 0).max(axis=-1)


def two_lines(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes a layer before and after the break at which two separate lines fit best: ``[draw, layer]`` → draw each.

    Three layers or more on either side, the one at the break in both.
    """
    n = curves.shape[1]
    best = np.full(len(curves), np.inf)
    slopes = np.zeros((2, len(curves)))
    for middle in range(2, n - 2):
        (before, left), (after, right) = _line(curves[:, : middle + 1]), _line(curves[:, middle:])
        better = left + right < best
        best[better] = (left + right)[better]
        slopes[0, better], slopes[1, better] = before[better], after[better]
    return slopes[0], slopes[1]


def _line(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and squared residuals of a line through each curve."""
    x = np.arange(curves.shape[1]) - (curves.shape[1] - 1) / 2
    centred = curves - curves.mean(axis=1, keepdims=True)
    slopes = centred @ x / (x @ x)
    return slopes, (centred**2).sum(axis=1) - slopes**2 * (x @ x)


def walk_p(curve: np.ndarray, orders: int, rng: np.random.Generator) -> float:
    """The p of the curve's net depth among curves whose increments are its own in random order.

    Exact for exchangeable increments: at most 5% of random walks have a p of at most 0.05.
    """
    increments = rng.permuted(np.tile(np.diff(curve), (orders, 1)), axis=1)
    walks = np.concatenate([np.zeros((orders, 1)), np.cumsum(increments, axis=1)], axis=1)
    observed = float(net_depth(running_median(curve)))
    slack = 1e-9 * float(_scale(np.ptp(curve)))
    return statistics.permutation_p(observed - slack, net_depth(running_median(walks)), "greater")


@functools.cache
def smooth_walk_depth(layers: int) -> float:
    """The net depth, over the range, that one in twenty smooth walks over so many layers reaches, by simulation.

    Gaussian increments, each ``memory`` times the one before and a part of its own; the larger over ``MEMORIES``.
    """
    rng, reached = generator_for(0, "smooth walks"), []
    for memory in MEMORIES:
        increments = rng.normal(size=(SMOOTH_WALKS, layers - 1))
        for step in range(1, layers - 1):
            increments[:, step] += memory * increments[:, step - 1]
        walks = running_median(np.pad(np.cumsum(increments, axis=1), ((0, 0), (1, 0))))
        reached.append(float(np.quantile(net_depth(walks) / np.ptp(walks, axis=1), 0.95)))
    return max(reached)


def _scale(ranges: np.ndarray) -> np.ndarray:
    return np.where(ranges > 0, ranges, 1.0)
