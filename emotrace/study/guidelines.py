"""Rules for extracting and steering emotions in an open model (C12), each beside what a run measured of it.

The rules are ours: the paper's guidelines are not in its abstract, and its full text could not be read here. Every rule
is a function of one model's tables (or of those over models) that says what was measured and whether it bears the rule
out: *yes*, *no*, or *open* where the intervals do not decide. ``docs/guidelines.md`` says the same at leisure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import pandas as pd

from emotrace.judges import regimes
from emotrace.measures import statistics
from emotrace.study.experiment import Tables, of_model
from emotrace.study.folder import select
from emotrace.study.verdicts import ALL_MODELS, format_interval, format_number

YES, NO, OPEN = "yes", "no", "open"
Row: TypeAlias = Mapping[Any, Any] | pd.Series
"""An estimate: ``value, low, high``."""


class Finding(NamedTuple):
    """What was measured, in words, and whether it bears the rule out."""

    measured: str
    verdict: str


class Rule(NamedTuple):
    """What to do; the tables it rests on, the first of which is named in the report; how they test it."""

    text: str
    tables: tuple[str, ...]
    find: Callable[[Tables], Finding | None]

    @property
    def over_models(self) -> bool:
        return self.tables[0].startswith("across_")


RULES: list[Rule] = []


def states(text: str, *tables: str) -> Callable[[Callable[[Tables], Finding | None]], None]:
    """Makes a function of these tables, called where each of them has rows, the test of a rule."""
    return lambda find: RULES.append(Rule(text, tables, find))


def rules(tables: Tables) -> list[dict[str, Any]]:
    """The rules that a run's tables can speak to.

    Returns:
        One a rule: ``rule``; ``table``, where the numbers come from; ``findings``, one a model with ``model, measured,
        verdict``; ``verdict`` over them: ``yes``, ``no``, ``open``, or ``yes in 2 of 3 models``.
    """
    models = [name for name in tables["claims"]["model"].unique() if name != ALL_MODELS] if "claims" in tables else []
    by_model = {model: of_model(tables, model) for model in models}
    stated = []
    for rule in RULES:
        findings = []
        for model, own in {ALL_MODELS: tables}.items() if rule.over_models else by_model.items():
            if all(len(own.get(name, ())) for name in rule.tables) and (finding := rule.find(own)):
                findings.append({"model": model, **finding._asdict()})
        if findings:
            verdicts = [finding["verdict"] for finding in findings]
            several = f"yes in {verdicts.count(YES)} of {len(verdicts)} models"
            verdict = verdicts[0] if len(set(verdicts)) == 1 else several
            stated.append({"rule": rule.text, "table": rule.tables[0], "findings": findings, "verdict": verdict})
    return stated


def _by(rows: pd.DataFrame, column: str) -> dict[Any, Row]:
    """The rows by what they have in a column, in its order."""
    return dict(rows.sort_values(column).set_index(column).to_dict("index"))


def _estimate(row: Row, value: str = "value") -> str:
    """``0.59 (0.52 to 0.65)``."""
    return f"{format_number(row[value])} ({format_interval(row['low'], row['high'])})"


def _above(first: Row, second: Row) -> str:
    """Whether the first of two estimates is above the second beyond both intervals."""
    return YES if first["low"] > second["high"] else NO if first["high"] < second["low"] else OPEN


# -- extraction ----------------------------------------------------------------------------------------------------


@states("Choose the layer by decoding held-out topics over all layers, not by the lowest raw cosine.", "localisation")
def _layer(tables: Tables) -> Finding:
    rows = _by(select(tables["localisation"], pooling="mean"), "criterion")
    raw, decoding = rows["cosine"], rows["nearest_centroid"]
    return Finding(
        f"mean over tokens: the raw cosine is lowest at depth {_estimate(raw, 'depth')}, the emotion of texts on "
        f"unseen topics is read best at {_estimate(decoding, 'depth')}; n = {raw['n']:.0f} topics",
        NO if _above(raw, decoding) == OPEN else YES,
    )


@states("Pool over the text's tokens rather than read its last one.", "localisation")
def _pooling(tables: Tables) -> Finding:
    rows = select(tables["localisation"], criterion="nearest_centroid")
    rows = rows.assign(value=rows["held_out"], low=rows["held_low"], high=rows["held_high"])
    mean, last = (_by(rows, "pooling")[pooling] for pooling in ("mean", "last"))
    return Finding(
        f"accuracy over 20 emotions on held-out topics: mean over tokens {_estimate(mean)}, last token "
        f"{_estimate(last)}",
        _above(mean, last),
    )


@states("Put a bag-of-embeddings baseline beside every decoding score.", "separation")
def _words(tables: Tables) -> Finding:
    rows = select(tables["separation"], pooling="mean", metric="logistic_regression")
    words, best = select(rows, layer=0).iloc[0], rows.iloc[rows["value"].argmax()]
    return Finding(
        f"averaged embeddings alone: accuracy {_estimate(words)}, chance {format_number(words['null'])}; the best "
        f"layer: {_estimate(best)}",
        YES if words["low"] > words["null"] else NO,
    )


@states(
    "Put shuffled labels beside every centroid cosine: a good part of the separation is not the emotion's.",
    "separation",
    "localisation",
)
def _baselines(tables: Tables) -> Finding:
    layer = select(tables["localisation"], pooling="last", criterion="shuffle_excess").iloc[0]["layer"]
    row = select(tables["separation"], pooling="last", metric="cosine", layer=layer).iloc[0]
    rest = (1 - row["null"]) / (1 - row["value"])
    return Finding(
        f"layer {layer:.0f}, last token, the layer most in its favour: centroid cosine {_estimate(row)}, with labels "
        f"shuffled within topics {format_number(row['null'])}: {rest:.0%} of the distance from 1 is not the emotion's",
        YES if rest >= 0.25 else NO,
    )


def _cell(table: pd.DataFrame, author: str, frame: str) -> pd.Series | None:
    """Nearest centroid's accuracy in one cell of the factorial, with the most texts."""
    rows = select(table, author=author, frame=frame, pooling="mean", components="kept", metric="nearest_centroid")
    return rows.iloc[rows["texts"].argmax()] if len(rows) else None


