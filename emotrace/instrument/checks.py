"""Checks passages as an instrument: what would tell emotions apart other than what happens in the text.

The check is offered, not enforced: notebook 01 shows it on the passages, and on a table with planted faults.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import NamedTuple

import pandas as pd

from emotrace.instrument.corpus import MAIN_INSTRUMENT, NEUTRAL, emotions, leaks, topics, words
from emotrace.measures.randomness import generator_for
from emotrace.measures.words_floor import counts_leak, decode_counts, has_speech, owned_words, stem, surface_counts

# How far an emotion's mean length may lie from the grand mean.
LENGTH_TOLERANCE = 0.05
# Two passages that share a run of this many words share a template.
TEMPLATE_WORDS = 5
# Surface counts may decode the emotions above chance if labels shuffled within topics do as well, by a test at this p.
SURFACE_ALPHA = 0.05


class Promises(NamedTuple):
    """What differs between sets of passages; everything else is promised of all.

    Attributes:
        words: the fewest and the most words of a passage.
        balanced: the columns whose every combination each emotion has equally often.
    """

    words: tuple[int, int]
    balanced: tuple[str, ...]


PROMISES = {
    "scenes": Promises((35, 60), ("person", "gender", "tense")),
    "accounts": Promises((60, 120), ("person", "gender", "tense")),
}

# Motifs that no single word shows: near-synonyms, counted as one word.
_FAMILIES = {
    "loud voice": "shout yell bellow roar bawl scream holler",
    "blow": "slam thump kick hit hurl bang slap strike struck smash pound punch fist",
    "heat": "heat hot burn burnt scarlet sweat pulse blood flush boil",
    "dry mouth": "swallow dry dried tongue lip throat mouth tap",
    "tears": "weep wept cry cried tear sob blur sting tremble",
    "begging": "beg plead implore kneel knelt knee",
    "freezing": "freeze froze frozen rigid flatten crouch lock stiff",
    "tenderness": "kiss cheek tuck whisper wrap cuddle stroke cradle",
    "melting": "melt dissolve drift float sank sink",
    "laughter": "laugh grin giggle smile chuckle dance whistle",
    "standing tall": "upright chin shoulder straight tall",
    "checking": "check recheck reread double",
}
FAMILIES = {name: {stem(word) for word in family.split()} for name, family in _FAMILIES.items()}


def check_instrument(table: pd.DataFrame, instrument: str = MAIN_INSTRUMENT, *, surface: bool = True) -> list[str]:
    """The faults of a table of passages, one sentence each, measured by what ``data/README.md`` promises.

    Checked: full crossing of topics and classes; length of each passage and of each emotion's mean; kin words of *any*
    emotion; the same last character; balance of person, gender and tense within each emotion; shared sentences, shared
    runs of five words, opening words; direct speech as often in every class; words or motifs that one emotion owns; and
    that surface counts (punctuation, lengths) decode the emotions no better than chance. Notebook 01 uses it.

    The last is a test: on a set whose labels mean nothing it complains in at most one of twenty.

    Args:
        table: the columns of ``data/passages.csv``.
        instrument: by which of ``PROMISES`` it is measured.
        surface: whether to test what surface counts decode, which takes a second or two.
    """
    promises = PROMISES[instrument]
    return [
        *_check_crossing(table),
        *_check_lengths(table, *promises.words),
        *_check_endings(table),
        *_check_leakage(table),
        *_check_balance(table, promises.balanced),
        *_check_repetition(table),
        *_check_speech(table),
        *_check_owned_words(table),
        *(_check_surface(table) if surface else []),
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


def _check_lengths(table: pd.DataFrame, fewest: int, most: int) -> list[str]:
    lengths = table["text"].map(lambda text: len(words(text)))
    faults = [
        f"{name}: {length} words, not {fewest} to {most}"
        for name, length in zip(table["id"], lengths, strict=True)
        if not fewest <= length <= most
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


def _check_balance(table: pd.DataFrame, columns: tuple[str, ...]) -> list[str]:
    """Each emotion has every combination of person, gender and tense equally often."""
    combination = table[list(columns)].agg("/".join, axis=1)
    counts = pd.crosstab(table["emotion"], combination)
    common = counts.loc[:, (counts > 0).mean() > 0.5]  # a stray combination is the fault of its own emotion alone
    expected = counts.sum(axis=1) / common.shape[1]
    uneven = counts[common.ne(expected, axis=0).any(axis=1)]
    return [f"{emotion}: {'/'.join(columns)} uneven ({dict(row)})" for emotion, row in uneven.iterrows()]


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


def _check_speech(table: pd.DataFrame) -> list[str]:
    """Direct speech stands in as many passages of every class, or in none: it moves the last token's stream."""
    counts = table["text"].map(has_speech).groupby(table["emotion"]).sum()
    usual = counts.mode().iloc[0] if len(counts) else 0
    return [
        f"{emotion}: {count} passages with direct speech, where most classes have {usual}"
        for emotion, count in counts.items()
        if count != usual
    ]


def _check_owned_words(table: pd.DataFrame) -> list[str]:
    found = owned_words([words(text) for text in table["text"]], table["emotion"], FAMILIES)
    return [
        f"{owned.emotion} owns the word {owned.word!r}: in {owned.texts} of its {owned.of} passages, "
        f"in {owned.next} of any other class's"
        for owned in found
    ]


def _check_surface(table: pd.DataFrame) -> list[str]:
    table = table[table["emotion"] != NEUTRAL]
    if table["topic"].nunique() < 2:
        return ["one topic only: what surface counts decode cannot be tested"]
    counts = surface_counts(list(table["text"]), [words(text) for text in table["text"]])
    labels = table["emotion"], table["topic"]
    accuracy, chance = decode_counts(counts, *labels).mean(), 1 / table["emotion"].nunique()
    fault = f"punctuation and lengths decode the emotions at {accuracy:.3f} (chance {chance:.2f})"
    if accuracy <= chance:
        return []
    p = counts_leak(counts, *labels, generator_for(0, "surface counts")).p
    return [f"{fault}, more than labels shuffled within topics do (p = {p:.3f})"] if p <= SURFACE_ALPHA else []
