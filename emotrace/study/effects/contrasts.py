"""What steering does beyond a control, at equal norm and at equal harm: ``steering_effects`` (C8).

Equal norm is not equal harm: a direction that lies where no text lies breaks a text at a strength that leaves it whole
under another. So an emotion's vector at the strength of interest is also held against the control at the strength at
which the *control* does as much harm: where its texts have the same perplexity ratio, or the same share of them is
coherent. Between the strengths that were written, readings and harm are interpolated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from emotrace.study.effects.crossed import Crossed, crossed, crossed_mean
from emotrace.study.effects.dose import COHERENT, CONTROLS, OTHERS, READINGS, Curves, curves, page, slopes
from emotrace.study.effects.sweep import Sweep

BREAKS = 0.1
"""A control is flagged where its share of coherent texts differs by more: ten of a hundred texts, as many as the
calibration lets go."""
NORM, PERPLEXITY, COHERENCE = MATCHES = ("norm", "perplexity", "coherence")
"""What is equal between an emotion's vector and the control: the column ``match``."""
TOWARDS, AWAY, SLOPE, RHO = ("towards", "away", "slope", "rho")


def effects(swept: Sweep) -> pd.DataFrame:
    """``steering_effects``: one row a reading, contrast, control and match.

    ``contrast``: ``towards`` and ``away``, an emotion's reading under its own vector minus under the control, at +1 and
    −1 × the strength of interest; ``slope``, of that difference per unit of strength within it; ``rho``, Spearman's ρ
    of that difference (mean over prompts) with strength, mean over emotions.

    Returns:
        ``metric, contrast, control, match``; ``value, low, high, p``: mean over emotions, interval and two-sided p over
        emotions, prompts and control directions; ``n`` emotions, ``prompts``, ``directions``; ``coherent`` and
        ``control_coherent``: shares of coherent texts at the strengths compared; ``control_breaks``: they differ by
        more than ``BREAKS``; ``relative``: the control's strength in multiples of the emotion's.
    """
    coherent, ratio = curves(swept, COHERENT), _log_ratio(swept)
    rows = []
    for metric in (name for name in READINGS if name in swept.values):
        found = curves(swept, metric)
        for control in (name for name in CONTROLS if len(found.emotions) and found.has(name)):
            for kind, relative in ((TOWARDS, 1.0), (AWAY, -1.0), (SLOPE, 1.0), (RHO, 1.0)):
                estimate = contrast(found, control, kind)
                if estimate is None:
                    continue
                key = {"metric": metric, "contrast": kind, "control": control, "match": NORM}
                harm = _harm(coherent, control, relative, relative)
                rows.append({**key, **estimate._asdict(), **_sizes(found, control), **harm, "relative": 1.0})
            if control == OTHERS or metric == "beyond_skip":
                continue
            for match, harm_curves in ((PERPLEXITY, ratio), (COHERENCE, coherent)):
                key = {"metric": metric, "contrast": TOWARDS, "control": control, "match": match}
                estimate, place = matched(found, control, harm_curves, 1.0 if match == PERPLEXITY else -1.0)
                harm = _harm(coherent, control, 1.0, place)
                rows.append({**key, **estimate._asdict(), **_sizes(found, control), **harm, "relative": place})
    return pd.DataFrame(rows)


def _sizes(found: Curves, control: str) -> dict[str, int]:
    directions = len(found.emotions) - 1 if control == OTHERS else len(found.under[control])
    return {"n": len(found.emotions), "prompts": found.own.shape[-1], "directions": directions}


def contrast(found: Curves, control: str, kind: str) -> Crossed | None:
    """One contrast of one reading with a control of equal norm; None where the strengths for it were not written."""
    own, against = found.own, found.control(control)
    if kind in (TOWARDS, AWAY):
        place = found.at(1.0 if kind == TOWARDS else -1.0)
        if found.strengths[place] * (1 if kind == TOWARDS else -1) <= 0:
            return None
        return crossed_mean(own[:, place], against[:, :, place])
    window = found.window
    if len(window) < 2:
        return None
    doses = found.strengths[window] / found.unit
    own, against = own[:, window], against[:, :, window]
    if kind == SLOPE:
        cells = slopes(doses, np.moveaxis(own, 1, 0))
        return crossed_mean(cells, slopes(doses, np.moveaxis(against, 2, 0)))

    def rho(weights: np.ndarray, directions: np.ndarray) -> float:
        excess = own - np.tensordot(directions / directions.sum(), against, 1)
        with np.errstate(invalid="ignore"):
            mean = (excess * weights[:, None]).sum(axis=-1) / weights.sum(axis=-1)[:, None]  # [emotion, strength]
        mean = mean[np.isfinite(mean).all(axis=-1)]
        return page(mean.T)[0]

    value, low, high, p = crossed(rho, own.shape[0], own.shape[-1], len(against))
    if np.isnan(low) and abs(value) == 1:
        return at_the_end(value, int(np.isfinite(own).all(axis=(1, 2)).sum()))
    return Crossed(value, max(low, -1.0), min(high, 1.0), p)  # Student's interval knows nothing of ρ's ends


