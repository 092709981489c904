"""Checks passages as an instrument: crossing with topics, length, leakage of emotion words, balance, repetition.

The check is offered, not enforced: notebook 01 shows it on the passages, and on a table with planted faults.
"""

from __future__ import annotations

import re
from collections import defaultdict

import pandas as pd

from emotrace.instrument.corpus import emotions, leaks, topics, words

# Words a passage may have, and how far an emotion's mean length may lie from the grand mean.
MIN_WORDS, MAX_WORDS, LENGTH_TOLERANCE = 35, 60, 0.05
# Two passages that share a run of this many words share a template.
TEMPLATE_WORDS = 5


def check_instrument(table: pd.DataFrame) -> list[str]:
    """The faults of a table of passages, one sentence each, measured by what ``data/README.md`` promises.

    Checked: full crossing of topics and classes, length of each passage and of each emotion's mean, kin words of *any*
    emotion, the same last character, balance of person, gender and tense within each emotion, shared sentences and
    shared runs of five words, opening words. Notebook 01 uses it.
    """
    return [
        *_check_crossing(table),
        *_check_lengths(table),
        *_check_endings(table),
        *_check_leakage(table),
        *_check_balance(table),
        *_check_repetition(table),
    ]


def _check_crossing(table: pd.DataFrame) -> list[str]:
    counts = pd.crosstab(table["topic"], table["emotion"])
    counts = counts.reindex(index=topics().index, columns=emotions().index, fill_value=0)
    strays = [f"unknown topic {topic}" for topic in sorted(set(table["topic"]) - set(topics().index))]
    return strays + [
        f"{topic} × {emotion}: {counts.loc[topic, emotion]} passages, not 1"
        for topic in counts.index
        for emotion in counts.columns
        if counts.loc[topic, emotion] != 1
    ]


def _check_lengths(table: pd.DataFrame) -> list[str]:
    lengths = table["text"].map(lambda text: len(words(text)))
    faults = [
        f"{name}: {length} words, not {MIN_WORDS} to {MAX_WORDS}"
        for name, length in zip(table["id"], lengths, strict=True)
        if not MIN_WORDS <= length <= MAX_WORDS
    ]
    grand_mean = lengths.mean()
    return faults + [
        f"{emotion}: mean length {mean:.1f} words, more than 5% from {grand_mean:.1f}"
        for emotion, mean in lengths.groupby(table["emotion"]).mean().items()
        if abs(mean / grand_mean - 1) > LENGTH_TOLERANCE
    ]


def _check_endings(table: pd.DataFrame) -> list[str]:
    """Last-token pooling reads the last token: a full stop here and a quotation mark there would give a class away."""
    endings = table["text"].str.endswith(".")
    return [f"{name}: does not end with a full stop" for name in table["id"][~endings]]


def _check_leakage(table: pd.DataFrame) -> list[str]:
    leaked = ((name, leaks(text)) for name, text in zip(table["id"], table["text"], strict=True))
    return [f"{name}: names an emotion ({', '.join(kin)})" for name, kin in leaked if kin]


def _check_balance(table: pd.DataFrame) -> list[str]:
    """Each emotion has every combination of person, gender and tense equally often."""
    combination = table["person"] + "/" + table["gender"] + "/" + table["tense"]
    counts = pd.crosstab(table["emotion"], combination)
    common = counts.loc[:, (counts > 0).mean() > 0.5]  # a stray combination is the fault of its own emotion alone
    expected = counts.sum(axis=1) / common.shape[1]
    uneven = counts[common.ne(expected, axis=0).any(axis=1)]
    return [f"{emotion}: person/gender/tense uneven ({dict(row)})" for emotion, row in uneven.iterrows()]


def _check_repetition(table: pd.DataFrame) -> list[str]:
    """No sentence, run of words or opening stands in two passages."""
    sentences: dict[str, set[str]] = defaultdict(set)
    runs: dict[str, set[str]] = defaultdict(set)
    openings: dict[str, set[str]] = defaultdict(set)
    for name, text in zip(table["id"], table["text"], strict=True):
        tokens = words(text)
        openings[" ".join(tokens[:3])].add(name)
        for sentence in re.split(r"(?<=[.!?])\s+", text.lower()):
            sentences[sentence.strip()].add(name)
        for start in range(len(tokens) - TEMPLATE_WORDS + 1):
            runs[" ".join(tokens[start : start + TEMPLATE_WORDS])].add(name)
    repeatable = {"sentence": sentences, f"run of {TEMPLATE_WORDS} words": runs, "opening": openings}
    return [
        f"the same {kind} in {', '.join(sorted(names))}: {words_shared}"
        for kind, passages in repeatable.items()
        for words_shared, names in passages.items()
        if len(names) > 1
    ]
