"""Regimes over models: what becomes of texts at the same multiples of each model's calibrated strength (C10).

The paper has the regimes separated by architecture rather than scale. A few models that each have a family and a size
of their own can show that they differ, and not by which of the two.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from emotrace.judges import regimes
from emotrace.measures import statistics
from emotrace.measures.randomness import generator_for
from emotrace.study.across.facts import Facts
from emotrace.study.effects.arms import CALIBRATED
from emotrace.study.folder import select

CONTROLS = ("permuted", "random")
"""The control directions together, in the column ``emotion`` of ``regimes``: permuted labels, Gaussian ones."""
BROKEN = "collapse among broken"
"""The share of repetitive collapse among the texts that collapse or explode."""
MIN_BROKEN = 10
"""Fewer broken texts than this say nothing of how a model breaks."""


def regime_counts(table: pd.DataFrame, models: list[str]) -> pd.DataFrame:
    """How many texts of each direction fell into each regime, at the relative strengths that all models were given.

    Returns:
        One row a model, relative strength and direction (``emotion``; ``permuted`` and ``random`` for the control
        directions of either kind together):
        ``model, relative, strength, emotion``, a column for each regime, ``n``.
    """
    table = select(table, arm=CALIBRATED)
    single = table["emotion"].str.startswith(("random-", "permuted-"))
    table = table[~table["emotion"].isin(["all", "unsteered"]) & ~single]
    table = table.assign(relative=table["relative"].round(6))
    common = set.intersection(*(set(select(table, model=name)["relative"]) for name in models))
    table = table[table["relative"].isin(common)]
    counts = table[["model", "relative", "strength", "emotion", "n"]].copy()
    for regime in regimes.REGIMES:
        counts[regime] = (table[regime.replace(" ", "_")] * table["n"]).round().astype(int)
    return counts


def regime_shares(counts: pd.DataFrame, draws: int, seed: int) -> pd.DataFrame:
    """``across_regimes``: shares of the regimes of each model at matched relative strengths (C10).

    One row a model, relative strength, direction (``emotions``, ``permuted`` or ``random``) and regime, ``n`` texts,
    Wilson interval. The interval of ``BROKEN`` resamples emotions, since texts under one emotion are not independent
    (Wilson's for control directions).
    """
    rows = []
    for (model, relative), at_strength in counts.groupby(["model", "relative"], sort=False):
        of = at_strength["emotion"].where(at_strength["emotion"].isin(CONTROLS), "emotions")
        for direction, part in ((name, at_strength[of == name]) for name in ("emotions", *CONTROLS)):
            n = int(part["n"].sum())
            if not n:
                continue
            strength = at_strength["strength"].iloc[0]
            front = {"model": model, "relative": relative, "strength": strength, "direction": direction}
            for regime in regimes.REGIMES:
                share = statistics.wilson(int(part[regime].sum()), n)
                rows.append({**front, "regime": regime, **share._asdict(), "n": n})
            broken = _broken(part)
            rows.append({**front, "regime": BROKEN, **_collapse(broken, draws, seed)._asdict(), "n": int(broken.sum())})
    return pd.DataFrame(rows)


def regime_contrasts(counts: pd.DataFrame, facts: dict[str, Facts], draws: int, seed: int) -> pd.DataFrame:
    """``across_regimes_contrasts``: do two models break differently at the same relative strength?

    One row a positive relative strength and pair of models: the share of collapse among broken texts in a minus that
    in b, interval by resampling the emotions that both have; ``p`` by exchanging the two models emotion by emotion,
    since texts under one emotion are not independent. No row where a model has fewer than ``MIN_BROKEN`` broken texts.
    """
    rows = []
    counts = counts[~counts["emotion"].isin(CONTROLS) & (counts["relative"] > 0)]
    for relative, at_strength in counts.groupby("relative"):
        for a, b in itertools.combinations(facts, 2):
            part_a, part_b = (select(at_strength, model=name).set_index("emotion") for name in (a, b))
            shared = [name for name in part_a.index if name in part_b.index]
            broken_a, broken_b = _broken(part_a.loc[shared]), _broken(part_b.loc[shared])
            if len(shared) < 2 or min(broken_a.sum(), broken_b.sum()) < MIN_BROKEN:
                continue
            picks = generator_for(seed, "regimes over models").integers(len(shared), size=(draws, len(shared)))
            resampled = _collapsed(broken_a[picks]) - _collapsed(broken_b[picks])
            interval = statistics.percentile_interval(float(_collapsed(broken_a) - _collapsed(broken_b)), resampled)
            smaller, larger = sorted((facts[a].parameters, facts[b].parameters))
            pair = {"model_a": a, "model_b": b, "same_family": facts[a].family == facts[b].family}
            pair |= {"size_ratio": larger / smaller, "relative": relative, **interval._asdict()}
            p = _exchanged_p(broken_a, broken_b, draws, seed)
            rows.append({**pair, "n_a": int(broken_a.sum()), "n_b": int(broken_b.sum()), "p": p})
    return pd.DataFrame(rows)


def _broken(part: pd.DataFrame) -> np.ndarray:
    """Counts of collapsed and exploded texts: ``[direction, 2]``."""
    return part[[regimes.REPETITIVE, regimes.EXPLOSIVE]].to_numpy(dtype=float)


def _collapse(broken: np.ndarray, draws: int, seed: int) -> statistics.Interval:
    """The share of collapse among ``broken [direction, 2]``, with its interval; NaN where nothing broke."""
    if len(broken) > 1:
        picks = generator_for(seed, "regimes over models").integers(len(broken), size=(draws, len(broken)))
        return statistics.percentile_interval(float(_collapsed(broken)), _collapsed(broken[picks]))
    if broken.sum():
        return statistics.wilson(int(broken[0, 0]), int(broken.sum()))
    return statistics.Interval(np.nan, np.nan, np.nan)


def _exchanged_p(broken_a: np.ndarray, broken_b: np.ndarray, draws: int, seed: int) -> float:
    """The two-sided p of the difference in collapse, the models' ``[emotion, 2]`` exchanged emotion by emotion."""
    flips = generator_for(seed, "exchanged models").random((draws, len(broken_a), 1)) < 0.5
    first, second = np.where(flips, broken_b, broken_a), np.where(flips, broken_a, broken_b)
    null = np.nan_to_num(_collapsed(first) - _collapsed(second))  # no broken text on one side: no difference seen
    return statistics.permutation_p(float(_collapsed(broken_a) - _collapsed(broken_b)), null, "two-sided")


def _collapsed(broken: np.ndarray) -> np.ndarray:
    """The share of collapse among broken texts: ``[…, direction, 2]`` → ``[…]``."""
    summed = broken.sum(axis=-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return summed[..., 0] / summed.sum(axis=-1)
