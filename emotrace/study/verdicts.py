"""A claim of the paper beside what was measured; the one place that turns estimate, interval and rule into a verdict.

Every rule is ours: the full text of the paper could not be read here, so where a number of the paper's is given, it is
from its abstract, its author's posts and code, or a neighbouring paper that ``paper`` names. ``docs/claims.md`` lists
all claims, ``docs/verdicts.md`` how often each rule errs on simulated data.

A rule names beforehand the smallest effect of interest, so that three answers are possible: the interval bears the
claim out, it excludes every effect that would, or it is too wide to tell. A rule is asked three times, with its
smallest effect a tenth smaller and larger: where the answers differ, the verdict is *inconclusive*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from emotrace.measures.statistics import Interval

REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE = "reproduced", "not reproduced", "inconclusive"
NOT_TESTABLE = "not testable on this model"
VERDICTS = (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE, NOT_TESTABLE)
MOVES = (0.9, 1.0, 1.1)
"""Factors on the smallest effect of interest under which a verdict must be the same."""
ALPHA = 0.05
ALL_MODELS = "all"
"""The column ``model`` of claims that speak of several models at once."""
COLUMNS = ["model", "instrument", "id", "claim", "paper", "measured", "low", "high", "n", "p", "verdict", "how"]


@dataclass(frozen=True)
class Estimate:
    """A measured value with its 95% interval (NaN where there is none) over ``n`` units, and its p where it has one.

    Attributes:
        value: the measured value.
        low, high: the interval.
        n: units that the interval resamples; the emotions, where it resamples emotions and prompts at once.
        p: of the null hypothesis that the claim rejects; corrected among the claims of one number (:func:`holm`). NaN
            where the rule asks for the interval alone.
        m: permutations that p is counted over beside the observed one, where these may be few.
    """

    value: float
    low: float = np.nan
    high: float = np.nan
    n: float = np.nan
    p: float = np.nan
    m: float = np.nan

    @property
    def least_p(self) -> float:
        """The smallest p that any outcome could give: four topics have 16 patterns of signs, so 1/16; 0 if unknown."""
        return 0.0 if np.isnan([self.p, self.m]).any() else 1 / (self.m + 1)


@dataclass(frozen=True)
class Rule:
    """What decides on an estimate.

    Attributes:
        words: the rule for a reader, as it ends ``how``.
        decide: (estimate, move) → a verdict; ``move`` is the factor on the smallest effect of interest.
    """

    words: str
    decide: Callable[[Estimate, float], str]

    def verdict(self, estimate: Estimate) -> str:
        """The verdict that all ``MOVES`` agree on, or *inconclusive*."""
        answers = {self.decide(estimate, move) for move in MOVES}
        return answers.pop() if len(answers) == 1 else INCONCLUSIVE


def exceeds(smallest: float, chance: float = 0.0) -> Rule:
    """There is an effect of the sign of ``smallest``, no smaller than that.

    *Reproduced*: the interval lies beyond ``chance`` and the value reaches ``smallest``. *Not reproduced*: the interval
    excludes ``smallest`` (a test of non-superiority), or lies beyond chance on the other side.

    Args:
        smallest: the smallest effect of interest, measured from ``chance``, signed.
        chance: the value without an effect.
    """
    sign = 1.0 if smallest > 0 else -1.0

    def decide(estimate: Estimate, move: float) -> str:
        value, *ends = (sign * (number - chance) for number in (estimate.value, estimate.low, estimate.high))
        low, high, bound = min(ends), max(ends), move * abs(smallest)
        if np.isnan([value, low, high]).any():
            return INCONCLUSIVE
        if low > 0 and value >= bound:
            return REPRODUCED
        return NOT_REPRODUCED if high < bound else INCONCLUSIVE

    side = "above" if sign > 0 else "below"
    return Rule(
        f"reproduced if the interval lies {side} {chance:g} and the value is at least {abs(smallest):g} {side} it, not "
        f"reproduced if the interval excludes {chance + smallest:g} or more",
        decide,
    )


def at_least(target: float, margin: float) -> Rule:
    """The value reaches ``target``, or misses it by less than ``margin`` (a test of non-inferiority)."""

    def decide(estimate: Estimate, move: float) -> str:
        bound = target - move * margin
        if estimate.low > bound:
            return REPRODUCED
        return NOT_REPRODUCED if estimate.high < bound else INCONCLUSIVE

    return Rule(f"reproduced if the interval lies above {target:g} − {margin:g}, not reproduced if below that", decide)


def equals(target: float, margin: float) -> Rule:
    """The value is ``target`` to within ``margin`` (two one-sided tests, by the 95% interval)."""

    def decide(estimate: Estimate, move: float) -> str:
        low, high = target - move * margin, target + move * margin
        if low < estimate.low and estimate.high < high:
            return REPRODUCED
        return NOT_REPRODUCED if estimate.high < low or estimate.low > high else INCONCLUSIVE

    return Rule(
        f"reproduced if the interval lies within {target:g} ± {margin:g}, not reproduced if outside of it", decide
    )


def decided(words: str, decide: Callable[[float], str]) -> Rule:
    """A test with a logic of its own, such as that of a curve's shape: ``decide(move)`` gives its verdict."""
    return Rule(words, lambda estimate, move: decide(move))


