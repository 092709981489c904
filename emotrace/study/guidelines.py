"""Rules for extracting and steering emotions in an open model (C12), each beside what a run measured of it.

The rules are ours: the paper's guidelines are not in its abstract, and its full text could not be read here. Every rule
is a function of one model's tables (or of those over models) that says what was measured and whether it bears the rule
out: *yes*, *no*, *inconclusive* where the intervals do not decide, or *not testable* where the run has nothing that
does. ``docs/guidelines.md`` says the same at leisure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from emotrace.judges import regimes
from emotrace.measures import statistics
from emotrace.study import vector_guidelines
from emotrace.study.effects.arms import CALIBRATED
from emotrace.study.experiment import Tables, emotions_in_words
from emotrace.study.folder import select
from emotrace.study.guideline_list import NO, UNTESTED, VERDICTS, YES, Finding, Row, rules, states
from emotrace.study.languages.claims import ALIGNED
from emotrace.study.verdicts import INCONCLUSIVE, NOT_REPRODUCED, REPRODUCED, Estimate, format_interval, format_number

__all__ = ["NO", "UNTESTED", "VERDICTS", "YES", "rules", "vector_guidelines"]


def _by(rows: pd.DataFrame, column: str) -> dict[Any, Row]:
    """The rows by what they have in a column, in its order."""
    return dict(rows.sort_values(column).set_index(column).to_dict("index"))


def _estimate(row: Row) -> str:
    """``0.59 (0.52 to 0.65)``."""
    return f"{format_number(row['value'])} ({format_interval(row['low'], row['high'])})"


def _calibrated(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the calibrated arm, where there are several."""
    return select(table, arm=CALIBRATED) if "arm" in table else table


def _above(first: Row, second: Row) -> str:
    """Whether the first of two estimates is above the second beyond both intervals."""
    return YES if first["low"] > second["high"] else NO if first["high"] < second["low"] else INCONCLUSIVE


def _reaches(row: Row, bound: float) -> str:
    """Whether an estimate's interval lies above a bound, or below it, by a tenth of the bound at least."""
    return YES if row["low"] > 1.1 * bound else NO if row["high"] < 0.9 * bound else INCONCLUSIVE


# -- extraction ----------------------------------------------------------------------------------------------------


@states(
    "Choose the layer by decoding held-out topics over all layers, not by the lowest raw cosine.",
    "localisation",
    "separation",
)
def _layer(tables: Tables) -> Finding:
    rows = _by(select(tables["localisation"], pooling="mean"), "criterion")
    accuracy = _by(select(tables["separation"], pooling="mean", metric="nearest_centroid"), "layer")
    raw, decoding = rows["cosine"], rows["nearest_centroid"]
    at_raw, at_decoding = accuracy[raw["chosen_layer"]], accuracy[decoding["chosen_layer"]]
    return Finding(
        f"mean over tokens: accuracy on unseen topics {_estimate(at_decoding)} at the layer that decoding chose on "
        f"half of the topics (depth {decoding['chosen_depth']:.2f}), {_estimate(at_raw)} at the one that the raw "
        f"cosine chose ({raw['chosen_depth']:.2f}); n = {raw['n']:.0f} topics",
        _above(at_decoding, at_raw),
    )


@states("Pool over the text's tokens rather than read its last one.", "localisation")
def _pooling(tables: Tables) -> Finding:
    rows = select(tables["localisation"], criterion="nearest_centroid")
    rows = rows.assign(value=rows["held_out"], low=rows["held_low"], high=rows["held_high"])
    mean, last = (_by(rows, "pooling")[pooling] for pooling in ("mean", "last"))
    return Finding(
        f"accuracy over {emotions_in_words(tables)} on held-out topics: mean over tokens {_estimate(mean)}, last token "
        f"{_estimate(last)}",
        _above(mean, last),
    )


@states("Put a bag-of-embeddings baseline beside every decoding score.", "separation")
def _words(tables: Tables) -> Finding:
    rows = select(tables["separation"], pooling="mean", metric="logistic_regression")
    words, best = select(rows, layer=0).iloc[0], rows.iloc[rows["value"].argmax()]
    return Finding(
        f"averaged embeddings alone: accuracy {_estimate(words)}, chance {format_number(words['null'])}; the best "
        f"layer: {_estimate(best)}; supported if the words alone reach twice chance",
        _reaches(words, 2 * words["null"]),
    )


