"""A claim of the paper beside what was measured; the one place that turns estimate, interval and rule into a verdict.

Every rule is ours: the full text of the paper could not be read here, so where a number of the paper's is given, it is
from its abstract, its author's posts and code, or a neighbouring paper that ``paper`` names. ``docs/claims.md`` lists
all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE = "reproduced", "not reproduced", "not testable on this model"
U_SHARE = 0.95
"""A U over depth counts as established from this share of resamples on."""
ALL_MODELS = "all"
"""The column ``model`` of claims that speak of several models at once."""
COLUMNS = ["model", "id", "claim", "paper", "measured", "low", "high", "n", "verdict", "how"]


@dataclass(frozen=True)
class Estimate:
    """A measured value with its 95% interval (NaN where there is none) over ``n`` units."""

    value: float
    low: float = np.nan
    high: float = np.nan
    n: float = np.nan


Rule = Callable[[Estimate], bool]
"""Whether an estimate bears a claim out."""


def above(bound: float) -> Rule:
    """The whole interval lies above ``bound``."""
    return lambda estimate: estimate.low > bound


def below(bound: float) -> Rule:
    """The whole interval lies below ``bound``."""
    return lambda estimate: estimate.high < bound


def reaches(bound: float) -> Rule:
    """The interval's upper end reaches ``bound``."""
    return lambda estimate: estimate.high >= bound


def within(low: float, high: float) -> Rule:
    """The whole interval lies in ``low`` to ``high``, ends included up to rounding."""
    return lambda estimate: low - 1e-9 <= estimate.low and estimate.high <= high + 1e-9


def holds(value: float) -> Rule:
    """The interval holds ``value``."""
    return lambda estimate: estimate.low <= value <= estimate.high


def given(condition: bool, rule: Rule | None = None) -> Rule:
    """``rule``, if ``condition`` holds as well; without a rule the condition decides."""
    return lambda estimate: bool(condition) and (rule is None or bool(rule(estimate)))


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        id: its stable name, ``C6.u.last``: number, what, and pooling or read-out where there are several.
        claim: the claim in words.
        paper: the paper's value, or whose it is.
        estimate: what was measured.
        rule: what decides; None: this model, or this run, cannot speak to it.
        how: how it was measured and judged, the rule in words included.
    """

    id: str
    claim: str
    paper: str
    estimate: Estimate
    rule: Rule | None
    how: str

    def verdict(self) -> str:
        """One of ``REPRODUCED``, ``NOT_REPRODUCED``, ``NOT_TESTABLE``."""
        if self.rule is None:
            return NOT_TESTABLE
        return REPRODUCED if self.rule(self.estimate) else NOT_REPRODUCED

    def row(self, model: str) -> dict[str, Any]:
        """A row of ``claims.csv``."""
        return {
            "model": model,
            "id": self.id,
            "claim": self.claim,
            "paper": self.paper,
            "measured": self.estimate.value,
            "low": self.estimate.low,
            "high": self.estimate.high,
            "n": self.estimate.n,
            "verdict": self.verdict(),
            "how": self.how,
        }


def claims_table(model: str, claims: Iterable[Claim]) -> pd.DataFrame:
    """``claims.csv`` of one model (``all``: of several together)."""
    return pd.DataFrame([claim.row(model) for claim in claims], columns=COLUMNS)


def format_interval(low: float, high: float) -> str:
    """An interval for a reader, or a dash where there is none."""
    return f"{format_number(low)} to {format_number(high)}" if np.isfinite(low) and np.isfinite(high) else "–"


def format_number(value: float) -> str:
    """A number for a reader: three significant digits, a dash where there is none."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.3g}"
