"""Dose response: what grows with the strength of an edit, beside random directions and other emotions (C8).

Three readings, none of which can stand for another:

* ``projection``: the residual stream at a *later* layer than the edit, at the prompt's last token, along the emotion's
  vector of that layer, in units of that layer's mean residual norm. What the layers between have made of the edit.
* ``kin_log_probability``: the log-probability that the next token is one of the emotion's kin words.
* ``classifier``: an outside judge's score of the emotion's labels in the text that is written.

Token statistics of the texts are beside them. Each emotion's value stands beside the same measure under at least eight
random directions of equal norm and under the vectors of the other emotions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from emotrace import steering
from emotrace.activations import residual_norms
from emotrace.instrument import corpus
from emotrace.judges import regimes
from emotrace.judges.classifiers import Classifier, emotion_scores, known_labels
from emotrace.measures import statistics

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.vectors import EmotionVectors

EMOTION_METRICS = ("projection", "kin_log_probability", "classifier", "kin_share")
TEXT_METRICS = ("perplexity_ratio", "distinct_2", "longest_loop", "real_words", "n_tokens")
CHANGES = ("projection", "kin_log_probability")
"""Given as changes from the unsteered prompt: their levels differ from emotion to emotion and mean nothing."""
MONOTONE_METRICS = ("projection", "kin_log_probability", "classifier")

_SCORED_ROWS = 64


@dataclass(frozen=True)
class Sweep:
    """What was measured of every text of a sweep.

    Attributes:
        texts: one row a text: ``prompt, emotion`` (the direction added), ``control`` (whether it is a random one),
            ``strength, seed, text, tokens, n_tokens`` and the measures of ``regimes.measure``; strength 0 once a prompt.
        values: metric → ``[text, emotion]``, each emotion's reading of each text (``EMOTION_METRICS``).
        emotions: the names along that second axis.
    """

    texts: pd.DataFrame
    values: dict[str, np.ndarray]
    emotions: tuple[str, ...]


def sweep(
    model: Model,
    vectors: EmotionVectors,
    classifier: Classifier,
    strengths: Sequence[float],
    *,
    layers: Sequence[int],
    read_layer: int,
    prompts: Sequence[str],
    random: int = 8,
    plain_seeds: int = 4,
    max_new_tokens: int = 40,
    temperature: float = 0.7,
    positions: str = "generated",
    seed: int = 0,
    cache: steering.Cache | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Sweep, pd.DataFrame]:
    """Writes and measures every emotion and ``random`` random directions at every strength on every prompt.

    Args:
        model: the model.
        vectors: its emotion vectors.
        classifier: the judge.
        strengths: non-zero, negative and positive.
        layers: where the edit is.
        read_layer: where the projection is read, after the last layer of the edit.
        prompts: openings without a tone.
        random: how many random directions.
        plain_seeds: unsteered texts a prompt, for the perplexity ratio and its null.
        max_new_tokens: of each text.
        temperature: of the sampling.
        positions: see :class:`~emotrace.steering.Edit`.
        seed: of the sampling and of the random directions.
        cache: keeps finished batches.
        progress: called with the number of texts just written.

    Returns:
        The sweep, and the unsteered texts with their own measures (each against the others on its prompt).

    Raises:
        EmotraceError: vectors of another model, or without one of the layers; a label that the judge does not have.
    """
    vectors.check(model)
    control = steering.random_like(vectors, random, seed)
    named = [(vectors, name) for name in vectors.emotions] + [(control, name) for name in control.emotions]
    settings = {
        "positions": positions, "temperature": temperature, "max_new_tokens": max_new_tokens, "cache": cache,
        "progress": progress,
    }  # fmt: skip
    unsteered = [
        (prompt, vectors, vectors.emotions[0], 0.0, seed + copy) for prompt in prompts for copy in range(plain_seeds)
    ]
    rows = [(p, source, name, strength, seed) for source, name in named for strength in strengths for p in prompts]
    written = steering.write(model, unsteered + rows, layers, **settings)
    asked = pd.DataFrame(
        [
            (prompt, name, source is control, strength, sampled)
            for prompt, source, name, strength, sampled in unsteered + rows
        ],
        columns=["prompt", "emotion", "control", "strength", "seed"],
    )
    table = pd.concat([asked, written], axis=1)
    plain = table[: len(unsteered)].assign(emotion="")
    compared = regimes.references(model, plain)
    plain = regimes.measure_plain(plain, compared)
    steered = regimes.measure(model, table[len(unsteered) :], compared)
    # One unsteered text a prompt, of the same seed, is the sweep's strength 0.
    texts = pd.concat([plain[plain["seed"] == seed], steered], ignore_index=True)
    zeros = [(prompt, vectors, vectors.emotions[0], 0.0, seed) for prompt in prompts]
    values = {
        **_next_token(model, vectors, zeros + rows, layers, read_layer, positions),
        "classifier": _judged(classifier, list(texts["text"]), vectors.emotions),
        "kin_share": _kin_share(texts["text"], vectors.emotions),
    }
    return Sweep(texts, values, tuple(vectors.emotions)), plain


def _judged(classifier: Classifier, texts: Sequence[str], emotions: Sequence[str]) -> np.ndarray:
    """The classifier's scores ``[text, emotion]``; unknown for an emotion of which it has no label."""
    scores = emotion_scores(classifier, texts, known_labels(classifier))
    return scores.reindex(columns=list(emotions)).to_numpy(dtype=np.float64)