def at_the_end(rho: float, emotions: int) -> Crossed:
    """The interval of a mean ρ that is 1, or −1, in every emotion, whichever prompt or control direction is left out.

    Ours: other emotions may do otherwise. Of so many alike, the share that does is at most 1 − 0.025^(1/n) (the exact
    binomial bound), and in none can ρ be further off than its other end. p: so many equal signs by chance.
    """
    other = 1 - 0.025 ** (1 / emotions)
    low, high = sorted((rho, rho * (1 - 2 * other)))
    return Crossed(rho, low, high, 2 * 0.5**emotions)


def _log_ratio(swept: Sweep) -> Curves:
    """The logarithm of the perplexity ratio: its mean is not ruled by a few texts."""
    logs = np.log(swept.texts["perplexity_ratio"].clip(lower=1e-3, upper=1e3).fillna(1e3))
    return curves(
        Sweep(swept.texts.assign(perplexity_ratio=logs), {}, swept.emotions, swept.strength), "perplexity_ratio"
    )


def _harm(coherent: Curves, control: str, relative: float, control_relative: float) -> dict[str, Any]:
    """The shares of coherent texts under emotions' own vectors and under a control, at given multiples."""
    own = np.einsum("esp->s", coherent.own) / (coherent.own.shape[0] * coherent.own.shape[2])
    against = coherent.control(control).mean(axis=(0, 1, 3))
    doses = coherent.strengths / coherent.unit
    shares = {
        "coherent": float(np.interp(relative, doses, own)),
        "control_coherent": float(np.interp(control_relative, doses, against)),
    }
    return {**shares, "control_breaks": abs(shares["coherent"] - shares["control_coherent"]) > BREAKS}


def matched(found: Curves, control: str, harm: Curves, sign: float) -> tuple[Crossed, float]:
    """Towards an emotion, at the control's strength of equal harm; and that strength, in multiples.

    ``sign``: 1 where more of ``harm`` is worse, −1 where less is. Harm is taken over all emotions together, and is made
    monotone in strength. A control that never does as much harm is taken at its largest strength.
    """
    positive = np.flatnonzero(found.strengths >= 0)
    doses, one = found.strengths[positive] / found.unit, found.at(1.0)
    names = [harm.emotions.index(name) for name in found.emotions]
    own, against = found.own[:, one], found.control(control)[:, :, positive]
    own_harm, control_harm = sign * harm.own[names, one], sign * harm.control(control)[:, 0, positive]

    def place(weights: np.ndarray, directions: np.ndarray) -> float:
        wanted = float((weights * own_harm).sum() / weights.sum())
        of_prompts = weights.sum(axis=0) / weights.sum()
        curve = np.tensordot(directions / directions.sum(), control_harm, 1) @ of_prompts
        rising = isotonic_regression(curve).x
        # A flat stretch is left at its end: the largest strength that does no more harm than the emotion's vector.
        above = np.flatnonzero(rising > wanted + 1e-12)
        if not len(above):
            return float(doses[-1])
        if above[0] == 0:
            return 0.0
        last = above[0] - 1
        share = (wanted - rising[last]) / (rising[above[0]] - rising[last])
        return float(doses[last] + share * (doses[above[0]] - doses[last]))

    def difference(weights: np.ndarray, directions: np.ndarray) -> float:
        where = place(weights, directions)
        right = int(np.clip(np.searchsorted(doses, where), 1, len(doses) - 1))
        share = (where - doses[right - 1]) / (doses[right] - doses[right - 1])
        read = np.tensordot(directions / directions.sum(), against, 1)  # [emotion, strength, prompt]
        control_read = (1 - share) * read[:, right - 1] + share * read[:, right]
        return float((weights * (own - control_read)).sum() / weights.sum())

    where = place(np.ones(own.shape), np.ones(len(against)))
    return crossed(difference, own.shape[0], own.shape[1], len(against)), where
