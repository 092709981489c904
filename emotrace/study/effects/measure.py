"""The steering experiments of a run: calibration → dose response and regimes → verification, each as tidy tables.

Vectors: comprehension, mean-pooled. Layer: the one that localisation chose on half of the topics. Strength: in units of
the layer's mean residual norm, as multiples of the strength that the calibration found for this model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emotrace.instrument import corpus
from emotrace.judges import regimes
from emotrace.judges.classifiers import Classifier, known_labels
from emotrace.measures import statistics
from emotrace.study.effects import dose, verification
from emotrace.study.languages import measure as crosslingual
from emotrace.study.steered import FULL_PROMPTS, Steering, framed, prepare
from emotrace.study.study import Study

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.vectors import EmotionVectors

# -- dose response and regimes ----------------------------------------------------------------------------------------


def dose_tables(steering: Steering) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """``dose_response``, ``monotonicity``, ``regimes``, ``regime_sensitivity``, and every text that they rest on."""
    found, plain = _sweep(steering)
    study, size = steering.study, {"strength": steering.strength}
    with_columns = {
        "dose_response": dose.response(found),
        "monotonicity": dose.monotonicity(
            found, size["strength"], study.settings.permutations, study.rng("monotonicity")
        ),
        "regimes": regime_shares(found.texts, plain),
        "regime_sensitivity": sensitivity(found.texts),
    }
    tables = {name: framed(steering, table) for name, table in with_columns.items()}
    texts = framed(steering, pd.concat([plain, found.texts[found.texts["strength"] != 0]]).drop(columns="tokens"))
    return tables, texts


def _sweep(steering: Steering) -> tuple[dose.Sweep, pd.DataFrame]:
    study = steering.study
    settings = study.settings
    prompts = corpus.prompts("dose")[: settings.dose_prompts]
    strengths = [multiple * steering.strength for multiple in settings.doses]
    total = len(prompts) * (4 + len(strengths) * (len(steering.vectors.emotions) + settings.dose_random))

    def compute() -> list[dict[str, Any]]:
        found, plain = dose.sweep(
            steering.model, steering.vectors, steering.classifier, strengths, layers=[steering.layer],
            read_layer=steering.read_layer, prompts=prompts, random=settings.dose_random,
            max_new_tokens=settings.tokens, seed=settings.seed, cache=study.run,
            progress=lambda done: study.progress("dose response: texts", done, total),
        )  # fmt: skip
        values = {name: value.tolist() for name, value in found.values.items()}
        return [{"texts": found.texts.to_dict("records"), "plain": plain.to_dict("records"), "values": values}]

    kept = steering.unit("dose sweep", compute)[0]
    values = {name: np.array(value, dtype=np.float64) for name, value in kept["values"].items()}
    return dose.Sweep(pd.DataFrame(kept["texts"]), values, steering.vectors.emotions), pd.DataFrame(kept["plain"])


def regime_shares(texts: pd.DataFrame, plain: pd.DataFrame) -> pd.DataFrame:
    """One row a direction and strength: the share of its texts in each regime, and the medians of what decides it.

    ``emotion``: an emotion, ``random-N``, ``all`` (every emotion together), ``random`` (every random direction
    together), or ``unsteered``: unsteered texts against the others on their prompt, what the thresholds make of no edit
    at all. ``value, low, high``: the surgical share with Wilson's interval; ``regime``: the most frequent one.
    """
    steered = texts[texts["strength"] != 0]
    groups = dict(list(steered.groupby(["emotion", "strength"], sort=False)))
    for strength, rows in steered.groupby("strength"):
        groups["all", strength] = rows[~rows["control"].astype(bool)]
        groups["random", strength] = rows[rows["control"].astype(bool)]
    groups["unsteered", 0.0] = plain
    return pd.DataFrame(
        [{"emotion": name, "strength": strength, **_regimes_of(rows)} for (name, strength), rows in groups.items()]
    )


def _regimes_of(rows: pd.DataFrame) -> dict[str, Any]:
    counts = rows["regime"].value_counts()
    shares = {regime.replace(" ", "_"): float(counts.get(regime, 0) / len(rows)) for regime in regimes.REGIMES}
    medians = {
        name: float(rows[name].median()) for name in ("perplexity_ratio", "distinct_2", "longest_loop", "real_words")
    }
    surgical = statistics.wilson(int(counts.get(regimes.SURGICAL, 0)), len(rows))
    return {"regime": counts.idxmax(), **surgical._asdict(), **shares, **medians, "n": len(rows)}


def sensitivity(texts: pd.DataFrame) -> pd.DataFrame:
    """How the shares move when one threshold does: ``variant, strength`` and each regime's share, over all emotions."""
    steered = texts[(texts["strength"] != 0) & ~texts["control"].astype(bool)]
    rows = []
    for variant, thresholds in regimes.Thresholds().variants().items():
        labels = regimes.label(steered, thresholds)
        for strength, members in labels.groupby(steered["strength"]):
            shares = {name.replace(" ", "_"): float((members == name).mean()) for name in regimes.REGIMES}
            rows.append({"variant": variant, "strength": strength, **shares, "n": len(members)})
    return pd.DataFrame(rows)


