"""Claims on how vectors are computed, and at what precision; the paper's own choice is the difference of means.

Every rule is ours; how often each errs stands in ``docs/verdicts.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from emotrace.instrument import corpus
from emotrace.measures import statistics
from emotrace.measures.estimators import ESTIMATORS, MEAN_DIFFERENCE
from emotrace.study.effects.claims import SMALLEST
from emotrace.study.estimators.layers import BY_EFFECT, CANDIDATE, DECODING, EFFECT, HALF
from emotrace.study.estimators.steering import NEXT_TOKEN
from emotrace.study.experiment import Tables
from emotrace.study.folder import select
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
    significant,
)

POOLINGS = {"last": "last token", "mean": "mean over tokens"}
RIVALS = tuple(name for name, one in ESTIMATORS.items() if not one.floor and name != MEAN_DIFFERENCE)
GAIN = significant(exceeds(0.02))
"""Of interest from 0.02 of the ranking on: a text in fifty that changes places."""
WORDS = significant(exceeds(0.05))
"""What a model adds to its embeddings is of interest from 0.05 of the ranking on, a tenth of all above chance."""
CHANGE = 0.05
"""Smallest 1 − ρ of two geometries that is an effect of precision; base and instruct differ by 0.08 in the sequel."""


def precision_rule() -> Rule:
    """The geometry changes by at least ``CHANGE``: any rounding changes it a little, so that must be exceeded."""

    def decide(estimate: Estimate, move: float) -> str:
        bound = CHANGE * move
        if estimate.low > bound:
            return REPRODUCED
        return NOT_REPRODUCED if estimate.high < bound else INCONCLUSIVE

    return Rule(
        f"reproduced if the interval lies above {CHANGE:g}, not reproduced if it lies below: then what changes is less "
        "than that",
        decide,
    )


def gain_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """Whether another estimator ranks unseen texts better than the paper's, and whether the paper's beats its words."""
    claims = []
    for pooling in POOLINGS:
        rows = select(tables["estimators"], pooling=pooling, choice="chosen")
        claims += [_gain(rows, pooling, name) for name in RIVALS]
        claims += [_words(rows, pooling)]
    return claims


def _row(rows: pd.DataFrame, estimator: str, metric: str) -> pd.Series:
    """The row of an estimator; of one that these texts do not allow, a row of NaN."""
    found = select(rows, estimator=estimator, metric=metric)
    return found.iloc[0] if len(found) else pd.Series(np.nan, rows.columns)


def _beside(row: pd.Series) -> float:
    """Patterns of signs beside the observed one; of a two-sided p each counts with its opposite."""
    return row["patterns"] / 2 - 1


def _gain(rows: pd.DataFrame, pooling: str, name: str) -> Claim:
    row, own, plain = (
        _row(rows, name, "ranking_gain"),
        _row(rows, name, "ranking"),
        _row(rows, MEAN_DIFFERENCE, "ranking"),
    )
    other, decoding = _row(rows, name, "transfer_ranking_gain"), _row(rows, name, "decoding_gain")
    return Claim(
        id=f"estimator.{name}.{pooling}",
        claim=f"estimator: {ESTIMATORS[name].title.strip('… ')} ranks unseen texts better than the difference of "
        f"means ({POOLINGS[pooling]})",
        paper="the paper takes the difference of means; not compared",
        estimate=Estimate(row["value"], row["low"], row["high"], row["n"], row["p"], _beside(row)),
        rule=GAIN if np.isfinite(row["value"]) else None,
        how=f"rank of a text on its emotion's direction among the topic's texts, {own['value']:.3f} against "
        f"{plain['value']:.3f}, topics held out, each half of them at the layer that the other half chose; Student's "
        f"interval over topics, p by flipping signs of topics; accuracy {decoding['value']:+.3f} "
        f"({decoding['low']:+.3f} to {decoding['high']:+.3f}), on another author's texts rank {other['value']:+.3f} "
        f"({other['low']:+.3f} to {other['high']:+.3f})",
    )


def _words(rows: pd.DataFrame, pooling: str) -> Claim:
    gain, floor = _row(rows, "embedding_bag", "ranking_gain"), _row(rows, "embedding_bag", "ranking")
    plain, name = _row(rows, MEAN_DIFFERENCE, "ranking"), _row(rows, "name_token", "ranking")
    return Claim(
        id=f"estimator.words.{pooling}",
        claim=f"estimator: the difference of means ranks unseen texts better than the same of their embeddings "
        f"({POOLINGS[pooling]})",
        paper="not compared",
        estimate=Estimate(-gain["value"], -gain["high"], -gain["low"], gain["n"], gain["p"], _beside(gain)),
        rule=WORDS if np.isfinite(gain["value"]) else None,
        how=f"rank as for the other estimators: {plain['value']:.3f}, of mean token embeddings without context "
        f"{floor['value']:.3f}, of the embedding of the emotion's name {name['value']:.3f}",
    )


GAIN_IDS = tuple(f"estimator.{name}.{pooling}" for pooling in POOLINGS for name in (*RIVALS, "words"))


def stored_in_four_bits(rows: pd.DataFrame) -> str:
    """That the weights of this table's model come from a 4-bit file, in words; empty where they do not."""
    models, registry = set(rows["model"]) if "model" in rows else set(), corpus.model_registry()["weights"]
    files = [str(registry[name]) for name in models if str(registry.get(name)).startswith("Q4")]
    return f"; the weights come from a 4-bit file ({files[0]}), whose rounding every reference holds" if files else ""


