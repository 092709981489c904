"""Dose response (C8): what grows with the strength of an edit, beside control directions and other emotions.

Everything is an emotion's reading under its own vector *minus* the same reading under a control of equal norm, on the
same prompts at the same strength. First control: vectors of labels permuted within topics; second: Gaussian noise;
third: the other emotions' vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from emotrace.judges.regimes import SURGICAL
from emotrace.measures.statistics import mean_interval
from emotrace.study.effects.arms import EMOTION, GAUSSIAN, PERMUTED
from emotrace.study.effects.crossed import crossed_mean
from emotrace.study.effects.sweep import EMOTION_METRICS, TEXT_METRICS, Sweep

CHANGES = ("projection", "beyond_skip", "kin_log_probability")
"""Given as changes from the unsteered prompt: their levels differ from emotion to emotion and mean nothing."""
READINGS = ("beyond_skip", "kin_log_probability", "classifier", "kin_share")
"""The readings that claims rest on."""
OTHERS = "others"
CONTROLS = (PERMUTED, GAUSSIAN, OTHERS)
COHERENT = "coherent"
"""Whether a text is surgical, as a metric of its own."""


@dataclass(frozen=True)
class Curves:
    """One metric over strengths, seeds averaged.

    Attributes:
        strengths: ascending, 0 among them; the one at which effects are read is ``unit``.
        under: source → readings ``[direction, emotion, strength, prompt]``; at strength 0 those of unsteered texts.
        emotions: the emotions with a known reading, of which ``under`` has the readings and the own directions.
    """

    strengths: np.ndarray
    unit: float
    under: dict[str, np.ndarray]
    emotions: tuple[str, ...]

    @property
    def own(self) -> np.ndarray:
        """Each emotion under its own vector: ``[emotion, strength, prompt]``."""
        return np.einsum("eesp->esp", self.under[EMOTION])

    def control(self, name: str) -> np.ndarray:
        """Readings under a control: ``[direction, emotion, strength, prompt]``; one direction for ``others``."""
        if name != OTHERS:
            return self.under[name]
        under, n = self.under[EMOTION], len(self.emotions)
        return ((under.sum(axis=0) - self.own) / max(n - 1, 1))[None]

    def has(self, control: str) -> bool:
        """Whether there is such a control."""
        return len(self.emotions) > 1 if control == OTHERS else len(self.under[control]) > 0

    def at(self, relative: float) -> int:
        """The place of a multiple of ``unit`` among the strengths; the nearest one."""
        return int(np.abs(self.strengths - relative * self.unit).argmin())

    @property
    def window(self) -> np.ndarray:
        """The places of the strengths within ``unit``, without 0: where a dose response is tested."""
        size = np.abs(self.strengths)
        return np.flatnonzero((size > 0) & (size <= self.unit * (1 + 1e-9)))


def curves(swept: Sweep, metric: str) -> Curves:
    """A metric of a sweep as curves; emotions without a known reading are left out."""
    texts, names = swept.texts, list(swept.emotions)
    if metric in swept.values:
        values = swept.values[metric]
    else:
        column = texts["regime"] == SURGICAL if metric == COHERENT else texts[metric]
        values = np.repeat(column.to_numpy(dtype=np.float64)[:, None], len(names), axis=1)
    strengths, prompts = np.array(swept.strengths), list(dict.fromkeys(texts["prompt"]))
    keys = [texts["emotion"], texts["strength"], texts["prompt"]]
    mean = pd.DataFrame(values, columns=names, index=texts.index).groupby(keys, sort=False).mean()
    plain = mean.loc[[("", 0.0, prompt) for prompt in prompts]].to_numpy().T  # [emotion, prompt]
    under = {}
    for source in (EMOTION, PERMUTED, GAUSSIAN):
        directions = swept.directions(source)
        block = np.empty((len(directions), len(names), len(strengths), len(prompts)))
        for place, strength in enumerate(strengths):
            cells = [(name, strength, prompt) for name in directions for prompt in prompts]
            if strength == 0 or not directions:
                block[:, :, place] = plain
            else:
                read = mean.loc[cells].to_numpy().reshape(len(directions), len(prompts), len(names))
                block[:, :, place] = read.swapaxes(1, 2)
        under[source] = block - plain[:, None] if metric in CHANGES else block
    known = np.array([np.isfinite(under[EMOTION][:, index]).all() for index in range(len(names))])
    if metric in swept.values:
        under = {
            source: block[known][:, known] if source == EMOTION else block[:, known] for source, block in under.items()
        }
        names = [name for name, one in zip(names, known, strict=True) if one]
    return Curves(strengths, swept.strength, under, tuple(names))


# -- tables -----------------------------------------------------------------------------------------------------------


def response(swept: Sweep) -> pd.DataFrame:
    """One row an emotion, strength and metric: its value beside the controls'.

    Returns:
        ``emotion, strength, metric``; ``value``, mean over prompts, with Student's t interval ``low, high`` and ``n``;
        ``permuted, permuted_low, permuted_high`` and ``random, random_low, random_high``: mean and range over the
        permuted-label and the Gaussian directions of their means over prompts; ``others``: mean over the vectors of the
        other emotions. The metrics of ``CHANGES`` are changes from strength 0. The emotion ``all`` is the mean over the
        emotions, its interval over emotions and prompts.
    """
    rows = []
    for metric in (*(name for name in EMOTION_METRICS if name in swept.values), *TEXT_METRICS):
        found = curves(swept, metric)
        if len(found.emotions):
            rows += _response(found, metric)
    return pd.DataFrame(rows)


def _response(found: Curves, metric: str) -> list[dict[str, Any]]:
    rows = []
    own = found.own
    columns = {
        name: _mean(found.control(control), (-1,)) for name, control in (("permuted", PERMUTED), ("random", GAUSSIAN))
    }
    others = _mean(found.control(OTHERS)[0], (-1,))
    for place, strength in enumerate(found.strengths):
        key = {"strength": strength, "metric": metric}
        for index, emotion in enumerate(found.emotions):
            values = own[index, place][np.isfinite(own[index, place])]
            interval = mean_interval(values)._asdict()
            beside = _range({name: block[:, index, place] for name, block in columns.items()})
            row = {"emotion": emotion, **key, **interval, **beside}
            rows.append({**row, "others": others[index, place], "n": len(values)})
        known = np.isfinite(own[:, place]).all(axis=-1)
        if known.any():
            value, low, high, _ = crossed_mean(own[known, place])
            if strength == 0 and metric in CHANGES:
                low = high = value  # a change from itself is 0 by definition
            beside = _range({name: _mean(block[:, known, place], (-1,)) for name, block in columns.items()})
            row = {"emotion": "all", **key, "value": value, "low": low, "high": high, **beside}
            rows.append({**row, "others": others[known, place].mean(), "n": int(known.sum())})
    return rows


def _range(controls: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean, smallest and largest of the directions ``[direction]`` of each control; NaN where there is none."""
    columns: dict[str, float] = {}
    for name, values in controls.items():
        known = values[np.isfinite(values)]
        known = known if len(known) else np.array([np.nan])
        columns |= {name: float(known.mean()), f"{name}_low": float(known.min()), f"{name}_high": float(known.max())}
    return columns


