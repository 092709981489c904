"""Chinese and English words of the emotions, and the tokens by which a model knows them (C11); ours."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from emotrace.instrument import corpus
from emotrace.instrument.tables import read_table
from emotrace.study.languages.writing_systems import HAN, LATIN, Vocabulary

if TYPE_CHECKING:
    from emotrace.models import Model

EXAMPLES = {"desperate": ("找了", "摸索")}
"""The paper's examples (C11): "searched" and "grope in the dark". They are not in the lexicon."""


@functools.cache
def lexicon() -> pd.DataFrame:
    """``data/lexicon_zh.csv``: columns emotion, word, pinyin, gloss."""
    return read_table(corpus.data_dir() / "lexicon_zh.csv", ["emotion", "word", "pinyin", "gloss"])


def tokenised(
    model: Model, words: pd.DataFrame, vocab: Vocabulary, script: str = HAN, whole: bool = False
) -> pd.DataFrame:
    """How a tokenizer takes each word (columns ``emotion, word``).

    Returns:
        The words with the columns ``n_tokens``; ``token_id`` and ``token``, their first; ``whole``, that is all of the
        word; ``shared``, other emotions' words begin with it too; ``usable``, it is a whole piece of ``script`` and not
        shared (and, if ``whole`` is asked for, the whole word).
    """
    ids = [model.tokenizer(word, add_special_tokens=False)["input_ids"] for word in words["word"]]
    table = words[["emotion", "word"]].assign(n_tokens=[*map(len, ids)], token_id=[tokens[0] for tokens in ids])
    table["token"] = [vocab.texts[token] for token in table["token_id"]]
    table["whole"] = table["n_tokens"] == 1
    table["shared"] = table.groupby("token_id")["emotion"].transform("nunique") > 1
    in_script = vocab.scripts[table["token_id"]] == script
    return table.assign(usable=in_script & ~table["shared"] & (table["whole"] | (not whole)))


class LexiconTokens(NamedTuple):
    """The tokens that stand for the emotions in one language.

    Attributes:
        ids: the distinct first tokens of the usable words, ``[token]``.
        owner: the index of each one's emotion, ``[token]``.
        pool: all tokens of the script.
        examples: the first token of each word of ``EXAMPLES``.
    """

    ids: np.ndarray
    owner: np.ndarray
    pool: np.ndarray
    examples: dict[str, int]


def lexicon_tokens(model: Model, vocab: Vocabulary, names: Sequence[str]) -> dict[str, LexiconTokens]:
    """The tokens that stand for the emotions ``names``, by language.

    Returns:
        ``zh``, missing if the vocabulary has no Chinese to speak of, and ``en``, words of one token only, since a first
        piece of a word says little; either is missing if it has words for fewer than two of the emotions.
    """
    # The kin words as they stand within a sentence: the same analysis in the language of the prompts.
    kin = corpus.emotions()["kin"]
    english = _words({name: [f" {word}" for word in kin[name]] for name in corpus.emotion_names()})
    languages = {"zh": (lexicon(), HAN)} if vocab.testable else {}
    tokens = {}
    for language, (words, script) in {**languages, "en": (english, LATIN)}.items():
        table = tokenised(model, words, vocab, script, whole=language == "en")
        table = table[table["usable"] & table["emotion"].isin(names)].drop_duplicates("token_id")
        owner = table["emotion"].map(list(names).index).to_numpy(dtype=int)
        looked_up = tokenised(model, _words(EXAMPLES), vocab)
        examples = dict(zip(looked_up["word"], looked_up["token_id"], strict=True))
        if len(set(owner)) > 1:
            tokens[language] = LexiconTokens(table["token_id"].to_numpy(), owner, vocab.ids(script), examples)
    return tokens


def _words(by_emotion: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    rows = [(emotion, word) for emotion, words in by_emotion.items() for word in words]
    return pd.DataFrame(rows, columns=["emotion", "word"])
