"""The paper's claims against what was measured: ``claims.csv``, one row a claim.

A verdict is *reproduced*, *not reproduced* or *not testable on this model*, by a rule that stands in ``how``. Every rule
is ours: the paper's full text is not public, so where a number of the paper's is given, it is from its abstract, its
author's posts and code, or a neighbouring paper that ``paper`` names. Only claims whose experiment was run appear.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from emotrace.study.effects import claims as claims_steering
from emotrace.study.folder import select
from emotrace.study.languages import claims as claims_crosslingual
from emotrace.study.methods import claims as claims_methods

REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE = "reproduced", "not reproduced", "not testable on this model"

# A depth counts as "about 50%" within this distance; a U as established from this share of resamples on.
DEPTH_TOLERANCE, U_SHARE = 0.1, 0.95

# The paper's extraction pools at the last token; the same rows for the mean follow, as a robustness check.
_POOLINGS = {"last": "last token, the paper's pooling", "mean": "mean over tokens"}


def claims(model: str, family: str, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The claims that ``tables`` of one model can speak to."""
    rows: list[dict[str, Any]] = []
    if "localisation" in tables:
        for pooling, words in _POOLINGS.items():
            located = select(tables["localisation"], pooling=pooling).set_index("criterion")
            rows += [_depth(located, words), _u_shape(located, words), _u_corrected(located, words)]
            rows += [_beyond_shuffle(located, tables["separation"], pooling, words), _probe(located, words)]
    if "anisotropy" in tables:
        rows.append(_gemma(tables["anisotropy"], family))
    if "geometry" in tables:
        rows += [_valence(tables["geometry"], pooling, words) for pooling, words in _POOLINGS.items()]
    rows += claims_methods.rows(tables, _verdict)
    rows += claims_steering.rows(tables, _verdict, NOT_TESTABLE)
    rows += claims_crosslingual.rows(tables, _verdict, NOT_TESTABLE)
    columns = ["model", "claim", "paper", "measured", "low", "high", "n", "verdict", "how"]
    return pd.DataFrame([{"model": model, **row} for row in rows], columns=columns)


def _verdict(holds: bool) -> str:
    return REPRODUCED if holds else NOT_REPRODUCED


def _depth(located: pd.DataFrame, words: str) -> dict[str, Any]:
    row = located.loc["cosine"]
    low, high = 0.5 - DEPTH_TOLERANCE, 0.5 + DEPTH_TOLERANCE
    return {
        "claim": f"C6 emotions separate best at about 50% depth ({words})", "paper": "0.5", "measured": row["depth"],
        "low": row["low"], "high": row["high"], "n": row["n"],
        "verdict": _verdict(low - 1e-9 <= row["low"] and row["high"] <= high + 1e-9),
        "how": f"depth (layer / layers) of the lowest mean pairwise cosine between emotion centroids before centring; "
        f"bootstrap interval over topics; reproduced if the whole interval lies within {low:g}–{high:g}",
    }  # fmt: skip


def _u_verdict(row: pd.Series) -> str:
    if pd.isna(row["u_gain"]):
        return NOT_TESTABLE  # too few layers for a curve
    return _verdict(row["u_gain"] > 2 and row["u_share"] >= U_SHARE)


def _u_shape(located: pd.DataFrame, words: str) -> dict[str, Any]:
    row = located.loc["cosine"]
    return {
        "claim": f"C6 separation over depth follows a U ({words})", "paper": "U-shaped", "measured": row["vertex"],
        "low": row["vertex_low"], "high": row["vertex_high"], "n": row["n"],
        "verdict": _u_verdict(row),
        "how": f"depth at which a parabola through the cosine over layers 1…L turns; AICc gain over a line "
        f"{row['u_gain']:.1f}, a U in {row['u_share']:.0%} of bootstrap resamples; reproduced if the gain exceeds 2 and the share "
        f"reaches {U_SHARE:.0%}",
    }  # fmt: skip


