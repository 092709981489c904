"""Chinese and English words of the emotions, and the tokens by which a model knows them (C11); ours."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from emotrace.instrument import corpus
from emotrace.study.languages.writing_systems import HAN, LATIN, Vocabulary, script_of

if TYPE_CHECKING:
    from emotrace.models import Model

ANECDOTES = {"desperate": ("找了", "摸索")}
"""The paper's examples (C11): "searched" and "grope in the dark". They are not in the lexicon."""


@functools.cache
def lexicon() -> pd.DataFrame:
    """``data/lexicon_zh.csv``: columns emotion, word, pinyin, gloss."""
    return corpus.read_table(corpus.data_dir() / "lexicon_zh.csv", ["emotion", "word", "pinyin", "gloss"])


def check_lexicon(table: pd.DataFrame, at_least: int = 14) -> list[str]:
    """Everything in which a lexicon falls short: unknown or missing emotions, too few words, a word given twice or
    standing inside a word of another emotion, characters that are not Han, empty cells. Empty when nothing does."""
    known, words = corpus.emotion_names(), list(zip(table["word"], table["emotion"], strict=True))
    counts = Counter(table["emotion"])
    return [
        *(f"unknown emotion {name}" for name in counts if name not in known),
        *(f"{name}: {counts[name]} words, fewer than {at_least}" for name in known if counts[name] < at_least),
        *(f"{word} stands there {n} times" for word, n in Counter(table["word"]).items() if n > 1),
        *(f"{word}: not Han throughout" for word, _ in words if not word or {*map(script_of, word)} != {HAN}),
        *(
            f"{word} ({emotion}) stands inside {longer} ({other})"
            for word, emotion in words
            for longer, other in words
            if word and word in longer and word != longer and emotion != other
        ),
        *(f"{row.word}: no pinyin or gloss" for row in table.itertuples() if not (row.pinyin and row.gloss)),
    ]


def tokenised(
    model: Model, words: pd.DataFrame, vocab: Vocabulary, name: str = HAN, whole: bool = False
) -> pd.DataFrame:
    """How a tokenizer takes each word (columns ``emotion, word``).

    Returns:
        The words with the columns ``n_tokens``; ``token_id`` and ``token``, their first; ``whole``, that is all of the
        word; ``shared``, other emotions' words begin with it too; ``usable``, it is a whole piece of the script ``name``
        and not shared (and, if ``whole`` is asked for, the whole word).
    """
    ids = [model.tokenizer(word, add_special_tokens=False)["input_ids"] for word in words["word"]]
    table = words[["emotion", "word"]].assign(n_tokens=[len(each) for each in ids], token_id=[each[0] for each in ids])
    table["token"] = [vocab.texts[token] for token in table["token_id"]]
    table["whole"] = table["n_tokens"] == 1
    table["shared"] = table.groupby("token_id")["emotion"].transform("nunique") > 1
    right = vocab.scripts[table["token_id"]] == name
    return table.assign(usable=right & ~table["shared"] & (table["whole"] | (not whole)))


def _english() -> pd.DataFrame:
    """The English kin words as they stand within a sentence: the same analysis in the language of the prompts."""
    kin = corpus.emotions().loc[corpus.emotion_names(), "kin"]
    return pd.DataFrame([{"emotion": name, "word": f" {word}"} for name, words in kin.items() for word in words])


class Tokens(NamedTuple):
    """The distinct first tokens of the usable words, the place of each one's emotion, the script's tokens, and the
    first token of each word of ``ANECDOTES``."""

    ids: np.ndarray
    owner: np.ndarray
    pool: np.ndarray
    anecdotes: dict[str, int]


def lexicon_tokens(model: Model, vocab: Vocabulary, names: Sequence[str]) -> dict[str, Tokens]:
    """The tokens that stand for the emotions ``names``, by language.

    Returns:
        ``zh``, missing if the vocabulary has no Chinese to speak of, and ``en``, words of one token only, since a first
        piece of a word says little; either is missing if it has words for fewer than two of the emotions.
    """
    found = {}
    looked_up = pd.DataFrame(
        [(name, word) for name, words in ANECDOTES.items() for word in words], columns=["emotion", "word"]
    )
    for language, words, name in (("zh", lexicon(), HAN), ("en", _english(), LATIN)):
        if language == "zh" and not vocab.testable:
            continue
        anecdotes = (
            tokenised(model, looked_up, vocab).set_index("word")["token_id"].to_dict() if language == "zh" else {}
        )
        table = tokenised(model, words, vocab, name, whole=language == "en")
        table = table[table["usable"] & table["emotion"].isin(names)].drop_duplicates("token_id")
        owner = table["emotion"].map(list(names).index).to_numpy(dtype=int)
        if len(set(owner)) > 1:
            found[language] = Tokens(table["token_id"].to_numpy(), owner, vocab.ids(name), anecdotes)
    return found
