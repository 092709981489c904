"""Does an outside judge see the emotion in the steered text? 40 scenarios, and what counts as a success (C9).

The judge is a classifier (:mod:`emotrace.judges.classifiers`) that shares nothing with the model. The paper reports 37
of 40; the full text of the paper, and so how it counted, could not be read here. Our definition, of a scenario with a
target emotion:

    rise      = score of the target's labels in the steered text − in the unsteered one, mean over seeds
    p         = (b + 1) / (m + 1), b of the m random directions of equal norm whose rise is at least as large
    success   : p ≤ 0.05 (with m = 19 directions: a larger rise than any of them), and the rise is positive

Every direction, random or not, is judged on the same prompts, seeds and strength. Random directions that took no part
in the comparison, and vectors of other emotions, are put through the same test: what they reach is chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emotrace.instrument import corpus
from emotrace.judges import regimes
from emotrace.measures import statistics
from emotrace.measures.randomness import generator_for
from emotrace.steered_texts import Row, write
from emotrace.steering import random_like
from emotrace.study.steered import Steering
from emotrace.tokens import Writing

if TYPE_CHECKING:
    from emotrace.models import Model

ALPHA = 0.05
# Directions of each kind that a scenario is written under. With m random ones the smallest p is 1 / (m + 1).
N_RANDOM, N_HELD_OUT, N_WRONG = 19, 1, 2
PLAIN, TARGET, RANDOM, HELD_OUT, WRONG = "plain", "target", "random", "random, held out", "wrong emotion"


def write_scenarios(steering: Steering, scenarios: pd.DataFrame) -> pd.DataFrame:
    """Every text that the test needs, in batched passes, with as many seeds and tokens as the run's settings say.

    Returns:
        One row a text: ``scenario, target, prompt, kind`` (plain, target, random, random held out, wrong emotion),
        ``emotion`` (the vector added), ``strength, seed, text, tokens, n_tokens, ended``.

    Raises:
        EmotraceError: vectors of another model, or without one of the targets or the layer.
    """
    study, settings, vectors = steering.study, steering.study.settings, steering.vectors.check(steering.model)
    seed, writing = settings.seed, Writing(max_new_tokens=settings.tokens, temperature=0.7)
    random = random_like(vectors, N_RANDOM + N_HELD_OUT, seed)
    kinds = [RANDOM] * N_RANDOM + [HELD_OUT] * N_HELD_OUT
    rows, facts = [], []
    for scenario in scenarios.to_dict("records"):
        identifier, target, prompt = scenario["id"], scenario["target"], scenario["prompt"]
        wrong = _wrong(target, vectors.emotions, N_WRONG, seed, identifier)
        directions = [
            (PLAIN, vectors, target, 0.0),
            (TARGET, vectors, target, steering.strength),
            *((kind, random, name, steering.strength) for kind, name in zip(kinds, random.emotions, strict=True)),
            *((WRONG, vectors, name, steering.strength) for name in wrong),
        ]
        for kind, source, emotion, strength in directions:
            for sample in range(seed, seed + settings.scenario_seeds):
                rows.append(Row(prompt, source, emotion, strength, sample))
                facts.append((identifier, target, prompt, kind, emotion, strength, sample))

    def progress(done: int) -> None:
        study.progress("scenarios: texts", done, len(rows))

    texts = write(study.model, rows, [steering.layer], writing, cache=study.run, progress=progress)
    columns = ["scenario", "target", "prompt", "kind", "emotion", "strength", "seed"]
    return pd.concat([pd.DataFrame(facts, columns=columns), texts], axis=1)


def _wrong(target: str, names: Sequence[str], count: int, seed: int, scenario: str) -> list[str]:
    """Emotions, drawn for each scenario, none of whose labels is one of the target's: the judge can tell them apart."""
    labels = corpus.emotions()["goemotions"]
    others = [name for name in names if name != target and not set(labels[name]) & set(labels[target])]
    rng = generator_for(seed, f"wrong {target} {scenario}")
    return [str(name) for name in rng.choice(others, min(count, len(others)), replace=False)]


def verdicts(texts: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """One row a scenario: was it a success, and what would chance have been?

    Args:
        texts: of :func:`write_scenarios`.
        scores: how strongly each text shows each emotion (``classifiers.emotion_scores``), in the same order.

    Returns:
        ``scenario, target``; ``plain, steered, rise`` (mean scores of the target's labels over seeds, their
        difference); ``random_mean, random_positive, random_95`` (of the random directions' rises: mean, share above 0,
        95th percentile); ``p, m, success``; ``rank`` of the target's rise among the rises of the 20 emotions
        (``ranked``) in the target's texts (1 is the largest, ties share their mean rank); ``held_out_successes`` of
        ``held_out`` and ``wrong_successes`` of ``wrong``: the same test of directions that are not the target's;
        ``n``, seeds.
    """
    return pd.DataFrame(
        [_verdict(group, scores.loc[group.index]) for _, group in texts.groupby("scenario", sort=False)]
    )


def _verdict(texts: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
    target = texts["target"].iloc[0]
    mean = scores.groupby([texts["kind"], texts["emotion"]]).mean()
    plain = mean.loc[PLAIN].iloc[0]

    def rises(kind: str) -> np.ndarray:
        return (mean[target] - plain[target])[mean.index.get_level_values("kind") == kind].to_numpy()

    null, rise = rises(RANDOM), float(rises(TARGET)[0])
    ranked = [name for name in scores.columns if name != corpus.NEUTRAL]
    changes = (mean.loc[TARGET].iloc[0] - plain)[ranked]
    p = statistics.permutation_p(rise, null, "greater")
    controls: dict[str, int] = {}
    for name, kind in (("held_out", HELD_OUT), ("wrong", WRONG)):
        tests = [_success(value, statistics.permutation_p(value, null, "greater")) for value in rises(kind)]
        controls |= {f"{name}_successes": sum(tests), name: len(tests)}
    return {
        "scenario": texts["scenario"].iloc[0],
        "target": target,
        "plain": plain[target],
        "steered": plain[target] + rise,
        "rise": rise,
        "random_mean": null.mean(),
        "random_positive": (null > 0).mean(),
        "random_95": np.percentile(null, 95),
        "p": p,
        "m": len(null),
        "success": _success(rise, p),
        "rank": changes.rank(ascending=False)[target],
        "ranked": len(ranked),
        **controls,
        "n": int((texts["kind"] == TARGET).sum()),
    }


def _success(rise: float, p: float) -> bool:
    # p can equal alpha up to rounding: 1 / 20.
    return bool(rise > 0 and p <= ALPHA + 1e-12)


def coherence(model: Model, texts: pd.DataFrame) -> pd.Series:
    """The share of a scenario's target texts that are surgical, indexed by scenario."""
    references = regimes.references(model, texts[texts["kind"] == PLAIN])
    measured = regimes.measure(model, texts[texts["kind"] == TARGET], references)
    return (measured["regime"] == regimes.SURGICAL).groupby(measured["scenario"]).mean()
