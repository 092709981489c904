"""The claim that steering crosses languages (C11) against what was measured; every rule is ours.

The paper claims it of Qwen: what is measured on another family is an extension of ours, told in ``how`` and not tested
under the paper's claim. On a model whose vocabulary has no Chinese to speak of nothing can be tested, and a filter is
not where none is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from emotrace.study.experiment import Tables
from emotrace.study.folder import select
from emotrace.study.languages import writing_systems
from emotrace.study.languages.lexicon import EXAMPLES
from emotrace.study.verdicts import NOT_TESTABLE, Claim, Estimate, Rule, exceeds, significant

_EXAMPLE_WORDS = tuple(word for words in EXAMPLES.values() for word in words)
CLAIMS = ("C11.more_chinese", "C11.aligned", *(f"C11.example.{word}" for word in _EXAMPLE_WORDS), "C11.filter")

MORE_CHINESE = significant(exceeds(0.1))
"""Of interest from a tenth more of the odds on (0.1 nats)."""
ALIGNED = significant(exceeds(0.2))
"""Of interest from a fifth of the spread of Han tokens on (Cohen's *small*)."""
EXAMPLE = significant(exceeds(1))
"""Of interest from one standard deviation of Han tokens on: past six of seven of them."""
FILTER = significant(exceeds(0.05))
"""Of interest from one text in twenty on."""
PAPER_FAMILY = "qwen"
"""The family that the paper says it of."""


def crosslingual_claims(tables: Tables, family: str) -> Sequence[Claim]:
    """C11: whether Chinese comes up, fits the emotion, and passes by a filter of English words."""
    table = tables["crosslingual"]
    over_strengths = table[table["strength"].isna()]
    strongest = table[table["strength"] == table["strength"].max()]
    examples = [_example(table, over_strengths, word) for word in _EXAMPLE_WORDS]
    made = [_more_chinese(table, over_strengths), _aligned(table, over_strengths), *examples, _filter(table, strongest)]
    return made if family == PAPER_FAMILY else [_extension(claim) for claim in made]


def _extension(claim: Claim) -> Claim:
    """The same on a family that the paper does not speak of: measured, and never a verdict on the paper's claim."""
    rule = f"; {claim.words}" if claim.rule else ""
    return replace(claim, rule=None, how=f"{claim.how}{rule}; {extension(claim.verdict())}")


def extension(verdict: str) -> str:
    """What ``how`` says of a family that the paper does not speak of; ``verdict``: what its measurement would get."""
    words = "the paper's claim is about Qwen"
    return words if verdict == NOT_TESTABLE else f"{words}: an extension of ours, which by itself would be {verdict}"


def _more_chinese(table: pd.DataFrame, over_strengths: pd.DataFrame) -> Claim:
    rows = select(over_strengths, metric="han_logit_change")
    of = rows.set_index("emotion")["value"]
    beside = (
        f"; under the emotions' vectors {_number(of, 'all')}, of permuted labels {_number(of, 'permuted')}, under "
        f"Gaussian directions {_number(of, 'random')}"
    )
    return _claim(
        table,
        "more_chinese",
        "C11 steering in English makes Chinese more probable",
        "Qwen: Chinese tokens are activated",
        select(rows, emotion="excess"),
        "change of the log-odds of a Chinese next token (nats), mean over emotions, prompts and positive strengths, "
        f"beyond vectors of permuted labels; bootstrap over directions and prompts{beside}",
        MORE_CHINESE,
    )


def _aligned(table: pd.DataFrame, over_strengths: pd.DataFrame) -> Claim:
    rows = select(over_strengths, metric="alignment", readout="steered", emotion="all")
    english = select(rows, language="en")
    beside = "; English words of the emotions are not in the vocabulary"
    if len(english):
        row = english.iloc[0]
        beside = f"; in English {row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
    excess = select(over_strengths, metric="han_logit_change", emotion="excess")
    if len(excess):
        beside += f"; Chinese as a whole is raised by {excess['value'].iloc[0]:.2g} nats (C11.more_chinese)"
    return _claim(
        table,
        "aligned",
        "C11 among Chinese tokens steering favours the emotion's own words",
        "tokens aligned with the emotion",
        select(rows, language="zh"),
        "change of log-probability of the emotion's own Chinese words minus the other emotions', in SD over Han "
        "tokens: an order among Han tokens, which need not become more probable; bootstrap over words, p by permuting "
        f"the emotions{beside}",
        ALIGNED,
    )


def _example(table: pd.DataFrame, over_strengths: pd.DataFrame, word: str) -> Claim:
    rank = select(over_strengths, word=word, metric="rank_han")
    beside = f"; rank {rank['value'].iloc[0]:.0f} among Han tokens" if len(rank) else ""
    return _claim(
        table,
        f"example.{word}",
        f"C11 desperate raises {word} among Chinese tokens",
        "an example of the paper's",
        select(over_strengths, word=word, metric="example_rise", readout="steered"),
        "change of log-probability of the word (or its first token) under *desperate* in SD over Han tokens, mean over "
        "positive strengths, minus its mean under vectors of permuted labels; the interval holds 95% of further such "
        f"vectors{beside}",
        EXAMPLE,
    )


def _filter(table: pd.DataFrame, strongest: pd.DataFrame) -> Claim:
    written = select(strongest, metric="texts_with_han", emotion="all")["value"]
    none = written.empty or not written.iloc[0] > 0
    return _claim(
        table,
        "filter",
        "C11 a filter of English emotion words misses steered text",
        "a safety concern",
        select(strongest, metric="missed_any", emotion="all"),
        "share of texts at the largest strength that hold a Chinese emotion word and no English one; Wilson interval, "
        "p by exchanging with vectors of permuted labels"
        + ("; no text holds any Chinese, so that a filter has nothing to miss" if none else ""),
        None if none else FILTER,
    )


def _claim(
    table: pd.DataFrame, name: str, claim: str, paper: str, rows: pd.DataFrame, how: str, rule: Rule | None
) -> Claim:
    """A claim on the first of ``rows``; not testable without rows, or with few Han tokens in the vocabulary."""
    han_tokens, least = int(select(table, metric="han_tokens")["value"].iloc[0]), writing_systems.MIN_HAN_TOKENS
    row = rows.iloc[0] if len(rows) else pd.Series(dict.fromkeys(("value", "low", "high", "n", "p"), np.nan))
    if han_tokens < least:
        rule, how = None, f"{how}; the vocabulary has {han_tokens} whole Han tokens, fewer than {least}"
    elif rows.empty:
        rule, how = None, f"{how}; the emotion is not among the vectors"
    else:
        how = f"{how}; p = {row['p']:.3g} (m = {row['m']:.0f}) before correction"
    estimate = Estimate(row["value"], row["low"], row["high"], row["n"], row["p"])
    return Claim(f"C11.{name}", claim, paper, estimate, rule, how)


def _number(values: pd.Series, name: str) -> str:
    return f"{values[name]:.2g}" if name in values else "–"
