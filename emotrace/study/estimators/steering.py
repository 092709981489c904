"""What steering with each estimator's vectors does, at equal harm → ``estimator_effects``. Ours.

Every estimator's vectors are added at the run's calibrated layer, at the strength at which they change the model's
predictions on neutral texts as much as the difference of means does at the calibrated strength (KL, nats a token). A
strength of equal norm would favour whichever vector breaks the text at a larger one. Each has permuted-label vectors
by the same estimator beside it, of equal norm. Small on purpose: few emotions and prompts, one text each.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from emotrace.errors import EmotraceError
from emotrace.estimation import name_embeddings
from emotrace.instrument import corpus
from emotrace.judges.classifiers import emotion_scores, known_labels
from emotrace.judges.damage import harm, strength_of_harm
from emotrace.judges.layer_choice import HARM_TEXTS, few, neutral_texts, readable
from emotrace.measures import geometry
from emotrace.measures.estimators import ESTIMATORS, MEAN_DIFFERENCE
from emotrace.steered_texts import steered_positions
from emotrace.study.effects.arms import EMOTION, PERMUTED, Arm
from emotrace.study.effects.ceilings import WORDS_PER_TOKEN
from emotrace.study.effects.crossed import crossed_mean, crossed_rate
from emotrace.study.effects.dose import COHERENT, curves, holm
from emotrace.study.effects.sweep import Sweep, sweep
from emotrace.study.estimators.measure import Names, fit, texts_of
from emotrace.study.steered import POOLING, Steering, permuted_vectors, prepare
from emotrace.study.study import Study
from emotrace.tokens import Writing
from emotrace.vectors import EmotionVectors

MOST_EMOTIONS, PROMPTS, DIRECTIONS = 10, 4, 3
"""Emotions and prompts of the comparison, and permuted-label vectors of each estimator."""
NEXT_TOKEN, JUDGE = READINGS = ("kin_log_probability", "classifier")
Cells = dict[str, list[Any]]
"""Reading → ``[emotion, prompt]`` under own vectors; ``permuted READING`` → ``[direction, emotion, prompt]``."""


def effects_table(study: Study) -> pd.DataFrame:
    """One row an estimator and metric; see ``docs/tables.md``."""
    steering = study.once(prepare)
    names = name_embeddings(study.model, list(corpus.emotions().index))
    chosen = emotions_of(steering)
    budget = _harm(steering, steering.vectors, chosen)(steering.strength)
    scale = judged_passages(steering, chosen)
    parts: dict[str, dict[str, Any]] = {}
    for estimator in ESTIMATORS:
        unit = steering.unit(
            f"estimator effects {estimator} of {', '.join(chosen)}",
            partial(_measured, steering, estimator, chosen, names, budget, scale),
        )
        if unit:
            parts[estimator] = unit[0]
        study.progress("steering by estimator", 1, len(ESTIMATORS))
    plain = parts[MEAN_DIFFERENCE]["cells"]
    rows = []
    for estimator, part in parts.items():
        gains = [] if estimator == MEAN_DIFFERENCE else gain_rows(part["cells"], plain)
        rows += [steering.row(estimator=estimator, **part["at"], **row) for row in (*part["rows"], *gains)]
    return with_holm(pd.DataFrame(rows))


def emotions_of(steering: Steering) -> list[str]:
    """At most ``MOST_EMOTIONS`` emotions, evenly from the list, that the next token and the judge can show."""
    labels = known_labels(steering.classifier)
    able = [name for name in readable(steering.model, steering.study.names) if name in labels]
    return [able[place] for place in np.unique(np.linspace(0, len(able) - 1, MOST_EMOTIONS).round().astype(int))]


def vectors_by(
    steering: Steering, estimator: str, chosen: list[str], names: Names
) -> tuple[EmotionVectors, EmotionVectors]:
    """The vectors of these emotions and ``DIRECTIONS`` of permuted labels, at the layers of edit and of reading.

    Of an estimator that learns nothing from labels the second are differences of means.

    Raises:
        EmotraceError: the texts lack what the estimator needs.
    """
    study, one = steering.study, ESTIMATORS[estimator]
    layers = sorted({steering.layer, steering.read_layer})
    values, permuted = [], []
    for layer in layers:
        texts = texts_of(study, POOLING, layer, names)
        assert texts.topics is not None
        values.append(fit(estimator, texts, chosen))
        rng, drawn = study.rng("estimators", "steering shuffles"), []  # the same shuffles of every estimator
        for number in range(DIRECTIONS if one.learns else 0):
            shuffled = replace(texts, emotions=geometry.shuffle_within_topics(texts.emotions, texts.topics, rng))
            drawn.append(fit(estimator, shuffled, [chosen[number % len(chosen)]])[0])
        permuted.append(drawn)
    own = _like(steering.vectors, chosen, layers, np.stack(values, axis=1))
    if not one.learns:
        return own, permuted_vectors(study, POOLING, DIRECTIONS)
    labels = [f"permuted-{number + 1}" for number in range(DIRECTIONS)]
    return own, _like(steering.vectors, labels, layers, np.stack(permuted, axis=1))


def _like(vectors: EmotionVectors, names: list[str], layers: list[int], values: np.ndarray) -> EmotionVectors:
    places = [vectors.layers.index(layer) for layer in layers]
    means = {name: getattr(vectors, name)[places] for name in ("neutral_mean", "grand_mean", "emotions_mean")}
    return replace(vectors, emotions=tuple(names), layers=tuple(layers), values=values.astype(np.float32), **means)


def _harm(steering: Steering, vectors: EmotionVectors, chosen: Sequence[str]) -> Callable[[float], float]:
    """Strength → the harm of vectors at the calibrated layer, over a few emotions and texts."""
    names, texts = few(chosen), neutral_texts(HARM_TEXTS)
    return lambda at: harm(steering.model, vectors, [steering.layer], at, texts, names)


def _measured(
    steering: Steering, estimator: str, chosen: list[str], names: Names, budget: float, scale: list[float]
) -> list[dict[str, Any]]:
    """One unit: ``at`` (strength and harm), ``rows`` and ``cells``; nothing where the texts lack what it needs."""
    try:
        own, permuted = vectors_by(steering, estimator, chosen, names)
    except EmotraceError:
        return []
    strength, kl = strength_of_harm(_harm(steering, own, chosen), budget, steering.strength)
    arm = Arm(
        estimator,
        {EMOTION: own, PERMUTED: permuted},
        [steering.layer],
        strength,
        (-strength, strength),
        steered_positions(steering.vectors, Writing()),
        POOLING,
    )
    at = {"strength": strength, "relative": strength / steering.strength, "kl": kl, "kl_sought": budget}
    swept = sweep(_smaller(steering), arm)
    control_kl = _harm(steering, permuted, permuted.emotions)(strength)
    return [{"at": {**at, "control_kl": control_kl}, "rows": effect_rows(swept, scale), "cells": cells_of(swept)}]


def _smaller(steering: Steering) -> Steering:
    """The same study with the few prompts and the one text a prompt of this comparison."""
    study = copy.copy(steering.study)
    study.settings = replace(study.settings, dose_prompts=min(PROMPTS, study.settings.dose_prompts), dose_seeds=1)
    return replace(steering, study=study)


def cells_of(swept: Sweep) -> Cells:
    """The effects towards each emotion, under own vectors and under permuted-label ones."""
    cells: Cells = {}
    for reading in READINGS:
        found = curves(swept, reading)
        one, zero = found.at(1.0), found.at(0.0)
        cells[reading] = (found.own[:, one] - found.own[:, zero]).tolist()
        control = found.control(PERMUTED)
        cells[f"permuted {reading}"] = (control[:, :, one] - control[:, :, zero]).tolist()
    return cells


def effect_rows(swept: Sweep, scale: list[float]) -> list[dict[str, Any]]:
    """What one estimator's steering does: each reading beyond permuted labels, samples that follow, coherent texts.

    Args:
        swept: its texts at 0 and ± the strength of equal harm.
        scale: of each of the sweep's emotions, how far the judge tells passages of it from neutral ones.
    """
    cells, rows = cells_of(swept), list[dict[str, Any]]()
    for reading in READINGS:
        own, control = np.array(cells[reading]), np.array(cells[f"permuted {reading}"])
        estimate = crossed_mean(own, control)
        sizes = {"n": len(own), "prompts": own.shape[1], "directions": len(control)}
        rows.append({"metric": reading, **estimate._asdict(), "control": control.mean(), **sizes})
        if reading == JUDGE:
            most = np.mean([scale[swept.emotions.index(name)] for name in curves(swept, reading).emotions])
            ends = np.array(estimate[:3]) / (most if most > 0 else np.nan)
            values = dict(zip(("value", "low", "high"), ends, strict=True))
            rows.append({"metric": "judge_over_ceiling", **values, "p": estimate.p, "ceiling": most, **sizes})
        found = curves(swept, reading)
        up, down = found.at(1.0), found.at(-1.0)
        follows, control = found.own[:, up] > found.own[:, down], found.control(PERMUTED)
        share = {"metric": f"right_way_{reading}", **crossed_rate(follows.astype(float), follows.size)._asdict()}
        rows.append({**share, "control": float((control[:, :, up] > control[:, :, down]).mean()), **sizes})
    coherent = curves(swept, COHERENT)
    own, control = coherent.own[:, coherent.at(1.0)], coherent.control(PERMUTED)[:, 0, coherent.at(1.0)]
    share = {"metric": COHERENT, **crossed_rate(own, own.size)._asdict(), "control": control.mean()}
    return [*rows, {**share, "n": len(own), "prompts": own.shape[1], "directions": len(control)}]


def gain_rows(cells: Cells, plain: Cells) -> list[dict[str, Any]]:
    """Each reading beyond permuted labels minus that of the difference of means, paired by emotion and prompt."""
    rows = []
    for reading in READINGS:
        own = np.array(cells[reading]) - np.array(plain[reading])
        control = np.array(cells[f"permuted {reading}"]) - np.array(plain[f"permuted {reading}"])
        sizes = {"n": len(own), "prompts": own.shape[1], "directions": len(control)}
        rows.append({"metric": f"{reading}_gain", **crossed_mean(own, control)._asdict(), **sizes})
    return rows


def with_holm(table: pd.DataFrame) -> pd.DataFrame:
    """The table with ``p_holm``: Holm's correction over the estimators, metric by metric."""
    table = table.assign(p_holm=np.nan)
    for _, rows in table[table["p"].notna()].groupby("metric"):
        table.loc[rows.index, "p_holm"] = holm(list(rows["p"]))
    return table


def judged_passages(steering: Steering, chosen: list[str]) -> list[float]:
    """What the judge could see at most: its score of each emotion in passages of it, minus that in neutral ones.

    Passages are cut to the length of a steered text.
    """
    study, labels = steering.study, known_labels(steering.classifier)
    words = max(1, round(WORDS_PER_TOKEN * study.settings.tokens))
    passages = study.passages[study.passages["emotion"].isin([*chosen, corpus.NEUTRAL])]
    texts = passages["text"].str.split().str[:words].str.join(" ")
    scores = emotion_scores(steering.classifier, list(texts), {name: labels[name] for name in chosen})
    means = scores.groupby(passages["emotion"].to_numpy()).mean()
    return [float(means.loc[name, name] - means.loc[corpus.NEUTRAL, name]) for name in chosen]
