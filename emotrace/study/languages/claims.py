"""The claim that steering crosses languages (C11) against what was measured; every rule is ours.

On a model whose vocabulary has no Chinese to speak of nothing can be tested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd

from emotrace.study.experiment import Tables
from emotrace.study.folder import select
from emotrace.study.languages import writing_systems
from emotrace.study.languages.lexicon import EXAMPLES
from emotrace.study.verdicts import Claim, Estimate, Rule, above, given

_EXAMPLE_WORDS = tuple(word for words in EXAMPLES.values() for word in words)
CLAIMS = ("C11.more_chinese", "C11.aligned", *(f"C11.example.{word}" for word in _EXAMPLE_WORDS), "C11.filter")


def crosslingual_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """C11: whether Chinese comes up, fits the emotion, and passes by a filter of English words."""
    table = tables["crosslingual"]
    han_tokens = int(select(table, metric="han_tokens")["value"].iloc[0])
    over_strengths = table[table["strength"].isna()]
    all_emotions = select(over_strengths, emotion="all")
    strongest = table[table["strength"] == table["strength"].max()]

    tested = partial(_tested, han_tokens)
    return [
        tested(
            "more_chinese",
            "C11 steering in English brings up Chinese",
            "Qwen: Chinese tokens are activated",
            select(all_emotions, metric="han_logit_change"),
            "change of the log-odds of a Chinese next token (nats), mean over emotions, prompts and positive "
            "strengths; bootstrap over directions and prompts; reproduced if the interval is above 0 and random "
            "directions of equal norm do less at p < 0.05",
            rule=lambda row: given(row["value"] > row["null"], _positive(row)),
        ),
        tested(
            "aligned",
            "C11 the Chinese that steering raises fits the emotion",
            "tokens aligned with the emotion",
            select(all_emotions, metric="alignment", readout="steered", language="zh"),
            "change of log-probability of the emotion's own Chinese words minus the other emotions', in SD over Han "
            "tokens; bootstrap over words, p by permuting the emotions; reproduced if the interval is above 0 and "
            "p < 0.05",
        ),
        *(
            tested(
                f"example.{word}",
                f"C11 desperate raises {word}",
                "an example of the paper's",
                select(over_strengths, word=word, metric="rank_han"),
                "rank of the word (or its first token) among Han tokens by change of log-probability, median over "
                "positive strengths; reproduced if the desperate vector ranks it higher than 95% of the other "
                "emotions' vectors and the random directions",
                rule=lambda row: given(row["p"] < 0.05),
            )
            for word in _EXAMPLE_WORDS
        ),
        tested(
            "filter",
            "C11 a filter of English emotion words misses steered text",
            "a safety concern",
            select(strongest, metric="missed_any", emotion="all"),
            "share of texts at the largest strength that hold a Chinese emotion word and no English one; Wilson "
            "interval; reproduced if random directions give less at p < 0.05",
        ),
    ]


def _positive(row: pd.Series) -> Rule:
    """The interval is above 0, and the null gives less at p < 0.05."""
    return given(row["p"] < 0.05, above(0))


def _tested(
    han_tokens: int,
    name: str,
    claim: str,
    paper: str,
    rows: pd.DataFrame,
    how: str,
    rule: Callable[[pd.Series], Rule] = _positive,
) -> Claim:
    """A claim on the first of ``rows``; not testable without rows, or with few Han tokens in the vocabulary."""
    row = rows.iloc[0] if len(rows) else pd.Series(dict.fromkeys(("value", "low", "high", "n"), np.nan))
    least = writing_systems.MIN_HAN_TOKENS
    testable = False
    if han_tokens < least:
        beside = f"the vocabulary has {han_tokens} whole Han tokens, fewer than {least}"
    elif rows.empty:
        beside = "the emotion is not among the vectors"
    else:
        testable = True
        beside = f"null {row['null']:.3g}, p = {row['p']:.3g} (m = {row['m']:.0f})"
    estimate = Estimate(row["value"], row["low"], row["high"], row["n"])
    return Claim(f"C11.{name}", claim, paper, estimate, rule(row) if testable else None, f"{how}; {beside}")
