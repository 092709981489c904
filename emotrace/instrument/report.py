"""``emotrace check``: what an instrument's own texts say before a model reads them.

Every promise is one that our own texts were written to keep, at the limits of :mod:`emotrace.instrument.checks`;
someone else's are measured by it and told, nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from emotrace.errors import unknown
from emotrace.instrument import corpus
from emotrace.instrument.checks import FAMILIES, LENGTH_TOLERANCE, SURFACE_ALPHA
from emotrace.instrument.corpus import NEUTRAL
from emotrace.instrument.folds import alike
from emotrace.instrument.instrument import Instrument
from emotrace.measures.geometry import topic_folds
from emotrace.measures.randomness import generator_for
from emotrace.measures.words_floor import SURFACE, counts_leak, decode_tfidf, has_speech, owned_words, surface_counts

FEWEST = 8
"""With fewer texts an emotion's mean says little; ours have twelve."""
FEWEST_OWNED = 3
"""A word is one emotion's own in so many texts at least: one text of two is chance."""
CURVE = (0.25, 0.5, 0.75, 1.0)
"""Shares of the topics on which the words-only floor is measured."""
MANY = 1000
"""Of more texts labels are shuffled 39 times at most, not 199: enough for p = 0.025."""
SHOWN = 5


class Finding(NamedTuple):
    """One line of the report.

    Attributes:
        what: the subject, a key.
        kept: whether the promise is kept; None where it is a fact and no promise.
        said: one sentence.
        details: rows, pairs or words behind it, a line each.
    """

    what: str
    kept: bool | None
    said: str
    details: tuple[str, ...] = ()


Words = Sequence[Sequence[str]]


def examine(instrument: Instrument, whats: Sequence[str] | None = None) -> list[Finding]:
    """Everything that texts say without a model, in the order in which it is read.

    Counts and balance, lengths and punctuation (what they decode, by :func:`counts_leak`), words that name an emotion,
    words and topics that one emotion owns, near-duplicates, and what the words alone decode with topics held out, over
    growing shares of the topics.

    Args:
        instrument: what is examined.
        whats: which of ``CHECKS``; default all.

    Raises:
        EmotraceError: an unknown check.
    """
    if instrument.passages.empty:
        return [Finding("counts", None, f"{len(instrument.emotions)} names and no texts: nothing to check")]
    for what in whats or ():
        if what not in CHECKS:
            raise unknown("check", what, CHECKS)
    words = [corpus.any_words(text) for text in instrument.passages["text"]]
    return [CHECKS[what](instrument, words) for what in whats or CHECKS]


def _curve(table: pd.DataFrame, words: Words) -> pd.DataFrame:
    """What the words alone decode over growing shares of the topics, the first ones; shares go that leave no fold
    two emotions, or no word, to learn from."""
    topics = list(table["topic"].unique())
    rows = []
    for count in sorted({round(share * len(topics)) for share in CURVE}):
        inside = np.flatnonzero(table["topic"].isin(topics[:count])).tolist()
        emotions = table["emotion"].to_numpy(str)[inside]
        of_topic, tokens = table["topic"].to_numpy(str)[inside], [words[row] for row in inside]
        if count < 2 or not _learnable(tokens, emotions, of_topic):
            continue
        correct = decode_tfidf(tokens, emotions, of_topic)
        chance = pd.Series(emotions).value_counts(normalize=True).max()
        rows.append({"topics": count, "texts": len(inside), "accuracy": correct.mean(), "chance": chance})
    return pd.DataFrame(rows, columns=["topics", "texts", "accuracy", "chance"])


def _learnable(words: Words, emotions: np.ndarray, topics: np.ndarray) -> bool:
    """Whether every fold over topics has texts of two emotions, and a word, to learn from."""
    trains = [train for train, _ in topic_folds(topics)]
    return all(len(set(emotions[train])) > 1 and any(words[row] for row in train) for train in trains)


