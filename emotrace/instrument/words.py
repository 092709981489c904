"""What counts as a word, in English and in any script, and the words of a list that stand in a text."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence, Set

import regex

_WORD = re.compile(r"[A-Za-z0-9]+(?:['’-][A-Za-z0-9]+)*")
# Join the pieces of one word: apostrophe, hyphen, and the signs without a width of Persian and Hindi.
_JOINTS = r"['\-\u200c\u200d]"
# Letters and digits, with the marks on them.
_PIECE = r"[^\W_][[^\W_]\p{M}]*"
_RUN = regex.compile(rf"(?V1){_PIECE}(?:{_JOINTS}{_PIECE})*")
# Scripts that put nothing between words.
_SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_CHARACTER = regex.compile(rf"(?V1)[[{_SPACELESS}ー]--\p{{M}}]\p{{M}}*|[^{_SPACELESS}ー]+")


def words(text: str) -> list[str]:
    """The words of a text, in lower case; a hyphenated or apostrophised word is one."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


def any_words(text: str) -> list[str]:
    """The words of a text in any script, in lower case; the characters where a script has no blanks between words."""
    if text.isascii():
        return words(text)
    found: list[str] = []
    for run in _RUN.findall(plain(text)):
        parts = _CHARACTER.findall(run) if spaceless(run) else [run]
        found += [part for part in (part.strip("'-\u200c\u200d") for part in parts) if part]
    return found


def pieces(text: str) -> list[str]:
    """The parts of a text's words between apostrophes and hyphens, in lower case: *joy's* → joy, s."""
    return [piece for run in _RUN.findall(plain(text)) for piece in re.split(_JOINTS, run)]


def plain(text: str) -> str:
    """A text as words are compared: composed (NFC), in lower case, with straight apostrophes."""
    return unicodedata.normalize("NFC", text).lower().replace("’", "'")


def spaceless(text: str) -> bool:
    """Whether a character of a script without blanks between words stands in it."""
    return regex.search(f"[{_SPACELESS}]", text) is not None


def kin_in(text: str, tokens: Sequence[str], kin: Set[str]) -> list[str]:
    """The entries of ``kin`` in a text, also as part of a hyphenation.

    An entry of several words stands there if they do, one after the other; one without blanks between words, if its
    characters do.

    Args:
        text: the text.
        tokens: its words.
        kin: words, or several with blanks or hyphens between them.
    """
    # joy's, joy'll, mother-love's: every piece between apostrophes and hyphens
    joined = " ".join(part for word in tokens for part in re.split(_JOINTS, word))
    within = {False: f" {joined} ", True: plain(text)}
    return sorted(entry for entry in kin if (sought := _sought(entry))[0] and sought[0] in within[sought[1]])


@functools.lru_cache(1 << 16)
def _sought(entry: str) -> tuple[str, bool]:
    """What is looked for, and whether in the text itself, not among its words."""
    if spaceless(entry):
        return plain(entry), True
    several = " ".join(pieces(entry))
    return several and f" {several} ", False