@states(
    "Put shuffled labels beside every centroid cosine: a good part of the spread is not the emotion's.", "separation"
)
def _baselines(tables: Tables) -> Finding | None:
    rows = select(tables["separation"], pooling="last", metric="ratio").query("layer > 0")
    if rows.empty:
        return None
    row = rows.iloc[rows["value"].argmax()]
    rest = {"value": 1 / row["value"], "low": 1 / row["high"], "high": 1 / row["low"]}
    return Finding(
        f"layer {row['layer']:.0f}, last token, the layer most in its favour: R = {_estimate(row)}, so that "
        f"{rest['value']:.0%} of the centroids' distance from 1 is there with labels shuffled within topics; supported "
        "if it is a quarter",
        _reaches(rest, 0.25),
    )


def _cell(table: pd.DataFrame, author: str, frame: str) -> pd.Series | None:
    """Nearest centroid's accuracy in one cell of the factorial, with the most texts."""
    rows = select(table, author=author, frame=frame, pooling="mean", components="kept", metric="nearest_centroid")
    return rows.iloc[rows["texts"].argmax()] if len(rows) else None


@states("Read generated texts without the request that names the feeling: it may leak the label.", "factorial")
def _frame(tables: Tables) -> Finding | None:
    plain, unnamed, chat = (_cell(tables["factorial"], "self", frame) for frame in ("plain", "unnamed", "chat"))
    if plain is None or unnamed is None or chat is None:
        return None
    return Finding(
        f"the model's own stories, accuracy: read plain {_estimate(plain)}, after the request without the feeling "
        f"{_estimate(unnamed)}, after the request that names it {_estimate(chat)}; n = {chat['n']:.0f} topics",
        _above(chat, unnamed),
    )


@states("Decode the model's own stories before extracting from them: they may not carry the feeling.", "factorial")
def _author(tables: Tables) -> Finding | None:
    own, ours = (_cell(tables["factorial"], author, "plain") for author in ("self", "ours"))
    if own is None or ours is None:
        return None
    return Finding(
        f"read plain, accuracy: the model's own stories {_estimate(own)}, our passages, the one outside writer that "
        f"was tried, {_estimate(ours)}; n = {own['n']:.0f} topics",
        _above(ours, own),
    )


# -- steering ------------------------------------------------------------------------------------------------------


def _over_strengths(tables: Tables, directions: str) -> dict[float, Row]:
    """Regimes under these directions by the multiple of the calibrated strength, the largest last."""
    rows = _calibrated(select(tables["regimes"], emotion=directions))
    return _by(rows.assign(relative=rows["relative"].round(6)), "relative")


@states("Calibrate the strength on coherence, for each model; report multiples of it.", "regimes")
def _calibrate(tables: Tables) -> Finding:
    rows = _over_strengths(tables, "all")
    calibrated, (relative, largest) = rows[1.0], list(rows.items())[-1]
    return Finding(
        f"coherent texts at the calibrated strength {_estimate(calibrated)}, at {relative:g} × it "
        f"{_estimate(largest)}; n = {calibrated['n']:.0f} texts",
        _above(calibrated, largest),
    )


@states("Take permuted-label vectors as the control: Gaussian directions of equal norm may break the text.", "regimes")
def _control(tables: Tables) -> Finding | None:
    permuted, random = (_over_strengths(tables, directions).get(1.0) for directions in ("permuted", "random"))
    if permuted is None or random is None:
        return None
    lost = permuted["high"] - random["low"]  # at most
    return Finding(
        f"coherent texts at the calibrated strength: permuted-label vectors {_estimate(permuted)}, Gaussian directions "
        f"of the same norm {_estimate(random)}; not supported if they lose less than a tenth",
        NO if lost < 0.1 else _above(permuted, random),
    )


@states("Measure repetition beside perplexity: a loop is easy to predict.", "regimes")
def _repetition(tables: Tables) -> Finding | None:
    rows = select(tables["regimes"], regime=regimes.REPETITIVE)
    rows = rows[~rows["emotion"].isin(["all", "random", "permuted", "unsteered"])]
    if rows.empty:
        return None
    hidden = statistics.wilson(int((rows["perplexity_ratio"] < regimes.DEFAULT.ratio).sum()), len(rows))
    return Finding(
        f"of the {len(rows)} directions × strengths that mostly collapse into repetition, {hidden.value:.0%} "
        f"({format_interval(hidden.low, hidden.high)}) have a median perplexity ratio under {regimes.DEFAULT.ratio:g}; "
        "supported if a quarter do",
        _reaches(hidden._asdict(), 0.25),
    )


@states("Count a success against controls; a score that rises at all says little.", "verification")
def _judge(tables: Tables) -> Finding | None:
    table = _calibrated(tables["verification"])
    if table.empty or "permuted_positive" not in table:
        return None
    lenient = statistics.wilson(int((table["rise"] > 0).sum()), len(table))
    strict = statistics.wilson(int(table["success"].sum()), len(table))
    control = statistics.mean_interval(table["permuted_positive"].to_numpy(dtype=float))
    return Finding(
        f"the score rises at all in {_estimate(lenient._asdict())} of {len(table)} scenarios, and under permuted-label "
        f"vectors in {_estimate(control._asdict())}; above all of these in {_estimate(strict._asdict())}; "
        "supported if it rises in a fifth under vectors that hold no feeling",
        _reaches(control._asdict(), 0.2),
    )


