"""What steering does to the language: perplexity, repetition, real words; the three regimes of C10.

The regimes' names are the paper's, and so is the perplexity ratio. The thresholds are ours, since the full text of the
paper could not be read here. A ratio alone cannot tell the regimes apart: a text that repeats one phrase is easy to
predict, so a collapsed text can have a *low* ratio. Repetition is therefore measured beside it, and so is the share of
real words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.judges.real_words import real_words
from emotrace.scoring import log_likelihoods
from emotrace.tokens import prompt_ids

if TYPE_CHECKING:
    from emotrace.models import Model

SURGICAL, REPETITIVE, EXPLOSIVE, SHORT = "surgical", "repetitive collapse", "explosive", "too short"
REGIMES = (SURGICAL, REPETITIVE, EXPLOSIVE, SHORT)
"""``too short``: it ended within ``MIN_TOKENS`` tokens, so nothing can be said of it; not counted as surgical."""
MIN_TOKENS = 5
_COLUMNS = ("prompt", "text", "tokens", "n_tokens")


@dataclass(frozen=True)
class Thresholds:
    """Where the regimes part. Ours; ``regime_sensitivity.csv`` shows how the labels move with them.

    Attributes:
        loop: a text is in repetitive collapse if one cycle covers at least this share of its tokens,
        distinct: or if fewer than this share of its token pairs are different;
        ratio: otherwise explosive if its perplexity ratio exceeds this; not asked where there is none (NaN), as where
            the unsteered model ends at once on the prompt;
        words: or if fewer than this share of its words are real ones; not asked where no dictionary applies (NaN).
    """

    loop: float = 0.5
    distinct: float = 0.5
    ratio: float = 4.0
    words: float = 0.7

    def variants(self) -> dict[str, Thresholds]:
        """Each threshold made stricter and laxer by itself, for the sensitivity table."""
        moved = {"loop": (0.35, 0.65), "distinct": (0.35, 0.65), "ratio": (2.0, 8.0), "words": (0.6, 0.8)}
        named = {
            f"{name} {value:g}": replace(self, **{name: value}) for name, values in moved.items() for value in values
        }
        return {"default": self, **named}


DEFAULT = Thresholds()


# -- measures ---------------------------------------------------------------------------------------------------------


def perplexity_ratio(text: np.ndarray, references: Sequence[np.ndarray]) -> float:
    """Perplexity of a text over that of unsteered texts on the same prompt, over equal lengths.

    Both under the unsteered model. Of each reference, as many tokens as the text has count, or all it has if it ended
    before; several references are averaged in the logarithm.

    Args:
        text: log-probabilities of the text's tokens, ``[token]``.
        references: the same of the unsteered texts.
    """
    means = [reference[: len(text)].mean() for reference in references if len(reference) and len(text)]
    if not means:
        return np.nan
    return float(np.exp(np.mean(means) - text.mean()))


def distinct(tokens: Sequence[int], n: int = 2) -> float:
    """distinct-n: different n-grams over all n-grams; 1 where there are none."""
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def longest_loop(tokens: Sequence[int]) -> float:
    """The longest stretch that repeats one cycle at least once, as a share of the text; 0 if none does."""
    ids = np.asarray(tokens)
    longest = 0
    for period in range(1, len(ids) // 2 + 1):
        breaks = np.flatnonzero(np.concatenate([[True], ids[period:] != ids[:-period], [True]]))
        run = int(np.diff(breaks).max()) - 1  # the longest run of tokens that equal the one a period before
        if run >= period:
            longest = max(longest, run + period)
    return longest / len(ids) if len(ids) else 0.0


# -- labels -----------------------------------------------------------------------------------------------------------


def label(measures: pd.DataFrame, thresholds: Thresholds = DEFAULT) -> pd.Series:
    """The regime of each text.

    Args:
        measures: one row a text, columns ``n_tokens, longest_loop, distinct_2, perplexity_ratio, real_words``.
        thresholds: where the regimes part.
    """
    repetitive = (measures["longest_loop"] >= thresholds.loop) | (measures["distinct_2"] < thresholds.distinct)
    # An unknown ratio (NaN) of a text that is long enough says that no unsteered one is there, nothing of the text.
    explosive = (measures["perplexity_ratio"] > thresholds.ratio) | (measures["real_words"] < thresholds.words)
    short = measures["n_tokens"] < MIN_TOKENS
    return pd.Series(
        np.select([short, repetitive, explosive], [SHORT, REPETITIVE, EXPLOSIVE], SURGICAL), index=measures.index
    )


References = Mapping[str, Sequence[np.ndarray]]
"""Prompt → log-probabilities of unsteered texts on it."""


def references(model: Model, plain: pd.DataFrame, chat: bool = False) -> References:
    """What steered texts are compared with: the unsteered texts (columns ``prompt, tokens``) of each prompt.

    A steered text that is sampled with the seed of one of these is, near strength 0, compared with itself among others:
    of four, the logarithm of its ratio is 3/4 of that against the other three, which :func:`measure_plain` takes.
    """
    corpus.check_columns(plain, "the table of unsteered texts", ("prompt", "tokens"))
    by_prompt: dict[str, list[np.ndarray]] = {}
    for prompt, values in zip(plain["prompt"], _log_likelihoods(model, plain, chat), strict=True):
        by_prompt.setdefault(prompt, []).append(values)
    return by_prompt


def measure(
    model: Model,
    texts: pd.DataFrame,
    unsteered: References,
    *,
    chat: bool = False,
    thresholds: Thresholds = DEFAULT,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Perplexity ratio, repetition, real words and regime of each text.

    Args:
        model: the model that wrote them, which scores them unedited.
        texts: columns ``prompt, text, tokens, n_tokens`` (of :func:`~emotrace.steered_texts.steer`).
        unsteered: what they are compared with, from :func:`references`, on the same prompts.
        chat: whether the prompts were put into the chat template.
        thresholds: where the regimes part.
        progress: called with the number of texts just scored.

    Returns:
        ``texts`` with the columns ``perplexity_ratio, distinct_2, longest_loop, real_words, regime``.

    Raises:
        EmotraceError: no unsteered text on one of the prompts; a column that is missing.
    """
    corpus.check_columns(texts, "the table of texts", _COLUMNS)
    for prompt in texts["prompt"].unique():
        if prompt not in unsteered:
            raise EmotraceError(f"no unsteered text to compare with on the prompt {prompt[:40]!r}")
    scored = zip(texts["prompt"], _log_likelihoods(model, texts, chat, progress), strict=True)
    return _measured(texts, [perplexity_ratio(values, unsteered[prompt]) for prompt, values in scored], thresholds)


