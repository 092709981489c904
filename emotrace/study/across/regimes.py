"""Regimes over models: what becomes of texts at the same multiples of each model's calibrated strength (C10).

The paper has the regimes separated by architecture rather than scale. A few models that each have a family and a size
of their own can show that they differ, and not by which of the two.
"""

from __future__ import annotations

import itertools
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import fisher_exact

from emotrace.judges import regimes
from emotrace.measures import statistics
from emotrace.study.folder import select

if TYPE_CHECKING:
    from emotrace.study.across.measure import Facts

BROKEN = "collapse among broken"
# Fewer broken texts than this say nothing of how a model breaks.
MIN_BROKEN = 10
_REGIME_COLUMNS = {regime: regime.replace(" ", "_") for regime in regimes.REGIMES}


def regime_counts(table: pd.DataFrame, models: list[str]) -> pd.DataFrame:
    """How many texts of each direction fell into each regime, at the relative strengths that all models were given.

    Returns:
        One row a model, relative strength and direction (``emotion``; ``random`` for random directions together):
        ``model, relative, strength, emotion``, a column for each regime, ``n``.
    """
    table = table[~table["emotion"].isin(["all", "unsteered"]) & ~table["emotion"].str.startswith("random-")]
    table = table.assign(relative=table["relative"].round(6))
    common = set.intersection(*(set(select(table, model=name)["relative"]) for name in models))
    counts = table.loc[table["relative"].isin(common), ["model", "relative", "strength", "emotion", "n"]].copy()
    for regime, column in _REGIME_COLUMNS.items():
        counts[regime] = (table[column] * table["n"]).round().astype(int)
    return counts


def regime_shares(counts: pd.DataFrame, draws: int, seed: int) -> pd.DataFrame:
    """``across_regimes``: shares of the regimes of each model at matched relative strengths (C10).

    Returns:
        One row a model, relative strength, direction (``emotions`` or ``random``) and regime: ``model, relative, strength,
        direction, regime, value, low, high, n`` (texts, Wilson interval). The regime ``collapse among broken`` is the share
        of repetitive collapse among the texts that collapse or explode; its interval resamples emotions, since texts under
        one emotion are not independent (Wilson's for random directions).
    """
    rows = []
    for (model, relative), some in counts.groupby(["model", "relative"], sort=False):
        for direction, part in (
            ("emotions", some[some["emotion"] != "random"]), ("random", select(some, emotion="random")),
        ):  # fmt: skip
            shared = {
                "model": model, "relative": relative, "strength": some["strength"].iloc[0], "direction": direction,
            }  # fmt: skip
            n = int(part["n"].sum())
            if not n:
                continue
            rows += [
                {**shared, "regime": regime, **statistics.wilson(int(part[regime].sum()), n)._asdict(), "n": n}
                for regime in regimes.REGIMES
            ]
            broken = _broken(part)
            if len(part) > 1:
                rng = np.random.default_rng([seed, zlib.crc32(b"regimes over models")])
                picks = rng.integers(len(part), size=(draws, len(part)))
                interval = statistics.percentile_interval(_collapsed(broken), _collapsed(broken[picks]))
            elif broken.sum():
                interval = statistics.wilson(int(broken[0, 0]), int(broken.sum()))
            else:
                interval = statistics.Interval(np.nan, np.nan, np.nan)
            rows.append({**shared, "regime": BROKEN, **interval._asdict(), "n": int(broken.sum())})
    return pd.DataFrame(rows)


def regime_contrasts(counts: pd.DataFrame, facts: dict[str, Facts], draws: int, seed: int) -> pd.DataFrame:
    """``across_regimes_contrasts``: do two models break differently at the same relative strength?

    Returns:
        One row a positive relative strength and pair of models: ``model_a, model_b, same_family, size_ratio`` (parameters,
        larger over smaller), ``relative, value, low, high``: the share of collapse among broken texts in a minus that in b,
        interval by resampling the emotions that both have; ``n_a, n_b`` broken texts; ``p``, Fisher's exact test, which takes
        texts for independent. No row where a model has fewer than ten broken texts.
    """
    rows = []
    counts = counts[(counts["emotion"] != "random") & (counts["relative"] > 0)]
    for relative, some in counts.groupby("relative"):
        for a, b in itertools.combinations(facts, 2):
            parts = [select(some, model=name).set_index("emotion") for name in (a, b)]
            shared = [name for name in parts[0].index if name in parts[1].index]
            broken = [_broken(part.loc[shared]) for part in parts]
            if len(shared) < 2 or min(each.sum() for each in broken) < MIN_BROKEN:
                continue
            rng = np.random.default_rng([seed, zlib.crc32(b"regimes over models")])
            picks = rng.integers(len(shared), size=(draws, len(shared)))
            value = _collapsed(broken[0]) - _collapsed(broken[1])
            interval = statistics.percentile_interval(
                float(value), _collapsed(broken[0][picks]) - _collapsed(broken[1][picks])
            )
            sizes = sorted((facts[a].parameters, facts[b].parameters))
            rows.append({
                "model_a": a, "model_b": b, "same_family": facts[a].family == facts[b].family,
                "size_ratio": sizes[1] / sizes[0], "relative": relative, **interval._asdict(),
                "n_a": int(broken[0].sum()), "n_b": int(broken[1].sum()),
                "p": float(fisher_exact(np.stack([each.sum(axis=0) for each in broken])).pvalue),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _broken(part: pd.DataFrame) -> np.ndarray:
    """Counts of collapsed and exploded texts: ``[direction, 2]``."""
    return part[[regimes.REPETITIVE, regimes.EXPLOSIVE]].to_numpy(dtype=float)


def _collapsed(broken: np.ndarray) -> np.ndarray:
    """The share of collapse among broken texts: ``[…, direction, 2]`` → ``[…]``."""
    summed = broken.sum(axis=-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return summed[..., 0] / summed.sum(axis=-1)
