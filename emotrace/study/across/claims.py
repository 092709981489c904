"""The claims that speak of several models at once: the rows of model ``all``. Every rule is ours and stands in ``how``.

A run of a few models can refute a claim about every model; it cannot establish one about models in general.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from emotrace.judges.regimes import EXPLOSIVE, REPETITIVE
from emotrace.measures import statistics
from emotrace.study.across.regimes import BROKEN
from emotrace.study.experiment import Tables, instruments
from emotrace.study.folder import select
from emotrace.study.verdicts import (
    ALL_MODELS,
    INCONCLUSIVE,
    NOT_REPRODUCED,
    NOT_TESTABLE,
    REPRODUCED,
    Claim,
    Estimate,
    Rule,
    at_least,
    decided,
    exceeds,
    format_estimate,
    significant,
    together,
)

PAPER_FAMILIES, PAPER_CASES = 5, 7
REFUTING = 2
"""So many models must refute a claim about every model: each errs in up to 5%, and of seven one does soon."""
GEOMETRY = exceeds(0.5)
"""Of interest from half of what noise lets two geometries agree on."""
INSTRUCTION = at_least(0.92, 0.1)
"""The sequel's correlation between a base model's geometry and its instruct model's."""
ANISOTROPY = significant(exceeds(0.71))
"""Most of the variation: more than half of the variance of the ranks."""
MIN_MODELS = 5
"""Fewer models than this say nothing of what explains a difference between models."""
SAME_SIZE = 1.1
"""A base and an instruct model are a pair up to this ratio of their parameters."""


def claims(tables: Tables) -> list[Claim]:
    """The claims about several models that a run's tables, those over models among them, can speak to."""
    testable = [(claim, names) for claim, names in _CLAIMS.values() if all(name in tables for name in names)]
    made = [claim(*(tables[name] for name in names)) for claim, names in testable]
    passages = next(iter(instruments(tables)), "")  # all of them rest on the main instrument
    return [replace(claim, instrument=passages) for claim in made if claim]


def _models(depth: pd.DataFrame) -> Claim:
    models = depth.drop_duplicates("model")
    families = sorted(set(models["family"]))
    smallest, largest = models["parameters"].min(), models["parameters"].max()
    return Claim(
        id="C1.models",
        claim="C1 nine models of five families, base and instruct",
        paper="9 models, 124M to 8B, 5 families",
        estimate=Estimate(len(models), n=len(models)),
        rule=None,
        how=f"the models of this run: {', '.join(models['model'])}; {len(families)} families ({', '.join(families)}), "
        f"{smallest:.0f}M to {largest:.0f}M parameters. What the paper's claims rest on, not a result: those about all "
        "models are tested on these alone",
    )


def _in_every_model(claims: pd.DataFrame, id: str, least: int, **texts: str) -> Claim | None:
    """That a claim about one model holds in each: from its verdict on each, which ``REFUTING`` models refute.

    Args:
        claims: the run's ``claims.csv``.
        id: the claim about one model.
        least: so many models must bear it out; with fewer it may be refuted and no more.
        texts: ``name`` (its id), ``claim``, ``paper`` and ``how`` of the claim about all.
    """
    rows = claims[(claims["id"] == id) & (claims["verdict"] != NOT_TESTABLE) & (claims["model"] != ALL_MODELS)]
    if rows.empty:
        return None
    verdicts = list(rows["verdict"])
    held = statistics.wilson(verdicts.count(REPRODUCED), len(rows))
    refuted = verdicts.count(NOT_REPRODUCED) >= REFUTING
    by_model = ", ".join(f"{model} {verdict}" for model, verdict in zip(rows["model"], verdicts, strict=True))
    return Claim(
        id=texts["name"],
        claim=texts["claim"],
        paper=texts["paper"],
        estimate=Estimate(*held, len(rows)),
        rule=decided(
            f"not reproduced if {REFUTING} models refute it, reproduced if it is in all of at least {least}",
            lambda move: every(verdicts),
        )
        if refuted or len(rows) >= least
        else None,
        how=f"share of the models that {texts['how']}; Wilson interval over models; {by_model}",
    )


def every(verdicts: list[str]) -> str:
    """The verdict on all models together, from that on each: one model that refutes it leaves it open."""
    if verdicts.count(NOT_REPRODUCED) >= REFUTING:
        return NOT_REPRODUCED
    return REPRODUCED if set(verdicts) == {REPRODUCED} else INCONCLUSIVE