def precision_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """The sequel's true precision effect: float16 against 8 bits, everything else alike."""
    table = tables["precision"]
    return [_precision(table, pooling) for pooling in POOLINGS if len(select(table, pooling=pooling))]


def _precision(table: pd.DataFrame, pooling: str) -> Claim:
    finite = select(table, metric="finite").set_index("precision")["value"]
    rows = select(table, pooling=pooling, choice="chosen")
    pair = select(rows, precision="int8", reference="float16").set_index("metric")
    if pair.empty:  # half floats that overflow, or a model that is loaded as float16
        pair = select(rows, precision="int8").set_index("metric")
    row = pair.loc["rdm_change"]
    halves = select(rows, metric="rdm_halves").iloc[0]
    to_own = select(rows, metric="rdm", reference=halves["reference"]).set_index("precision")["value"]
    change = pair.loc["decoding_change"]
    lost = ", ".join(name for name, value in finite.items() if not value)
    return Claim(
        id=f"sequel.precision.{pooling}",
        claim=f"sequel: precision changes the emotions' geometry, float16 against 8 bits ({POOLINGS[pooling]})",
        paper="a true precision effect, float16 against INT8 (sequel); its size is not in the abstract",
        estimate=Estimate(row["value"], row["low"], row["high"], row["n"]),
        rule=precision_rule(),
        how=f"1 − Spearman's ρ between the raw cosine geometries of all classes, int8 against {row['reference']} "
        f"weights, the same texts at layer {row['layer']:.0f} that half of the topics chose; bootstrap interval over "
        f"topics; ρ with the model as loaded ({halves['reference']}): "
        + ", ".join(f"{name} {value:.4f}" for name, value in to_own.items())
        + f"; of disjoint halves of the topics {halves['value']:.2f}; accuracy {change['value']:+.3f} "
        f"({change['low']:+.3f} to {change['high']:+.3f}){stored_in_four_bits(table)}"
        + (f"; not finite: {lost}" if lost else ""),
    )


PRECISION_IDS = tuple(f"sequel.precision.{pooling}" for pooling in POOLINGS)


# -- steering, and where ----------------------------------------------------------------------------------------------

STEERS = significant(exceeds(SMALLEST[NEXT_TOKEN]))
"""Another vector, or another layer, is worth it if kin words become a fifth more probable, as C8 asks of steering."""
STEERING_IDS = tuple(f"estimator.steering.{name}" for name in (*RIVALS, "words"))


