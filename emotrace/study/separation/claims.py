"""The claims on separation over depth (C6, C7) and two of neighbouring papers, against what was measured.

Every rule is ours; how often each errs, and how often it finds the paper's effect, stands in ``docs/verdicts.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from emotrace.measures import curves
from emotrace.study.experiment import Tables, emotions_in_words
from emotrace.study.folder import select
from emotrace.study.verdicts import (
    INCONCLUSIVE,
    NOT_REPRODUCED,
    REPRODUCED,
    Claim,
    Estimate,
    Rule,
    at_least,
    equals,
    exceeds,
    format_interval,
    format_number,
    significant,
)

# The paper's extraction pools at the last token; the same claims for the mean are a robustness check.
POOLINGS = {"last": "last token, the paper's pooling", "mean": "mean over tokens"}
LOCALISATION = (
    "C6.depth",
    "C6.u",
    "C6.u_null",
    "C6.u_ratio",
    "C6.space",
    "C7.baseline",
    "C7.unrelated",
    "neighbour.probe",
)
"""Ids of the claims of :func:`localisation_claims`, without the pooling."""

DEPTH = equals(0.5, 0.15)
"""Half depth, told from a third and from two thirds, the depths that others name."""
NET_DEPTH = 0.25
"""Smallest net depth of a U: the lower end stands a quarter of the curve's range above its lowest point."""
OPPOSED = 0.95
"""Share of resamples in which the line before the break must fall and the one after it rise."""
WALK_ALPHA = 0.01
"""Of the p among walks. Stricter than 0.05, since layers remember: smooth walks are Us by chance more often."""
UNEXPLAINED = 0.2
"""Smallest share of the cosine's variance over layers that the space alone must leave unexplained."""
SHARE = 0.04
"""Smallest share of the variance among texts on one topic that is the emotions'; R = 1.2 on half of 12 topics."""
UNRELATED = exceeds(0.2, chance=1.0)
PROBE = at_least(0.897, 0.1)
ANISOTROPY = at_least(0.982, 0.018)
"""The sequel's instruct model, or up to twice as wide a cone: 1 − cosine of 0.036 instead of 0.018."""
VALENCE = at_least(0.81, 0.31)
"""The neighbour's r, or one of 0.5 at least: a quarter of the component's variance."""


def localisation_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """Where over depth emotions separate best, by which shape, and whether that is the emotions' or the space's."""
    claims = []
    for pooling in POOLINGS:
        rows = select(tables["localisation"], pooling=pooling).set_index("criterion")
        space = select(tables["space"], pooling=pooling)
        claims += [_depth(rows.loc["cosine"], pooling)]
        claims += [_u(rows.loc["cosine"], pooling), _u_null(rows.loc["noise_cosine"], pooling)]
        claims += [_u_ratio(rows.loc["ratio"], rows.loc["intraclass"], pooling), _space(space, pooling)]
        claims += [_baseline(rows.loc["ratio"], pooling), _unrelated(rows.loc["anisotropy_excess"], pooling)]
        claims += [_probe(rows.loc["logistic_regression"], tables, pooling)]
    return claims


def _depth(row: pd.Series, pooling: str) -> Claim:
    return Claim(
        id=f"C6.depth.{pooling}",
        claim=f"C6 emotions separate best at about 50% depth ({POOLINGS[pooling]})",
        paper="0.5",
        estimate=Estimate(row["depth"], row["low"], row["high"], row["n"]),
        rule=DEPTH,
        how="depth (layer / layers) of the lowest mean pairwise cosine between emotion centroids before centring; "
        "bootstrap interval over topics, half a layer wider to either side",
    )