def _mean(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The mean of the values that are known; NaN where none is."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis=axes) / known.sum(axis=axes)


def trends(swept: Sweep) -> pd.DataFrame:
    """``monotonicity``: does each reading of an emotion rise with the strength of its own vector beyond controls?

    Of the curve within the window, under the own vector minus the mean under permuted-label directions, prompt by
    prompt; the strength 0, where both are the same text, is left out.

    Returns:
        One row an emotion and metric: ``slope, permuted_slope``: least-squares slope of the two curves for one unit of
        strength; ``rho``: Spearman's ρ of their difference with strength, mean over prompts, and its Page test (``p``,
        one-sided, over prompts, so that a direction with any slope of its own passes it; ``p_holm``, corrected for the
        emotions); ``permuted_abs_rho``: mean size of ρ of one permuted-label
        direction's own curve, whose sign means nothing; ``beyond``: one-sided p that a further permuted-label direction
        has as large a slope (Student's prediction interval); ``up, down``: the difference at the largest strength of
        either sign, and likewise ``permuted_up`` … of each control's reading minus the unsteered one; ``n`` prompts.
    """
    rows = []
    for metric in (name for name in READINGS if name in swept.values):
        found = curves(swept, metric)
        if found.emotions and found.has(PERMUTED) and len(found.window) > 1:
            rows += [{"metric": metric, **row} for row in tested(found)]
    return pd.DataFrame(rows)


def tested(found: Curves) -> list[dict[str, Any]]:
    """The rows of ``monotonicity`` of one reading."""
    rows = [_trend(found, index) for index in range(len(found.emotions))]
    adjusted = holm([row["p"] for row in rows])
    return [
        {"emotion": emotion, **row, "p_holm": p} for emotion, row, p in zip(found.emotions, rows, adjusted, strict=True)
    ]


def _trend(found: Curves, index: int) -> dict[str, float]:
    window, doses = found.window, found.strengths[found.window] / found.unit
    own, permuted = found.own[index][window], found.control(PERMUTED)[:, index][:, window]
    excess = own - permuted.mean(axis=0)  # [strength, prompt]
    rho, p = page(excess)
    slope = slopes(doses, own.mean(axis=-1))
    of_each = np.array([slopes(doses, curve.mean(axis=-1)) for curve in permuted])
    row = {
        "slope": slope,
        "permuted_slope": of_each.mean(),
        "rho": rho,
        "p": p,
        "permuted_abs_rho": float(np.mean([abs(page(curve)[0]) for curve in permuted])),
        "beyond": beyond(float(slope), of_each),
    }
    zero = int(np.flatnonzero(found.strengths == 0)[0])
    for side, relative in (("up", 1.0), ("down", -1.0)):
        place = found.at(relative)
        row[side] = float((found.own[index, place] - found.own[index, zero]).mean())
        for name, control in (("permuted", PERMUTED), ("random", GAUSSIAN), ("others", OTHERS)):
            block = (
                found.control(control)[:, index]
                if found.has(control)
                else np.full((1, len(found.strengths), 1), np.nan)
            )
            row[f"{name}_{side}"] = float((block[:, place] - block[:, zero]).mean())
    return {**row, "n": excess.shape[1]}


def page(curve: np.ndarray) -> tuple[float, float]:
    """Page's test that ``curve [strength, prompt]`` rises with strength: the mean over prompts of Spearman's ρ, one p.

    Within a prompt, ρ of n permuted values has mean 0 and variance 1 / (n − 1), ties or not, which scipy's test does
    not allow for; a prompt whose values are all the same counts 0 and has no variance. The p is by the normal
    distribution, which is too large, not too small, at the ends.
    """
    ranks = stats.rankdata(curve, axis=0)
    ranks = ranks - ranks.mean(axis=0)
    steps = np.arange(len(curve)) - (len(curve) - 1) / 2
    spread = np.sqrt((ranks**2).sum(axis=0) * (steps**2).sum())
    rhos = np.divide(steps @ ranks, spread, out=np.zeros(curve.shape[1]), where=spread > 0)
    vary = int((spread > 0).sum())
    z = rhos.sum() * np.sqrt((len(curve) - 1) / vary) if vary else 0.0
    return float(rhos.mean()), float(stats.norm.sf(z)) if vary else 1.0


def slopes(doses: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Least-squares slopes of ``values [dose, …]`` on ``doses``: ``[…]``."""
    centred = doses - doses.mean()
    return np.tensordot(centred, values, 1) / (centred**2).sum()


def beyond(value: float, controls: np.ndarray) -> float:
    """One-sided p that one more draw from where ``controls`` come from is at least ``value`` (Student's prediction)."""
    n, spread = len(controls), float(np.std(controls, ddof=1)) if len(controls) > 1 else 0.0
    if spread <= 1e-12 * max(1.0, abs(value)):
        return float(((controls >= value - 1e-12).sum() + 1) / (n + 1))
    return float(stats.t.sf((value - controls.mean()) / (spread * np.sqrt(1 + 1 / n)), n - 1))


def holm(values: list[float]) -> np.ndarray:
    """Holm's correction: each p times the number of those not smaller, and never below a smaller one's."""
    p, n = np.asarray(values, dtype=np.float64), len(values)
    order, adjusted = np.argsort(p), np.empty(n)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * (n - np.arange(n))), 1)
    return adjusted


def steerability(swept: Sweep) -> pd.DataFrame:
    """``steerability``: how far single samples follow the dose, and how many move the wrong way.

    A sample is one prompt and seed, its curve within the window. A direction that is no emotion's has no right way:
    about half of its samples fall.

    Returns:
        One row an emotion (``all``: together) and metric: ``slope, slope_sd``: mean and standard deviation over samples
        of the least-squares slope for one unit of strength; ``right_way, wrong_way``: shares of samples with a slope
        above and below 0 (the rest is flat); ``permuted_right_way`` … of permuted-label directions; ``n`` samples.
    """
    texts, rows = swept.texts, []
    inside = (texts["strength"] != 0) & (texts["strength"].abs() <= swept.strength * (1 + 1e-9))
    doses = np.array(sorted(set(texts["strength"][inside]))) / swept.strength
    if len(doses) < 2:
        return pd.DataFrame()
    for metric in (name for name in READINGS if name in swept.values):
        table = pd.DataFrame(swept.values[metric], columns=list(swept.emotions))[inside.to_numpy()]
        table.index = pd.MultiIndex.from_frame(texts[inside][["source", "emotion", "prompt", "seed", "strength"]])
        wide = table.unstack("strength")  # a row a sample, in ascending strengths
        of_sample = {name: slopes(doses, wide[name].to_numpy().T) for name in swept.emotions}
        source, direction = (wide.index.get_level_values(level).to_numpy() for level in ("source", "emotion"))
        own = {name: values[direction == name] for name, values in of_sample.items()}
        permuted = {name: values[source == PERMUTED] for name, values in of_sample.items()}
        known = [name for name in own if np.isfinite(own[name]).all()] or list(own)
        for name in (*own, "all"):
            members = known if name == "all" else [name]
            values, control = (np.concatenate([part[member] for member in members]) for part in (own, permuted))
            if not np.isfinite(values).all():
                continue
            shares = {"right_way": (values > 0).mean(), "wrong_way": (values < 0).mean()}
            if len(control):
                shares |= {"permuted_right_way": (control > 0).mean(), "permuted_wrong_way": (control < 0).mean()}
            row = {
                "emotion": name,
                "metric": metric,
                "slope": values.mean(),
                "slope_sd": values.std(ddof=1) if len(values) > 1 else np.nan,
                **shares,
            }
            rows.append({**row, "n": len(values)})
    return pd.DataFrame(rows)
