"""What counts as a word, in English and in any script, and the words of a list that stand in a text."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence, Set

_WORD = re.compile(r"[A-Za-z0-9]+(?:['’-][A-Za-z0-9]+)*")
# Joins the pieces of one word: apostrophe, hyphen, and the signs without a width of Persian and Hindi.
_JOINTS = "['\u200c\u200d-]"
# Scripts that put nothing between words: Thai and Lao, Tibetan, Myanmar, Khmer, kana, bopomofo, ideographs.
_UNSPACED = (
    "\u0e00-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)


def words(text: str) -> list[str]:
    """The words of a text, in lower case; a hyphenated or apostrophised word is one."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


def any_words(text: str) -> list[str]:
    """The words of a text in any script, in lower case; the characters of a script without blanks between words."""
    _, character = _patterns()
    found: list[str] = []
    for run in _runs(text):
        parts = character.findall(run) if spaceless(run) else [run]
        found += [part for part in (part.strip("'-\u200c\u200d") for part in parts) if part]
    return found


def pieces(text: str) -> list[str]:
    """The parts of a text's words between apostrophes and hyphens, in lower case: *joy's* → joy, s."""
    return [piece for run in _runs(text) for piece in re.split(_JOINTS, run)]


def plain(text: str) -> str:
    """A text as words are compared: composed (NFC), in lower case, with straight apostrophes."""
    return unicodedata.normalize("NFC", text).lower().replace("’", "'")


def spaceless(text: str) -> bool:
    """Whether a character of a script without blanks between words stands in it."""
    return re.search(f"[{_UNSPACED}]", text) is not None


def kin_in(text: str, tokens: Sequence[str], kin: Set[str]) -> list[str]:
    """The entries of ``kin`` (as of :func:`plain`) in a text, also as part of a hyphenation.

    An entry of several words stands there if its words do, one after the other; of a script without blanks, if its
    characters do.

    Args:
        text: the text.
        tokens: its words.
        kin: words, or several with blanks or hyphens between them.
    """
    # joy's, joy'll, mother-love's: every piece between apostrophes and hyphens
    parts = [part for word in tokens for part in re.split(_JOINTS, word)]
    found = kin.intersection(parts)
    whole, joined = plain(text), f" {' '.join(parts)} "
    for entry in kin - found:
        if spaceless(entry):
            stands = entry in whole
        else:
            several = pieces(entry)
            stands = len(several) > 1 and f" {' '.join(several)} " in joined
        found |= {entry} if stands else set()
    return sorted(found)


def _runs(text: str) -> list[str]:
    run, _ = _patterns()
    return run.findall(plain(text))


@functools.cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A run of letters and digits with the marks on them, which ``\\w`` lacks; and, of such a run, its characters."""
    marks = "".join(letter for letter in map(chr, range(0x300, 0x1F000)) if unicodedata.category(letter)[0] == "M")
    inside = rf"[^\W_](?:\w(?<!_)|[{marks}])*"
    return re.compile(f"{inside}(?:{_JOINTS}{inside})*"), re.compile(f"[{_UNSPACED}][{marks}]*|[^{_UNSPACED}]+")
