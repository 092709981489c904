"""The words by which a text would name an emotion that nobody has listed them for: inflections by rule. Ours.

Crude, and said wherever they are used: *nostalgic* gives *nostalgically* and *nostalgia*, *curious* gives *curiosity*;
a synonym with another stem (*homesick*) is not found. A list of one's own (a column ``kin``) is better.
"""

from __future__ import annotations

import re

from emotrace.instrument.words import pieces, spaceless

# An ending → what may stand in its place. The first that fits is taken, and the plain endings are always added.
_RULES = (
    ("y", "ily iness ier iest ies ied"),
    ("ic", "ically ia y icness"),
    ("ful", " fully fulness less"),
    ("osity", "ous ously ousness"),
    ("ious", "iously iousness iosity ion y"),
    ("ous", "ously ousness osity ousy ed"),
    ("ness", " ly"),
    ("ment", " e ed ing s"),
    ("ion", "e ed ing es ionate"),
    ("ed", " e es s ing ingly edly ment ement ion dom edom"),
    ("ing", " e es s ed ingly ment ement ion"),
    ("nt", "nce ncy ntly"),
    ("nce", "nt ntly ncy"),
    ("le", "ly ler lest leness"),
    ("e", "ing ed er est ely eness es ion"),
)
_PLAIN = "s ly ness er est ed ing"
# No verb: hating comes of hate, not of hat, and caring not of car.
_TAKES_E = re.compile(r"[^aeiou]*[aeiou][^aeiouwxy]")
# What longing, pleased and the like come of, which names a feeling seldom.
_COMMON = "long longs please move moves touch mean means"
_SMALL = "a an and at by for from in no not of on or the to very with"


def inflections(name: str) -> tuple[str, ...]:
    """The forms of each content word in an emotion's name, lower case, the word itself first.

    Args:
        name: one word or several, between blanks, hyphens or underscores.
    """
    forms: list[str] = []
    for word in pieces(name):
        if word in _SMALL.split():
            continue
        if spaceless(word):
            forms.append(word)
            continue
        endings = _PLAIN.split()
        forms += [word, *(word + ending for ending in endings)]
        rule = next(((end, others) for end, others in _RULES if word.endswith(end) and len(word) > len(end) + 2), None)
        if rule:
            stem = word.removesuffix(rule[0])
            others = rule[1].split(" ")
            if rule[0] in ("ed", "ing") and _TAKES_E.fullmatch(stem):
                others = [other for other in others if other not in ("", "s")]
            forms += [stem + other for other in others if stem + other not in _COMMON.split()]
    return tuple(dict.fromkeys(forms))