# -- verification -----------------------------------------------------------------------------------------------------


def verification_table(steering: Steering) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``verification.csv``, one row a scenario, and the plain and the steered texts side by side."""
    study, settings = steering.study, steering.study.settings
    scenarios = _some_scenarios(settings.scenarios)
    scenarios = scenarios[scenarios["target"].isin(known_labels(steering.classifier))].reset_index(drop=True)
    design = verification.Design(seeds=settings.scenario_seeds, max_new_tokens=settings.tokens)
    total = len(scenarios) * design.seeds * (2 + design.random + design.held_out + design.wrong)

    def compute() -> list[dict[str, Any]]:
        texts = verification.write_scenarios(
            steering.model, steering.vectors, scenarios, steering.strength, [steering.layer], design,
            seed=settings.seed, cache=study.run,
            progress=lambda done: study.progress("scenarios: texts", done, total),
        )  # fmt: skip
        table = verification.verdicts(texts, verification.judge(texts, steering.classifier))
        coherent = verification.coherence(steering.model, texts)
        table = table.assign(coherent=table["scenario"].map(coherent))
        shown = texts[texts["kind"].isin([verification.PLAIN, verification.TARGET])]
        return [{"table": table.to_dict("records"), "texts": shown.drop(columns="tokens").to_dict("records")}]

    kept = steering.unit("verification", compute)[0]
    facts = corpus.scenarios().set_index("id")
    table = pd.DataFrame(kept["table"])
    table = table.rename(columns={"target": "emotion"}).assign(
        strength=steering.strength, tone=table["scenario"].map(facts["tone"]), form=table["scenario"].map(facts["form"]),
        gaps=table["target"].map(steering.gaps), classifier=steering.classifier.name,
    )  # fmt: skip
    return framed(steering, table), framed(steering, pd.DataFrame(kept["texts"]))


def _some_scenarios(count: int) -> pd.DataFrame:
    """All scenarios, or one an emotion, the tones taking turns."""
    table = corpus.scenarios()
    if count >= len(table):
        return table
    number = table.groupby("target", sort=False).ngroup()
    wanted = np.where(number % 2 == 0, "positive", "negative")
    return table[table["tone"] == wanted].head(count).reset_index(drop=True)


# -- across languages -------------------------------------------------------------------------------------------------


def crosslingual_tables(steering: Steering) -> dict[str, pd.DataFrame]:
    """``crosslingual`` and ``crosslingual_tokens``: what an edit does to Chinese and other scripts (C11)."""
    study = steering.study
    full = study.settings.dose_prompts >= FULL_PROMPTS
    sizes = (crosslingual.Sizes if full else crosslingual.Sizes.quick)(seed=study.settings.seed)

    def compute() -> list[dict[str, Any]]:
        table = crosslingual.crosslingual(
            steering.model, steering.vectors, steering.layer, [0.5 * steering.strength, steering.strength],
            prompts=corpus.prompts("dose"), sizes=sizes, cache=study.run, progress=study.progress,
        )  # fmt: skip
        tokens = crosslingual.readout_table(
            steering.model, steering.vectors, steering.layer, prompts=corpus.prompts("dose"), sizes=sizes
        )
        return [{"crosslingual": table.to_dict("records"), "crosslingual_tokens": tokens.to_dict("records")}]

    return {name: pd.DataFrame(rows) for name, rows in steering.unit("crosslingual", compute)[0].items()}


def run(
    study: Study, model: Model, classifier: Classifier, experiments: list[str]
) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame], EmotionVectors]:
    """The tables and texts of the steering experiments asked for, and the calibrated vectors."""
    steering, tried = prepare(study, model, classifier)
    tables, texts = {"calibration": tried}, {}
    if {"dose_response", "regimes"} & set(experiments):
        found, texts["steered"] = dose_tables(steering)
        tables |= found
    if "verification" in experiments:
        tables["verification"], texts["scenarios"] = verification_table(steering)
    if "crosslingual" in experiments:
        tables |= crosslingual_tables(steering)
    return tables, texts, steering.vectors
