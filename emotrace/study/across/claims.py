"""The claims that speak of several models at once (rows of model ``all``). Same rules as ``claims.py``; every rule is ours.

A run of a few models can refute a claim about every model; it cannot establish one about models in general.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from emotrace.judges import regimes
from emotrace.measures import statistics
from emotrace.study.across.regimes import BROKEN
from emotrace.study.folder import select
from emotrace.study.verdicts import NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, U_SHARE

MODEL = "all"
PAPER_MODELS, PAPER_FAMILIES, PAPER_CASES = 9, 5, 7
# The sequel's band of correlations between families, and how far raw deltas must differ to be called extreme.
BAND, EXTREME = (0.74, 0.92), 10
# Fewer models than this say nothing of what explains a difference between models.
MIN_MODELS = 5


def claims(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The rows of model ``all`` of ``claims.csv`` that the tables over models allow."""

    def verdict(holds: bool) -> str:
        return REPRODUCED if holds else NOT_REPRODUCED

    rows: list[dict[str, Any]] = []
    if "across_depth" in tables:
        rows.append(_models(tables["across_depth"], verdict, NOT_TESTABLE))
    if "across_depth" in tables and "localisation" in tables:
        rows.append(_u(tables["localisation"], tables["across_depth"], verdict))
    if "method_comparison_models" in tables:
        rows.append(_methods(tables["method_comparison_models"], verdict, NOT_TESTABLE))
    if "across_steering_contrasts" in tables:
        rows += _deltas(tables["across_steering"], tables["across_steering_contrasts"], verdict, NOT_TESTABLE)
    if "across_units" in tables:
        rows.append(_worth(tables["across_units"], verdict))
    if "across_regimes_contrasts" in tables:
        rows.append(_regimes(tables["across_regimes"], tables["across_regimes_contrasts"], NOT_TESTABLE))
    if "across_rdm" in tables:
        rows += [_geometry(tables["across_rdm"], pooling, verdict) for pooling in ("last", "mean")]
    columns = ["model", "claim", "paper", "measured", "low", "high", "n", "verdict", "how"]
    return pd.DataFrame([{"model": MODEL, **row} for row in rows if row], columns=columns)


def _models(depth: pd.DataFrame, verdict: Any, not_testable: str) -> dict[str, Any]:
    models = depth.drop_duplicates("model")
    families = sorted(set(models["family"]))
    sizes = models["parameters"].min(), models["parameters"].max()
    whole = len(models) >= PAPER_MODELS and len(families) >= PAPER_FAMILIES and sizes[0] <= 125 and sizes[1] >= 8000
    return {
        "claim": "C1 nine models of five families, base and instruct", "paper": "9 models, 124M to 8B, 5 families",
        "measured": len(models), "low": np.nan, "high": np.nan, "n": len(models),
        "verdict": verdict(True) if whole else not_testable,
        "how": f"the models of this run: {', '.join(models['model'])}; {len(families)} families ({', '.join(families)}), {sizes[0]:.0f}M to "
        f"{sizes[1]:.0f}M parameters; its claims about all models are tested on these alone",
    }  # fmt: skip


def _u(localisation: pd.DataFrame, depth: pd.DataFrame, verdict: Any) -> dict[str, Any]:
    rows = select(localisation, pooling="last", criterion="cosine").dropna(subset=["u_gain"])
    if rows.empty:
        return {}
    holds = (rows["u_gain"] > 2) & (rows["u_share"] >= U_SHARE)
    families = depth.drop_duplicates("model").set_index("model")["family"]
    without = sorted(set(families.reindex(rows["model"][~holds])))
    return _rate(
        "C6 the U over depth holds across architectures (last token)", "in all, 124M to 3B", int(holds.sum()), len(rows), verdict,
        "share of the models whose centroid cosine follows a U over depth (rule of the row for each model); Wilson interval over "
        f"models; reproduced if it is so in every one; without a U: {', '.join(without) or 'no family'}",
    )  # fmt: skip


def _rate(claim: str, paper: str, holds: int, n: int, verdict: Any, how: str) -> dict[str, Any]:
    rate = statistics.wilson(holds, n)
    return {
        "claim": claim, "paper": paper, "measured": rate.value, "low": rate.low, "high": rate.high, "n": n,
        "verdict": verdict(holds == n), "how": how,
    }  # fmt: skip


