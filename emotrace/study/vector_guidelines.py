"""Rules on which vector to take, by which estimator and at what precision, with their numbers; see ``guidelines``."""

from __future__ import annotations

import numpy as np
import pandas as pd

from emotrace.measures.estimators import ESTIMATORS, MEAN_DIFFERENCE
from emotrace.study.effects.claims import SMALLEST
from emotrace.study.estimators import changes, claims
from emotrace.study.estimators.claims import CHANGE
from emotrace.study.estimators.layers import BY_EFFECT, DECODING, EFFECT
from emotrace.study.estimators.steering import NEXT_TOKEN
from emotrace.study.experiment import Tables
from emotrace.study.folder import select
from emotrace.study.guideline_list import NO, UNTESTED, YES, Finding, states
from emotrace.study.verdicts import INCONCLUSIVE, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, claims_table, format_number
from emotrace.study.verdicts import format_estimate as shown

LESS = 0.02
"""A ranking that is lower by less is as good: one text in fifty that changes places."""
ANSWERS = {REPRODUCED: YES, NOT_REPRODUCED: NO, INCONCLUSIVE: INCONCLUSIVE, NOT_TESTABLE: UNTESTED}
"""What a claim's verdict says of the rule that rests on it."""


def _real(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """The row of each estimator that reads activations."""
    own = rows.drop_duplicates("estimator").set_index("estimator", drop=False)
    return {name: own.loc[name] for name, one in ESTIMATORS.items() if not one.floor and name in own.index}


@states(
    "Take the difference of means; another estimator must show on held-out topics that it ranks better.", "estimators"
)
def _which(tables: Tables) -> Finding | None:
    rows = select(tables["estimators"], choice="chosen", pooling="mean")
    ranked, gains = _real(select(rows, metric="ranking")), _real(select(rows, metric="ranking_gain"))
    if MEAN_DIFFERENCE not in ranked or not gains:
        return None
    best = max(gains, key=lambda name: float(gains[name]["value"]))
    row = gains[best]
    moved = _real(select(rows, metric="transfer_ranking_gain")).get(best)
    other = "" if moved is None else f", on another author's texts {shown(moved)}"
    bag = select(rows, metric="ranking", estimator="embedding_bag")
    words = f"; of embeddings without context {shown(bag.iloc[0])}" if len(bag) else ""
    return Finding(
        f"rank on unseen topics: difference of means {shown(ranked[MEAN_DIFFERENCE])}{words}; the best of "
        f"{len(gains)} others, {best}, gains {shown(row)}{other}; supported if that is less than {LESS:g}",
        YES if row["high"] < LESS else NO if row["low"] > 0 and row["value"] >= LESS else INCONCLUSIVE,
    )


@states("Compare vectors that steer at equal harm, not at equal norm.", "estimator_effects")
def _harm(tables: Tables) -> Finding | None:
    own = _real(select(tables["estimator_effects"], metric=NEXT_TOKEN))
    if MEAN_DIFFERENCE not in own:
        return None
    reached = {name: row for name, row in own.items() if abs(row["kl"] / row["kl_sought"] - 1) < 0.25}
    strengths = {name: at_equal_harm(row) for name, row in reached.items()}
    if len(strengths) < 2:
        return None
    apart = max(strengths.values()) / min(strengths.values())
    effects = ", ".join(
        f"{name} {shown(row)} at {at_equal_harm(row):.2f} ×{claims.control_kl(row)}" for name, row in own.items()
    )
    return Finding(
        f"rise of kin words, at one KL on neutral texts ({own[MEAN_DIFFERENCE]['kl_sought']:.2g} nats a token), beyond "
        f"permuted labels of equal norm: {effects}; {own[MEAN_DIFFERENCE]['n']:.0f} emotions; strengths, moved to "
        f"exactly that KL (it grows about as their square), differ {apart:.2f} times; supported from 1.25 times on",
        YES if apart > 1.35 else NO if apart < 1.15 else INCONCLUSIVE,
    )


def at_equal_harm(row: pd.Series) -> float:
    """The strength, in multiples of the calibrated one, at which the KL is what was sought. Ours.

    The search for it stops within a tenth or so of the KL, which grows about as the square of the strength.
    """
    return float(row["relative"] * np.sqrt(row["kl_sought"] / row["kl"]))


@states("Choose the layer to steer at by steering, on prompts that you do not report.", "layer_strength")
def _layer(tables: Tables) -> Finding | None:
    table = tables["layer_strength"]
    rows = select(table, metric=f"{EFFECT}_gain", choice=BY_EFFECT, rival=DECODING)
    own = select(rows, source="emotion")
    if own.empty:
        return None
    held, seen = (select(own, where=where).iloc[0] for where in ("held out", "choosing"))
    shuffles = select(rows[rows["source"] != "emotion"], where="held out")
    judged = claims_table("", claims.layer_claims(tables, "")).set_index("id").loc[f"layer.over_{DECODING}"]
    return Finding(
        f"at equal harm, layer {held['layer']:.0f}{claims.last_tried(table, held['layer'])} chosen by effect over "
        f"layer {held['rival_layer']:.0f} chosen by decoding: {shown(held)} nats on held-out prompts, {shown(seen)} on "
        f"those that chose; the same choice with permuted labels: {claims.shuffled_gains(shuffles)}; beyond the "
        f"nearest of these {shown({**judged, 'value': judged['measured']})}, p "
        f"{format_number(judged['p'])} after Holm; supported if `layer.over_{DECODING}` is reproduced",
        ANSWERS[judged["verdict"]],
    )


@states("Weights of 8 bits do for reading and steering; check 4 bits against wider ones.", "precision")
def _precision(tables: Tables) -> Finding | None:
    rows = select(tables["precision"], choice="chosen", pooling="mean")
    own = select(rows, metric="rdm_halves")
    if own.empty:
        return None
    rows = rows[rows["reference"] == own["reference"].iloc[0]]
    geometry, steering = (
        select(rows, metric=metric).drop_duplicates("precision").set_index("precision")
        for metric in ("rdm_change", "steering_change")
    )
    if "int8" not in geometry.index:
        return None
    eight = geometry.loc["int8"]
    read = YES if eight["high"] < CHANGE else NO if eight["low"] > CHANGE else INCONCLUSIVE
    steered, steer = "; how 8 bits steer was not measured: of reading alone", read
    asked = f"change the geometry by less than {CHANGE:g}"
    if "int8" in steering.index:
        (low, high), least = (float(steering.loc["int8", end]) for end in ("low", "high")), SMALLEST[NEXT_TOKEN]
        steer = YES if -least < low and high < least else NO if low > least or high < -least else INCONCLUSIVE
        steered = f"; rise of kin words under steering, minus that with those weights: {_each(steering)} nats"
        asked += f", and that rise by less than {least:g}"
    answers = {read, steer}
    return Finding(
        f"1 − ρ of the geometry with {own['reference'].iloc[0]} weights: {_each(geometry)}; other texts change it by "
        f"{1 - own['value'].iloc[0]:.2f}{steered}; supported if 8 bits {asked}{claims.stored_in_four_bits(rows)}",
        NO if NO in answers else YES if answers == {YES} else INCONCLUSIVE,
    )


def _each(rows: pd.DataFrame) -> str:
    return ", ".join(f"{name} {shown(row)}" for name, row in rows.iterrows())


@states("Say by which estimator a claim was measured: its verdict may depend on it.", "estimators")
def _by_estimator(tables: Tables) -> Finding | None:
    return _named(changes.by_estimator(tables), "estimator")


@states("Say at what precision a claim was measured: its verdict may depend on it.", "precision")
def _by_precision(tables: Tables) -> Finding | None:
    return _named(changes.by_precision(tables), "precision")


def _named(statements: list[changes.Statement], of: str) -> Finding | None:
    """Not decided by unlike verdicts, which one truth gives as well, but by paired differences after Holm."""
    if not statements:
        return None
    asked = f"{len(statements)} statements asked of each {of}, in a comparison of their own"
    return Finding(
        f"{asked}; {changes.named(statements) or 'no verdict changes'}", ANSWERS[changes.together(statements)]
    )