def significant(rule: Rule, alpha: float = ALPHA) -> Rule:
    """``rule``, and where it says *reproduced*, the estimate's p must be below ``alpha``; else *inconclusive*."""

    def decide(estimate: Estimate, move: float) -> str:
        verdict = rule.decide(estimate, move)
        return INCONCLUSIVE if verdict == REPRODUCED and not estimate.p < alpha else verdict

    return Rule(f"{rule.words}; p < {alpha:g} for reproduced", decide)


def together(first: Rule, others: Sequence[tuple[Rule, Estimate]], words: str) -> Rule:
    """Every condition must hold: *reproduced* if all do, *not reproduced* if one does not, else *inconclusive*.

    Args:
        first: the rule of the claim's own estimate.
        others: more rules, each with the estimate that it judges.
        words: the conditions for a reader.
    """

    def decide(estimate: Estimate, move: float) -> str:
        answers = [first.decide(estimate, move), *(rule.decide(other, move) for rule, other in others)]
        if NOT_REPRODUCED in answers:
            return NOT_REPRODUCED
        return REPRODUCED if set(answers) == {REPRODUCED} else INCONCLUSIVE

    return Rule(words, decide)


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        id: its stable name, ``C6.u.last``: number, what, and pooling or read-out where there are several.
        claim: the claim in words.
        paper: the paper's value, or whose it is.
        estimate: what was measured.
        rule: what decides; None: this model, or this run, cannot speak to it.
        how: how it was measured; the rule's words follow.
        instrument: the passages that it rests on; empty where it rests on none.
    """

    id: str
    claim: str
    paper: str
    estimate: Estimate
    rule: Rule | None
    how: str
    instrument: str = ""

    @property
    def number(self) -> str:
        """The claim that it speaks to: ``C6``; of a neighbouring paper ``neighbour.valence``.

        How an estimator ranks texts is one question, ``estimator``, how far it steers another, ``estimator.steering``.
        """
        first, *rest = self.id.split(".")
        return f"{first}.{rest[0]}" if first == "neighbour" or rest[:1] == ["steering"] else first

    @property
    def words(self) -> str:
        """The rule for a reader, with the bar on p that :meth:`verdict` sets wherever there is a p."""
        if self.rule is None:
            return ""
        gate = f"p < {ALPHA:g}"
        said = np.isnan(self.estimate.p) or gate in self.rule.words
        return self.rule.words if said else f"{self.rule.words}; {gate} for reproduced"

    def verdict(self, p: float | None = None, least_p: float = 0.0) -> str:
        """One of ``VERDICTS``; where the estimate has a p, *reproduced* asks for one below ``ALPHA``.

        Args:
            p: the estimate's, corrected for the other claims of this number.
            least_p: the smallest that this could be (:func:`least`). From ``ALPHA`` on nothing could be *reproduced*,
                and then nothing is refuted either.
        """
        if self.rule is None or max(least_p, self.estimate.least_p) >= ALPHA:
            return NOT_TESTABLE
        verdict = self.rule.verdict(self.estimate)
        p = self.estimate.p if p is None else p
        return INCONCLUSIVE if verdict == REPRODUCED and p >= ALPHA else verdict

    def row(self, model: str, p: float | None = None, least_p: float = 0.0) -> dict[str, Any]:
        """A row of ``claims.csv``; the rest as :meth:`verdict` takes it."""
        estimate, how = self.estimate, self.how
        if self.rule is not None and (floor := max(least_p, estimate.least_p)) >= ALPHA:
            how = f"{how}; with so few permutations p is {floor:.2g} at least, whatever is measured"
        return {
            "model": model,
            "instrument": self.instrument,
            "id": self.id,
            "claim": self.claim,
            "paper": self.paper,
            "measured": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "n": estimate.n,
            "p": estimate.p if p is None else p,
            "verdict": self.verdict(p, least_p),
            "how": f"{how}; {self.words}" if self.rule else how,
        }


def holm(claims: Sequence[Claim]) -> list[float]:
    """The p of each claim after Holm's correction among the claims of its number and instrument; NaN without one."""
    return _corrected(claims, [claim.estimate.p for claim in claims])


