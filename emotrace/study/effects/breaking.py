"""The claims on what becomes of the text (C10). Rules are ours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from emotrace.measures.statistics import Interval, wilson
from emotrace.study.effects.arms import CALIBRATED
from emotrace.study.experiment import Tables
from emotrace.study.folder import select
from emotrace.study.verdicts import INCONCLUSIVE, NOT_REPRODUCED, REPRODUCED, Claim, Estimate, Rule, at_least, together

IDS = ("C10.window", "C10.surgical", "C10.three", "C10.architecture")
WINDOW_TARGET, WINDOW_MARGIN = 0.9, 0.1
"""The share of coherent texts that the calibration asked for; one text of ten fewer is still a window."""
SMALLEST_REGIME = 0.1
"""A regime that fewer than one text in ten falls into does not occur."""


def regime_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """C10: three regimes, by strength and by architecture."""
    regimes = select(tables["regimes"], arm=CALIBRATED)
    return [_window(regimes), _surgical(regimes), _three(regimes), _architecture(regimes)]


def _over_emotions(regimes: pd.DataFrame, value: float, low: float, high: float) -> Estimate:
    """A share of all emotions together, whose interval is over the emotions (``n``) and the prompts."""
    controls = regimes["emotion"].str.fullmatch(r"all|unsteered|(permuted|random)(-\d+)?")
    return Estimate(value, low, high, regimes["emotion"][~controls].nunique())


def _by_strength(regimes: pd.DataFrame, direction: str) -> pd.DataFrame:
    """The rows of an emotion or a group of directions, indexed by multiples of the calibrated strength."""
    rows = select(regimes, emotion=direction)
    return rows.set_index(rows["relative"].round(6))


def window_rule() -> Rule:
    """The window has to hold on prompts that did not choose it, to within ``WINDOW_MARGIN``."""
    return at_least(WINDOW_TARGET, WINDOW_MARGIN)


def _window(regimes: pd.DataFrame) -> Claim:
    rows, unsteered = _by_strength(regimes, "all").sort_index(), select(regimes, emotion="unsteered").iloc[0]
    calibrated, permuted = rows.loc[1.0], _by_strength(regimes, "permuted").loc[1.0]
    beyond = ", ".join(
        f"{relative:g} × {share:.0%}" for relative, share in rows.loc[rows.index > 1, "value"].to_dict().items()
    )
    return Claim(
        id="C10.window",
        claim="C10 the window of coherent strengths carries over to other prompts",
        paper="implied by a surgical regime",
        estimate=_over_emotions(regimes, *calibrated[["value", "low", "high"]]),
        rule=window_rule(),
        how=f"share of surgical ones of {calibrated['n']:.0f} texts at the calibrated strength "
        f"({calibrated['strength']:.3g}), on prompts that the calibration did not use; interval over emotions and "
        f"prompts; beyond it {beyond}; unsteered "
        f"{unsteered['value']:.0%}, under permuted-label vectors {permuted['value']:.0%}",
    )


def _surgical(regimes: pd.DataFrame) -> Claim:
    calibrated, unsteered = _by_strength(regimes, "all").loc[1.0], select(regimes, emotion="unsteered").iloc[0]
    return Claim(
        id="C10.surgical",
        claim="C10 inside the window texts change without becoming harder to predict",
        paper="surgical: coherent transformation",
        estimate=_over_emotions(regimes, *calibrated[["within_2", "within_2_low", "within_2_high"]]),
        rule=window_rule(),
        how=f"share of {calibrated['n']:.0f} texts at the calibrated strength that are surgical at a perplexity ratio "
        "of 2 or less, half of what the calibration asked for; interval over emotions and prompts; unsteered "
        f"{unsteered['within_2']:.0%}",
    )


def occurs(estimate: Estimate, move: float) -> str:
    """Whether a regime occurs: a share's interval is above 0 after one single text, so it has to clear the margin."""
    bound = move * SMALLEST_REGIME
    if estimate.low > bound:
        return REPRODUCED
    return NOT_REPRODUCED if estimate.high < bound else INCONCLUSIVE


def three_rule(repetitive: Interval, explosive: Interval) -> tuple[Estimate, Rule]:
    """Both ways of breaking have to occur: the rarer one is the estimate, both intervals count."""
    rarer, other = sorted((repetitive, explosive), key=lambda share: share.value)
    words = (
        f"reproduced if the intervals of both shares lie above {SMALLEST_REGIME:g}, not reproduced if one lies below"
    )
    rule = Rule(words, occurs)
    return Estimate(*rarer), together(rule, [(rule, Estimate(*other))], words)


def _three(regimes: pd.DataFrame) -> Claim:
    row = _by_strength(regimes, "all").sort_index().iloc[-1]
    shares = [
        Interval(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in ("repetitive_collapse", "explosive")
    ]
    estimate, rule = three_rule(*shares)
    return Claim(
        id="C10.three",
        claim="C10 beyond the window texts collapse into repetition and explode",
        paper="three regimes",
        estimate=_over_emotions(regimes, estimate.value, estimate.low, estimate.high),
        rule=rule,
        how=f"share of {row['n']:.0f} texts in the rarer of the two regimes at {row.name:g} × the calibrated strength: "
        f"{row['repetitive_collapse']:.0%} collapse, {row['explosive']:.0%} explosive, {row['value']:.0%} still "
        "surgical; intervals over emotions and prompts",
    )


def _architecture(regimes: pd.DataFrame) -> Claim:
    rows, controls = _by_strength(regimes, "all"), _by_strength(regimes, "permuted")
    largest, permuted = rows.loc[rows.index.max()], controls.loc[rows.index.max()]
    collapsed = round(largest["repetitive_collapse"] * largest["n"])
    broken = round((largest["repetitive_collapse"] + largest["explosive"]) * largest["n"])
    return Claim(
        id="C10.architecture",
        claim="C10 the regimes are separated by architecture",
        paper="by architecture, not scale",
        estimate=Estimate(*wilson(collapsed, broken), n=broken) if broken else Estimate(np.nan, n=0),
        rule=None,
        how=f"one model has one architecture. Here, at {largest.name:g} × the calibrated strength: share of repetitive "
        f"collapse among the texts that are not coherent; all texts: {largest['repetitive_collapse']:.0%} collapse, "
        f"{largest['explosive']:.0%} explosive; under permuted-label vectors {permuted['repetitive_collapse']:.0%} and "
        f"{permuted['explosive']:.0%}",
    )