def _next_token(
    model: Model,
    vectors: EmotionVectors,
    rows: Sequence[steering.Row],
    layers: Sequence[int],
    read: int,
    positions: str,
) -> dict[str, np.ndarray]:
    """``projection`` and ``kin_log_probability`` of every row, at the prompt's last token: ``[row, emotion]``."""
    norms = residual_norms(model)
    units = vectors.unit().at(read).astype(np.float64)
    kin = [_kin_tokens(model, name) for name in vectors.emotions]
    projections, probabilities = [], []
    for start in range(0, len(rows), _SCORED_ROWS):
        batch = rows[start : start + _SCORED_ROWS]
        edit = steering.Edit(steering.stacked(batch, layers, norms), positions=positions)
        found = steering.score(model, [prompt for prompt, *_ in batch], edit, read_layers=[read], groups=kin)
        projections.append(found["stream"][:, 0].astype(np.float64) @ units.T / norms[read])
        probabilities.append(found["log_probabilities"])
    return {"projection": np.concatenate(projections), "kin_log_probability": np.concatenate(probabilities)}


def _kin_tokens(model: Model, emotion: str) -> list[int]:
    """Tokens that by themselves are one of the emotion's kin words, with the space before it."""
    ids = [
        model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        for word in corpus.emotions().loc[emotion, "kin"]
    ]
    return sorted({tokens[0] for tokens in ids if len(tokens) == 1})


def _kin_share(texts: Sequence[str], emotions: Sequence[str]) -> np.ndarray:
    """The share of each text's words that are kin of each emotion: ``[text, emotion]``."""
    kin = corpus.emotions()["kin"]
    counted = [corpus.words(text) for text in texts]
    return np.array(
        [[sum(word in kin[name] for word in words) / max(len(words), 1) for name in emotions] for words in counted]
    )


# -- tables -----------------------------------------------------------------------------------------------------------


def response(found: Sweep) -> pd.DataFrame:
    """One row an emotion, strength and metric: its value beside the controls'.

    Returns:
        ``emotion, strength, metric``; ``value``, mean over prompts, with Student's t interval ``low, high`` and ``n``;
        ``random, random_low, random_high``: mean and range over the random directions of their means over prompts;
        ``others``: mean over the vectors of the other emotions. The metrics of ``CHANGES`` are changes from strength 0. The
        emotion ``all`` is the mean over the emotions, its interval over them.
    """
    rows = []
    for metric in (*EMOTION_METRICS, *TEXT_METRICS):
        cube = _cube(found, metric)
        for strength in sorted({*found.texts["strength"]}):
            rows += _at_strength(found, cube, metric, strength)
    return pd.DataFrame(rows)


def _cube(found: Sweep, metric: str) -> dict[tuple[str, float], np.ndarray]:
    """(direction, strength) → readings ``[prompt, emotion]``; of strength 0, under every direction's name, the same."""
    if metric in found.values:
        values = found.values[metric]
    else:
        values = np.repeat(found.texts[metric].to_numpy(dtype=np.float64)[:, None], len(found.emotions), axis=1)
    zero = (found.texts["strength"] == 0).to_numpy()
    if metric in CHANGES:
        values = values - _baseline(found, values, zero)
    groups = found.texts[~zero].groupby(["emotion", "strength"], sort=False).indices
    places = np.flatnonzero(~zero)
    cube = {key: values[places[members]] for key, members in groups.items()}
    for name in dict.fromkeys(found.texts["emotion"][~zero]):
        cube[name, 0.0] = values[zero]
    return cube