def _some(lines: Sequence[str], most: int = SHOWN) -> tuple[str, ...]:
    return (*lines[:most], *([f"and {len(lines) - most} more"] if len(lines) > most else []))


def _rows(instrument: Instrument, words: Words) -> Finding:
    left = [str(row) for row in instrument.left_out]
    said = f"{instrument.read:,} rows read: {len(instrument.passages):,} used, {len(left)} left out and named"
    return Finding("rows", not left, said, tuple(left))


def _counts(instrument: Instrument, words: Words) -> Finding:
    table = instrument.passages
    counts = table["emotion"].value_counts()
    few = [f"{name}: {count}" for name, count in counts.items() if count < FEWEST]
    said = f"{counts.min()} ({counts.idxmin()}) to {counts.max()} ({counts.idxmax()}) texts an emotion"
    return Finding("counts", not few, said + (f"; {len(few)} have fewer than {FEWEST}" if few else ""), _some(few))


def _crossing(instrument: Instrument, words: Words) -> Finding:
    table = instrument.passages
    if not instrument.has_topics:
        return Finding("topics", None, "no topics: folds by text, and nothing tells an emotion from its topics")
    counts = pd.crosstab(table["emotion"], table["topic"])
    full = bool((counts == counts.iloc[0, 0]).all(axis=None))
    share = (counts > 0).to_numpy().mean()
    said = f"{counts.shape[1]} topics; {share:.0%} of emotions × topics have a text"
    said += ", every cell as many" if full else ""
    spread = (counts > 0).sum(axis=1)
    owned = [
        f"{name} has one topic alone: {', '.join(counts.columns[counts.loc[name] > 0])}"
        for name in counts.index
        if spread[name] == 1
    ]
    owned += [
        f"the topic {topic} has one emotion alone: {counts.index[counts[topic] > 0][0]}"
        for topic in counts.columns
        if (counts[topic] > 0).sum() == 1
    ]
    return Finding("topics", full, said if not owned else f"{said}; {len(owned)} owned", _some(owned))


def _lengths(instrument: Instrument, words: Words) -> Finding:
    table = instrument.passages
    lengths = pd.Series([len(tokens) for tokens in words], index=table.index)
    means, grand = lengths.groupby(table["emotion"]).mean(), lengths.mean()
    off = [f"{name}: {mean:.1f}" for name, mean in means.items() if abs(mean / grand - 1) > LENGTH_TOLERANCE]
    said = f"{lengths.min()} to {lengths.max()} words, {grand:.1f} on average"
    said += f"; the means of {len(off)} emotions lie more than {LENGTH_TOLERANCE:.0%} off" if off else ""
    return Finding("lengths", not off, said, _some(off))


def _speech(instrument: Instrument, words: Words) -> Finding:
    table = instrument.passages
    shares = table["text"].map(has_speech).groupby(table["emotion"]).mean()
    said = f"direct speech in {shares.min():.0%} ({shares.idxmin()}) to {shares.max():.0%} ({shares.idxmax()}) of texts"
    return Finding("speech", bool(np.isclose(shares.max(), shares.min())), said)


def _endings(instrument: Instrument, words: Words) -> Finding:
    table = instrument.passages
    ends = table["text"].str.rstrip().str[-1]
    usual = ends.mode()[0]
    same, of = int((ends == usual).sum()), len(table)
    share = "100%" if same == of else f"{same / of:.0%} ({same:,} of {of:,})"
    return Finding("endings", same == of, f"{share} of texts end in {usual!r}: pooling `last` reads that token")


def _leakage(instrument: Instrument, words: Words) -> Finding:
    table = instrument.passages
    found = [(name, instrument.leaks(text, [name]), instrument.leaks(text)) for name, text in _labelled(table)]
    own = [f"text {row} of {name}: {', '.join(kin)}" for row, (name, kin, _) in enumerate(found, 1) if kin]
    named = sum(bool(kin) for _, _, kin in found)
    said = f"{len(own)} of {len(table):,} texts name their own emotion, {named} name any"
    return Finding("leakage", not named, said, _some(own))


