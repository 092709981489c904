"""Does an outside judge see the emotion in the steered text? 40 scenarios, and what counts as a success (C9).

The judge is a classifier (:mod:`emotrace.judges.classifiers`) that shares nothing with the model. The paper reports 37
of 40; the full text of the paper, and so how it counted, could not be read here. Our definition, of a scenario with a
target emotion:

    rise      = score of the target's labels in the steered text − in the unsteered one, mean over seeds
    p         = (b + 1) / (m + 1), b of the m control directions of equal norm whose rise is at least as large
    success   : p ≤ 0.05 (with m = 19 directions: a larger rise than any of them), and the rise is positive

The rule is :class:`~emotrace.judges.confirmation.Rule`, by which the judge's ceiling is measured as well
(:mod:`emotrace.study.effects.ceilings`). The m directions are vectors of labels permuted within topics. Every direction
is judged on the same prompts, seeds and strength. Put through the same test: a permuted-label direction that took no
part in the comparison, and vectors of other emotions (what chance gives), and unsteered texts that were simply *asked*
for the feeling (:mod:`emotrace.study.effects.prompting`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emotrace.instrument import corpus
from emotrace.judges import regimes
from emotrace.judges.confirmation import Rule
from emotrace.measures.randomness import generator_for
from emotrace.steered_texts import Row, write
from emotrace.study.effects import prompting
from emotrace.study.effects.arms import CALIBRATED, GAUSSIAN, PERMUTED, Arm
from emotrace.study.steered import Steering

if TYPE_CHECKING:
    from emotrace.models import Model

# Directions of each kind that a scenario is written under. With m permuted-label ones the smallest p is 1 / (m + 1).
N_PERMUTED, N_HELD_OUT, N_GAUSSIAN, N_WRONG = Rule.controls, 1, 3, 2
PLAIN, TARGET, HELD_OUT, WRONG = "plain", "target", "permuted, held out", "wrong emotion"
PROMPTED, ASKED = "prompted", "prompted, no feeling"
COHERENCE_CONTROLS = 4
"""So many of the permuted-label directions have the coherence of their texts measured."""
SHOWN = (PLAIN, TARGET, HELD_OUT, PROMPTED)
"""The kinds of texts that are published."""


def write_scenarios(steering: Steering, arm: Arm, scenarios: pd.DataFrame, seeds: int) -> pd.DataFrame:
    """Every text that the test of an arm needs, in batched passes; of the published arm target and control alone.

    Returns:
        One row a text: ``scenario, target, prompt, kind`` (plain, target, permuted, permuted held out, gaussian, wrong
        emotion, prompted, prompted without a feeling), ``emotion`` (the vector added), ``strength, seed, text, tokens,
        n_tokens``.

    Raises:
        EmotraceError: vectors of another model, or without one of the targets or the layer.
    """
    study, settings, vectors = steering.study, steering.study.settings, arm.vectors.check(steering.model)
    first, whole = settings.seed, arm.name == CALIBRATED
    rows, facts = [], []
    for scenario in scenarios.to_dict("records"):
        identifier, target, prompt = scenario["id"], scenario["target"], scenario["prompt"]
        permuted = arm.directions[PERMUTED]
        directions = [
            (PLAIN, vectors, target, 0.0),
            (TARGET, vectors, target, arm.strength),
            *((PERMUTED, permuted, name, arm.strength) for name in permuted.emotions[:N_PERMUTED]),
        ]
        if whole:
            gaussian = arm.directions[GAUSSIAN]
            wrong = _wrong(study.source.labels, target, vectors.emotions, N_WRONG, first, identifier)
            directions += [(HELD_OUT, permuted, name, arm.strength) for name in permuted.emotions[N_PERMUTED:]]
            directions += [(GAUSSIAN, gaussian, name, arm.strength) for name in gaussian.emotions[:N_GAUSSIAN]]
            directions += [(WRONG, vectors, name, arm.strength) for name in wrong]
        for kind, source, emotion, strength in directions:
            for sample in range(first, first + seeds):
                rows.append(Row(prompt, source, emotion, strength, sample))
                facts.append((identifier, target, prompt, kind, emotion, strength, sample))

    def progress(done: int) -> None:
        study.progress(f"scenarios, {arm.name}: texts", done, len(rows))

    writing = arm.writing(settings.tokens)
    texts = write(study.model, rows, arm.layers, writing, on_the_fly=arm.on_the_fly, cache=study.run, progress=progress)
    columns = ["scenario", "target", "prompt", "kind", "emotion", "strength", "seed"]
    table = pd.concat([pd.DataFrame(facts, columns=columns), texts.drop(columns="ended")], axis=1)
    return pd.concat([table, _asked(steering, scenarios, seeds)], ignore_index=True) if whole else table


def _asked(steering: Steering, scenarios: pd.DataFrame, seeds: int) -> pd.DataFrame:
    """The same scenarios, unsteered, after a request for the feeling and after one without."""
    settings = steering.study.settings
    facts = [
        (row["id"], row["target"], row["prompt"], kind, row["target"] if kind == PROMPTED else "", 0.0, sample)
        for row in scenarios.to_dict("records")
        for kind in (PROMPTED, ASKED)
        for sample in range(settings.seed, settings.seed + seeds)
    ]
    columns = ["scenario", "target", "prompt", "kind", "emotion", "strength", "seed"]
    table = pd.DataFrame(facts, columns=columns)
    cases = [(row["prompt"], row["emotion"], row["seed"]) for row in table.to_dict("records")]
    return pd.concat([table, prompting.write(steering.model, cases, settings.tokens)], axis=1)


def _wrong(
    labels: Mapping[str, Sequence[str]], target: str, names: Sequence[str], count: int, seed: int, scenario: str
) -> list[str]:
    """Emotions, drawn for each scenario, none of whose labels is one of the target's: the judge can tell them apart."""
    own = set(labels[target])
    others = [name for name in names if name != target and not own & set(labels.get(name, ()))]
    rng = generator_for(seed, f"wrong {target} {scenario}")
    return [str(name) for name in rng.choice(others, min(count, len(others)), replace=False)]