def _methods(table: pd.DataFrame, verdict: Any, not_testable: str) -> dict[str, Any]:
    rows = select(table, group="all", sample="pairs_chosen", metric="wins").set_index("pooling")
    if "last" not in rows.index:
        return {}
    row = rows.loc["last"]
    every = row["value"] >= 1
    mean = f"; mean over tokens: {rows.loc['mean', 'value']:.0%}" if "mean" in rows.index else ""
    return {
        "claim": "C5 generation separates better in every model (last token)", "paper": f"{PAPER_CASES} of {PAPER_CASES}",
        "measured": row["value"], "low": row["low"], "high": row["high"], "n": row["n"],
        "verdict": not_testable if every and row["n"] < PAPER_CASES else verdict(every),
        "how": "share of the models that write stories whose mean centroid cosine is lower in generation, each method at the layer that "
        f"half of the topics chose, on the other half; Wilson interval over models, sign test p = {row['p']:.2g}{mean}; not reproduced if "
        f"one model does not, reproduced if all of at least {PAPER_CASES} do",
    }  # fmt: skip


def _deltas(steering: pd.DataFrame, contrasts: pd.DataFrame, verdict: Any, not_testable: str) -> list[dict[str, Any]]:
    at = select(steering, relative=1.0).drop_duplicates("model").set_index("model")
    found = []
    ratios = select(contrasts, metric="ratio")
    between = select(contrasts, metric="between_models").set_index("measure")
    order = select(contrasts, metric="anisotropy_rho").set_index("measure")
    gemma = [name for name in at.index if at.loc[name, "family"] == "gemma"]
    others = [name for name in at.index if at.loc[name, "family"] != "gemma"]
    if gemma and others:
        raw = min(_of_gemma(select(ratios, measure="raw_delta"), gemma, others))
        corrected = max(_of_gemma(select(ratios, measure="delta_in_gaps"), gemma, others))
        found.append({
            "claim": "C7 Gemma-3's extreme deltas are a matter of units", "paper": "+7591: degenerate geometry",
            "measured": raw[0], "low": raw[1], "high": raw[2], "n": ratios["n"].max(),
            "verdict": verdict(raw[1] > EXTREME and corrected[2] < EXTREME),
            "how": "smallest ratio of Gemma's steering delta to another family's, in raw residual units, at each model's calibrated strength; "
            f"interval over emotions; in lengths of the emotion's own vector the largest is {corrected[0]:.3g} ({corrected[1]:.3g} to {corrected[2]:.3g}); "
            f"reproduced if the raw ratio's interval is above {EXTREME} and the corrected one's below",
        })  # fmt: skip
    if "raw_delta" in between.index:
        share, fixed, n = between.loc["raw_delta"], between.loc["delta_in_gaps"], len(at)
        rho = order.loc["raw_delta"]
        told = ", ".join(f"{name} {row.anisotropy:.3f}" for name, row in at.iterrows())
        found.append({
            "claim": "C7 anisotropy explains most of the variation in deltas across models", "paper": "most of the variation",
            "measured": share["value"], "low": share["low"], "high": share["high"], "n": n,
            "verdict": verdict(rho["p"] < 0.05) if n >= MIN_MODELS else not_testable,
            "how": f"share of the variance of log raw deltas (models × {share['n']:.0f} emotions) that lies between models; interval over emotions; "
            f"in lengths of the emotion's own vector {fixed['value']:.2f} ({fixed['low']:.2f} to {fixed['high']:.2f}). That is the most that "
            f"anything in which models differ can explain: with {n} models a regression on anisotropy means nothing. Their order by delta against "
            f"that by anisotropy ({told}): ρ = {rho['value']:.2g}, exact p = {rho['p']:.2g}; "
            f"tested from {MIN_MODELS} models on, reproduced if p < 0.05",
        })  # fmt: skip
    return found


