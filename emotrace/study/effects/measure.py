"""The steering experiments of a run: calibration → dose response and regimes → verification, each as tidy tables.

Vectors, layer and strength are those of :class:`~emotrace.study.steered.Steering`; strengths are multiples of the
calibrated one.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from emotrace import activations
from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.instrument.instrument import Instrument
from emotrace.judges import regimes
from emotrace.judges.classifiers import emotion_scores, known_labels
from emotrace.judges.confirmation import Rule
from emotrace.measures import statistics
from emotrace.study.effects import arms as arms_of
from emotrace.study.effects import contrasts, dose, prompting, verification
from emotrace.study.effects.arms import CALIBRATED, EMOTION, GAUSSIAN, PERMUTED, PUBLISHED, Arm, framed
from emotrace.study.effects.ceilings import ceilings
from emotrace.study.effects.crossed import crossed_rate
from emotrace.study.effects.sweep import Sweep, sweep, text_readings
from emotrace.study.experiment import Results, Tables
from emotrace.study.folder import select
from emotrace.study.steered import POOLING, Steering, prepare
from emotrace.study.study import Study

# -- calibration ------------------------------------------------------------------------------------------------------


def calibration(study: Study, tables: Tables) -> Results:
    """The window of strengths and the vectors with it (made by ``prepare``), and the unit of a strength."""
    steering = study.once(prepare)
    return Results(
        {"calibration": steering.tried, "residual_norms": residual_norms(study)},
        vectors={("comprehension", POOLING): steering.vectors},
    )


def residual_norms(study: Study) -> pd.DataFrame:
    """``residual_norms``: the mean Euclidean norm of the residual stream at each layer, the unit of a strength."""
    texts = int((corpus.passages()["emotion"] == corpus.NEUTRAL).sum())

    def compute() -> list[dict[str, Any]]:
        return [
            {"model": study.model_name, "layer": layer, "depth": layer / study.n_layers, "value": norm, "n": texts}
            for layer, norm in enumerate(activations.residual_norms(study.model))
        ]

    return pd.DataFrame(study.unit("residual norms", compute))


# -- dose response and regimes ----------------------------------------------------------------------------------------


def dose_response(study: Study, tables: Tables) -> Results:
    """``dose_response``, ``monotonicity``, ``steering_effects``, ``steerability``, and every text they rest on."""
    steering, sweeps = study.once(prepare), study.once(_sweeps)
    make = {
        "dose_response": dose.response,
        "monotonicity": dose.trends,
        "steering_effects": contrasts.effects,
        "steerability": dose.steerability,
    }
    made = {
        name: pd.concat([framed(steering, arm, of(swept)) for arm, swept in sweeps], ignore_index=True)
        for name, of in make.items()
    }
    texts = [framed(steering, arm, swept.texts.drop(columns="tokens")) for arm, swept in sweeps]
    return Results(made, {"steered": pd.concat(texts, ignore_index=True)})


def regime_tables(study: Study, tables: Tables) -> Results:
    """``regimes`` and ``regime_sensitivity``, of the texts of the dose response."""
    steering, sweeps = study.once(prepare), study.once(_sweeps)
    made = {
        name: pd.concat([framed(steering, arm, of(swept.texts)) for arm, swept in sweeps], ignore_index=True)
        for name, of in {"regimes": regime_shares, "regime_sensitivity": sensitivity}.items()
    }
    return Results(made)


def _sweeps(study: Study) -> list[tuple[Arm, Sweep]]:
    """The sweep of each arm."""
    steering, settings = study.once(prepare), study.settings
    arms = [arms_of.calibrated(steering, settings.dose_permuted)]
    if settings.published_doses:
        arms.append(arms_of.published(steering, settings.published_permuted))
    return [(arm, _swept(steering, arm)) for arm in arms]


def _swept(steering: Steering, arm: Arm) -> Sweep:
    def compute() -> list[dict[str, Any]]:
        swept = sweep(steering, arm)
        values = {name: value.tolist() for name, value in swept.values.items()}
        return [{"texts": swept.texts.to_dict("records"), "values": values}]

    unit = steering.unit(f"dose sweep, {arm.name}", compute)[0]
    values = {name: np.array(value, dtype=np.float64) for name, value in unit["values"].items()}
    return Sweep(pd.DataFrame(unit["texts"]), values, arm.vectors.emotions, arm.strength)


GROUPS = {"all": EMOTION, "permuted": PERMUTED, "random": GAUSSIAN}
"""Name of all directions of a source together, in the column ``emotion`` of ``regimes``."""


def regime_shares(texts: pd.DataFrame) -> pd.DataFrame:
    """One row a direction and strength: the share of its texts in each regime, and the medians of what decides it.

    ``emotion``: an emotion, ``permuted-N``, ``random-N``, those of a source together (``GROUPS``), or ``unsteered``:
    unsteered texts against the others on their prompt, what the thresholds make of no edit at all. ``value, low,
    high``: the surgical share, with an interval over directions and prompts for directions together (Wilson's for one);
    ``within_2``: the share that is surgical at a perplexity ratio of 2 or less, likewise; ``regime``: the most frequent
    one.
    """
    steered = texts[texts["strength"] != 0]
    groups = dict(list(steered.groupby(["emotion", "strength"], sort=False)))
    for (source, strength), rows in steered.groupby(["source", "strength"], sort=False):
        groups[next(name for name, of in GROUPS.items() if of == source), strength] = rows
    groups["unsteered", 0.0] = texts[texts["strength"] == 0]
    return pd.DataFrame(
        [
            {"emotion": name, "strength": strength, **_regimes_of(rows, name in GROUPS)}
            for (name, strength), rows in groups.items()
        ]
    )


SURGICAL_RATIO = 2.0
"""Ours: what *coherent transformation* still allows. The calibration asks for 4; a text twice as hard to predict as an
unsteered one is already unlike it."""


def _regimes_of(texts: pd.DataFrame, together: bool) -> dict[str, Any]:
    measures = ("perplexity_ratio", "distinct_2", "longest_loop", "real_words")
    surgical = texts["regime"] == regimes.SURGICAL
    intervals = {
        "within_2": surgical & (texts["perplexity_ratio"] <= SURGICAL_RATIO),
        "repetitive_collapse": texts["regime"] == regimes.REPETITIVE,
        "explosive": texts["regime"] == regimes.EXPLOSIVE,
    }
    columns: dict[str, float] = {}
    for name, holds in intervals.items():
        share = _share_of(texts, holds, together)
        columns |= {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
    return {
        "regime": texts["regime"].value_counts().idxmax(),
        **_share_of(texts, surgical, together)._asdict(),
        **columns,
        **_shares(texts["regime"]),
        **{name: float(texts[name].median()) for name in measures},
        "n": len(texts),
    }


def _share_of(texts: pd.DataFrame, holds: pd.Series, together: bool) -> statistics.Interval:
    """The share of texts of which something holds; of several directions ``together`` over them and prompts."""
    if not together or texts["emotion"].nunique() < 2:
        return statistics.wilson(int(holds.sum()), len(texts))
    cells = holds.astype(float).groupby([texts["emotion"], texts["prompt"]]).mean().unstack()
    return crossed_rate(cells.to_numpy(), len(texts))


def _shares(labels: pd.Series) -> dict[str, float]:
    """The share of each regime, in the columns' names."""
    return {regime.replace(" ", "_"): float((labels == regime).mean()) for regime in regimes.REGIMES}


def sensitivity(texts: pd.DataFrame) -> pd.DataFrame:
    """How the shares move when one threshold does: ``variant, strength`` and each regime's share, over all emotions."""
    steered = texts[texts["source"] == EMOTION]
    rows = []
    for variant, thresholds in regimes.Thresholds().variants().items():
        for strength, labels in regimes.label(steered, thresholds).groupby(steered["strength"]):
            rows.append({"variant": variant, "strength": strength, **_shares(labels), "n": len(labels)})
    return pd.DataFrame(rows)


# -- verification -----------------------------------------------------------------------------------------------------


def verify(study: Study, tables: Tables) -> Results:
    """``verification``, one row an arm and scenario, ``judge_ceiling``, ``prompting``, and texts (``scenarios``)."""
    steering, settings, facts = study.once(prepare), study.settings, _scenarios(study.source).set_index("id")
    counts = {CALIBRATED: (settings.scenarios, settings.scenario_seeds), PUBLISHED: (settings.published_scenarios, 1)}
    rules = {
        name: Rule(texts=seeds, controls=verification.N_PERMUTED) for name, (count, seeds) in counts.items() if count
    }
    ceiling = ceilings(study.classifier, study.source, rules, settings.tokens, settings.seed)
    parts, shown, highest = [], [], []
    for name, (count, seeds) in counts.items():
        if not count:
            continue
        controls = verification.N_PERMUTED + verification.N_HELD_OUT * (name == CALIBRATED)
        arm = getattr(arms_of, name)(steering, controls)
        table, texts = _verified(steering, arm, count, seeds)
        table = table.rename(columns={"target": "emotion"}).assign(
            strength=arm.strength,
            tone=table["scenario"].map(facts["tone"]),
            form=table["scenario"].map(facts["form"]),
            classifier=study.classifier.name,
        )
        if name == CALIBRATED:
            table["gaps"] = table["emotion"].map(steering.gaps)
        parts.append(framed(steering, arm, table))
        shown.append(framed(steering, arm, texts))
        highest.append(framed(steering, arm, ceiling[name]))
    made = {"verification": pd.concat(parts, ignore_index=True), "judge_ceiling": pd.concat(highest, ignore_index=True)}
    swept = study.once(_sweeps)[0][1] if "dose_response" in tables else None
    prompted, asked = _prompting(steering, made["verification"], swept)
    kept = {"scenarios": pd.concat(shown, ignore_index=True), "prompted": asked}
    return Results({**made, "prompting": prompted}, kept)


def _verified(steering: Steering, arm: Arm, count: int, seeds: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row a scenario, and the texts that are shown."""
    study, labels = steering.study, known_labels(steering.classifier, steering.study.source.labels)
    scenarios = _scenarios(study.source, count)
    scenarios = scenarios[scenarios["target"].isin(labels)].reset_index(drop=True)

    def compute() -> list[dict[str, Any]]:
        texts = verification.write_scenarios(steering, arm, scenarios, seeds)
        verdicts = verification.verdicts(texts, emotion_scores(study.classifier, list(texts["text"]), labels))
        scored = partial(study.progress, f"scenarios, {arm.name}: texts scored")
        shares = verification.coherence(study.model, texts, scored)
        verdicts = verdicts.assign(**{name: verdicts["scenario"].map(shares[name]) for name in shares})
        shown = texts[texts["kind"].isin(verification.SHOWN)].drop(columns="tokens")
        return [{"table": verdicts.to_dict("records"), "texts": shown.to_dict("records")}]

    unit = steering.unit(f"verification, {arm.name}", compute)[0]
    return pd.DataFrame(unit["table"]), pd.DataFrame(unit["texts"])


def _prompting(steering: Steering, verified: pd.DataFrame, swept: Sweep | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``prompting``: steering beside asking on scenarios and, where they were swept, the prompts of the dose response.

    And the texts of the latter.
    """
    arm = arms_of.calibrated(steering, 1)
    own = select(verified, arm=CALIBRATED)
    names, rows = list(dict.fromkeys(own["emotion"])), []
    for metric, columns in {
        "success": ("success", "prompted_success"),
        "classifier": ("rise", "prompted_rise"),
    }.items():
        means = own.astype(dict.fromkeys(columns, float)).groupby("emotion")[list(columns)].mean().loc[names]
        steered, asked = means.to_numpy().T[:, :, None]
        rows.append(prompting.compared("scenarios", metric, names, steered, asked))
    texts, scores = _asked_dose(steering)
    if swept is not None:
        rows += _dose_prompting(swept, texts, scores)
    return framed(steering, arm, pd.concat(rows, ignore_index=True)), framed(steering, arm, texts)


def _asked_dose(steering: Steering) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The prompts of the dose response, asked for each emotion and none, and how much of each emotion a text has."""
    emotions = steering.vectors.emotions

    def compute() -> list[dict[str, Any]]:
        return [verification.prompted_dose(steering, emotions).drop(columns="tokens").to_dict("list")]

    texts = pd.DataFrame(steering.unit("prompted dose", compute)[0])
    return texts, text_readings(steering.study, list(texts["text"]), emotions)


def _dose_prompting(swept: Sweep, texts: pd.DataFrame, scores: dict[str, np.ndarray]) -> list[pd.DataFrame]:
    """Steering at the calibrated strength beside asking, on the same prompts."""
    rows = []
    for metric, values in scores.items():
        found = dose.curves(swept, metric)
        prompts = list(dict.fromkeys(texts["prompt"]))
        read = pd.DataFrame(values, columns=list(swept.emotions))
        read.index = pd.MultiIndex.from_frame(texts[["emotion", "prompt"]])
        asked = np.array(
            [
                read.loc[[(name, prompt) for prompt in prompts], name].to_numpy()
                - read.loc[[("", prompt) for prompt in prompts], name].to_numpy()
                for name in found.emotions
            ]
        )
        steered = found.own[:, found.at(1.0)] - found.own[:, found.at(0.0)]
        rows.append(prompting.compared("dose", metric, found.emotions, steered, asked))
    return rows


def _scenarios(source: Instrument, count: int | None = None) -> pd.DataFrame:
    """All scenarios of an instrument, or one an emotion: the first of one emotion's, the second of the next one's …"""
    if source.scenarios is None:
        raise EmotraceError(f"{source.name} has no scenarios")
    table = source.scenarios
    if count is None or count >= len(table):
        return table
    emotions = table.groupby("target", sort=False)
    turn = emotions.ngroup() % 2 % emotions["target"].transform("size")
    return table[emotions.cumcount() == turn].head(count).reset_index(drop=True)
