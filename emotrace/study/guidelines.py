"""Rules for extracting and steering emotions in an open model (C12), each beside what a run measured of it.

The rules are ours: the paper's guidelines are not in its abstract, and its full text could not be read here. Every rule
is a function of one model's tables (or of those over models) that says what was measured and whether it bears the rule
out: *yes*, *no*, *inconclusive* where the intervals do not decide, or *not testable* where the run has nothing that
does. ``docs/guidelines.md`` says the same at leisure.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from emotrace.judges import regimes
from emotrace.measures.statistics import Interval
from emotrace.study import vector_guidelines
from emotrace.study.effects.arms import CALIBRATED
from emotrace.study.effects.crossed import crossed_mean, crossed_rate
from emotrace.study.effects.success import clustered, rate
from emotrace.study.experiment import Tables, emotions_in_words
from emotrace.study.folder import select
from emotrace.study.guideline_list import (
    NO,
    UNTESTED,
    VERDICTS,
    YES,
    Finding,
    Row,
    closer,
    difference,
    interval_of,
    negative,
    of_ceiling,
    positive,
    range_of,
    reaches,
    rows_by,
    rules,
    states,
)
from emotrace.study.languages.claims import ALIGNED
from emotrace.study.verdicts import INCONCLUSIVE, NOT_REPRODUCED, REPRODUCED, Estimate, format_number
from emotrace.study.verdicts import format_estimate as shown

__all__ = ["NO", "UNTESTED", "VERDICTS", "YES", "rules", "vector_guidelines"]


def _calibrated(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the calibrated arm, where there are several."""
    return select(table, arm=CALIBRATED) if "arm" in table else table


# -- extraction ----------------------------------------------------------------------------------------------------


@states(
    "Choose the layer by decoding held-out topics over all layers, not by the lowest raw cosine.",
    "localisation",
    "separation",
)
def _layer(tables: Tables) -> Finding:
    rows = rows_by(select(tables["localisation"], pooling="mean"), "criterion")
    accuracy = rows_by(select(tables["separation"], pooling="mean", metric="nearest_centroid"), "layer")
    raw, decoding = rows["cosine"], rows["nearest_centroid"]
    at_decoding, at_raw = _held_out(decoding), accuracy[raw["chosen_layer"]]
    gap = difference(at_decoding, at_raw)
    return Finding(
        f"mean over tokens: accuracy on unseen topics {shown(at_decoding)} at the layer that decoding chose on half of "
        f"the {raw['n']:.0f} topics (depth {decoding['chosen_depth']:.2f}), on the other half; {shown(at_raw)} at the "
        f"one that the raw cosine chose ({raw['chosen_depth']:.2f}), on all of them, trained on more texts, which "
        f"favours it; difference {shown(gap)}, not paired, so too wide rather than too narrow",
        positive(gap),
    )


def _held_out(row: Row) -> dict[str, float]:
    """What ``localisation`` measured on the half of the topics that did not choose the layer."""
    return {"value": row["held_out"], "low": row["held_low"], "high": row["held_high"]}


@states("Pool over the text's tokens rather than read its last one.", "localisation")
def _pooling(tables: Tables) -> Finding:
    rows = rows_by(select(tables["localisation"], criterion="nearest_centroid"), "pooling")
    mean, last = _held_out(rows["mean"]), _held_out(rows["last"])
    paired = _factor(tables, "pooling", "mean", "last")
    gap = paired or difference(mean, last)
    how = "in the factorial, paired by topic, over the texts and frames that it has" if paired else "not paired"
    return Finding(
        f"the mean over tokens adds {shown(gap)} to the accuracy ({how}); at the layer that decoding chose, over "
        f"{emotions_in_words(tables)} on held-out topics: mean over tokens {shown(mean)}, last token {shown(last)}",
        positive(gap),
    )


def _factor(tables: Tables, factor: str, level: str, reference: str) -> Interval | None:
    """What a level of a factor adds to the accuracy of nearest centroid, paired by topic, over all other factors."""
    rows = tables.get("factorial_effects", pd.DataFrame(columns=["kind", "factor", "level", "reference", "metric"]))
    rows = select(rows, kind="marginal", factor=factor, level=level, reference=reference, metric="nearest_centroid")
    return interval_of(rows.iloc[0]) if len(rows) else None


@states("Put a bag-of-embeddings baseline beside every decoding score.", "separation")
def _words(tables: Tables) -> Finding:
    rows = select(tables["separation"], pooling="mean", metric="logistic_regression")
    words, best = select(rows, layer=0).iloc[0], rows.iloc[rows["value"].argmax()]
    return Finding(
        f"averaged embeddings alone: accuracy {shown(words)}, chance {format_number(words['null'])}; the best layer: "
        f"{shown(best)}; supported if the words alone reach twice chance",
        reaches(interval_of(words), 2 * words["null"]),
    )