def least(claims: Sequence[Claim]) -> list[float]:
    """The smallest that :func:`holm` could give each claim, whatever is measured: if every p were the least it can be.

    Six topics have 32 pairs of opposite patterns of signs, so a two-sided p of 1/32; among twelve claims that is 0.375.
    """
    return _corrected(claims, [claim.estimate.least_p for claim in claims])


def _corrected(claims: Sequence[Claim], values: Sequence[float]) -> list[float]:
    """Holm's correction of values of p; a claim that is by itself not testable takes nothing from the others."""
    corrected = [np.nan] * len(claims)
    families: dict[tuple[str, str], list[int]] = {}
    for index, claim in enumerate(claims):
        if claim.rule is not None and claim.estimate.least_p < ALPHA and not np.isnan(claim.estimate.p):
            families.setdefault((claim.number, claim.instrument), []).append(index)
    for indices in families.values():
        reached = 0.0
        for rank, index in enumerate(sorted(indices, key=lambda index: values[index])):
            reached = max(reached, min(1.0, (len(indices) - rank) * values[index]))
            corrected[index] = reached
    return corrected


def claims_table(model: str, claims: Iterable[Claim]) -> pd.DataFrame:
    """``claims.csv`` of one model (``all``: of several together)."""
    claims = list(claims)
    rows = [
        claim.row(model, p, 0.0 if np.isnan(floor) else floor)
        for claim, p, floor in zip(claims, holm(claims), least(claims), strict=True)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def format_interval(low: float, high: float) -> str:
    """An interval for a reader, or a dash where there is none."""
    return f"{format_number(low)} to {format_number(high)}" if np.isfinite(low) and np.isfinite(high) else "–"


def format_estimate(estimate: Estimate | Interval | Mapping[Any, Any] | pd.Series) -> str:
    """A value with its interval, of a table's row as well: ``0.59 (0.52 to 0.65)``."""
    if not isinstance(estimate, Mapping | pd.Series):
        estimate = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return f"{format_number(estimate['value'])} ({format_interval(estimate['low'], estimate['high'])})"


def format_number(value: float) -> str:
    """A number for a reader: three significant digits, rounding errors about 0 as 0, a dash where there is none."""
    if value is None or not np.isfinite(value):
        return "–"
    return f"{0 if abs(value) < 1e-15 else value:.3g}"
