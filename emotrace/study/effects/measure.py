"""The steering experiments of a run: calibration → dose response and regimes → verification, each as tidy tables.

Vectors, layer and strength are those of :class:`~emotrace.study.steered.Steering`; strengths are multiples of the
calibrated one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from emotrace import activations
from emotrace.instrument import corpus
from emotrace.judges import regimes
from emotrace.judges.classifiers import emotion_scores, known_labels
from emotrace.measures import statistics
from emotrace.study.effects import dose, verification
from emotrace.study.effects.sweep import Sweep, sweep
from emotrace.study.experiment import Results, Tables
from emotrace.study.steered import POOLING, framed, prepare
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
    """``dose_response`` and ``monotonicity``, and every text that they rest on."""
    steering, (swept, plain) = study.once(prepare), study.once(_dose_sweep)
    permutations, rng = study.settings.permutations, study.rng("monotonicity")
    made = {
        "dose_response": dose.response(swept),
        "monotonicity": dose.monotonicity(swept, steering.strength, permutations, rng),
    }
    texts = pd.concat([plain, swept.texts[swept.texts["strength"] != 0]]).drop(columns="tokens")
    return Results(
        {name: framed(steering, table) for name, table in made.items()}, {"steered": framed(steering, texts)}
    )


def regime_tables(study: Study, tables: Tables) -> Results:
    """``regimes`` and ``regime_sensitivity``, of the texts of the dose response."""
    steering, (swept, plain) = study.once(prepare), study.once(_dose_sweep)
    made = {"regimes": regime_shares(swept.texts, plain), "regime_sensitivity": sensitivity(swept.texts)}
    return Results({name: framed(steering, table) for name, table in made.items()})


def _dose_sweep(study: Study) -> tuple[Sweep, pd.DataFrame]:
    """The sweep of the dose response, and the unsteered texts."""
    steering = study.once(prepare)

    def compute() -> list[dict[str, Any]]:
        swept, plain = sweep(steering)
        values = {name: value.tolist() for name, value in swept.values.items()}
        return [{"texts": swept.texts.to_dict("records"), "plain": plain.to_dict("records"), "values": values}]

    unit = steering.unit("dose sweep", compute)[0]
    values = {name: np.array(value, dtype=np.float64) for name, value in unit["values"].items()}
    return Sweep(pd.DataFrame(unit["texts"]), values, steering.vectors.emotions), pd.DataFrame(unit["plain"])


def regime_shares(texts: pd.DataFrame, plain: pd.DataFrame) -> pd.DataFrame:
    """One row a direction and strength: the share of its texts in each regime, and the medians of what decides it.

    ``emotion``: an emotion, ``random-N``, ``all`` (every emotion together), ``random`` (every random direction
    together), or ``unsteered``: unsteered texts against the others on their prompt, what the thresholds make of no edit
    at all. ``value, low, high``: the surgical share with Wilson's interval; ``regime``: the most frequent one.
    """
    steered = texts[texts["strength"] != 0]
    groups = dict(list(steered.groupby(["emotion", "strength"], sort=False)))
    for strength, rows in steered.groupby("strength"):
        control = rows["control"].astype(bool)
        groups |= {("all", strength): rows[~control], ("random", strength): rows[control]}
    groups["unsteered", 0.0] = plain
    return pd.DataFrame(
        [{"emotion": name, "strength": strength, **_regimes_of(rows)} for (name, strength), rows in groups.items()]
    )


def _regimes_of(texts: pd.DataFrame) -> dict[str, Any]:
    measures = ("perplexity_ratio", "distinct_2", "longest_loop", "real_words")
    surgical = statistics.wilson(int((texts["regime"] == regimes.SURGICAL).sum()), len(texts))
    return {
        "regime": texts["regime"].value_counts().idxmax(),
        **surgical._asdict(),
        **_shares(texts["regime"]),
        **{name: float(texts[name].median()) for name in measures},
        "n": len(texts),
    }


def _shares(labels: pd.Series) -> dict[str, float]:
    """The share of each regime, in the columns' names."""
    return {regime.replace(" ", "_"): float((labels == regime).mean()) for regime in regimes.REGIMES}


def sensitivity(texts: pd.DataFrame) -> pd.DataFrame:
    """How the shares move when one threshold does: ``variant, strength`` and each regime's share, over all emotions."""
    steered = texts[(texts["strength"] != 0) & ~texts["control"].astype(bool)]
    rows = []
    for variant, thresholds in regimes.Thresholds().variants().items():
        for strength, labels in regimes.label(steered, thresholds).groupby(steered["strength"]):
            rows.append({"variant": variant, "strength": strength, **_shares(labels), "n": len(labels)})
    return pd.DataFrame(rows)


# -- verification -----------------------------------------------------------------------------------------------------


def verify(study: Study, tables: Tables) -> Results:
    """``verification``, one row a scenario, and its plain and steered texts (``scenarios``)."""
    steering, labels = study.once(prepare), known_labels(study.classifier)
    scenarios = _scenarios(study.settings.scenarios)
    scenarios = scenarios[scenarios["target"].isin(labels)].reset_index(drop=True)

    def compute() -> list[dict[str, Any]]:
        texts = verification.write_scenarios(steering, scenarios)
        verdicts = verification.verdicts(texts, emotion_scores(study.classifier, list(texts["text"]), labels))
        verdicts["coherent"] = verdicts["scenario"].map(verification.coherence(study.model, texts))
        shown = texts[texts["kind"].isin([verification.PLAIN, verification.TARGET])].drop(columns="tokens")
        return [{"table": verdicts.to_dict("records"), "texts": shown.to_dict("records")}]

    unit = steering.unit("verification", compute)[0]
    table, facts = pd.DataFrame(unit["table"]), corpus.scenarios().set_index("id")
    table = table.rename(columns={"target": "emotion"}).assign(
        strength=steering.strength,
        tone=table["scenario"].map(facts["tone"]),
        form=table["scenario"].map(facts["form"]),
        gaps=table["target"].map(steering.gaps),
        classifier=study.classifier.name,
    )
    texts = framed(steering, pd.DataFrame(unit["texts"]))
    return Results({"verification": framed(steering, table)}, {"scenarios": texts})


def _scenarios(count: int) -> pd.DataFrame:
    """All scenarios, or one an emotion, the tones taking turns."""
    table = corpus.scenarios()
    if count >= len(table):
        return table
    number = table.groupby("target", sort=False).ngroup()
    tone = np.where(number % 2 == 0, "positive", "negative")
    return table[table["tone"] == tone].head(count).reset_index(drop=True)