def _u_in_every_model(claims: pd.DataFrame) -> Claim | None:
    return _in_every_model(
        claims,
        "C6.u.last",
        PAPER_FAMILIES,
        name="C6.u.models",
        claim="C6 the U over depth holds across architectures (last token)",
        paper="in all, 124M to 3B",
        how="have the U in the raw cosine (C6.u.last)",
    )


def _generation_in_every_model(claims: pd.DataFrame) -> Claim | None:
    return _in_every_model(
        claims,
        "C5.separation.last",
        PAPER_CASES,
        name="C5.models",
        claim="C5 generation separates better in every model (last token)",
        paper=f"{PAPER_CASES} of {PAPER_CASES}",
        how="separate better in generation (C5.separation.last)",
    )


def _instruction(rdm: pd.DataFrame, depth: pd.DataFrame) -> Claim:
    """Base and instruct agree in what they read and differ in what they write; a base model writes nothing here."""
    pairs = select(rdm, kinds="base × instruct", method_a="comprehension", method_b="comprehension")
    pairs = select(pairs, pooling_a="last", pooling_b="last", same_family=True, same_instrument=True)
    size = depth.drop_duplicates("model").set_index("model")["parameters"]
    ratios = pairs["model_a"].map(size).to_numpy() / pairs["model_b"].map(size).to_numpy()
    pairs = pairs[np.abs(np.log(ratios.astype(float))) < np.log(SAME_SIZE)] if len(pairs) else pairs
    row = _lowest(pairs) if len(pairs) else {}
    estimate = Estimate(*(row.get(name, np.nan) for name in ("value", "topics_low", "topics_high", "n_topics")))
    refuted = INSTRUCTION.verdict(estimate) == NOT_REPRODUCED if row else False
    beside = (
        f"ρ between the dissimilarities of {row['model_a']} and {row['model_b']} (comprehension, last token), interval "
        "over topics; a base model writes no stories, so that the other half, the difference in generation, cannot be "
        "measured: the claim can be refuted here and no more"
        if row
        else "no base and instruct model of one family and size are in this run"
    )
    return Claim(
        id="C5.instruction",
        claim="C5 instruction tuning changes generation and leaves comprehension as it was",
        paper="base and instruct differ in generation, agree in comprehension (so readers of the full text say)",
        estimate=estimate,
        rule=INSTRUCTION if refuted else None,
        how=beside,
    )


def _gemma_deltas(steering: pd.DataFrame, contrasts: pd.DataFrame) -> Claim | None:
    models = select(steering, relative=1.0).drop_duplicates("model")
    gemmas = set(select(models, family="gemma")["model"])
    if not 0 < len(gemmas) < len(models):
        return None
    ratios = select(contrasts, metric="ratio")
    raw, in_norms, in_gaps = (
        min(_gemma_ratios(select(ratios, measure=measure), gemmas))
        for measure in ("raw_delta", "delta", "delta_in_gaps")
    )
    return Claim(
        id="C7.gemma_deltas",
        claim="C7 Gemma-3's extreme deltas reflect degenerate geometry",
        paper="+7591",
        estimate=Estimate(*raw, ratios["n"].max()),
        rule=None,
        how="smallest ratio of Gemma's steering delta to another family's, in raw residual units, at each model's "
        f"calibrated strength; interval over emotions; in residual norms {in_norms.value:.3g}, in lengths of the "
        f"emotion's own vector {in_gaps.value:.3g}. A strength is given in residual norms, so a raw delta follows the "
        "norm by arithmetic and an extreme one needs no degenerate geometry: no measurement here could decide it",
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
        estimate=rank_correlation(order["value"], n, order["p"]),
        rule=ANISOTROPY if n >= MIN_MODELS else None,
        how="Spearman's ρ of the models' raw deltas with their anisotropy "
        f"({by_model}), Fisher's interval, exact one-sided p over all orders; tested from {MIN_MODELS} models on. A "
        f"share of {share['value']:.3f} ({share['low']:.3f} to {share['high']:.3f}) of the variance of log raw deltas "
        f"(models × {share['n']:.0f} emotions) lies between models, the most that anything in which models differ can "
        f"explain; in lengths of the emotion's own vector {corrected['value']:.2f} ({corrected['low']:.2f} to "
        f"{corrected['high']:.2f})",
    )