@states("Read generated texts without the request that names the feeling: it leaks the label.", "factorial")
def _frame(tables: Tables) -> Finding | None:
    plain, unnamed, chat = (_cell(tables["factorial"], "self", frame) for frame in ("plain", "unnamed", "chat"))
    if plain is None or unnamed is None or chat is None:
        return None
    return Finding(
        f"the model's own stories, accuracy: read plain {_estimate(plain)}, after the request without the feeling "
        f"{_estimate(unnamed)}, after the request that names it {_estimate(chat)}; n = {chat['n']:.0f} topics",
        _above(chat, unnamed),
    )


@states("In small models, use texts by a strong outside writer, not the model's own.", "factorial_effects")
def _author(tables: Tables) -> Finding | None:
    rows = select(tables["factorial_effects"], kind="decomposition", metric="nearest_centroid", factor="author")
    if rows.empty:
        return None
    row = rows.iloc[0]
    return Finding(
        f"what the model's own authorship adds to accuracy, against our passages: {_estimate(row)}; "
        f"n = {row['n']:.0f} topics",
        YES if row["high"] < 0 else NO if row["low"] > 0 else OPEN,
    )


# -- steering ------------------------------------------------------------------------------------------------------


def _over_strengths(tables: Tables, directions: str) -> dict[float, Row]:
    """Regimes under these directions by the multiple of the calibrated strength, the largest last."""
    rows = select(tables["regimes"], emotion=directions)
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


