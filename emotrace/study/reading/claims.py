"""What a neighbouring project found at the last token before the reply, against what was measured.

EmotionScope (Gemma-2-2B): 12 of 12 implicit scenarios had their emotion among the top 3 of 20; on its graded scales the
projection rose with the dose at Spearman's ρ = 1.0. The paper itself claims neither. Every rule is ours; the smallest
effect of interest is half of the neighbour's in both.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from emotrace.study.experiment import Tables
from emotrace.study.folder import select
from emotrace.study.reading.graded import ALL, OVER_BOTH, OVER_EMOTION, OVER_NUMBER, OWN
from emotrace.study.reading.implicit import EMBEDDINGS, TFIDF, TOP, VECTORS
from emotrace.study.verdicts import (
    INCONCLUSIVE,
    NOT_REPRODUCED,
    REPRODUCED,
    Claim,
    Estimate,
    Rule,
    exceeds,
    format_estimate,
    format_interval,
    format_number,
    together,
)

POOLINGS = {"last": "vectors of the last token", "mean": "vectors of the mean over tokens"}
IMPLICIT = ("implicit", "implicit_over_words")
"""Claims of :func:`implicit_claims`, without the pooling."""
SMALLEST_RHO = 0.5
"""Of ρ minus a control's: half of the neighbour's, whose controls we take to be 0."""
SMALLEST_GAIN = 0.2
"""Of the top-3 rate over that of words alone: about five of 24 scenarios."""


def implied(chance: float) -> Rule:
    """The rule on the top-3 rate: at least half of what 12 of 12 are above chance."""
    return exceeds((1 - chance) / 2, chance)


OVER_WORDS = exceeds(SMALLEST_GAIN)


def implicit_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """Whether the emotion that a message implies is among the top three before the reply."""
    rates, claims = tables["implicit_rates"], []
    for pooling in POOLINGS:
        if len(_of(rates, pooling, reader=VECTORS)):
            claims += [_implicit(rates, pooling), _over_words(rates, pooling)]
    return claims


def _of(table: pd.DataFrame, pooling: str, **values: str) -> pd.DataFrame:
    return select(table, pooling=pooling, **values) if len(table) else table


def _implicit(rates: pd.DataFrame, pooling: str) -> Claim:
    rows = _of(rates, pooling, reader=VECTORS).set_index("metric")
    row = rows.loc[f"top{TOP}"]
    words = select(rates, metric=f"top{TOP}").set_index("reader")["value"]
    alone = ", ".join(f"{words[reader]:.2f} ({reader})" for reader in (EMBEDDINGS, TFIDF) if reader in words)
    return Claim(
        id=f"neighbour.implicit.{pooling}",
        claim=f"neighbour: an emotion that is implied, never named, is among the top 3 ({POOLINGS[pooling]})",
        paper="12 of 12 (EmotionScope, Gemma-2-2B)",
        estimate=Estimate(row["value"], row["low"], row["high"], row["n"], row["p"]),
        rule=implied(row["chance"]),
        how=f"share of scenarios whose emotion has one of the {TOP} highest projections, at the last token before the "
        f"reply, layer {row['layer']:.0f} chosen on half of the topics; Wilson interval, by bootstrap over emotions "
        f"{format_interval(row['clustered_low'], row['clustered_high'])}; chance {row['chance']:.2f}; vectors of "
        f"shuffled labels {row['null']:.2f}, p = {row['p']:.3g} (m = {row['m']:.0f}); targets shuffled p = "
        f"{row['shuffled_p']:.3g}; words alone {alone}; with near emotions {rows.loc[f'top{TOP}_near', 'value']:.2f} "
        f"(shuffled labels {rows.loc[f'top{TOP}_near', 'null']:.2f})",
    )


def _over_words(rates: pd.DataFrame, pooling: str) -> Claim:
    """Against the better of the two readers of words: what the words alone give away is not the model's."""
    rows = _of(rates, pooling, reader=VECTORS).set_index("metric")
    metrics = [
        metric for metric in (f"top{TOP}_over_{reader}" for reader in (EMBEDDINGS, TFIDF)) if metric in rows.index
    ]
    metric = min(metrics, key=lambda metric: float(rows.loc[metric, "value"]))
    row = rows.loc[metric]
    return Claim(
        id=f"neighbour.implicit_over_words.{pooling}",
        claim=f"neighbour: the model reads an implied emotion beyond its words ({POOLINGS[pooling]})",
        paper="not compared with words (EmotionScope)",
        estimate=Estimate(row["value"], row["low"], row["high"], row["n"], row["p"]),
        rule=OVER_WORDS,
        how=f"that share minus the share of the better of two readers of words without context, "
        f"{metric.rpartition('_')[2]}, which learns from the same passages; paired by scenario, bootstrap over "
        f"emotions, McNemar's exact p = {row['p']:.3g} (m = {row['m']:.0f} scenarios that differ)",
    )


GRADED_WORDS = (
    f"reproduced if the interval lies above 0, and the mean and either difference alone reach {SMALLEST_RHO:g}; "
    f"not reproduced if the interval of one of the three excludes {SMALLEST_RHO:g}"
)


def graded_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """Whether the projection on an emotion follows a dose, and more so than two controls do."""
    scales = tables["graded_scales"]
    return [_graded(_of(scales, pooling, scale=ALL), pooling) for pooling in POOLINGS if len(_of(scales, pooling))]


def _graded(rows: pd.DataFrame, pooling: str) -> Claim:
    rows = rows.set_index("metric")
    over, own, count = rows.loc[OVER_BOTH], rows.loc[OWN], rows.loc["significant"]
    either = [
        Estimate(row["value"], row["low"], row["high"], row["n"])
        for row in (rows.loc[OVER_NUMBER], rows.loc[OVER_EMOTION])
    ]
    number, emotion = (format_estimate(one) for one in either)
    return Claim(
        id=f"neighbour.graded.{pooling}",
        claim=f"neighbour: the projection on an emotion rises with its dose ({POOLINGS[pooling]})",
        paper="ρ = 1.0 (EmotionScope, Gemma-2-2B)",
        estimate=Estimate(over["value"], over["low"], over["high"], over["n"], over["t_p"]),
        rule=together(exceeds(SMALLEST_RHO), [(_REACHES, one) for one in either], GRADED_WORDS),
        how=f"Spearman's ρ of dose and projection times the expected sign, {format_number(own['value'])} "
        f"({format_interval(own['low'], own['high'])}) over scales, minus the mean ρ of two controls: a number that "
        f"means nothing in the same messages (alone: {number}), and an unrelated emotion (alone: {emotion}); "
        f"t intervals over scales, layer {over['layer']:.0f}; vectors of shuffled labels reach ρ as high with "
        f"p = {own['p']:.3g} (m = {own['m']:.0f}); exact p < 0.05 on {count['value']:.0f} of {count['n']:.0f} scales, "
        f"{count['null']:.1f} by chance; the highest dose lies {format_number(own['span'])} standard deviations of the "
        "passages beyond the lowest (median over scales)",
    )


def _reach(estimate: Estimate, move: float) -> str:
    """Each control by itself: six scales are too few for an interval that excludes 0, since its ρ may be ±1."""
    if estimate.value >= move * SMALLEST_RHO:
        return REPRODUCED
    return NOT_REPRODUCED if estimate.high < move * SMALLEST_RHO else INCONCLUSIVE


_REACHES = Rule(f"the mean reaches {SMALLEST_RHO:g}", _reach)
