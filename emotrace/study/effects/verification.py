"""Does an outside judge see the emotion in the steered text? 40 scenarios, and what counts as a success (C9).

The judge is a classifier (``classifiers.py``) that shares nothing with the model. The paper reports 37 of 40; how it
counted is not public. Our definition, of a scenario with a target emotion:

    rise      = score of the target's labels in the steered text − in the unsteered one, mean over seeds
    p         = (b + 1) / (m + 1), b of the m random directions of equal norm whose rise is at least as large
    success   : p ≤ 0.05 (with m = 19 directions: a larger rise than any of them), and the rise is positive

Every direction, random or not, is judged on the same prompts, seeds and strength. Random directions that took no part in
the comparison, and vectors of other emotions, are put through the same test: what they reach is chance.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emotrace import steering
from emotrace.instrument import corpus
from emotrace.judges import regimes
from emotrace.judges.classifiers import Classifier, emotion_scores, known_labels
from emotrace.measures import statistics

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.vectors import EmotionVectors

ALPHA = 0.05
PLAIN, TARGET, RANDOM, HELD_OUT, WRONG = "plain", "target", "random", "random, held out", "wrong emotion"


@dataclass(frozen=True)
class Design:
    """How many texts a scenario gets. With m random directions the smallest p is 1 / (m + 1)."""

    seeds: int = 2
    random: int = 19
    held_out: int = 1
    wrong: int = 2
    max_new_tokens: int = 32
    temperature: float = 0.7


def write_scenarios(
    model: Model,
    vectors: EmotionVectors,
    scenarios: pd.DataFrame,
    strength: float,
    layers: Sequence[int],
    design: Design = Design(),
    *,
    positions: str = "generated",
    seed: int = 0,
    cache: steering.Cache | None = None,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Every text that the test needs, in batched passes.

    Returns:
        One row a text: ``scenario, target, prompt, kind`` (plain, target, random, random held out, wrong emotion),
        ``emotion`` (the vector added), ``strength, seed, text, tokens, n_tokens, ended``.

    Raises:
        EmotraceError: vectors of another model, or without one of the targets or the layers.
    """
    vectors.check(model)
    control = steering.random_like(vectors, design.random + design.held_out, seed)
    asked = []
    for scenario in scenarios.itertuples():
        applied = [(PLAIN, vectors, scenario.target, 0.0), (TARGET, vectors, scenario.target, strength)]
        applied += [
            (RANDOM if place < design.random else HELD_OUT, control, name, strength)
            for place, name in enumerate(control.emotions)
        ]
        others = _wrong(scenario.target, vectors.emotions, design.wrong, seed, scenario.id)
        applied += [(WRONG, vectors, name, strength) for name in others]
        asked += [(scenario, *how, seed + copy) for how in applied for copy in range(design.seeds)]
    texts = steering.write(
        model, [(scenario.prompt, source, what, size, sampled) for scenario, _, source, what, size, sampled in asked],
        layers, positions=positions, max_new_tokens=design.max_new_tokens, temperature=design.temperature, cache=cache,
        progress=progress,
    )  # fmt: skip
    facts = [
        {"scenario": scenario.id, "target": scenario.target, "prompt": scenario.prompt, "kind": kind,
         "emotion": what, "strength": size, "seed": sampled}
        for scenario, kind, _, what, size, sampled in asked
    ]  # fmt: skip
    return pd.concat([pd.DataFrame(facts), texts], axis=1)


def _wrong(target: str, names: Sequence[str], count: int, seed: int, scenario: str) -> list[str]:
    """Emotions, drawn for each scenario, none of whose labels is one of the target's: the judge can tell them apart."""
    labels = corpus.emotions()["goemotions"]
    others = [name for name in names if name != target and not set(labels[name]) & set(labels[target])]
    rng = np.random.default_rng([seed, zlib.crc32(f"wrong {target} {scenario}".encode())])
    return [str(name) for name in rng.choice(others, min(count, len(others)), replace=False)]


def judge(
    texts: pd.DataFrame, classifier: Classifier, emotion_labels: dict[str, Sequence[str]] | None = None
) -> pd.DataFrame:
    """The score of every emotion that the classifier has a label for in every text: one row a text, one column an emotion."""
    return emotion_scores(classifier, list(texts["text"]), emotion_labels or known_labels(classifier))


def verdicts(texts: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """One row a scenario: was it a success, and what would chance have been?

    Args:
        texts: of :func:`write_scenarios`.
        scores: of :func:`judge`, in the same order.

    Returns:
        ``scenario, target``; ``plain, steered, rise`` (mean scores of the target's labels over seeds, their difference);
        ``random_mean, random_positive, random_95`` (of the random directions' rises: mean,
        share above 0, 95th percentile); ``p, m, success``; ``rank`` of the target's rise
        among the 20 emotions' rises in the target's texts (1 is the largest, ties share their mean rank);
        ``held_out_successes`` of ``held_out`` and ``wrong_successes`` of ``wrong``: the same test of directions that
        are not the target's; ``n``, seeds.
    """
    return pd.DataFrame(
        [_verdict(group, scores.loc[group.index]) for _, group in texts.groupby("scenario", sort=False)]
    )


def _verdict(texts: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
    target = texts["target"].iloc[0]
    mean = scores.groupby([texts["kind"], texts["emotion"]]).mean()
    plain = mean.loc[PLAIN].iloc[0]
    rises = {kind: rows[target] - plain[target] for kind, rows in mean.groupby(level=0)}
    null = rises[RANDOM].to_numpy()
    own = float(rises[TARGET].iloc[0])
    candidates = [name for name in scores.columns if name != corpus.NEUTRAL]
    changes = (mean.loc[TARGET].iloc[0] - plain)[candidates]

    def test(rise: float) -> float:
        return statistics.permutation_p(rise, null, "greater")

    def successes(kind: str) -> int:
        return sum(_success(rise, test(rise)) for rise in rises.get(kind, ()))

    return {
        "scenario": texts["scenario"].iloc[0], "target": target, "plain": plain[target],
        "steered": plain[target] + own, "rise": own, "random_mean": null.mean(),
        "random_positive": (null > 0).mean(),
        "random_95": np.percentile(null, 95), "p": test(own), "m": len(null), "success": _success(own, test(own)),
        "rank": changes.rank(ascending=False)[target], "ranked": len(candidates),
        "held_out_successes": successes(HELD_OUT), "held_out": len(rises.get(HELD_OUT, ())),
        "wrong_successes": successes(WRONG), "wrong": len(rises.get(WRONG, ())),
        "n": int((texts["kind"] == TARGET).sum()),
    }  # fmt: skip


def _success(rise: float, p: float) -> bool:
    # p can equal alpha up to rounding: 1 / 20.
    return bool(rise > 0 and p <= ALPHA + 1e-12)


def coherence(model: Model, texts: pd.DataFrame, thresholds: regimes.Thresholds = regimes.DEFAULT) -> pd.Series:
    """The share of a scenario's target texts that are surgical, indexed by scenario."""
    plain = texts[texts["kind"] == PLAIN]
    compared = regimes.references(model, plain)
    measured = regimes.measure(model, texts[texts["kind"] == TARGET], compared, thresholds=thresholds)
    return (measured["regime"] == regimes.SURGICAL).groupby(measured["scenario"]).mean()