def _u_corrected(located: pd.DataFrame, words: str) -> dict[str, Any]:
    row = located.loc["shuffle_excess"]
    return {
        "claim": f"C6 the U is the emotions', not the activation space's ({words})", "paper": "U-shaped",
        "measured": row["vertex"], "low": row["vertex_low"], "high": row["vertex_high"], "n": row["n"],
        "verdict": _u_verdict(row),
        "how": f"as above for the cosine minus that of labels shuffled within topics (a control of ours); AICc gain "
        f"{row['u_gain']:.1f}, a U in {row['u_share']:.0%} of resamples",
    }  # fmt: skip


def _beyond_shuffle(located: pd.DataFrame, separation: pd.DataFrame, pooling: str, words: str) -> dict[str, Any]:
    row = located.loc["shuffle_excess"]
    at = select(separation, pooling=pooling, metric="cosine", layer=row.chosen_layer).iloc[0]
    return {
        "claim": f"C7 the separation exceeds an anisotropy baseline ({words})", "paper": "validated in 4 models",
        "measured": row["held_out"], "low": row["held_low"], "high": row["held_high"], "n": row["n"] // 2,
        "verdict": _verdict(row["held_high"] < 0 and at["p"] < 0.05),
        "how": f"centroid cosine minus that of labels shuffled within topics, at layer {row['chosen_layer']:.0f} chosen on one half of "
        f"the topics, measured on the other; on all topics permutation p = {at['p']:.3g} (m = {at['m']:.0f}); reproduced if the interval "
        f"is below 0 and p < 0.05",
    }  # fmt: skip


def _probe(located: pd.DataFrame, words: str) -> dict[str, Any]:
    row = located.loc["logistic_regression"]
    return {
        "claim": f"neighbour: a linear probe tells 20 emotions apart ({words})",
        "paper": "0.897–0.921 (emotion-vector-bench, 1.5B–8B)", "measured": row["held_out"],
        "low": row["held_low"], "high": row["held_high"], "n": row["n"] - row["n"] // 2,
        "verdict": _verdict(row["held_high"] >= 0.897),
        "how": f"accuracy of logistic regression trained on one half of the topics, tested on the other, at layer "
        f"{row['chosen_layer']:.0f} chosen on the first; chance {row['chance']:.2f}, shuffled labels {row['null_mean']:.3f}, "
        f"permutation p = {row['p']:.3g} (m = {row['m']:.0f}); reproduced if the interval reaches 0.897",
    }  # fmt: skip


def _gemma(anisotropy: pd.DataFrame, family: str) -> dict[str, Any]:
    # Not the last token: every text ends in a full stop, which makes the first layers alike in any model.
    rows = select(anisotropy, pooling="mean", metric="cosine")
    row = rows.loc[(rows["depth"] - 0.5).abs().idxmin()]
    return {
        "claim": "C7 Gemma-3's activation space is extremely anisotropic",
        "paper": "0.997 base, 0.982 instruct (sequel, 1B)", "measured": row["value"], "low": row["low"], "high": row["high"],
        "n": row["n"], "verdict": _verdict(row["high"] >= 0.982) if family == "gemma" else NOT_TESTABLE,
        "how": f"mean pairwise cosine of unrelated texts at half depth (layer {row['layer']:.0f}), mean over tokens; bootstrap over "
        f"texts; reproduced if the interval reaches 0.982",
    }  # fmt: skip


def _valence(table: pd.DataFrame, pooling: str, words: str) -> dict[str, Any]:
    row = select(table, pooling=pooling, split="held_out", metric="pc1_valence_r").iloc[0]
    return {
        "claim": f"neighbour: the first principal component is valence ({words})",
        "paper": "r = 0.81 (Sofroniew et al. 2026); 0.76, 0.83 (van der Ben et al. 2026)", "measured": row["value"],
        "low": row["low"], "high": row["high"], "n": row["n"],
        "verdict": _verdict(row["low"] <= 0.81 <= row["high"] and row["p"] < 0.05),
        "how": f"|Pearson's r| over the emotions in the norms, vectors of the half of the topics that did not choose layer "
        f"{row['layer']:.0f}; Fisher interval; permutation p = {row['p']:.3g} (m = {row['m']:.0f}); reproduced if the interval holds 0.81 and "
        f"p < 0.05",
    }  # fmt: skip
