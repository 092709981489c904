"""The claims that speak of several models at once: the rows of model ``all``. Every rule is ours and stands in ``how``.

A run of a few models can refute a claim about every model; it cannot establish one about models in general.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd

from emotrace.judges.regimes import EXPLOSIVE, REPETITIVE
from emotrace.measures import statistics
from emotrace.study.across.regimes import BROKEN
from emotrace.study.experiment import Tables
from emotrace.study.folder import select
from emotrace.study.verdicts import U_SHARE, Claim, Estimate, above, given

PAPER_MODELS, PAPER_FAMILIES, PAPER_CASES = 9, 5, 7
BAND = (0.74, 0.92)
"""The sequel's correlations between the emotion geometries of families."""
EXTREME = 10
"""Gemma's raw deltas count as extreme from this ratio to another family's on."""
MIN_MODELS = 5
"""Fewer models than this say nothing of what explains a difference between models."""


def claims(tables: Tables) -> list[Claim]:
    """The claims about several models that a run's tables, those over models among them, can speak to."""
    testable = [(claim, names) for claim, names in _CLAIMS.values() if all(name in tables for name in names)]
    made = [claim(*(tables[name] for name in names)) for claim, names in testable]
    return [claim for claim in made if claim]


def _models(depth: pd.DataFrame) -> Claim:
    models = depth.drop_duplicates("model")
    families = sorted(set(models["family"]))
    smallest, largest = models["parameters"].min(), models["parameters"].max()
    enough = len(models) >= PAPER_MODELS and len(families) >= PAPER_FAMILIES
    return Claim(
        id="C1.models",
        claim="C1 nine models of five families, base and instruct",
        paper="9 models, 124M to 8B, 5 families",
        estimate=Estimate(len(models), n=len(models)),
        rule=given(True) if enough and smallest <= 125 and largest >= 8000 else None,
        how=f"the models of this run: {', '.join(models['model'])}; {len(families)} families ({', '.join(families)}), "
        f"{smallest:.0f}M to {largest:.0f}M parameters; its claims about all models are tested on these alone",
    )


def _u_in_every_model(localisation: pd.DataFrame, depth: pd.DataFrame) -> Claim | None:
    rows = select(localisation, pooling="last", criterion="cosine").dropna(subset=["u_gain"])
    if rows.empty:
        return None
    is_u = (rows["u_gain"] > 2) & (rows["u_share"] >= U_SHARE)
    families = depth.drop_duplicates("model").set_index("model")["family"]
    without = sorted(set(families.reindex(rows["model"][~is_u])))
    return Claim(
        id="C6.u.models",
        claim="C6 the U over depth holds across architectures (last token)",
        paper="in all, 124M to 3B",
        estimate=Estimate(*statistics.wilson(int(is_u.sum()), len(rows)), len(rows)),
        rule=given(bool(is_u.all())),
        how="share of the models whose centroid cosine follows a U over depth (rule of the row for each model); Wilson "
        "interval over models; reproduced if it is so in every one; without a U: "
        f"{', '.join(without) or 'no family'}",
    )


def _generation_in_every_model(comparison: pd.DataFrame) -> Claim | None:
    wins = select(comparison, group="all", sample="pairs_chosen", metric="wins")
    by_pooling = {row["pooling"]: row for row in wins.to_dict("records")}
    if "last" not in by_pooling:
        return None
    row = by_pooling["last"]
    every = row["value"] >= 1
    mean = f"; mean over tokens: {by_pooling['mean']['value']:.0%}" if "mean" in by_pooling else ""
    return Claim(
        id="C5.models",
        claim="C5 generation separates better in every model (last token)",
        paper=f"{PAPER_CASES} of {PAPER_CASES}",
        estimate=_estimate(row),
        rule=None if every and row["n"] < PAPER_CASES else given(every),
        how="share of the models that write stories whose mean centroid cosine is lower in generation, each method at "
        "the layer that half of the topics chose, on the other half; Wilson interval over models, sign test p = "
        f"{row['p']:.2g}{mean}; not reproduced if one model does not, reproduced if all of at least {PAPER_CASES} do",
    )


