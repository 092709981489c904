"""What the judge can confirm at all (C9): its ceiling under the very rule that steered texts are put through.

The passages of an emotion stand in for perfectly steered texts, neutral passages (or, of an instrument that has none,
its unrelated texts) for the unsteered ones and the controls: whole, and cut to the length of a steered text. The
passages are one writer's; other texts that carry a feeling may be easier or harder to judge.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from emotrace.instrument import corpus
from emotrace.instrument.instrument import Instrument
from emotrace.judges.classifiers import Classifier, emotion_scores, known_labels
from emotrace.judges.confirmation import Rule, ceiling_of_scores

WHOLE, CUT = TEXTS = ("whole", "cut")
WORDS_PER_TOKEN = 0.75
"""Of English prose under the tokenizers of the packaged models."""


def ceilings(
    classifier: Classifier, source: Instrument, rules: dict[str, Rule], tokens: int, seed: int
) -> dict[str, pd.DataFrame]:
    """The ceiling of each rule with passages whole and cut to ``tokens``; the judge reads them once.

    Returns:
        By the rule's name: ``texts`` (``whole``, ``cut``), ``emotion`` (``all``: their mean); ``value``, the rate at
        which sets of the emotion's passages are confirmed, for ``all`` with an interval over emotions and neutral
        passages; ``rises``, the rate at which they score above neutral ones at all; ``n`` passages.
    """
    labels, words = known_labels(classifier, source.labels), max(1, round(WORDS_PER_TOKEN * tokens))
    passages = source.passages[["emotion", "text"]]
    if not source.has_neutral:  # its unrelated texts are without a feeling too
        unfelt = pd.DataFrame({"emotion": corpus.NEUTRAL, "text": source.unfelt})
        passages = pd.concat([passages, unfelt], ignore_index=True)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in rules}
    least = max(rule.texts for rule in rules.values())
    enough = passages["emotion"].value_counts()
    names = [name for name in labels if name != corpus.NEUTRAL and enough.get(name, 0) >= least]
    if not names or enough.get(corpus.NEUTRAL, 0) < least:  # a table of one's own, too small for it
        nothing = pd.DataFrame([{"texts": kind, "emotion": "all"} for kind in TEXTS])
        return {name: nothing.assign(**dict.fromkeys(("value", "low", "high", "rises"), np.nan), n=0) for name in rules}
    for kind in TEXTS:
        texts = passages["text"] if kind == WHOLE else passages["text"].str.split().str[:words].str.join(" ")
        scores = emotion_scores(classifier, list(texts), {name: labels[name] for name in names})
        scores.index = pd.Index(passages["emotion"])
        own = {name: scores.loc[[name], name].to_numpy() for name in names}
        for rule_name, rule in rules.items():
            found = ceiling_of_scores(own, scores.loc[[corpus.NEUTRAL]].to_numpy(), rule, seed=seed)
            together = {"emotion": "all", **found.rate._asdict(), "rises": found.rises.value}
            single = found.by_emotion.rename(columns={"rate": "value"}).to_dict("records")
            total = int(found.by_emotion["n"].sum())
            rows[rule_name] += [{"texts": kind, **row} for row in (*single, {**together, "n": total})]
    return {name: pd.DataFrame(made) for name, made in rows.items()}