def _worth(units: pd.DataFrame, verdict: Any) -> dict[str, Any]:
    rows = select(units, metric="layers_rho")
    if rows.empty:
        return {}
    row = rows.loc[rows["value"].idxmin()]
    told = ", ".join(f"{each.model} {each.value:.2f} ({each.low:.2f} to {each.high:.2f})" for each in rows.itertuples())
    return {
        "claim": "C7 a strength in norms is worth more where the space is more anisotropic", "paper": "implied",
        "measured": row["value"], "low": row["low"], "high": row["high"], "n": row["n"], "verdict": verdict(bool((rows["low"] > 0).all())),
        "how": "Spearman's ρ over the layers of a model, the smallest of the models: how many lengths of an emotion's vector one residual norm is, "
        f"against 1/√(1 − mean cosine of unrelated texts); interval over emotions, neighbouring layers are not independent; {told}; "
        "reproduced if every model's interval is above 0",
    }  # fmt: skip


def _of_gemma(ratios: pd.DataFrame, gemma: list[str], others: list[str]) -> list[tuple[float, float, float]]:
    """Each ratio of a Gemma to another model, with its interval, whichever way round the pair stands."""
    rows = []
    for row in ratios.itertuples():
        if row.model_a in gemma and row.model_b in others:
            rows.append((row.value, row.low, row.high))
        elif row.model_b in gemma and row.model_a in others:
            rows.append((1 / row.value, 1 / row.high, 1 / row.low))
    return rows


def _regimes(shares: pd.DataFrame, contrasts: pd.DataFrame, not_testable: str) -> dict[str, Any]:
    strongest = contrasts[contrasts["relative"] == contrasts["relative"].max()]
    if strongest.empty:
        return {}
    row = strongest.loc[strongest["value"].abs().idxmax()]
    at = select(shares, relative=row["relative"], direction="emotions")
    told = "; ".join(
        f"{name} {select(some, regime=regimes.REPETITIVE)['value'].iloc[0]:.0%} collapse, "
        f"{select(some, regime=regimes.EXPLOSIVE)['value'].iloc[0]:.0%} explosive "
        f"({select(some, regime=BROKEN)['value'].iloc[0]:.2f} of the broken)"
        for name, some in at.groupby("model", sort=False)
    )
    models = len(set(at["model"]))
    return {
        "claim": "C10 models of different architecture break differently", "paper": "by architecture, not scale",
        "measured": row["value"], "low": row["low"], "high": row["high"], "n": models, "verdict": not_testable,
        "how": f"largest difference between two models ({row['model_a']} minus {row['model_b']}) in the share of repetitive collapse among broken "
        f"texts, at {row['relative']:g} × the calibrated strength of each; interval over emotions, not corrected for the choice of the pair; "
        f"{told}. Every model here has a family and a size of its own, so neither can be held against the other: that takes several sizes of each family",
    }  # fmt: skip


def _geometry(rdm: pd.DataFrame, pooling: str, verdict: Any) -> dict[str, Any]:
    rows = rdm[(rdm["pooling_a"] == pooling) & (rdm["pooling_b"] == pooling) & ~rdm["same_family"].astype(bool)]
    rows = rows[(rows["method_a"] == "comprehension") & (rows["method_b"] == "comprehension")]
    if rows.empty:
        return {}
    row = rows.loc[rows["value"].idxmin()]
    disjoint = (
        f"; from different halves of the topics {rows['disjoint'].min():.2f} to {rows['disjoint'].max():.2f}, where a model agrees "
        f"with itself {rows['ceiling'].min():.2f} to {rows['ceiling'].max():.2f}"
        if "disjoint" in rows and rows["disjoint"].notna().any() else ""
    )  # fmt: skip
    return {
        "claim": f"sequel: families share one emotion geometry ({'last token' if pooling == 'last' else 'mean over tokens'})",
        "paper": f"RDM ρ {BAND[0]}–{BAND[1]} (arXiv:2604.11050)", "measured": row["value"], "low": row["low"], "high": row["high"],
        "n": row["n"], "verdict": verdict(bool((rows["value"] >= BAND[0]).all() and (rows["p"] < 0.05).all())),
        "how": f"smallest Spearman's ρ between the dissimilarities of two families' vectors (comprehension, each at its chosen layer; {len(rows)} "
        f"pair(s), ρ {rows['value'].min():.2f} to {rows['value'].max():.2f}, Mantel p ≤ {rows['p'].max():.3g}); interval over emotions{disjoint}; "
        f"reproduced if every pair reaches {BAND[0]}, which is a band of estimates, and every p < 0.05",
    }  # fmt: skip