@states(
    "Put shuffled labels beside every centroid cosine: a good part of the spread is not the emotion's.", "separation"
)
def _baselines(tables: Tables) -> Finding | None:
    rows = select(tables["separation"], pooling="last", metric="ratio").query("layer > 0")
    if rows.empty:
        return None
    row = rows.iloc[rows["value"].argmax()]
    rest = Interval(1 / row["value"], 1 / row["high"], 1 / row["low"])
    return Finding(
        f"layer {row['layer']:.0f}, last token, the layer most in its favour: R = {shown(row)}, so that "
        f"{rest.value:.0%} of the centroids' distance from 1 is there with labels shuffled within topics; supported if "
        "it is a quarter",
        reaches(rest, 0.25),
    )


def _cell(decoding: pd.DataFrame, author: str, frame: str, pooling: str = "mean") -> Row | None:
    """Nearest centroid's accuracy on an author's texts in a frame, learnt from the same on other topics."""
    texts = {f"{side}_{name}": of for side in ("train", "test") for name, of in (("author", author), ("frame", frame))}
    rows = select(decoding, pooling=pooling, centre="train", **texts)
    return rows.iloc[0] if len(rows) else None


@states(
    "Read texts, generated ones too, without the request that names the feeling: it may leak the label.",
    "factorial_decoding",
    "factorial_effects",
)
def _frame(tables: Tables) -> Finding | None:
    decoding = tables["factorial_decoding"]
    plain, unnamed, chat = (_cell(decoding, "self", frame) for frame in ("plain", "unnamed", "chat"))
    gap = _factor(tables, "frame", "chat", "unnamed")
    if plain is None or unnamed is None or chat is None or gap is None:
        return None
    return Finding(
        f"naming the feeling in the request adds {shown(gap)} to the accuracy (paired by topic, mean over all authors "
        f"and both poolings); the model's own stories alone, mean over tokens: read plain {shown(plain)}, after the "
        f"request without the feeling {shown(unnamed)}, after the one that names it {shown(chat)}; "
        f"n = {chat['n']:.0f} topics",
        positive(gap),
    )


@states(
    "Decode the model's own stories before extracting from them: they may not carry the feeling.",
    "factorial_decoding",
    "factorial_effects",
)
def _author(tables: Tables) -> Finding | None:
    own, ours = (_cell(tables["factorial_decoding"], author, "plain") for author in ("self", "ours"))
    gap = _factor(tables, "author", "self", "ours")
    if own is None or ours is None or gap is None:
        return None
    return Finding(
        f"accuracy on the model's own stories minus that on our passages, the one outside writer that was tried: "
        f"{shown(gap)} (paired by topic, mean over frames and poolings); read plain, mean over tokens: stories "
        f"{shown(own)}, passages {shown(ours)}, chance {format_number(own['chance'])}; n = {own['n']:.0f} topics",
        negative(gap),
    )


# -- steering ------------------------------------------------------------------------------------------------------


def _over_strengths(tables: Tables, directions: str) -> dict[float, Row]:
    """Regimes under these directions by the multiple of the calibrated strength, the largest last."""
    rows = _calibrated(select(tables["regimes"], emotion=directions))
    return rows_by(rows.assign(relative=rows["relative"].round(6)), "relative")


_TOGETHER = ("all", "random", "permuted", "unsteered")
"""Rows of ``regimes`` that are not of one direction."""


@states("Calibrate the strength on coherence, for each model; report multiples of it.", "regimes")
def _calibrate(tables: Tables) -> Finding | None:
    rows = _over_strengths(tables, "all")
    calibrated, (relative, largest) = rows[1.0], list(rows.items())[-1]
    each = _calibrated(tables["regimes"]).assign(relative=lambda table: table["relative"].round(6))
    each = each[~each["emotion"].str.fullmatch(r"all|unsteered|(permuted|random)(-\d+)?")]
    shares = each.pivot_table(index="emotion", columns="relative", values="value")
    if relative == 1 or not {1.0, relative} <= set(shares):
        return None
    lost = crossed_mean((shares[1.0] - shares[relative]).dropna().to_numpy()[:, None])
    gap = Interval(*np.clip(lost[:3], -1, 1))
    return Finding(
        f"coherent texts at the calibrated strength {shown(calibrated)}, at {relative:g} × it {shown(largest)}, "
        f"n = {calibrated['n']:.0f} and {largest['n']:.0f} texts; lost, paired by emotion, {shown(gap)}",
        positive(gap),
    )


@states("Take permuted-label vectors as the control: Gaussian directions of equal norm may break the text.", "regimes")
def _control(tables: Tables) -> Finding | None:
    permuted, random = (_over_strengths(tables, directions).get(1.0) for directions in ("permuted", "random"))
    if permuted is None or random is None:
        return None
    lost = difference(permuted, random)
    return Finding(
        f"coherent texts at the calibrated strength: permuted-label vectors {shown(permuted)}, Gaussian directions "
        f"of the same norm {shown(random)}; not supported if they lose less than a tenth",
        NO if lost.high < 0.1 else positive(lost),
    )