def steering_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """Whether another estimator steers better than the paper's at equal harm, and the paper's better than its words."""
    table = tables["estimator_effects"]
    return [
        *(_steering(table, name, f"{ESTIMATORS[name].title.strip('… ')} steers", 1) for name in RIVALS),
        _steering(table, "embedding_bag", "the difference of means steers", -1),
    ]


def _steering(table: pd.DataFrame, name: str, what: str, sign: int) -> Claim:
    """``sign``: 1, the estimator over the difference of means; −1, that over the estimator."""
    row, own, plain = (
        _row(table, one, metric)
        for one, metric in ((name, f"{NEXT_TOKEN}_gain"), (name, NEXT_TOKEN), (MEAN_DIFFERENCE, NEXT_TOKEN))
    )
    judge, coherent = _row(table, name, "judge_over_ceiling"), _row(table, name, "coherent")
    value, *ends = (sign * row[column] for column in ("value", "low", "high"))
    over = "the difference of means" if sign > 0 else "the same of its texts' embeddings"
    return Claim(
        id=f"estimator.steering.{'words' if sign < 0 else name}",
        claim=f"estimator: {what} further than {over}, at equal harm",
        paper="not compared",
        estimate=Estimate(value, min(ends), max(ends), row["n"], row["p"]),
        rule=STEERS if np.isfinite(row["low"]) else None,
        how="rise of the log-probability of kin words as the next token beyond permuted labels of equal norm"
        f"{control_kl(own, plain)}, {own['value']:.2f} against {plain['value']:.2f} of the difference of means; each "
        f"at layer {own['layer']:.0f} and the strength of equal KL on neutral texts ({own['kl']:.3g} nats a token "
        f"sought {own['kl_sought']:.3g}; "
        f"{own['relative']:.2f} × the calibrated strength); {own['n']:.0f} emotions × {own['prompts']:.0f} prompts; "
        f"coherent texts {coherent['value']:.0%} ({format_interval(coherent['low'], coherent['high'])}); judge's rise "
        f"over its ceiling {judge['value']:.2f} ({format_interval(judge['low'], judge['high'])})",
    )


def control_kl(*rows: pd.Series) -> str:
    """The KL of each row's permuted-label vectors, in words: of equal norm, they do another harm; empty if unknown."""
    known = [row.get("control_kl", np.nan) for row in rows]
    if not np.isfinite(known).all():
        return ""
    return f" (their KL {' and '.join(f'{value:.3g}' for value in known)})"


BEYOND_WORDS = (
    "reproduced if the gain, and what of it lies beyond each shuffle's, have intervals above 0, are at least "
    f"{SMALLEST[NEXT_TOKEN]:g} and have p < 0.05, not reproduced if the interval of the gain, or that "
    f"beyond every shuffle's, excludes {SMALLEST[NEXT_TOKEN]:g} or more"
)
"""The shuffles are taken as the few that they are: of two, no test of what a third would do could reach p < 0.05."""
LAYER_IDS = tuple(f"layer.over_{rival}" for rival in (DECODING, HALF))
_RIVALS = {DECODING: "the layer that decoding chose", HALF: "the layer at half depth"}


def layer_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """Whether the layer at which steering does most for its harm is better than what is chosen without steering."""
    table = tables["layer_strength"]
    return [_layer(table, rival) for rival in _RIVALS]


