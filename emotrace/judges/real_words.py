"""The share of a text's words that a dictionary of its language has (pyspellchecker's dictionaries).

English is tried first. A text that is not English is measured in its own language, told by its script and its
commonest words. Where no dictionary applies there is no number: Chinese, Japanese, Korean, Thai, Greek …; two languages
of different scripts one after the other; a text on a prompt whose language has no dictionary. Letters at random, and
scraps of many scripts in turn, are measured as what they are: words that no dictionary has. Single letters alone are
not: the English dictionary has every one of them, as initials and the letters of a list are written ("A) 5 B) 100").
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections import Counter

NOT_TESTED = "real words: not tested (no dictionary for this language)"
REAL = 0.7
"""A text belongs to a language if the dictionary has at least this share of its words."""

_LANGUAGES = {
    "LATIN": ("en", "es", "fr", "it", "pt", "de", "nl", "lv", "eu"),
    "CYRILLIC": ("ru",),
    "ARABIC": ("ar", "fa"),
}
# These dictionaries lack many inflected forms: a word counts if another one begins as it does.
_THIN = ("es", "ru", "fa")
# A text in a language has at least this share of words among the language's 2,000 commonest: its function words.
_COMMON, _COMMON_WORDS = 0.3, 2000
# A text has one script if so many of its words do; else at most one word in seven begins another, or it is scraps.
_ONE_SCRIPT, _SCRIPT_CHANGES = 0.7, 0.15
# So few words of another script (names, say) are not looked up.
_FEW = 3
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC", "BOPOMOFO")
_UNSPACED = ("EAST ASIAN", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


def real_words(text: str, prompt: str = "") -> float:
    """The share of real words; 1 where there are no words, NaN where no dictionary applies.

    Args:
        text: what was written.
        prompt: what it goes on from, written by a human: its language may be one without a dictionary.
    """
    english = _english(text)
    words = _words(text)
    if english >= REAL or not words:
        return english
    script = _script_of(words)
    if script not in _LANGUAGES:
        return float("nan") if _is_coherent(words, script) else english
    share = _share(words, script)
    if share < REAL and _lacks_dictionary(prompt, script):
        return float("nan")
    return max(share, english) if share >= REAL or script != "LATIN" else english


def _english(text: str) -> float:
    """The share in English: a letter of a script without case is a word of its own, and no English one."""
    runs = _WORD.findall(text)
    words = [word for run in runs for word in (run if _caseless(run) else [run])]
    dictionary = _dictionary("en")
    return sum(_plain(word) in dictionary for word in words) / len(words) if words else 1.0


def _caseless(word: str) -> bool:
    return any(unicodedata.category(letter) == "Lo" for letter in word)


def _plain(word: str) -> str:
    return word.lower().replace("’", "'")


def _words(text: str) -> list[tuple[str, str]]:
    """(word, script) of every word; where a script has no spaces, of every character."""
    words: list[tuple[str, str]] = []
    for run in _WORD.findall(_plain(unicodedata.normalize("NFC", text))):
        script = ""
        for letter in run:
            before, script = script, script if letter == "'" else _script(letter)
            if script == before and script not in _UNSPACED:
                words[-1] = words[-1][0] + letter, script
            else:
                words.append((letter, script))
    return words


@functools.lru_cache(4096)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "UNKNOWN").split()[0]
    return "EAST ASIAN" if name in _EAST_ASIAN else name


def _script_of(words: list[tuple[str, str]]) -> str | None:
    """The script of nearly all words, or None."""
    script, count = Counter(script for _, script in words).most_common(1)[0]
    return script if count >= _ONE_SCRIPT * len(words) else None


def _is_coherent(words: list[tuple[str, str]], script: str | None) -> bool:
    """Whether what has a dictionary is real, as far as there is any of it; and, without one script, they change seldom.

    So a Chinese text with an English name in it is, or an English sentence and its translation; scraps are not.
    """
    scripts = [own for _, own in words]
    if script is None and sum(a != b for a, b in itertools.pairwise(scripts)) > _SCRIPT_CHANGES * len(words):
        return False
    tested = [word for word in words if word[1] in _LANGUAGES]
    if script is not None and len(tested) < _FEW:
        return True
    english = sum(word in _dictionary("en") for word, _ in tested) / max(1, len(tested))
    parts = {own: [word for word in tested if word[1] == own] for _, own in tested}
    return english >= REAL or all(_share(part, own) >= REAL for own, part in parts.items())


def _share(words: list[tuple[str, str]], script: str) -> float:
    """The share of real words in the language of that script that the text is in; 0 if it is in none.

    A single letter is no evidence of any language; a word of another script is no word of this one.
    """
    longer = [word if own == script else "" for word, own in words if own != script or len(word) > 1]
    if not longer:
        return 0.0
    languages = _LANGUAGES[script]
    if script == "LATIN":
        common = {name: sum(_is_common(word, name) for word in longer) / len(longer) for name in languages}
        best = max(common, key=lambda name: common[name])
        languages = (best,) if common[best] >= _COMMON else ()
    return max((sum(_is_real(word, name) for word in longer) / len(longer) for name in languages), default=0.0)


@functools.lru_cache(256)
def _lacks_dictionary(prompt: str, script: str) -> bool:
    """Whether a prompt of four words or more, in that script, is in no language that has a dictionary."""
    words = _words(prompt)
    return len(words) >= 4 and _script_of(words) == script and max(_share(words, script), _english(prompt)) < 0.5


def _parts(word: str) -> list[str]:
    """What stands between apostrophes (l'école), without single letters."""
    return [part for part in word.split("'") if len(part) > 1]


def _is_common(word: str, language: str) -> bool:
    common = _common(language)
    return word in common or any(part in common for part in _parts(word))


def _is_real(word: str, language: str) -> bool:
    dictionary, stems = _dictionary(language), _stems(language)
    parts = _parts(word)
    return word in dictionary or (
        bool(parts) and all(part in dictionary or part[: max(4, len(part) - 3)] in stems for part in parts)
    )


@functools.cache
def _dictionary(language: str) -> frozenset[str]:
    from spellchecker import SpellChecker

    return frozenset(SpellChecker(language=language, distance=1).word_frequency.dictionary)


@functools.cache
def _common(language: str) -> frozenset[str]:
    """The language's commonest words of two letters or more."""
    from spellchecker import SpellChecker

    counts = SpellChecker(language=language, distance=1).word_frequency.dictionary
    commonest = sorted(counts, key=lambda word: counts[word], reverse=True)[:_COMMON_WORDS]
    return frozenset(word for word in commonest if len(word) > 1)


@functools.cache
def _stems(language: str) -> frozenset[str]:
    """All beginnings of four letters or more, for the dictionaries that lack inflected forms."""
    words = _dictionary(language) if language in _THIN else ()
    return frozenset(word[:length] for word in words for length in range(4, len(word) + 1))