@states("Measure repetition beside perplexity: a loop is easy to predict.", "regimes")
def _repetition(tables: Tables) -> Finding | None:
    rows = select(_calibrated(tables["regimes"]), regime=regimes.REPETITIVE)
    rows = rows[~rows["emotion"].isin(_TOGETHER)]
    if rows.empty:
        return None
    hidden = rate(rows.assign(hidden=rows["perplexity_ratio"] < regimes.DEFAULT.ratio), "hidden")
    return Finding(
        f"of the {len(rows)} directions × strengths ({rows['emotion'].nunique()} directions) that mostly collapse into "
        f"repetition, a share of {shown(hidden)}, over directions, has a median perplexity ratio under "
        f"{regimes.DEFAULT.ratio:g}; supported if a quarter do",
        reaches(hidden, 0.25),
    )


@states("Count a success against controls; a score that rises at all says little.", "verification")
def _judge(tables: Tables) -> Finding | None:
    table = _calibrated(tables["verification"])
    if table.empty or "permuted_positive" not in table:
        return None
    lenient, strict = rate(table.assign(rises=table["rise"] > 0), "rises"), rate(table, "success")
    control = crossed_rate(clustered(table, "permuted_positive")[:, None], int(table["m"].sum()))
    return Finding(
        f"the score rises at all in {shown(lenient)} of {len(table)} scenarios, and under permuted-label vectors in "
        f"{shown(control)}; above all of these in {shown(strict)}; intervals over emotions; supported if it rises in a "
        "fifth under vectors that hold no feeling",
        reaches(control, 0.2),
    )


@states("Ask the model for the feeling before you steer it there: a request may do more.", "prompting")
def _asking(tables: Tables) -> Finding | None:
    rows = select(tables["prompting"], where="scenarios", metric="success", emotion="all")
    for row in rows.to_dict("records"):  # one
        asked, steered = format_number(row["prompting"]), format_number(row["steering"])
        return Finding(
            f"scenarios that the judge confirms: asked {asked}, steered {steered}; steered minus asked {shown(row)}; "
            f"n = {row['n']:.0f} emotions; supported if the interval lies below 0",
            negative(interval_of(row)),
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
        f"among Chinese tokens an emotion's own words above the other emotions': {shown(row)} SD, p = "
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
    largest = rows_by(ratios.loc[ratios.groupby("measure")["value"].idxmax()], "measure")
    raw, corrected = largest["raw_delta"], largest["delta_in_gaps"]
    logs = [{name: np.log(row[name]) for name in ("value", "low", "high")} for row in (raw, corrected)]
    return Finding(
        f"largest ratio between two models' deltas: raw {shown(raw)}, in lengths of the emotion's own vector "
        f"{shown(corrected)}; n = {raw['n']:.0f} emotions. The raw one is that of the residual norms by arithmetic",
        positive(difference(*logs)),
    )


@states("Name the method with every geometry: two methods in one model can differ more than two models.", "across_rdm")
def _geometries(tables: Tables) -> Finding | None:
    rows, texts = select(tables["across_rdm"], same_pooling=True), "texts"
    if "same_instrument" in rows:
        texts = rows["instrument_a"].iloc[0]
        rows = select(rows, same_instrument=True, instrument_a=texts)
    methods = select(rows, same_model=True, same_method=False)
    models = select(rows, same_model=False, method_a="comprehension", method_b="comprehension")
    if methods.empty or models.empty:
        return None
    measured = (
        f"RDM ρ between two models that read the same {texts} {range_of(models['value'])}; between the two methods "
    )
    measured += f"in one model {range_of(methods['value'])}; n = {rows['n'].iloc[0]:.0f} emotions"
    of_models, of_methods = of_ceiling(models), of_ceiling(methods)
    if len(of_models) and len(of_methods):
        shares = f"{range_of(of_models['value'])} and {range_of(of_methods['value'])} of the most that noise allows"
        return Finding(f"{measured}; from halves of the topics {shares}", closer(of_models, of_methods))
    decoded, heard = _decoded_stories(tables, methods)
    measured += f". How far noise lets stories agree is not known. Their feeling, read plain, is decoded: {decoded}"
    if heard.empty:
        return Finding(f"{measured}. Their geometry may be noise", UNTESTED)
    # Noise lowers ρ between methods, which have unlike texts: with no ceiling a low one shows nothing, a high one does.
    return Finding(measured, NO if closer(models, heard) == NO else INCONCLUSIVE)


def _decoded_stories(tables: Tables, pairs: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """How well own stories are decoded, in words, and the pairs of methods whose stories are decoded above chance.

    Read plain: after the request that names the feeling they could be decoded by that name.
    """
    words, heard = [], []
    for index, pair in pairs.iterrows() if "factorial_decoding" in tables else ():
        own = select(tables["factorial_decoding"], model=pair["model_a"])
        if (cell := _cell(own, "self", "plain", pair["pooling_a"])) is not None:
            chance = format_number(cell["chance"])
            words.append(f"{pair['model_a']} ({pair['pooling_a']}) {shown(cell)}, chance {chance}")
            heard += [index] if cell["low"] > cell["chance"] else []
    return "; ".join(words) or "not measured", pairs.loc[heard]
