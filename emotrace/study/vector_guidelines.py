"""Rules on which vector to take, by which estimator and at what precision, with their numbers; see ``guidelines``."""

from __future__ import annotations

import pandas as pd

from emotrace.measures.estimators import ESTIMATORS, MEAN_DIFFERENCE
from emotrace.study.estimators import changes
from emotrace.study.estimators.claims import CHANGE
from emotrace.study.estimators.layers import BY_EFFECT, DECODING, EFFECT
from emotrace.study.estimators.steering import NEXT_TOKEN
from emotrace.study.experiment import Tables
from emotrace.study.folder import select
from emotrace.study.guideline_list import NO, YES, Finding, states
from emotrace.study.verdicts import INCONCLUSIVE, format_interval, format_number

LESS = 0.02
"""A ranking that is lower by less is as good: one text in fifty that changes places."""


def _estimate(row: pd.Series) -> str:
    return f"{format_number(row['value'])} ({format_interval(row['low'], row['high'])})"


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
    other = "" if moved is None else f", on another author's texts {_estimate(moved)}"
    bag = select(rows, metric="ranking", estimator="embedding_bag")
    words = f"; of embeddings without context {_estimate(bag.iloc[0])}" if len(bag) else ""
    return Finding(
        f"rank on unseen topics: difference of means {_estimate(ranked[MEAN_DIFFERENCE])}{words}; the best of "
        f"{len(gains)} others, {best}, gains {_estimate(row)}{other}; supported if that is less than {LESS:g}",
        YES if row["high"] < LESS else NO if row["low"] > 0 and row["value"] >= LESS else INCONCLUSIVE,
    )


@states("Compare vectors that steer at equal harm, not at equal norm.", "estimator_effects")
def _harm(tables: Tables) -> Finding | None:
    own = _real(select(tables["estimator_effects"], metric=NEXT_TOKEN))
    if MEAN_DIFFERENCE not in own:
        return None
    reached = {name: row for name, row in own.items() if abs(row["kl"] / row["kl_sought"] - 1) < 0.25}
    strengths = {name: float(row["relative"]) for name, row in reached.items()}
    if len(strengths) < 2:
        return None
    apart = max(strengths.values()) / min(strengths.values())
    effects = ", ".join(f"{name} {_estimate(row)} at {row['relative']:.2f} ×" for name, row in own.items())
    return Finding(
        f"rise of kin words beyond permuted labels at one KL on neutral texts: {effects}; "
        f"{own[MEAN_DIFFERENCE]['n']:.0f} emotions; strengths of equal harm differ {apart:.2f} times; supported from "
        "1.25 times on",
        YES if apart > 1.35 else NO if apart < 1.15 else INCONCLUSIVE,
    )


@states("Choose the layer to steer at by steering, on prompts that you do not report.", "layer_strength")
def _layer(tables: Tables) -> Finding | None:
    rows = select(tables["layer_strength"], metric=f"{EFFECT}_gain", choice=BY_EFFECT, rival=DECODING)
    own, permuted = select(rows, source="emotion"), rows[rows["source"] != "emotion"]
    if own.empty:
        return None
    held = select(own, where="held out").iloc[0]
    seen = select(own, where="choosing").iloc[0]
    shuffled = permuted.groupby("where")["value"].mean()
    return Finding(
        f"at equal harm, layer {held['layer']:.0f} chosen by effect over layer {held['rival_layer']:.0f} chosen by "
        f"decoding: {_estimate(held)} nats on held-out prompts, {_estimate(seen)} on those that chose; with permuted "
        f"labels {format_number(shuffled.get('held out'))} and {format_number(shuffled.get('choosing'))}",
        YES if held["low"] > 0 else NO if held["high"] <= 0 else INCONCLUSIVE,
    )


@states("Weights of 8 bits do for reading and steering; check 4 bits against wider ones.", "precision")
def _precision(tables: Tables) -> Finding | None:
    rows = select(tables["precision"], choice="chosen", pooling="mean")
    changed = select(rows, metric="rdm_change").drop_duplicates(["precision", "reference"])
    own = select(rows, metric="rdm_halves")
    changed = changed[changed["reference"] == own["reference"].iloc[0]] if len(own) else changed.iloc[:0]
    if "int8" not in set(changed["precision"]):
        return None
    eight = changed.set_index("precision").loc["int8"]
    each = ", ".join(f"{row['precision']} {_estimate(row)}" for _, row in changed.iterrows())
    return Finding(
        f"1 − ρ of the geometry with {own['reference'].iloc[0]} weights: {each}; other texts change it by "
        f"{1 - own['value'].iloc[0]:.2f}; supported if 8 bits change less than {CHANGE:g}",
        YES if eight["high"] < CHANGE else NO if eight["low"] > CHANGE else INCONCLUSIVE,
    )


@states("Say by which estimator a claim was measured: its verdict may depend on it.", "estimators")
def _by_estimator(tables: Tables) -> Finding | None:
    return _named(changes.by_estimator(tables), "estimator")


@states("Say at what precision a claim was measured: its verdict may depend on it.", "precision")
def _by_precision(tables: Tables) -> Finding | None:
    return _named(changes.by_precision(tables), "precision")


def _named(statements: list[changes.Statement], of: str) -> Finding | None:
    if not statements:
        return None
    changed = changes.named(statements)
    asked = f"{len(statements)} statements tested with each {of}"
    return Finding(f"{asked}; {changed or 'no verdict changes'}", YES if changed else NO)