def rank_correlation(rho: float, n: int, p: float) -> Estimate:
    """Spearman's ρ over ``n`` models with Fisher's interval (standard error 1.03/√(n − 3), Fieller et al. 1957)."""
    if n < 4 or not np.isfinite(rho):
        return Estimate(rho, n=n)
    half = 1.96 * 1.03 / np.sqrt(n - 3)
    centre = np.arctanh(np.clip(rho, -0.999999, 0.999999))
    return Estimate(rho, float(np.tanh(centre - half)), float(np.tanh(centre + half)), n, p)


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
    if "same_instrument" in rows:
        rows = select(rows, same_instrument=True, instrument_a=rdm["instrument_a"].iloc[0])
    rows = rows[~rows["same_family"].astype(bool)]
    if rows.empty:
        return None
    words = "last token" if pooling == "last" else "mean over tokens"
    given = rows if "shared" in rows else rows.assign(shared=np.nan, shared_low=np.nan, shared_high=np.nan)
    pairs = sorted(map(_pair, given.to_dict("records")), key=_decides)
    of_pairs = ", ".join(f"{name} {format_estimate(estimate)}" for name, estimate in pairs)
    beside = f"ρ {rows['value'].min():.2f} to {rows['value'].max():.2f} as the sequel computes it"
    if rows.get("words", pd.Series(dtype=float)).notna().any():
        beside += (
            f", where the embeddings without context have {rows['words'].min():.2f} to {rows['words'].max():.2f}; from "
            f"different halves of the topics {rows['disjoint'].min():.2f} to {rows['disjoint'].max():.2f} of at most "
            f"{rows['ceiling'].min():.2f} to {rows['ceiling'].max():.2f}; given the words "
            f"{rows['disjoint_given_words'].min():.2f} to {rows['disjoint_given_words'].max():.2f} of at most "
            f"{rows['ceiling_given_words'].min():.2f} to {rows['ceiling_given_words'].max():.2f}"
        )
    return Claim(
        id=f"sequel.geometry.{pooling}",
        claim=f"sequel: families share one emotion geometry, beyond the words of the texts ({words})",
        paper="RDM ρ 0.74–0.92, words and all (arXiv:2604.11050)",
        estimate=pairs[0][1],
        rule=shared_in_every_pair([estimate for _, estimate in pairs]),
        how="share of two families' partial ρ (dissimilarities of their vectors, comprehension, each at its chosen "
        "layer, from halves of the topics that the other does not see, given those of their embeddings and of TF-IDF) "
        f"in the most that noise allows; interval over emotions; {len(rows)} pair(s), the one that decides first and "
        f"shown: {of_pairs}; {beside}",
    )


def _pair(row: dict[Any, Any]) -> tuple[str, Estimate]:
    """Two families' models and the share of the geometry that they have in common."""
    values = (float(row[column]) for column in ("shared", "shared_low", "shared_high", "n"))
    return f"{row['model_a']} and {row['model_b']}", Estimate(*values)


def _decides(pair: tuple[str, Estimate]) -> tuple[int, float]:
    """For sorting: the pair that decides comes first, one that refutes, else one that is open, else the lowest."""
    _, estimate = pair
    order = (NOT_REPRODUCED, INCONCLUSIVE, REPRODUCED).index(GEOMETRY.verdict(estimate))
    return order, -np.inf if np.isnan(estimate.low) else estimate.low


def shared_in_every_pair(pairs: list[Estimate]) -> Rule:
    """``GEOMETRY`` for each pair of families, the first the one that is shown."""
    return together(GEOMETRY, [(GEOMETRY, pair) for pair in pairs[1:]], f"of every pair: {GEOMETRY.words}")


def _lowest(rows: pd.DataFrame) -> dict[Any, Any]:
    return rows.nsmallest(1, "value").to_dict("records")[0]


_CLAIMS: dict[str, tuple[Callable[..., Claim | None], tuple[str, ...]]] = {
    "C1.models": (_models, ("across_depth",)),
    "C6.u.models": (_u_in_every_model, ("claims",)),
    "C5.models": (_generation_in_every_model, ("claims",)),
    "C5.instruction": (_instruction, ("across_rdm", "across_depth")),
    "C7.gemma_deltas": (_gemma_deltas, ("across_steering", "across_steering_contrasts")),
    "C7.anisotropy.models": (_anisotropy_explains, ("across_steering", "across_steering_contrasts")),
    "C10.architecture.models": (_break_differently, ("across_regimes", "across_regimes_contrasts")),
    "sequel.geometry.last": (partial(_shared_geometry, pooling="last"), ("across_rdm",)),
    "sequel.geometry.mean": (partial(_shared_geometry, pooling="mean"), ("across_rdm",)),
}
"""Each claim's function and the tables that it takes, by the claim's id."""
CLAIM_IDS = tuple(_CLAIMS)
