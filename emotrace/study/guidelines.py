"""Rules for extracting and steering emotions in an open model (C12), each beside what a run measured of it.

The paper's guidelines are not public; these are ours. Every rule is a function of one model's tables (or of those over
models) that says what was measured and whether it bears the rule out: *yes*, *no*, or *open* where the intervals do not
decide. ``docs/guidelines.md`` says the same at leisure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from emotrace.judges import regimes
from emotrace.measures import statistics
from emotrace.study.across.claims import MODEL as ALL
from emotrace.study.folder import select
from emotrace.study.verdicts import format_interval, format_number

YES, NO, OPEN = "yes", "no", "open"
Tables = dict[str, pd.DataFrame]


class Finding(NamedTuple):
    """What was measured, in words, and whether it bears the rule out."""

    measured: str
    verdict: str


class Rule(NamedTuple):
    """What to do; the tables it rests on, the first of which is named in the report; how it is tested."""

    text: str
    needs: tuple[str, ...]
    find: Callable[[Tables], Finding | None]
    over_models: bool = False


def rules(tables: Tables) -> list[dict[str, Any]]:
    """The rules that a run's tables can speak to.

    Returns:
        One a rule: ``rule``; ``table``, where the numbers come from; ``findings``, one a model with ``model, measured,
        verdict``; ``verdict`` over them: ``yes``, ``no``, ``open``, or ``yes in 2 of 3 models``.
    """
    models = [name for name in dict.fromkeys(tables.get("claims", pd.DataFrame({"model": []}))["model"]) if name != ALL]
    found = []
    for rule in RULES:
        findings = []
        for model in [ALL] if rule.over_models else models:
            mine = tables if rule.over_models else _of(tables, model)
            if all(len(mine.get(name, ())) for name in rule.needs) and (finding := rule.find(mine)):
                findings.append({"model": model, **finding._asdict()})
        if findings:
            found.append({
                "rule": rule.text, "table": rule.needs[0], "findings": findings,
                "verdict": _overall([each["verdict"] for each in findings]),
            })  # fmt: skip
    return found


def _of(tables: Tables, model: str) -> Tables:
    return {name: select(table, model=model) for name, table in tables.items() if "model" in table}


def _overall(verdicts: list[str]) -> str:
    if len(set(verdicts)) == 1:
        return verdicts[0]
    return f"yes in {verdicts.count(YES)} of {len(verdicts)} models"


def _said(row: Any, low: str = "low", high: str = "high", value: str = "value") -> str:
    """``0.59 (0.52 to 0.65)``."""
    return f"{format_number(row[value])} ({format_interval(row[low], row[high])})"


def _above(first: Any, second: Any) -> str:
    """Whether the first of two estimates is above the second beyond both intervals."""
    return YES if first["low"] > second["high"] else NO if first["high"] < second["low"] else OPEN


# -- extraction ---------------------------------------------------------------------------------------------------------


def _layer(tables: Tables) -> Finding:
    rows = select(tables["localisation"], pooling="mean").set_index("criterion")
    raw, decoding = rows.loc["cosine"], rows.loc["nearest_centroid"]
    apart = raw["low"] > decoding["high"] or decoding["low"] > raw["high"]
    return Finding(
        f"mean over tokens: the raw cosine is lowest at depth {_said(raw, value='depth')}, the emotion of texts on unseen topics is "
        f"read best at {_said(decoding, value='depth')}; n = {raw['n']:.0f} topics",
        YES if apart else NO,
    )


def _pooling(tables: Tables) -> Finding:
    rows = select(tables["localisation"], criterion="nearest_centroid").set_index("pooling")
    mean, last = (
        {"value": row["held_out"], "low": row["held_low"], "high": row["held_high"]}
        for row in (rows.loc["mean"], rows.loc["last"])
    )
    return Finding(
        f"accuracy over 20 emotions on held-out topics: mean over tokens {_said(mean)}, last token {_said(last)}", _above(mean, last)
    )  # fmt: skip


def _words(tables: Tables) -> Finding:
    rows = select(tables["separation"], pooling="mean", metric="logistic_regression")
    words, best = select(rows, layer=0).iloc[0], rows.loc[rows["value"].idxmax()]
    return Finding(
        f"averaged embeddings alone: accuracy {_said(words)}, chance {format_number(words['null'])}; the best layer: {_said(best)}",
        YES if words["low"] > words["null"] else NO,
    )


def _baselines(tables: Tables) -> Finding:
    located = select(tables["localisation"], pooling="last", criterion="shuffle_excess").iloc[0]
    row = select(tables["separation"], pooling="last", metric="cosine", layer=located["layer"]).iloc[0]
    rest = (1 - row["null"]) / (1 - row["value"])
    return Finding(
        f"layer {located['layer']:.0f}, last token, the layer most in its favour: centroid cosine {_said(row)}, with labels shuffled within topics "
        f"{format_number(row['null'])}: {rest:.0%} of the distance from 1 is not the emotion's",
        YES if rest >= 0.25 else NO,
    )


def _cell(table: pd.DataFrame, author: str, frame: str) -> pd.Series | None:
    rows = select(table, author=author, frame=frame, pooling="mean", components="kept", metric="nearest_centroid")
    return rows.loc[rows["texts"].idxmax()] if len(rows) else None


def _frame(tables: Tables) -> Finding | None:
    plain, unnamed, chat = (_cell(tables["factorial"], "self", frame) for frame in ("plain", "unnamed", "chat"))
    if plain is None or unnamed is None or chat is None:
        return None
    return Finding(
        f"the model's own stories, accuracy: read plain {_said(plain)}, after the request without the feeling {_said(unnamed)}, after the "
        f"request that names it {_said(chat)}; n = {chat['n']:.0f} topics",
        _above(chat, unnamed),
    )


def _author(tables: Tables) -> Finding | None:
    rows = select(tables["factorial_effects"], kind="decomposition", metric="nearest_centroid", factor="author")
    if rows.empty:
        return None
    row = rows.iloc[0]
    return Finding(
        f"what the model's own authorship adds to accuracy, against our passages: {_said(row)}; n = {row['n']:.0f} topics",
        YES if row["high"] < 0 else NO if row["low"] > 0 else OPEN,
    )


# -- steering -----------------------------------------------------------------------------------------------------------


def _at(table: pd.DataFrame, emotion: str) -> pd.DataFrame:
    return (
        select(table, emotion=emotion)
        .assign(relative=lambda rows: rows["relative"].round(6))
        .set_index("relative")
        .sort_index()
    )


def _calibrate(tables: Tables) -> Finding:
    rows = _at(tables["regimes"], "all")
    at, far = rows.loc[1.0], rows.iloc[-1]
    return Finding(
        f"coherent texts at the calibrated strength {_said(at)}, at {rows.index[-1]:g} × it {_said(far)}; n = {at['n']:.0f} texts",
        _above(at, far),
    )


def _control(tables: Tables) -> Finding:
    own, random = _at(tables["regimes"], "all").loc[1.0], _at(tables["regimes"], "random").loc[1.0]
    apart = own["low"] > random["high"] or random["low"] > own["high"]
    return Finding(
        f"coherent texts at the calibrated strength: emotions' vectors {_said(own)}, random directions of the same norm {_said(random)}",
        YES if apart else OPEN,
    )


def _repetition(tables: Tables) -> Finding | None:
    rows = tables["regimes"]
    rows = rows[(rows["regime"] == regimes.REPETITIVE) & ~rows["emotion"].isin(["all", "random", "unsteered"])]
    if rows.empty:
        return None
    hidden = statistics.wilson(int((rows["perplexity_ratio"] < regimes.DEFAULT.ratio).sum()), len(rows))
    return Finding(
        f"of the {len(rows)} directions × strengths that mostly collapse into repetition, {hidden.value:.0%} "
        f"({format_interval(hidden.low, hidden.high)}) have a median perplexity ratio under {regimes.DEFAULT.ratio:g}",
        YES if hidden.low > 0.5 else OPEN,
    )


def _judge(tables: Tables) -> Finding:
    table = tables["verification"]
    strict = statistics.wilson(int(table["success"].sum()), len(table))
    lenient = statistics.wilson(int((table["rise"] > 0).sum()), len(table))
    chance = table["random_positive"].mean()
    return Finding(
        f"the score rises at all in {_said(lenient._asdict())} of {len(table)} scenarios, and so it does under random directions in "
        f"{format_number(chance)}; above all of them in {_said(strict._asdict())}",
        YES if lenient.low > strict.high else OPEN,
    )


def _scripts(tables: Tables) -> Finding | None:
    rows = tables["crosslingual"]
    rows = rows[(rows["metric"] == "alignment") & (rows["readout"] == "steered") & (rows["language"] == "zh")]
    rows = rows[rows["strength"].isna() & (rows["emotion"] == "all")]
    if rows.empty or pd.isna(rows["value"].iloc[0]):
        return None
    row = rows.iloc[0]
    return Finding(
        f"an emotion's own Chinese words above the other emotions': {_said(row)} SD, p = {format_number(row['p'])} (m = {row['m']:.0f})",
        YES if row["low"] > 0 and row["p"] < 0.05 else OPEN,
    )


# -- over models --------------------------------------------------------------------------------------------------------


def _strengths(tables: Tables) -> Finding | None:
    rows = select(tables["across_steering"], relative=1.0).drop_duplicates("model")
    if len(rows) < 2:
        return None
    told = ", ".join(f"{row.model} {row.strength:.3g}" for row in rows.itertuples())
    return Finding(
        f"largest strength that leaves 90% of texts coherent, in residual norms: {told} (each found to within 20%)",
        YES if rows["strength"].max() > 1.44 * rows["strength"].min() else NO,
    )


def _raw(tables: Tables) -> Finding | None:
    rows = select(tables["across_steering_contrasts"], metric="ratio")
    if rows.empty:
        return None
    largest = {}
    for measure, some in rows.groupby("measure"):
        flipped = some["value"] < 1
        some = some.assign(
            value=some["value"].where(~flipped, 1 / some["value"]), low=some["low"].where(~flipped, 1 / some["high"]),
            high=some["high"].where(~flipped, 1 / some["low"]),
        )  # fmt: skip
        largest[measure] = some.loc[some["value"].idxmax()]
    raw, fixed = largest["raw_delta"], largest["delta_in_gaps"]
    return Finding(
        f"largest ratio between two models' deltas: raw {_said(raw)}, in lengths of the emotion's own vector {_said(fixed)}; n = {raw['n']:.0f} emotions",
        _above(raw, fixed),
    )


def _geometries(tables: Tables) -> Finding | None:
    rows = tables["across_rdm"]
    rows = rows[rows["same_pooling"].astype(bool)]
    methods = rows[rows["same_model"].astype(bool) & ~rows["same_method"].astype(bool)]
    models = rows[~rows["same_model"].astype(bool) & (rows["method_a"] == "comprehension")]
    models = models[models["method_b"] == "comprehension"]
    if methods.empty or models.empty:
        return None
    return Finding(
        f"RDM ρ between two models read the same way {models['value'].min():.2f} to {models['value'].max():.2f}; between the two methods in one "
        f"model {methods['value'].min():.2f} to {methods['value'].max():.2f}; n = {rows['n'].iloc[0]:.0f} emotions",
        YES if methods["high"].max() < models["low"].min() else OPEN,
    )


RULES = (
    Rule("Choose the layer by decoding held-out topics over all layers, not by the lowest raw cosine.", ("localisation",), _layer),
    Rule("Pool over the text's tokens rather than read its last one.", ("localisation",), _pooling),
    Rule("Put a bag-of-embeddings baseline beside every decoding score.", ("separation",), _words),
    Rule("Put shuffled labels beside every centroid cosine: a good part of the separation is not the emotion's.", ("separation", "localisation"), _baselines),
    Rule("Read generated texts without the request that names the feeling: it leaks the label.", ("factorial",), _frame),
    Rule("In small models, use texts by a strong outside writer, not the model's own.", ("factorial_effects",), _author),
    Rule("Calibrate the strength on coherence, for each model; report multiples of it.", ("regimes",), _calibrate),
    Rule("Use other emotions' vectors as a control beside random directions: equal norm is not equal harm.", ("regimes",), _control),
    Rule("Measure repetition beside perplexity: a loop is easy to predict.", ("regimes",), _repetition),
    Rule("Count a success against controls; a score that rises at all says little.", ("verification",), _judge),
    Rule("In a model with a multilingual vocabulary, look at other scripts too.", ("crosslingual",), _scripts),
    Rule("Do not carry a strength in residual norms from one model to another.", ("across_steering",), _strengths, True),
    Rule("Never compare raw deltas between models; divide by the emotion vector's length.", ("across_steering_contrasts",), _raw, True),
    Rule("Name the method with every geometry: two methods in one model can differ more than two models.", ("across_rdm",), _geometries, True),
)  # fmt: skip
