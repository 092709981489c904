"""Dose response (C8): what grows with the strength of an edit, beside random directions and other emotions.

Each emotion's value stands beside the same measure under at least eight random directions of equal norm and under the
vectors of the other emotions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from emotrace.measures.statistics import mean_interval, permutation_p
from emotrace.study.effects.sweep import EMOTION_METRICS, TEXT_METRICS, Sweep

CHANGES = ("projection", "kin_log_probability")
"""Given as changes from the unsteered prompt: their levels differ from emotion to emotion and mean nothing."""
MONOTONE_METRICS = ("projection", "kin_log_probability", "classifier")

Readings = dict[tuple[str, float], np.ndarray]
"""(direction, strength) → readings ``[prompt, emotion]``; of strength 0 the same under every direction's name."""


def response(swept: Sweep) -> pd.DataFrame:
    """One row an emotion, strength and metric: its value beside the controls'.

    Returns:
        ``emotion, strength, metric``; ``value``, mean over prompts, with Student's t interval ``low, high`` and ``n``;
        ``random, random_low, random_high``: mean and range over the random directions of their means over prompts;
        ``others``: mean over the vectors of the other emotions. The metrics of ``CHANGES`` are changes from strength 0.
        The emotion ``all`` is the mean over the emotions, its interval over them.
    """
    rows = []
    for metric in (*EMOTION_METRICS, *TEXT_METRICS):
        readings = _readings(swept, metric)
        for strength in swept.strengths:
            rows += _response_at(swept, readings, metric, strength)
    return pd.DataFrame(rows)


def _readings(swept: Sweep, metric: str) -> Readings:
    texts = swept.texts
    if metric in swept.values:
        values = swept.values[metric]
    else:
        values = np.repeat(texts[metric].to_numpy(dtype=np.float64)[:, None], len(swept.emotions), axis=1)
    unsteered, prompts = (texts["strength"] == 0).to_numpy(), texts["prompt"].to_numpy()
    if metric in CHANGES:
        baseline = dict(zip(prompts[unsteered], values[unsteered], strict=True))
        values = values - np.stack([baseline[prompt] for prompt in prompts])
    groups: dict[Any, Any] = texts[~unsteered].groupby(["emotion", "strength"], sort=False).indices
    readings = {key: values[~unsteered][rows] for key, rows in groups.items()}
    return readings | {(direction, 0.0): values[unsteered] for direction, _ in groups}


def _known_mean(values: np.ndarray, axis: int | None = None) -> Any:
    """The mean of the values that are known; NaN where none is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis=axis) / known.sum(axis=axis)


def _response_at(swept: Sweep, readings: Readings, metric: str, strength: float) -> list[dict[str, Any]]:
    # A text in a language without a dictionary has no share of real words: the others stand for it.
    some, mean = metric == "real_words", _known_mean if metric == "real_words" else np.mean
    low, high = (np.fmin.reduce, np.fmax.reduce) if some else (np.min, np.max)
    random = np.stack([mean(readings[name, strength], axis=0) for name in swept.random])  # [direction, emotion]
    under = np.stack([mean(readings[name, strength], axis=0) for name in swept.emotions])  # [direction, emotion]
    own = np.diag(under)
    others = (under.sum(axis=0) - own) / max(len(under) - 1, 1)
    if some and np.isnan(under).any():
        others = np.array([_known_mean(np.delete(under[:, index], index)) for index in range(len(under))])

    def row(emotion: str, values: np.ndarray, random: np.ndarray, others: float) -> dict[str, Any]:
        values = values[~np.isnan(values)] if some else values
        controls = {"random": mean(random), "random_low": low(random), "random_high": high(random), "others": others}
        key = {"emotion": emotion, "strength": strength, "metric": metric}
        return {**key, **mean_interval(values)._asdict(), **controls, "n": len(values)}

    rows = [
        row(name, readings[name, strength][:, index], random[:, index], others[index])
        for index, name in enumerate(swept.emotions)
    ]
    known = np.isfinite(own)
    if known.any():
        rows.append(row("all", own[known], random[:, known].mean(axis=1), others[known].mean()))
    return rows


def monotonicity(swept: Sweep, within: float, permutations: int, rng: np.random.Generator) -> pd.DataFrame:
    """Does each reading of an emotion rise with the strength of its own vector, on both sides of zero?

    Only strengths up to ``within`` in size count: beyond the calibrated window a text is no text. ``rho`` is the mean
    over prompts of Spearman's ρ between strength and reading; its p permutes the strengths within each prompt. On short
    curves random directions reach a high ρ too, so theirs on the same emotion's reading are given with it.

    Returns:
        One row an emotion and metric: ``emotion, metric, rho, p, m``; ``random_rho`` and ``random_high``, the mean and
        the largest ρ of the random directions; ``beyond``, the p of ρ among them; ``up`` and ``down``, the reading at
        the largest and at the smallest strength minus that at 0, mean over prompts; ``random_up`` and ``random_down``,
        the mean of the same over random directions; ``n``, prompts.
    """
    strengths = [strength for strength in swept.strengths if abs(strength) <= within * (1 + 1e-9)]
    rows = []
    for metric in MONOTONE_METRICS:
        readings = _readings(swept, metric)
        for index, name in enumerate(swept.emotions):
            own, *random = (
                np.stack([readings[direction, strength][:, index] for strength in strengths])
                for direction in (name, *swept.random)
            )
            tested = _monotone(own, random, strengths.index(0.0), permutations, rng)
            rows.append({"emotion": name, "metric": metric, **tested})
    return pd.DataFrame(rows)


def _monotone(
    own: np.ndarray, random: list[np.ndarray], zero: int, permutations: int, rng: np.random.Generator
) -> dict[str, float]:
    """Of readings ``[strength, prompt]`` under the emotion's own and under random directions; ``zero``: the unsteered
    row."""
    if not np.isfinite(own).all():
        return {"rho": np.nan, "n": own.shape[1]}
    rho, null = _rho(own), np.array([_rho(rng.permuted(own, axis=0)) for _ in range(permutations)])
    random_rho = np.array([_rho(curve) for curve in random])

    def change(curve: np.ndarray, end: int) -> float:
        return float((curve[end] - curve[zero]).mean())

    ends = {"up": -1, "down": 0}
    return {
        "rho": rho,
        "p": permutation_p(rho, null, "greater"),
        "m": permutations,
        "random_rho": random_rho.mean(),
        "random_high": random_rho.max(),
        "beyond": permutation_p(rho, random_rho, "greater"),
        **{side: change(own, end) for side, end in ends.items()},
        **{f"random_{side}": float(np.mean([change(curve, end) for curve in random])) for side, end in ends.items()},
        "n": own.shape[1],
    }


def _rho(curve: np.ndarray) -> float:
    """The mean over columns of Spearman's ρ with the row number; a constant column counts 0."""
    ranks = stats.rankdata(curve, axis=0)
    ranks = ranks - ranks.mean(axis=0)
    steps = np.arange(len(curve)) - (len(curve) - 1) / 2
    spread = np.sqrt((ranks**2).sum(axis=0) * (steps**2).sum())
    return float(np.mean(np.divide(steps @ ranks, spread, out=np.zeros(curve.shape[1]), where=spread > 0)))