def u_rule(opposed: float, smooth: float) -> Rule:
    """A curve is a U: net depth, two lines that fall and rise in resamples, and deeper than walks of both kinds.

    *Reproduced*: all of it. *Not reproduced*: the interval of the net depth excludes ``NET_DEPTH`` (a curve that falls,
    rises, levels off, bends the other way, or a W). Else *inconclusive*.

    Args:
        opposed: share of resamples in which two lines fall, then rise.
        smooth: :func:`~emotrace.measures.curves.smooth_walk_depth` of the curve's layers, a null's quantile.
    """
    depth = significant(exceeds(NET_DEPTH), WALK_ALPHA)

    def decide(estimate: Estimate, move: float) -> str:
        verdict = depth.decide(estimate, move)
        told = opposed >= OPPOSED and estimate.value > smooth
        return INCONCLUSIVE if verdict == REPRODUCED and not told else verdict

    words = (
        f"reproduced if the net depth is at least {NET_DEPTH:g} of the curve's range, with an interval above 0, and "
        f"exceeds the depth that one smooth walk in twenty reaches; and if two lines fall, then rise in {OPPOSED:.0%} "
        f"of resamples; and if p < {WALK_ALPHA:g} among walks of the same increments. Not reproduced if the interval "
        f"of the net depth lies below {NET_DEPTH:g}"
    )
    return Rule(words, decide)


def no_u_rule(opposed: float, smooth: float, p: float) -> Rule:
    """A curve is no U: :func:`u_rule` with its answers exchanged; ``p`` is that among walks."""
    other = u_rule(opposed, smooth)
    exchanged = {REPRODUCED: NOT_REPRODUCED, NOT_REPRODUCED: REPRODUCED, INCONCLUSIVE: INCONCLUSIVE}

    def decide(estimate: Estimate, move: float) -> str:
        return exchanged[other.decide(replace(estimate, p=p), move)]

    words = (
        f"reproduced if the interval of the net depth lies below {NET_DEPTH:g}; not reproduced if this curve is a U by "
        "the rule of C6.u"
    )
    return Rule(words, decide)


def _smooth(row: pd.Series) -> float:
    """What the row's curve over layers 1 … L has to outdo."""
    return curves.smooth_walk_depth(round(row["layer"] / row["depth"]))


def _net_depth(row: pd.Series, p: float) -> Estimate:
    return Estimate(row["u"], row["u_low"], row["u_high"], row["n"], p)


def _u_words(row: pd.Series) -> str:
    if np.isnan(row["u"]):
        return "too few layers for a shape"
    return (
        f"lowest at depth {row['turn']:.2f}, two lines fall, then rise in {row['u_opposed']:.0%} of resamples of the "
        f"topics, p among walks of the same increments {row['u_p']:.3g}; one in twenty smooth walks "
        f"reaches {_smooth(row):.2f}"
    )


def _u(row: pd.Series, pooling: str) -> Claim:
    """The paper's curve is a U; not testable on a model of too few layers."""
    return Claim(
        id=f"C6.u.{pooling}",
        claim=f"C6 separation over depth follows a U ({POOLINGS[pooling]})",
        paper="U-shaped",
        estimate=_net_depth(row, row["u_p"]),
        rule=None if np.isnan(row["u"]) else u_rule(row["u_opposed"], _smooth(row)),
        how="net depth of a U in the centroid cosine over layers 1…L (lower end above the lowest point, less the "
        f"largest movement against a U, over the range; running median of three layers); {_u_words(row)}",
    )


def _u_null(row: pd.Series, pooling: str) -> Claim:
    return Claim(
        id=f"C6.u_null.{pooling}",
        claim=f"C6 without the emotions there is no U ({POOLINGS[pooling]})",
        paper="implied; a control of ours",
        estimate=_net_depth(row, np.nan),
        rule=None if np.isnan(row["u"]) else no_u_rule(row["u_opposed"], _smooth(row), row["u_p"]),
        how="net depth as for C6.u of the space alone: the cosine with labels shuffled within topics, less the part "
        f"that emotions have in it; {_u_words(row)}",
    )