def _baseline(found: Sweep, values: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """The reading at strength 0 on each text's own prompt."""
    prompts = found.texts["prompt"].to_numpy()
    known = dict(zip(prompts[zero], values[zero], strict=True))
    return np.stack([known[prompt] for prompt in prompts])


def _at_strength(found: Sweep, cube: dict, metric: str, strength: float) -> list[dict]:
    randoms = list(dict.fromkeys(found.texts["emotion"][found.texts["control"]]))
    random = np.stack([cube[name, strength].mean(axis=0) for name in randoms])  # [direction, emotion]
    under = np.stack([cube[name, strength].mean(axis=0) for name in found.emotions])  # [direction, emotion]
    rows = []
    own, others = np.diag(under), (under.sum(axis=0) - np.diag(under)) / max(len(under) - 1, 1)
    for place, name in enumerate(found.emotions):
        interval = mean_interval(cube[name, strength][:, place])
        rows.append(
            {"emotion": name, "strength": strength, "metric": metric, **interval._asdict(),
             "random": random[:, place].mean(), "random_low": random[:, place].min(),
             "random_high": random[:, place].max(), "others": others[place], "n": len(cube[name, strength])}
        )  # fmt: skip
    known = np.isfinite(own)
    if not known.any():
        return rows
    means = random[:, known].mean(axis=1)
    rows.append(
        {"emotion": "all", "strength": strength, "metric": metric, **mean_interval(own[known])._asdict(),
         "random": means.mean(), "random_low": means.min(), "random_high": means.max(), "others": others[known].mean(),
         "n": int(known.sum())}
    )  # fmt: skip
    return rows


def mean_interval(values: np.ndarray) -> statistics.Interval:
    """The mean with Student's t 95% interval; none from a single value or where one is unknown."""
    mean = float(np.mean(values)) if len(values) else np.nan
    if len(values) < 2 or not np.isfinite(values).all():
        return statistics.Interval(mean, np.nan, np.nan)
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return statistics.Interval(mean, mean - float(half), mean + float(half))


def monotonicity(found: Sweep, within: float, permutations: int, rng: np.random.Generator) -> pd.DataFrame:
    """Does each reading of an emotion rise with the strength of its own vector, on both sides of zero?

    Strengths up to ``within`` in size only: beyond the calibrated window a text is no text. ``rho`` is the mean over
    prompts of Spearman's ρ between strength and reading; its p permutes the strengths within each prompt. Random
    directions reach high ρ on short curves too, so their ρ on the same emotion's reading is beside it
    (``random_rho``, their mean; ``random_high``, their largest; ``beyond``, the p of ρ among them).

    Returns:
        One row an emotion and metric: ``emotion, metric, rho, p, m, random_rho, random_high, beyond, up, down, n``
        (``up``, ``down``: the reading at the largest and at the smallest strength minus that at 0, mean over prompts;
        ``random_up``, ``random_down``: mean of the same over random directions).
    """
    levels = [strength for strength in sorted({*found.texts["strength"]}) if abs(strength) <= within * (1 + 1e-9)]
    randoms = list(dict.fromkeys(found.texts["emotion"][found.texts["control"]]))
    rows = []
    for metric in MONOTONE_METRICS:
        cube = _cube(found, metric)
        for place, name in enumerate(found.emotions):
            curves = {each: np.stack([cube[each, level][:, place] for level in levels]) for each in (name, *randoms)}
            rows.append({"emotion": name, "metric": metric, **_monotone(curves, name, levels, permutations, rng)})
    return pd.DataFrame(rows)


def _monotone(
    curves: dict[str, np.ndarray], name: str, levels: list[float], permutations: int, rng: np.random.Generator
) -> dict[str, float]:
    """Of readings ``[level, prompt]`` under the emotion's own and under random directions."""
    own = curves[name]
    if not np.isfinite(own).all():
        return {"rho": np.nan, "n": own.shape[1]}
    rho, null = _rho(own), []
    for _ in range(permutations):
        null.append(_rho(rng.permuted(own, axis=0)))
    random = np.array([_rho(curve) for each, curve in curves.items() if each != name])
    zero = levels.index(0.0)
    ends = {"up": -1, "down": 0}
    moved = {side: float((own[end] - own[zero]).mean()) for side, end in ends.items()}
    others = {
        f"random_{side}": float(np.mean([(c[end] - c[zero]).mean() for each, c in curves.items() if each != name]))
        for side, end in ends.items()
    }
    return {
        "rho": rho, "p": statistics.permutation_p(rho, np.array(null), "greater"), "m": permutations,
        "random_rho": random.mean(), "random_high": random.max(),
        "beyond": statistics.permutation_p(rho, random, "greater"), **moved, **others, "n": own.shape[1],
    }  # fmt: skip


def _rho(curve: np.ndarray) -> float:
    """The mean over columns of Spearman's ρ with the row number; a constant column counts 0."""
    ranks = stats.rankdata(curve, axis=0)
    ranks = ranks - ranks.mean(axis=0)
    steps = np.arange(len(curve)) - (len(curve) - 1) / 2
    spread = np.sqrt((ranks**2).sum(axis=0) * (steps**2).sum())
    return float(np.mean(np.divide(steps @ ranks, spread, out=np.zeros(curve.shape[1]), where=spread > 0)))