def _labelled(table: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(table["emotion"], table["text"], strict=True))


def _owned_words(instrument: Instrument, words: Words) -> Finding:
    table = instrument.passages
    owned = [
        f"{word.emotion}: {word.word!r} in {word.texts} of {word.of} texts, in {word.next} of any other emotion's"
        for word in owned_words(words, table["emotion"], FAMILIES)
        if word.texts >= FEWEST_OWNED
    ]
    return Finding("owned words", not owned, f"{len(owned)} words that one emotion has for itself", _some(owned, 10))


def _near_duplicates(instrument: Instrument, words: Words) -> Finding:
    table = instrument.passages
    pairs = alike(words)
    emotions = table["emotion"].to_numpy(str)
    across = sum(emotions[a] != emotions[b] for a, b, _ in pairs)
    lines = [f"texts {a + 1} and {b + 1} ({emotions[a]}, {emotions[b]}): {index:.2f} alike" for a, b, index in pairs]
    said = f"{len(pairs)} pairs of near-duplicates" + (f", {across} between emotions" if pairs else "")
    return Finding("near-duplicates", not pairs, said, _some(lines))


def _surface(instrument: Instrument, words: Words) -> Finding:
    table = instrument.passages
    inside = np.flatnonzero(table["emotion"] != NEUTRAL).tolist()
    emotions, topics = (table[name].to_numpy(str)[inside] for name in ("emotion", "topic"))
    if len(set(topics)) < 2 or len(set(emotions)) < 2:
        return Finding("surface", None, "two emotions on two topics or more are needed to decode anything")
    texts = list(table["text"].iloc[inside])
    counts = surface_counts(texts, [words[row] for row in inside])
    draws = 199 if len(texts) <= MANY else 39
    leak = counts_leak(counts, emotions, topics, generator_for(0, "surface counts"), draws)
    chance = pd.Series(emotions).value_counts(normalize=True).max()
    above = bool(leak.accuracy > chance and leak.p <= SURFACE_ALPHA)
    said = (
        f"{len(SURFACE)} counts of punctuation and length decode the emotions at {leak.accuracy:.3f} "
        f"(chance {chance:.3f}, p = {leak.p:.3f} among labels shuffled within topics)"
    )
    return Finding("surface", not above, said)


def _floor(instrument: Instrument, words: Words) -> Finding:
    inside = np.flatnonzero(instrument.passages["emotion"] != NEUTRAL).tolist()
    curve = _curve(instrument.passages.iloc[inside], [words[row] for row in inside])
    if curve.empty:
        needed = "words, and two emotions on two topics or more whichever are held out,"
        return Finding("words-only floor", None, f"{needed} are needed to decode anything")
    last = curve.iloc[-1]
    held = "topics" if instrument.has_topics else "folds of texts"
    said = (
        f"words alone (TF-IDF, {held} held out) decode the emotions at {last['accuracy']:.3f} (chance "
        f"{last['chance']:.3f}): a model that reads must do better"
    )
    lines = [
        f"{row['topics']:.0f} {held}, {row['texts']:.0f} texts: {row['accuracy']:.3f}"
        for row in curve.to_dict("records")
    ]
    return Finding("words-only floor", None, said, tuple(lines))


CHECKS: dict[str, Callable[[Instrument, Words], Finding]] = {
    "rows": _rows,
    "counts": _counts,
    "topics": _crossing,
    "lengths": _lengths,
    "speech": _speech,
    "endings": _endings,
    "leakage": _leakage,
    "owned words": _owned_words,
    "near-duplicates": _near_duplicates,
    "surface": _surface,
    "words-only floor": _floor,
}
"""What is examined, in order."""
