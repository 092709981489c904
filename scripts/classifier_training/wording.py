"""Reddit comments, brought nearer to a story that goes on: the third person, plain punctuation, neutral company, cuts.

Only the comments themselves are used, nothing of this project's passages. The rules are ours and coarse: a text may
come out ungrammatical, its labels stay.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

# Ours: names for the data's placeholder [NAME] and for whoever speaks.
NAMES = [
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Felix",
    "Grace",
    "Henry",
    "Iris",
    "Jack",
    "Kate",
    "Leo",
    "Maria",
    "Noah",
    "Olive",
    "Paul",
    "Rosa",
    "Sam",
    "Tess",
    "Will",
    "Nina",
    "Omar",
    "Lena",
    "Tom",
    "Ruth",
    "Marcus",
    "Julia",
    "Peter",
    "Ada",
    "Simon",
]
PLACEHOLDER_NAME, PLACEHOLDER_RELIGION = re.compile(r"\[NAME\]"), "[RELIGION]"
_SPEAKER = re.compile(r"\b(i|my|me|i'm)\b", re.IGNORECASE)
_VERBS = "love|hate|want|need|feel|know|think|hope|wish|like|get|see|remember|appreciate|understand|agree|find"
_TO_SHE = [
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"\bi'm\b", "she's"),
        (r"\bi am\b", "she is"),
        (r"\bi(?:'ve| have)\b", "she has"),
        (r"\bi'll\b", "she'll"),
        (r"\bi'd\b", "she'd"),
        (r"\bi do\b", "she does"),
        (r"\bi don'?t\b", "she doesn't"),
        (r"\bi (miss|guess)\b", r"she \1es"),
        (rf"\bi ({_VERBS})\b", r"she \1s"),
        (r"\bi\b", "she"),
        (r"\bmyself\b", "herself"),
        (r"\bmy\b", "her"),
        (r"\bmine\b", "hers"),
        (r"\bme\b", "her"),
    )
]
_TO_HE = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\bshe\b", "he"),
        (r"\bherself\b", "himself"),
        (r"\bhers\b", "his"),
        (r"\bher\b(?= \w)", "his"),
        (r"\bher\b", "him"),
    )
]
_SUBJECT = re.compile(r"\b(she|he)\b")
_MARKS = re.compile(r"[!?…*~#>\"“”\-_:;()/]+|\.\.+|[\U0001F000-\U0010FFFF]")


@dataclass(frozen=True)
class Wording:
    """How often each change is made.

    Attributes:
        third: the share of texts whose speaker becomes somebody else.
        plain: the share that lose exclamation marks, question marks, dashes, quotation marks and emoji.
        cut: the share that are broken off after 8 words or more, if they have more than 12.
        company: the share that get one or two neutral comments before or behind.
        neutral: the share of the merely neutral texts that an epoch sees.
    """

    third: float = 0.7
    plain: float = 0.3
    cut: float = 0.2
    company: float = 0.2
    neutral: float = 0.4


def third_person(text: str, rng: np.random.Generator) -> str:
    """The text with "I" as she, he or somebody by name; unchanged where nobody speaks of himself."""
    if not _SPEAKER.search(text):
        return text
    for pattern, replacement in _TO_SHE:
        text = pattern.sub(replacement, text)
    if rng.random() < 0.5:
        for pattern, replacement in _TO_HE:
            text = pattern.sub(replacement, text)
    return _SUBJECT.sub(_name(rng), text, count=1) if rng.random() < 0.4 else text


def plain(text: str) -> str:
    """The text without marks that shout, ask or smile; as it was if nothing else is left."""
    return " ".join(_MARKS.sub(" ", text).split()) or text


def cut(text: str, rng: np.random.Generator) -> str:
    """The text broken off after 8 words or more, if it has more than 12."""
    words = text.split()
    return " ".join(words[: rng.integers(8, len(words))]) if len(words) > 12 else text


def _name(rng: np.random.Generator) -> str:
    return NAMES[rng.integers(len(NAMES))]


def _reworded(text: str, wording: Wording, rng: np.random.Generator) -> str:
    text = PLACEHOLDER_NAME.sub(lambda _: _name(rng), text).replace(PLACEHOLDER_RELIGION, "church")
    if rng.random() < wording.third:
        text = third_person(text, rng)
    return plain(text) if rng.random() < wording.plain else text


def _joined(first: str, second: str) -> str:
    return first + (" " if first[-1:] in tuple(".!?") else ". ") + second


def epoch(
    texts: list[str], positive: np.ndarray, neutral: int, wording: Wording, rng: np.random.Generator
) -> tuple[list[str], np.ndarray]:
    """One pass over the training texts, each changed by chance; a text keeps its labels in neutral company.

    Args:
        texts: the comments.
        positive: bool ``[text, label]``.
        neutral: the column of the label *neutral*.
        wording: how often each change is made.
        rng: where chance comes from.

    Returns:
        The texts, and the rows of ``positive`` that they keep.
    """
    merely_neutral = positive[:, neutral] & (positive.sum(axis=1) == 1)
    company = np.flatnonzero(merely_neutral)
    rows = np.flatnonzero(~merely_neutral | (rng.random(len(texts)) < wording.neutral))
    result = []
    for row in rows:
        text = _reworded(texts[row], wording, rng)
        if rng.random() < wording.cut:
            text = cut(text, rng)
        if len(company) and rng.random() < wording.company:
            for _ in range(rng.integers(1, 3)):
                other = _reworded(texts[company[rng.integers(len(company))]], wording, rng)
                # Mostly before: a steered text follows its prompt.
                text = _joined(other, text) if rng.random() < 0.7 else _joined(text, other)
        result.append(text)
    return result, positive[rows]