def _u_ratio(row: pd.Series, share: pd.Series, pooling: str) -> Claim:
    return Claim(
        id=f"C6.u_ratio.{pooling}",
        claim=f"C6 the U is the emotions', not the activation space's ({POOLINGS[pooling]})",
        paper="implied; a control of ours",
        estimate=_net_depth(row, row["u_p"]),
        rule=None if np.isnan(row["u"]) else u_rule(row["u_opposed"], _smooth(row)),
        how="net depth as for C6.u of R = (1 − cosine) / (1 − cosine with shuffled labels), turned upside down: a U if "
        f"emotions stand out most in the middle; null recomputed in each resample; {_u_words(row)}; the "
        f"cross-validated share of variance: {format_number(share['u'])} "
        f"({format_interval(share['u_low'], share['u_high'])}), highest at depth {format_number(share['turn'])}",
    )


def space_rule() -> Rule:
    """The space alone leaves at least ``UNEXPLAINED`` of the cosine's variance over depth unexplained."""

    def decide(estimate: Estimate, move: float) -> str:
        bound = UNEXPLAINED * move
        if estimate.low > bound:
            return REPRODUCED
        return NOT_REPRODUCED if estimate.high < bound else INCONCLUSIVE

    return Rule(
        f"reproduced if the interval lies above {UNEXPLAINED:g}, not reproduced if it lies below: then the cosine "
        "follows the space",
        decide,
    )


def _space(table: pd.DataFrame, pooling: str) -> Claim:
    row = table.iloc[0]
    claim = Claim(
        id=f"C6.space.{pooling}",
        claim=f"C6 the cosine's course over depth is more than the space's alone ({POOLINGS[pooling]})",
        paper="implied; a control of ours",
        estimate=Estimate(np.nan),
        rule=None,
        how="too few layers for a course",
    )
    if np.isnan(row["value"]):
        return claim
    return replace(
        claim,
        estimate=Estimate(row["value"], row["low"], row["high"], row["n"]),
        rule=space_rule(),
        how="share of the cosine's variance over layers 1…L that the space alone (as for C6.u_null) leaves "
        f"unexplained, 1 − r², r = {row['r']:.3f} (with shuffled labels, which hold the emotions' variance, "
        f"{row['r_shuffled']:.3f}); recomputed in each resample of topics; the cosine is lowest at depth "
        f"{row['depth_cosine']:.2f}, the space alone at {row['depth_noise']:.2f}, R is highest at "
        f"{row['depth_ratio']:.2f}",
    )


def baseline_rule(topics: float) -> Rule:
    """R exceeds 1 by what emotions of ``SHARE`` give on so many topics: R − 1 grows with the texts a centroid."""
    return significant(exceeds(SHARE * (topics - 1), chance=1.0))


def _baseline(row: pd.Series, pooling: str) -> Claim:
    topics = row["n"] - row["n"] // 2
    return Claim(
        id=f"C7.baseline.{pooling}",
        claim=f"C7 the separation exceeds that of shuffled labels ({POOLINGS[pooling]})",
        paper="validated in 4 models, against unrelated texts; a control of ours",
        estimate=Estimate(row["held_out"], row["held_low"], row["held_high"], topics, row["p"], row["m"]),
        rule=baseline_rule(topics),
        how=f"R = (1 − cosine) / (1 − cosine with shuffled labels) at layer {row['chosen_layer']:.0f} chosen on one "
        "half of the topics, on the other half; null recomputed in each resample; permutation p on that half "
        f"(m = {row['m']:.0f})",
    )


def _unrelated(row: pd.Series, pooling: str) -> Claim:
    return Claim(
        id=f"C7.unrelated.{pooling}",
        claim=f"C7 the separation exceeds the anisotropy of unrelated texts ({POOLINGS[pooling]})",
        paper="validated in 4 models",
        estimate=Estimate(
            row["unrelated_ratio"], row["unrelated_low"], row["unrelated_high"], row["n"] - row["n"] // 2
        ),
        rule=UNRELATED,
        how="(1 − cosine of emotion centroids) / (1 − cosine of groups of as many unrelated texts), the paper's kind "
        f"of baseline, at layer {row['chosen_layer']:.0f} chosen on one half of the topics, on the other; interval "
        "over topics and unrelated texts. Passages on few topics in one style may be more alike than unrelated texts "
        "whatever they feel",
    )