def _gemma_deltas(steering: pd.DataFrame, contrasts: pd.DataFrame) -> Claim | None:
    models = select(steering, relative=1.0).drop_duplicates("model")
    gemmas = set(select(models, family="gemma")["model"])
    if not 0 < len(gemmas) < len(models):
        return None
    raw = min(_gemma_ratios(select(contrasts, metric="ratio", measure="raw_delta"), gemmas))
    corrected = max(_gemma_ratios(select(contrasts, metric="ratio", measure="delta_in_gaps"), gemmas))
    return Claim(
        id="C7.gemma_deltas",
        claim="C7 Gemma-3's extreme deltas are a matter of units",
        paper="+7591: degenerate geometry",
        estimate=Estimate(*raw, select(contrasts, metric="ratio")["n"].max()),
        rule=given(corrected.high < EXTREME, above(EXTREME)),
        how="smallest ratio of Gemma's steering delta to another family's, in raw residual units, at each model's "
        "calibrated strength; interval over emotions; in lengths of the emotion's own vector the largest is "
        f"{corrected.value:.3g} ({corrected.low:.3g} to {corrected.high:.3g}); reproduced if the raw ratio's interval "
        f"is above {EXTREME} and the corrected one's below",
    )


def _gemma_ratios(ratios: pd.DataFrame, gemmas: set[str]) -> list[statistics.Interval]:
    """Each ratio of a Gemma to a model of another family, with its interval, whichever way round the pair stands."""
    intervals = []
    for row in ratios.to_dict("records"):
        value, low, high, a_is_gemma = row["value"], row["low"], row["high"], row["model_a"] in gemmas
        if a_is_gemma != (row["model_b"] in gemmas):
            bounds = (value, low, high) if a_is_gemma else (1 / value, 1 / high, 1 / low)
            intervals.append(statistics.Interval(*bounds))
    return intervals


def _anisotropy_explains(steering: pd.DataFrame, contrasts: pd.DataFrame) -> Claim | None:
    models = select(steering, relative=1.0).drop_duplicates("model")
    between = {row["measure"]: row for row in select(contrasts, metric="between_models").to_dict("records")}
    if "raw_delta" not in between:
        return None
    share, corrected, n = between["raw_delta"], between["delta_in_gaps"], len(models)
    order = select(contrasts, metric="anisotropy_rho", measure="raw_delta").to_dict("records")[0]
    by_model = ", ".join(f"{row['model']} {row['anisotropy']:.3f}" for row in models.to_dict("records"))
    return Claim(
        id="C7.anisotropy.models",
        claim="C7 anisotropy explains most of the variation in deltas across models",
        paper="most of the variation",
        estimate=Estimate(share["value"], share["low"], share["high"], n),
        rule=given(order["p"] < 0.05) if n >= MIN_MODELS else None,
        how=f"share of the variance of log raw deltas (models × {share['n']:.0f} emotions) that lies between models; "
        f"interval over emotions; in lengths of the emotion's own vector {corrected['value']:.2f} "
        f"({corrected['low']:.2f} to {corrected['high']:.2f}). That is the most that anything in which models differ "
        f"can explain: with {n} models a regression on anisotropy means nothing. Their order by delta against that by "
        f"anisotropy ({by_model}): ρ = {order['value']:.2g}, exact p = {order['p']:.2g}; tested from {MIN_MODELS} "
        "models on, reproduced if p < 0.05",
    )


def _norm_worth(units: pd.DataFrame) -> Claim | None:
    rows = select(units, metric="layers_rho")
    if rows.empty:
        return None
    by_model = ", ".join(
        f"{row['model']} {row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})" for row in rows.to_dict("records")
    )
    return Claim(
        id="C7.norm_worth.models",
        claim="C7 a strength in norms is worth more where the space is more anisotropic",
        paper="implied",
        estimate=_estimate(_lowest(rows)),
        rule=given(bool((rows["low"] > 0).all())),
        how="Spearman's ρ over the layers of a model, the smallest of the models: how many lengths of an emotion's "
        "vector one residual norm is, against 1/√(1 − mean cosine of unrelated texts); interval over emotions, "
        f"neighbouring layers are not independent; {by_model}; reproduced if every model's interval is above 0",
    )


