"""The claims on separation over depth (C6, C7) and two of neighbouring papers, against what was measured.

Every rule is ours and stands in ``how``.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from emotrace.study.experiment import Tables
from emotrace.study.folder import select
from emotrace.study.verdicts import U_SHARE, Claim, Estimate, below, given, holds, reaches, within

# A depth counts as "about 50%" within this distance.
DEPTH_TOLERANCE = 0.1
# The paper's extraction pools at the last token; the same claims for the mean are a robustness check.
POOLINGS = {"last": "last token, the paper's pooling", "mean": "mean over tokens"}
LOCALISATION = ("C6.depth", "C6.u", "C6.u_corrected", "C7.baseline", "neighbour.probe")
"""Ids of the claims of :func:`localisation_claims`, without the pooling."""


def localisation_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """Where over depth emotions separate best and by which shape, and whether that is more than anisotropy."""
    claims = []
    for pooling in POOLINGS:
        table = select(tables["localisation"], pooling=pooling)
        cosine, excess, logistic = (
            select(table, criterion=criterion).iloc[0]
            for criterion in ("cosine", "shuffle_excess", "logistic_regression")
        )
        claims += [_depth(cosine, pooling), _u_shape(cosine, pooling), _u_corrected(excess, pooling)]
        claims += [_baseline(excess, tables["separation"], pooling), _probe(logistic, pooling)]
    return claims


def _depth(row: pd.Series, pooling: str) -> Claim:
    low, high = 0.5 - DEPTH_TOLERANCE, 0.5 + DEPTH_TOLERANCE
    return Claim(
        id=f"C6.depth.{pooling}",
        claim=f"C6 emotions separate best at about 50% depth ({POOLINGS[pooling]})",
        paper="0.5",
        estimate=Estimate(row["depth"], row["low"], row["high"], row["n"]),
        rule=within(low, high),
        how="depth (layer / layers) of the lowest mean pairwise cosine between emotion centroids before centring; "
        f"bootstrap interval over topics; reproduced if the whole interval lies within {low:g}–{high:g}",
    )


def _u(name: str, claim: str, row: pd.Series, pooling: str, how: str) -> Claim:
    """A claim that a curve over depth is a U; not testable on a model of too few layers."""
    return Claim(
        id=f"C6.{name}.{pooling}",
        claim=f"C6 {claim} ({POOLINGS[pooling]})",
        paper="U-shaped",
        estimate=Estimate(row["vertex"], row["vertex_low"], row["vertex_high"], row["n"]),
        rule=None if pd.isna(row["u_gain"]) else given(row["u_gain"] > 2 and row["u_share"] >= U_SHARE),
        how=how,
    )


def _u_shape(row: pd.Series, pooling: str) -> Claim:
    how = (
        "depth at which a parabola through the cosine over layers 1…L turns; AICc gain over a line "
        f"{row['u_gain']:.1f}, a U in {row['u_share']:.0%} of bootstrap resamples; reproduced if the gain exceeds 2 "
        f"and the share reaches {U_SHARE:.0%}"
    )
    return _u("u", "separation over depth follows a U", row, pooling, how)


def _u_corrected(row: pd.Series, pooling: str) -> Claim:
    how = (
        "as above for the cosine minus that of labels shuffled within topics (a control of ours); AICc gain "
        f"{row['u_gain']:.1f}, a U in {row['u_share']:.0%} of resamples"
    )
    return _u("u_corrected", "the U is the emotions', not the activation space's", row, pooling, how)


def _baseline(row: pd.Series, separation: pd.DataFrame, pooling: str) -> Claim:
    layer = row["chosen_layer"]
    shuffled = select(separation, pooling=pooling, metric="cosine", layer=layer).iloc[0]
    return Claim(
        id=f"C7.baseline.{pooling}",
        claim=f"C7 the separation exceeds an anisotropy baseline ({POOLINGS[pooling]})",
        paper="validated in 4 models",
        estimate=Estimate(row["held_out"], row["held_low"], row["held_high"], row["n"] // 2),
        rule=given(shuffled["p"] < 0.05, below(0)),
        how=f"centroid cosine minus that of labels shuffled within topics, at layer {layer:.0f} chosen on one half of "
        f"the topics, measured on the other; on all topics permutation p = {shuffled['p']:.3g} "
        f"(m = {shuffled['m']:.0f}); reproduced if the interval is below 0 and p < 0.05",
    )


def _probe(row: pd.Series, pooling: str) -> Claim:
    return Claim(
        id=f"neighbour.probe.{pooling}",
        claim=f"neighbour: a linear probe tells 20 emotions apart ({POOLINGS[pooling]})",
        paper="0.897–0.921 (emotion-vector-bench, 1.5B–8B)",
        estimate=Estimate(row["held_out"], row["held_low"], row["held_high"], row["n"] - row["n"] // 2),
        rule=reaches(0.897),
        how="accuracy of logistic regression trained on one half of the topics, tested on the other, at layer "
        f"{row['chosen_layer']:.0f} chosen on the first; chance {row['chance']:.2f}, shuffled labels "
        f"{row['null_mean']:.3f}, permutation p = {row['p']:.3g} (m = {row['m']:.0f}); reproduced if the interval "
        "reaches 0.897",
    )


def anisotropy_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """Whether unrelated texts are as alike as in the sequel's Gemma-3; not testable on another family."""
    # Not the last token: every text ends in a full stop, which makes the first layers alike in any model.
    rows = select(tables["anisotropy"], pooling="mean", metric="cosine")
    row = rows.iloc[(rows["depth"] - 0.5).abs().argmin()]
    claim = Claim(
        id="C7.gemma",
        claim="C7 Gemma-3's activation space is extremely anisotropic",
        paper="0.997 base, 0.982 instruct (sequel, 1B)",
        estimate=Estimate(row["value"], row["low"], row["high"], row["n"]),
        rule=reaches(0.982) if family == "gemma" else None,
        how=f"mean pairwise cosine of unrelated texts at half depth (layer {row['layer']:.0f}), mean over tokens; "
        "bootstrap over texts; reproduced if the interval reaches 0.982",
    )
    return [claim]


def geometry_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """Whether valence is the first principal component of the emotion vectors."""
    claims = []
    for pooling, words in POOLINGS.items():
        row = select(tables["geometry"], pooling=pooling, split="held_out", metric="pc1_valence_r").iloc[0]
        claim = Claim(
            id=f"neighbour.valence.{pooling}",
            claim=f"neighbour: the first principal component is valence ({words})",
            paper="r = 0.81 (Sofroniew et al. 2026); 0.76, 0.83 (van der Ben et al. 2026)",
            estimate=Estimate(row["value"], row["low"], row["high"], row["n"]),
            rule=given(row["p"] < 0.05, holds(0.81)),
            how="|Pearson's r| over the emotions in the norms, vectors of the half of the topics that did not choose "
            f"layer {row['layer']:.0f}; Fisher interval; permutation p = {row['p']:.3g} (m = {row['m']:.0f}); "
            "reproduced if the interval holds 0.81 and p < 0.05",
        )
        claims.append(claim)
    return claims