@states("Use other emotions' vectors as a control beside random directions: equal norm is not equal harm.", "regimes")
def _control(tables: Tables) -> Finding:
    own, random = (_over_strengths(tables, directions)[1.0] for directions in ("all", "random"))
    return Finding(
        f"coherent texts at the calibrated strength: emotions' vectors {_estimate(own)}, random directions of the same "
        f"norm {_estimate(random)}",
        OPEN if _above(own, random) == OPEN else YES,
    )


@states("Measure repetition beside perplexity: a loop is easy to predict.", "regimes")
def _repetition(tables: Tables) -> Finding | None:
    rows = select(tables["regimes"], regime=regimes.REPETITIVE)
    rows = rows[~rows["emotion"].isin(["all", "random", "unsteered"])]
    if rows.empty:
        return None
    hidden = statistics.wilson(int((rows["perplexity_ratio"] < regimes.DEFAULT.ratio).sum()), len(rows))
    return Finding(
        f"of the {len(rows)} directions × strengths that mostly collapse into repetition, {hidden.value:.0%} "
        f"({format_interval(hidden.low, hidden.high)}) have a median perplexity ratio under {regimes.DEFAULT.ratio:g}",
        YES if hidden.low > 0.5 else OPEN,
    )


@states("Count a success against controls; a score that rises at all says little.", "verification")
def _judge(tables: Tables) -> Finding:
    table = tables["verification"]
    strict = statistics.wilson(int(table["success"].sum()), len(table))
    lenient = statistics.wilson(int((table["rise"] > 0).sum()), len(table))
    return Finding(
        f"the score rises at all in {_estimate(lenient._asdict())} of {len(table)} scenarios, and so it does under "
        f"random directions in {format_number(table['random_positive'].mean())}; above all of them in "
        f"{_estimate(strict._asdict())}",
        YES if lenient.low > strict.high else OPEN,
    )


@states("In a model with a multilingual vocabulary, look at other scripts too.", "crosslingual")
def _scripts(tables: Tables) -> Finding | None:
    rows = select(tables["crosslingual"], metric="alignment", readout="steered", language="zh", emotion="all")
    rows = rows[rows["strength"].isna()]
    if rows.empty or pd.isna(rows["value"].iloc[0]):
        return None
    row = rows.iloc[0]
    return Finding(
        f"an emotion's own Chinese words above the other emotions': {_estimate(row)} SD, p = {format_number(row['p'])} "
        f"(m = {row['m']:.0f})",
        YES if row["low"] > 0 and row["p"] < 0.05 else OPEN,
    )


# -- over models ---------------------------------------------------------------------------------------------------


@states("Do not carry a strength in residual norms from one model to another.", "across_steering")
def _strengths(tables: Tables) -> Finding | None:
    rows = select(tables["across_steering"], relative=1.0).drop_duplicates("model")
    if len(rows) < 2:
        return None
    strengths = ", ".join(f"{row.model} {row.strength:.3g}" for row in rows.itertuples())
    return Finding(
        f"largest strength that leaves 90% of texts coherent, in residual norms: {strengths} (each found to within "
        "20%)",
        YES if rows["strength"].max() > 1.44 * rows["strength"].min() else NO,
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
        f"{_estimate(corrected)}; n = {raw['n']:.0f} emotions",
        _above(raw, corrected),
    )


@states("Name the method with every geometry: two methods in one model can differ more than two models.", "across_rdm")
def _geometries(tables: Tables) -> Finding | None:
    rows = select(tables["across_rdm"], same_pooling=True)
    methods = select(rows, same_model=True, same_method=False)
    models = select(rows, same_model=False, method_a="comprehension", method_b="comprehension")
    if methods.empty or models.empty:
        return None
    return Finding(
        f"RDM ρ between two models read the same way {models['value'].min():.2f} to {models['value'].max():.2f}; "
        f"between the two methods in one model {methods['value'].min():.2f} to {methods['value'].max():.2f}; "
        f"n = {rows['n'].iloc[0]:.0f} emotions",
        YES if methods["high"].max() < models["low"].min() else OPEN,
    )