def verdicts(texts: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """One row a scenario: was it a success, and what would chance, and asking, have been?

    Args:
        texts: of :func:`write_scenarios`.
        scores: how strongly each text shows each emotion (``classifiers.emotion_scores``), in the same order.

    Returns:
        ``scenario, target``; ``plain, steered, rise`` (mean scores of the target's labels over seeds, their
        difference); ``permuted_mean, permuted_positive, permuted_95`` (of the permuted-label directions' rises: mean,
        share above 0, 95th percentile); ``random_mean, wrong_mean`` (of the Gaussian directions and of the other
        emotions); ``p, m, success``; ``rank`` of the target's rise among the rises of the 20 emotions (``ranked``) in
        the target's texts (1 is the largest, ties share their mean rank); ``held_out_successes`` of ``held_out`` and
        ``wrong_successes`` of ``wrong``: the same test of directions that are not the target's; ``prompted_rise,
        prompted_success``: of the text that was asked for the feeling over the one that was asked without it; ``n``,
        seeds.
    """
    return pd.DataFrame(
        [_verdict(group, scores.loc[group.index]) for _, group in texts.groupby("scenario", sort=False)]
    )


def _verdict(texts: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
    target = texts["target"].iloc[0]
    mean = scores.groupby([texts["kind"], texts["emotion"]]).mean()
    plain = mean.loc[PLAIN].iloc[0]

    def of_kind(kind: str) -> np.ndarray:
        return mean[target][mean.index.get_level_values("kind") == kind].to_numpy()

    null, rise = of_kind(PERMUTED) - plain[target], float(of_kind(TARGET)[0] - plain[target])
    ranked = [name for name in scores.columns if name != corpus.NEUTRAL]
    changes = (mean.loc[TARGET].iloc[0] - plain)[ranked]
    rule = Rule(controls=len(null))
    success, p = rule.confirms(rise, null), rule.p(rise, null)
    controls: dict[str, Any] = {}
    for name, kind in (("held_out", HELD_OUT), ("wrong", WRONG)):
        tests = [rule.confirms(value - plain[target], null) for value in of_kind(kind)]
        controls |= {f"{name}_successes": sum(tests), name: len(tests)}
    for name, kind in (("random", GAUSSIAN), ("wrong", WRONG)):
        controls[f"{name}_mean"] = float(np.mean(of_kind(kind) - plain[target])) if len(of_kind(kind)) else np.nan
    if len(of_kind(PROMPTED)):
        asked = float(of_kind(PROMPTED)[0] - of_kind(ASKED)[0])
        controls |= {"prompted_rise": asked, "prompted_success": rule.confirms(asked, null)}
    return {
        "scenario": texts["scenario"].iloc[0],
        "target": target,
        "plain": plain[target],
        "steered": plain[target] + rise,
        "rise": rise,
        "permuted_mean": null.mean(),
        "permuted_positive": (null > 0).mean(),
        "permuted_95": np.percentile(null, 95),
        "p": p,
        "m": len(null),
        "success": success,
        "rank": changes.rank(ascending=False)[target],
        "ranked": len(ranked),
        **controls,
        "n": int((texts["kind"] == TARGET).sum()),
    }


def coherence(model: Model, texts: pd.DataFrame, progress: Callable[[int, int], None] | None = None) -> pd.DataFrame:
    """The shares of a scenario's target texts, and of some of its control texts, that are surgical.

    Args:
        model: the model that wrote them.
        texts: of :func:`write_scenarios`.
        progress: called with the number of texts just scored and with that of all.

    Returns:
        Indexed by scenario: ``coherent, control_coherent``.
    """
    controls = list(dict.fromkeys(texts["emotion"][texts["kind"] == PERMUTED]))[:COHERENCE_CONTROLS]
    first = texts["seed"] == texts["seed"].min()
    control = (texts["kind"] == PERMUTED) & texts["emotion"].isin(controls) & first
    references = regimes.references(model, texts[texts["kind"] == PLAIN])
    chosen = texts[(texts["kind"] == TARGET) | control]
    scored = (lambda done: progress(done, len(chosen))) if progress else None
    measured = regimes.measure(model, chosen, references, progress=scored)
    surgical = (measured["regime"] == regimes.SURGICAL).groupby([measured["scenario"], measured["kind"]]).mean()
    return surgical.unstack().rename(columns={TARGET: "coherent", PERMUTED: "control_coherent"})


# -- prompting on the prompts of the dose response --------------------------------------------------------------------


def prompted_dose(steering: Steering, emotions: Sequence[str]) -> pd.DataFrame:
    """The prompts of the dose response, unsteered, after a request for each emotion and after one for none.

    Returns:
        One row a text: ``prompt, emotion`` (asked for; empty for none), ``seed, text, tokens, n_tokens``.
    """
    settings = steering.study.settings
    prompts = steering.study.source.prompts("dose")[: settings.dose_prompts]
    cases = [(prompt, emotion, settings.seed) for prompt in prompts for emotion in ("", *emotions)]
    table = pd.DataFrame(cases, columns=["prompt", "emotion", "seed"])
    return pd.concat([table, prompting.write(steering.model, cases, settings.tokens)], axis=1)
