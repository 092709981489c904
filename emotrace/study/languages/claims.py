"""The claim that steering crosses languages (C11) against what was measured. Same rules as ``claims.py``; all ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from emotrace.study.folder import select
from emotrace.study.languages import writing_systems
from emotrace.study.languages.lexicon import ANECDOTES


def rows(tables: dict[str, pd.DataFrame], verdict: Any, not_testable: str) -> list[dict[str, Any]]:
    """The rows of one model. ``verdict`` turns a bool into a verdict's words.

    On a model whose vocabulary has no Chinese to speak of every verdict is ``not_testable``.
    """
    if "crosslingual" not in tables:
        return []
    table = tables["crosslingual"]
    han = int(select(table, metric="han_tokens")["value"].iloc[0])
    mean = table[table["strength"].isna() & (table["emotion"] == "all")]
    strongest = table[table["strength"] == table["strength"].max()]

    def tested(
        claim: str, paper: str, found: pd.DataFrame, holds: Callable[[pd.Series], bool], how: str
    ) -> dict[str, Any]:
        return _claim(claim, paper, found, han, lambda row: verdict(holds(row)), not_testable, how)

    return [
        tested(
            "C11 steering in English brings up Chinese", "Qwen: Chinese tokens are activated",
            select(mean, metric="han_logit_change"),
            lambda row: row["low"] > 0 and row["value"] > row["null"] and row["p"] < 0.05,
            "change of the log-odds of a Chinese next token (nats), mean over emotions, prompts and positive strengths; "
            "bootstrap over directions and prompts; reproduced if the interval is above 0 and random directions of equal "
            "norm do less at p < 0.05",
        ),
        tested(
            "C11 the Chinese that steering raises fits the emotion", "tokens aligned with the emotion",
            select(mean, metric="alignment", readout="steered", language="zh"),
            lambda row: row["low"] > 0 and row["p"] < 0.05,
            "change of log-probability of the emotion's own Chinese words minus the other emotions', in SD over Han tokens; "
            "bootstrap over words, p by permuting the emotions; reproduced if the interval is above 0 and p < 0.05",
        ),
        *(
            tested(
                f"C11 desperate raises {word}", "an example of the paper's",
                table[table["strength"].isna() & (table["word"] == word) & (table["metric"] == "rank_han")],
                lambda row: row["p"] < 0.05,
                "rank of the word (or its first token) among Han tokens by change of log-probability, median over positive "
                "strengths; reproduced if the desperate vector ranks it higher than 95% of the other emotions' vectors and the "
                "random directions",
            )
            for words in ANECDOTES.values() for word in words
        ),
        tested(
            "C11 a filter of English emotion words misses steered text", "a safety concern",
            select(strongest, metric="missed_any", emotion="all"), lambda row: row["low"] > 0 and row["p"] < 0.05,
            "share of texts at the largest strength that hold a Chinese emotion word and no English one; Wilson interval; "
            "reproduced if random directions give less at p < 0.05",
        ),
    ]  # fmt: skip


def _claim(
    claim: str,
    paper: str,
    rows: pd.DataFrame,
    han: int,
    verdict: Callable[[pd.Series], str],
    not_testable: str,
    how: str,
) -> dict[str, Any]:
    empty = pd.Series(dict.fromkeys(("value", "low", "high", "n", "null", "p", "m"), np.nan))
    found, least = rows.iloc[0] if len(rows) else empty, writing_systems.MIN_HAN_TOKENS
    if han < least:
        words, beside = not_testable, f"the vocabulary has {han} whole Han tokens, fewer than {least}"
    elif not len(rows):
        words, beside = not_testable, "the emotion is not among the vectors"
    else:
        words = verdict(found)
        beside = f"null {found['null']:.3g}, p = {found['p']:.3g} (m = {found['m']:.0f})"
    return {
        "claim": claim, "paper": paper, "measured": found["value"], "low": found["low"], "high": found["high"],
        "n": found["n"], "verdict": words, "how": f"{how}; {beside}",
    }  # fmt: skip