def _break_differently(shares: pd.DataFrame, contrasts: pd.DataFrame) -> Claim | None:
    strongest = contrasts[contrasts["relative"] == contrasts["relative"].max()]
    if strongest.empty:
        return None
    row = max(strongest.to_dict("records"), key=lambda row: abs(row["value"]))
    shares = select(shares, relative=row["relative"], direction="emotions")
    models = list(dict.fromkeys(shares["model"]))
    share = {(row["model"], row["regime"]): row["value"] for row in shares.to_dict("records")}
    by_model = "; ".join(
        f"{model} {share[model, REPETITIVE]:.0%} collapse, {share[model, EXPLOSIVE]:.0%} explosive "
        f"({share[model, BROKEN]:.2f} of the broken)"
        for model in models
    )
    return Claim(
        id="C10.architecture.models",
        claim="C10 models of different architecture break differently",
        paper="by architecture, not scale",
        estimate=Estimate(row["value"], row["low"], row["high"], len(models)),
        rule=None,
        how=f"largest difference between two models ({row['model_a']} minus {row['model_b']}) in the share of "
        f"repetitive collapse among broken texts, at {row['relative']:g} × the calibrated strength of each; interval "
        f"over emotions, not corrected for the choice of the pair; {by_model}. Every model here has a family and a "
        "size of its own, so neither can be held against the other: that takes several sizes of each family",
    )


def _shared_geometry(rdm: pd.DataFrame, pooling: str) -> Claim | None:
    rows = select(rdm, pooling_a=pooling, pooling_b=pooling, method_a="comprehension", method_b="comprehension")
    rows = rows[~rows["same_family"].astype(bool)]
    if rows.empty:
        return None
    disjoint = ""
    if "disjoint" in rows and rows["disjoint"].notna().any():
        disjoint = (
            f"; from different halves of the topics {rows['disjoint'].min():.2f} to {rows['disjoint'].max():.2f}, "
            f"where a model agrees with itself {rows['ceiling'].min():.2f} to {rows['ceiling'].max():.2f}"
        )
    words = "last token" if pooling == "last" else "mean over tokens"
    return Claim(
        id=f"sequel.geometry.{pooling}",
        claim=f"sequel: families share one emotion geometry ({words})",
        paper=f"RDM ρ {BAND[0]}–{BAND[1]} (arXiv:2604.11050)",
        estimate=_estimate(_lowest(rows)),
        rule=given(bool((rows["value"] >= BAND[0]).all() and (rows["p"] < 0.05).all())),
        how="smallest Spearman's ρ between the dissimilarities of two families' vectors (comprehension, each at its "
        f"chosen layer; {len(rows)} pair(s), ρ {rows['value'].min():.2f} to {rows['value'].max():.2f}, Mantel p ≤ "
        f"{rows['p'].max():.3g}); interval over emotions{disjoint}; reproduced if every pair reaches {BAND[0]}, which "
        "is a band of estimates, and every p < 0.05",
    )


def _estimate(row: dict[Any, Any]) -> Estimate:
    return Estimate(row["value"], row["low"], row["high"], row["n"])


def _lowest(rows: pd.DataFrame) -> dict[Any, Any]:
    return rows.nsmallest(1, "value").to_dict("records")[0]


_CLAIMS: dict[str, tuple[Callable[..., Claim | None], tuple[str, ...]]] = {
    "C1.models": (_models, ("across_depth",)),
    "C6.u.models": (_u_in_every_model, ("localisation", "across_depth")),
    "C5.models": (_generation_in_every_model, ("method_comparison_models",)),
    "C7.gemma_deltas": (_gemma_deltas, ("across_steering", "across_steering_contrasts")),
    "C7.anisotropy.models": (_anisotropy_explains, ("across_steering", "across_steering_contrasts")),
    "C7.norm_worth.models": (_norm_worth, ("across_units",)),
    "C10.architecture.models": (_break_differently, ("across_regimes", "across_regimes_contrasts")),
    "sequel.geometry.last": (partial(_shared_geometry, pooling="last"), ("across_rdm",)),
    "sequel.geometry.mean": (partial(_shared_geometry, pooling="mean"), ("across_rdm",)),
}
"""Each claim's function and the tables that it takes, by the claim's id."""
CLAIM_IDS = tuple(_CLAIMS)
