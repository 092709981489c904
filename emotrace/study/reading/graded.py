"""Whether the place along an emotion's vector follows a dose, from features of messages: arrays → rows of tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from emotrace.measures import statistics
from emotrace.study.reading import projection
from emotrace.study.reading.projection import Texts

DOSE, CONTROL = "dose", "control"
OWN, NUMBER, EMOTION = READINGS = ("own", "control_number", "control_emotion")
"""A scale's emotion with its dose, the same emotion with a number that means nothing, another emotion with the dose."""
OVER_BOTH, OVER_NUMBER, OVER_EMOTION = DIFFERENCES = tuple(
    f"own_minus_{control}" for control in ("controls", NUMBER, EMOTION)
)
"""The scale's ρ minus the mean of its two controls', and minus that of either."""
MEANS = (*READINGS, *DIFFERENCES)
"""What is averaged over scales."""
ALL = "all"
ALPHA = 0.05

Rows = list[dict[str, Any]]


class Curve(NamedTuple):
    """One reading of one scale.

    Attributes:
        scale, reading, emotion: which.
        sign: of the effect that is expected.
        rows: the numbers of its messages, in order of the level ``[level]``.
    """

    scale: str
    reading: str
    emotion: str
    sign: int
    rows: np.ndarray


def curves(table: pd.DataFrame) -> list[Curve]:
    """The readings of each scale of :func:`~emotrace.instrument.corpus.graded_prompts`, scale by scale."""
    kinds, found = table["kind"].to_numpy(), []
    for scale in table["scale"].unique():
        of_scale = (table["scale"] == scale).to_numpy()
        first = table[of_scale].iloc[0]
        for reading in READINGS:
            rows = np.flatnonzero(of_scale & (kinds == (CONTROL if reading == NUMBER else DOSE)))
            rows = rows[np.argsort(table["level"].to_numpy()[rows], kind="stable")]
            emotion = first["control_emotion"] if reading == EMOTION else first["emotion"]
            found.append(Curve(scale, reading, emotion, int(first["sign"]), rows))
    return found


def levels(table: pd.DataFrame, texts: Texts, states: np.ndarray) -> Rows:
    """The rows of ``graded`` without the study's columns: where each message lies along the vectors of its scale.

    ``value``: the projection minus its mean over all messages of the scale, in standard deviations of the passages'.

    Args:
        table: the messages.
        texts: the passages.
        states: the same features of the messages, ``[message, d]``.
    """
    vectors, level, rows = texts.vectors(), table["level"].to_numpy(), []
    for curve in curves(table):
        vector = vectors[list(texts.names).index(curve.emotion)]
        mean = states[(table["scale"] == curve.scale).to_numpy()].mean(axis=0, dtype=np.float64)
        along = (states[curve.rows] - mean) @ vector / (texts.features @ vector).std()
        facts = {"scale": curve.scale, "reading": curve.reading, "emotion": curve.emotion, "sign": curve.sign}
        rows += [
            facts | {"level": int(level[row]), "value": float(at)} for row, at in zip(curve.rows, along, strict=True)
        ]
    return rows


def scales(table: pd.DataFrame, texts: Texts, states: np.ndarray, permutations: int, rng: np.random.Generator) -> Rows:
    """The rows of ``graded_scales`` without the study's columns: Spearman's ρ with the level, times the expected sign.

    Of each scale and reading, with the exact one-sided p over all orders of the levels, and ``span``: how far the
    highest level lies beyond the lowest, in standard deviations of the passages. Then, ``scale`` = *all*, the means
    of :data:`MEANS` over scales (of ``span`` the median), their t interval and two-sided ``t_p``, and ``null`` and
    ``p`` from vectors of shuffled labels (a smooth course has ρ near ±1 along any vector: with six signs p stays near
    1/64 or above); and ``significant``: on how many scales p < 0.05 for the scale's own emotion, beside what chance
    gives (binomial p).

    Args:
        table: the messages.
        texts: the passages.
        states: the same features of the messages, ``[message, d]``.
        permutations: of the passages' labels.
        rng: their generator.
    """
    found, projections = curves(table), projection.Projections(texts, states)
    own, rows = projections.own(), list[dict[str, Any]]()
    spread = (texts.features @ texts.vectors().T).std(axis=0)
    for curve in found:
        values = _signed(curve, texts.names, own)
        facts = {"scale": curve.scale, "metric": curve.reading, "emotion": curve.emotion, "sign": curve.sign}
        span = float(values[-1] - values[0]) / spread[texts.names.index(curve.emotion)]
        tests = {"span": span, "p": projection.rho_p(values), "m": math.factorial(len(values)), "n": len(values)}
        rows.append(facts | {"value": float(projection.rho(values)), "null": 0.0} | tests)
    spans = {name: float(np.median([row["span"] for row in rows if row["metric"] == name])) for name in READINGS}
    of_scales = _of_scales(found, texts.names, own)
    nulls = [_of_scales(found, texts.names, drawn) for drawn in projections.shuffled(permutations, rng)]
    for metric in MEANS:
        interval = statistics.mean_interval(of_scales[metric])
        null = np.array([draw[metric].mean() for draw in nulls])
        tests = {"null": null.mean(), "p": statistics.permutation_p(interval.value, null, "greater"), "m": permutations}
        tests |= {"t_p": _t_p(of_scales[metric]), "span": spans.get(metric, np.nan)}
        rows.append({"scale": ALL, "metric": metric, **interval._asdict(), **tests, "n": len(of_scales[metric])})
    exact = [row["p"] for row in rows if row["metric"] == OWN and row["scale"] != ALL]
    count, n = sum(p < ALPHA for p in exact), len(exact)
    chance = {"null": ALPHA * n, "p": float(stats.binom.sf(count - 1, n, ALPHA)), "n": n}
    rows.append({"scale": ALL, "metric": "significant", "value": count, **chance})
    return rows


def _t_p(differences: np.ndarray) -> float:
    """Student's two-sided p that the mean of ``differences [scale]`` is 0; 0 where all are the same and not 0."""
    if np.ptp(differences) == 0:
        return float(differences[0] == 0)
    return float(stats.ttest_1samp(differences, 0).pvalue)


def _signed(curve: Curve, names: Sequence[str], scored: np.ndarray) -> np.ndarray:
    """One curve of projections ``[message, emotion]``, turned so that it should rise with the level: ``[level]``."""
    return curve.sign * scored[curve.rows, list(names).index(curve.emotion)]


def _of_scales(found: Sequence[Curve], names: Sequence[str], scored: np.ndarray) -> dict[str, np.ndarray]:
    """Each of :data:`MEANS` → its value on each scale ``[scale]``, from projections ``[message, emotion]``."""
    courses = np.stack([_signed(curve, names, scored) for curve in found])
    rho, readings = projection.rho(courses), np.array([curve.reading for curve in found])
    rhos = {reading: rho[readings == reading] for reading in READINGS}
    controls = ((rhos[NUMBER] + rhos[EMOTION]) / 2, rhos[NUMBER], rhos[EMOTION])
    return rhos | {name: rhos[OWN] - control for name, control in zip(DIFFERENCES, controls, strict=True)}
