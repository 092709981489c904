"""Which script a text or a token is written in, and the scripts of a model's whole vocabulary; ours.

By Unicode's Script property of each character. *Han* are Chinese characters (Japanese and traditional ones too);
full-width punctuation is common to all scripts and counts for none.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from fontTools import unicodedata

if TYPE_CHECKING:
    from emotrace.models import Model

HAN, LATIN, COMMON, PART, SPECIAL = "Han", "Latin", "common", "part", "special"
GROUPS = ("han", "other_script", "part")
"""Whose probability is summed: Han; non-Latin scripts but Han; byte pieces that are no whole character."""

MIN_HAN_TOKENS = 1000
"""With fewer whole Han tokens than this a vocabulary has no Chinese to speak of (SmolLM2: 80; Qwen2.5: 25,843)."""


@functools.cache
def script_of(character: str) -> str | None:
    """The script of one character by its Unicode name; None for what scripts share (digits, punctuation, accents)."""
    code = unicodedata.script(character)
    return None if code in ("Zyyy", "Zinh", "Zzzz") else unicodedata.script_name(code)


def script_counts(text: str) -> Counter[str]:
    """How many characters of a text are in each script (``Han``, ``Latin``, ``Cyrillic`` …); common ones in none."""
    return Counter(name for name in map(script_of, text) if name)


def script(text: str) -> str:
    """The script of a token's text: that of most of its characters (the first of equals); ``common`` if none has one;
    ``part`` if a byte-level piece decodes to a replacement character."""
    if "\ufffd" in text:
        return PART
    counts = script_counts(text)
    return counts.most_common(1)[0][0] if counts else COMMON


class Vocabulary(NamedTuple):
    """Each token's text, decoded alone, and its script: ``[vocabulary]`` as wide as the unembedding."""

    texts: list[str]
    scripts: np.ndarray

    def ids(self, name: str) -> np.ndarray:
        return np.flatnonzero(self.scripts == name)

    @property
    def testable(self) -> bool:
        """Whether it has Chinese to speak of."""
        return len(self.ids(HAN)) >= MIN_HAN_TOKENS

    def groups(self) -> np.ndarray:
        """Membership of each token in ``GROUPS``: float32 ``[vocabulary, group]``."""
        han, part = self.scripts == HAN, self.scripts == PART
        other = ~(han | part | np.isin(self.scripts, (LATIN, COMMON, SPECIAL)))
        return np.stack([han, other, part], axis=1).astype(np.float32)


def vocabulary(model: Model) -> Vocabulary:
    """The model's vocabulary; special tokens, and rows of the unembedding that no token uses, are ``special``."""
    size = model.nn._module.config.get_text_config().vocab_size
    known = min(size, len(model.tokenizer))
    texts = model.tokenizer.batch_decode([[token] for token in range(known)]) + [""] * (size - known)
    special = {*model.tokenizer.all_special_ids, *range(known, size)}
    return Vocabulary(texts, np.array([SPECIAL if i in special else script(text) for i, text in enumerate(texts)]))