def _probe(row: pd.Series, tables: Tables, pooling: str) -> Claim:
    curve = select(tables["learning_curve"], pooling=pooling, metric="logistic_regression").sort_values("topics")
    last, words = curve.iloc[-1], select(tables["separation"], pooling="words").set_index("metric")["value"]
    course = ", ".join(f"{point['topics']:.0f}: {point['value']:.2f}" for _, point in curve.iterrows())
    return Claim(
        id=f"neighbour.probe.{pooling}",
        claim=f"neighbour: a linear probe tells {emotions_in_words(tables)} apart ({POOLINGS[pooling]})",
        paper="0.897–0.921 (emotion-vector-bench, 1.5B–8B, thousands of texts)",
        estimate=Estimate(last["value"], last["low"], last["high"], last["n"]),
        rule=PROBE,
        how=f"accuracy of logistic regression on the topics that did not choose layer {row['chosen_layer']:.0f}, "
        f"trained on all others, {last['texts']:.0f} texts; by training topics {course}; chance "
        f"{row['chance']:.2f}, on half the topics shuffled labels {row['null_mean']:.3f}, p = {row['p']:.3g} "
        f"(m = {row['m']:.0f}); without a model TF-IDF {words['tfidf']:.2f}, punctuation and lengths "
        f"{words['surface_counts']:.2f}",
    )


def anisotropy_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """Whether unrelated texts are as alike as in the sequel's Gemma-3; not testable on another family."""
    # Not the last token: every text ends in a full stop, which makes the first layers alike in any model.
    rows = select(tables["anisotropy"], pooling="mean", metric="cosine")
    row = rows.iloc[(rows["depth"] - 0.5).abs().argmin()]
    group = select(tables["anisotropy"], pooling="mean", metric="group_cosine", layer=row["layer"]).iloc[0]
    claim = Claim(
        id="C7.gemma",
        claim="C7 Gemma-3's activation space is extremely anisotropic",
        paper="0.997 base, 0.982 instruct (sequel, 1B)",
        estimate=Estimate(row["value"], row["low"], row["high"], row["n"]),
        rule=ANISOTROPY if family == "gemma" else None,
        how=f"mean pairwise cosine of unrelated texts at half depth (layer {row['layer']:.0f}), mean over tokens; "
        f"bootstrap over texts; of groups of as many texts as an emotion has {group['value']:.4f}",
    )
    return [claim]


def geometry_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """Whether valence is the first principal component of the emotion vectors."""
    claims = []
    for pooling, words in POOLINGS.items():
        rows = select(tables["geometry"], pooling=pooling, split="held_out").set_index("metric")
        row, rest = rows.loc["pc1_valence_r"], rows.loc["pc1_valence_given_dialogue_r", "value"]
        surface = ", ".join(f"{name} {rows.loc[f'pc1_{name}_r', 'value']:.2f}" for name in ("dialogue", "length"))
        claim = Claim(
            id=f"neighbour.valence.{pooling}",
            claim=f"neighbour: the first principal component is valence ({words})",
            paper="r = 0.81 (Sofroniew et al. 2026); 0.76, 0.83 (van der Ben et al. 2026)",
            estimate=Estimate(row["value"], row["low"], row["high"], row["n"], row["p"], _orders(row)),
            rule=significant(VALENCE),
            how="|Pearson's r| over the emotions in the norms, vectors of the half of the topics that did not choose "
            f"layer {row['layer']:.0f}; Fisher interval; permutation p (m = {row['m']:.0f}); the component's r with "
            f"the passages' {surface}; with valence given dialogue {rest:.2f}",
        )
        claims.append(claim)
    return claims


def _orders(row: pd.Series) -> float:
    """Permutations behind p that differ: of four emotions there are 24."""
    return min(row["m"], math.factorial(int(row["n"])) - 1)