def _layer(table: pd.DataFrame, rival: str) -> Claim:
    gains = select(table, metric=f"{EFFECT}_gain", rival=rival)
    own = select(gains, source="emotion").set_index("where")
    row, choosing = own.loc["held out"], own.loc["choosing"]
    shuffles = select(gains[gains["source"] != "emotion"], where="held out")
    beyond = [over_shuffle(row, shuffle) for _, shuffle in shuffles.iterrows()]
    kept = select(table, choice=BY_EFFECT, metric="coherent").iloc[0]
    other = select(table, choice=rival, metric="coherent").iloc[0]
    estimate, rule = _beyond_all(row, beyond)
    return Claim(
        id=f"layer.over_{rival}",
        claim=f"layer: chosen by effect, steering does more for its harm than at {_RIVALS[rival]}, "
        "and by more than permuted labels gain",
        paper="the paper takes half depth; not compared",
        estimate=estimate,
        rule=rule,
        how=f"rise of the log-probability of kin words, layer {row['layer']:.0f}{last_tried(table, row['layer'])} "
        f"minus layer {row['rival_layer']:.0f}, both at the strength of equal KL on neutral texts ({row['kl']:.3g} "
        f"nats a token), on {row['prompts']:.0f} prompts, each half of the emotions where the other half chose (layers "
        f"{row['first_layer']:.0f} and {row['second_layer']:.0f}; where it was made {choosing['value']:+.2f}): "
        f"{format_estimate(row)}; the same choice with permuted labels: {shuffled_gains(shuffles)}; measured is the "
        "first minus that of the shuffle that comes nearest, its interval from both (Zou and Donner 2008) as if "
        "independent, p the largest that the rule asks for; coherent texts "
        f"{kept['value']:.0%} against {other['value']:.0%}",
    )


def _beyond_all(row: pd.Series, beyond: Sequence[Estimate]) -> tuple[Estimate, Rule | None]:
    """The gain beyond the shuffle that comes nearest, and the rule: the gain itself and beyond *each* shuffle.

    All conditions must hold, so that the claim's p is the largest of theirs. One shuffle that gains as much, as one in
    a few does by chance, leaves it open; all of them refute it. Without a shuffle, or with a gain that has no interval,
    nothing decides.
    """
    gain = Estimate(row["value"], row["low"], row["high"], row["n"], row["p"])
    if not beyond or not np.isfinite(row["low"]):
        return gain, None
    nearest = min(beyond, key=lambda one: one.low)
    estimate = replace(nearest, p=float(np.max([gain.p, *(one.p for one in beyond)])))

    def decide(_: Estimate, move: float) -> str:
        itself, *others = (STEERS.decide(one, move) for one in (gain, *beyond))
        if itself == NOT_REPRODUCED or set(others) == {NOT_REPRODUCED}:
            return NOT_REPRODUCED
        return REPRODUCED if {itself, *others} == {REPRODUCED} else INCONCLUSIVE

    return estimate, Rule(BEYOND_WORDS, decide)


def over_shuffle(own: pd.Series, shuffle: pd.Series) -> Estimate:
    """A gain minus a shuffle's, as of independent ones; too wide, if anything: emotions and prompts are the same.

    p is Student's for a half-width of this size, with the fewest degrees of freedom that emotions and prompts leave.
    """
    gains = (statistics.Interval(row["value"], row["low"], row["high"]) for row in (own, shuffle))
    value, low, high = statistics.independent_difference(*gains)
    half, freedom = value - low if value > 0 else high - value, max(1, min(own["n"], own["prompts"]) - 1)
    p = 2 * stats.t.sf(stats.t.ppf(0.975, freedom) * abs(value) / half, freedom) if value else 1.0
    return Estimate(float(value), float(low), float(high), own["n"], float(p))


def shuffled_gains(shuffles: pd.DataFrame) -> str:
    """What the choice gains under each shuffle of the labels, in words."""
    return ", ".join(format_estimate(row) for _, row in shuffles.iterrows()) or "was not measured"


def last_tried(table: pd.DataFrame, layer: float) -> str:
    """That a layer is the last, or the first, of those that were tried, in words: the best may lie beyond."""
    tried = sorted(set(select(table, choice=CANDIDATE, source="emotion")["layer"]))
    ends = {tried[-1]: "last", tried[0]: "first"} if len(tried) > 1 else {}
    return f" (the {ends[layer]} of {len(tried)} that were tried)" if layer in ends else ""