def measure_plain(plain: pd.DataFrame, unsteered: References, thresholds: Thresholds = DEFAULT) -> pd.DataFrame:
    """The same of the unsteered texts themselves, each against the *other* unsteered texts on its prompt.

    This is what chance gives: how often two samples of the unsteered model differ as much as the thresholds allow.
    """
    corpus.check_columns(plain, "the table of unsteered texts", _COLUMNS)
    ratios = []
    for prompt, index in zip(plain["prompt"], plain.groupby("prompt").cumcount(), strict=True):
        others = [values for other, values in enumerate(unsteered[prompt]) if other != index]
        ratios.append(perplexity_ratio(unsteered[prompt][index], others))
    return _measured(plain, ratios, thresholds)


def _measured(texts: pd.DataFrame, ratios: Sequence[float], thresholds: Thresholds) -> pd.DataFrame:
    table = texts.assign(
        perplexity_ratio=np.asarray(ratios, dtype=np.float64),
        distinct_2=[distinct(tokens) for tokens in texts["tokens"]],
        longest_loop=[longest_loop(tokens) for tokens in texts["tokens"]],
        real_words=[real_words(*pair) for pair in zip(texts["text"], texts["prompt"], strict=True)],
    )
    return table.assign(regime=label(table, thresholds))


def _log_likelihoods(
    model: Model, texts: pd.DataFrame, chat: bool, progress: Callable[[int], None] | None = None
) -> list[np.ndarray]:
    ids = prompt_ids(model, list(texts["prompt"]), chat, 0)
    return log_likelihoods(model, [ids[prompt] for prompt in texts["prompt"]], list(texts["tokens"]), progress)