@states("Ask the model for the feeling before you steer it there: a request may do more.", "prompting")
def _asking(tables: Tables) -> Finding | None:
    rows = select(tables["prompting"], where="scenarios", metric="success", emotion="all")
    for row in rows.to_dict("records"):  # one
        return Finding(
            f"scenarios that the judge confirms: asked {row['prompting']:.0%}, steered {row['steering']:.0%}; steered "
            f"minus asked {_estimate(row)}; n = {row['n']:.0f} emotions; supported if the interval lies below 0",
            YES if row["high"] < 0 else NO if row["low"] > 0 else INCONCLUSIVE,
        )
    return None


@states("In a model with a multilingual vocabulary, look at other scripts too.", "crosslingual")
def _scripts(tables: Tables) -> Finding | None:
    rows = select(tables["crosslingual"], metric="alignment", readout="steered", language="zh", emotion="all")
    rows = rows[rows["strength"].isna() & rows["value"].notna()]
    if rows.empty:
        return None
    row = rows.iloc[0]
    answer = ALIGNED.verdict(Estimate(row["value"], row["low"], row["high"], row["n"], row["p"]))
    return Finding(
        f"among Chinese tokens an emotion's own words above the other emotions': {_estimate(row)} SD, p = "
        f"{format_number(row['p'])} (m = {row['m']:.0f})",
        {REPRODUCED: YES, NOT_REPRODUCED: NO}.get(answer, INCONCLUSIVE),
    )


# -- over models ---------------------------------------------------------------------------------------------------


@states("Do not carry a strength in residual norms from one model to another.", "across_steering")
def _strengths(tables: Tables) -> Finding | None:
    rows = select(tables["across_steering"], relative=1.0).drop_duplicates("model")
    if len(rows) < 2:
        return None
    strengths = ", ".join(f"{row.model} {row.strength:.3g}" for row in rows.itertuples())
    apart = rows["strength"].max() / rows["strength"].min()
    return Finding(
        f"largest strength that leaves 90% of texts coherent, in residual norms: {strengths}. Two searches on one "
        "model may differ by 1.7 times, as a share of 90% of a few dozen texts is uncertain: supported from twice on",
        YES if apart > 2.2 else NO if apart < 1.8 else INCONCLUSIVE,
    )


@states("Never compare raw deltas between models; divide by the emotion vector's length.", "across_steering_contrasts")
def _raw(tables: Tables) -> Finding | None:
    rows = select(tables["across_steering_contrasts"], metric="ratio")
    if rows.empty:
        return None
    # Of either pair the larger delta over the smaller one, whichever way round they stand.
    inverse = rows.assign(value=1 / rows["value"], low=1 / rows["high"], high=1 / rows["low"])
    ratios = pd.concat([rows[~(rows["value"] < 1)], inverse[rows["value"] < 1]]).sort_index()
    largest = _by(ratios.loc[ratios.groupby("measure")["value"].idxmax()], "measure")
    raw, corrected = largest["raw_delta"], largest["delta_in_gaps"]
    return Finding(
        f"largest ratio between two models' deltas: raw {_estimate(raw)}, in lengths of the emotion's own vector "
        f"{_estimate(corrected)}; n = {raw['n']:.0f} emotions. The raw one is that of the residual norms by arithmetic",
        _above(raw, corrected),
    )


@states("Name the method with every geometry: two methods in one model can differ more than two models.", "across_rdm")
def _geometries(tables: Tables) -> Finding | None:
    rows = select(tables["across_rdm"], same_pooling=True)
    if "same_instrument" in rows:
        rows = select(rows, same_instrument=True, instrument_a=rows["instrument_a"].iloc[0])
    methods = select(rows, same_model=True, same_method=False)
    models = select(rows, same_model=False, method_a="comprehension", method_b="comprehension")
    if methods.empty or models.empty:
        return None
    closest, farthest = (
        {"low": part["low"].min(), "high": part["high"].max(), "value": np.nan} for part in (models, methods)
    )
    return Finding(
        f"RDM ρ between two models read the same way {models['value'].min():.2f} to {models['value'].max():.2f}; "
        f"between the two methods in one model {methods['value'].min():.2f} to {methods['value'].max():.2f}; "
        f"n = {rows['n'].iloc[0]:.0f} emotions",
        _above(closest, farthest),
    )
