"""The list of guidelines: how one is stated, what decides, how it is asked of each model and judged over models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import pandas as pd

from emotrace.measures import statistics
from emotrace.measures.statistics import Interval
from emotrace.study.experiment import Tables, of_main_instrument, of_model
from emotrace.study.verdicts import ALL_MODELS, INCONCLUSIVE

YES, NO, UNTESTED = "yes", "no", "not testable"
VERDICTS = (YES, NO, INCONCLUSIVE, UNTESTED)
Row: TypeAlias = Mapping[Any, Any] | pd.Series
"""An estimate: ``value, low, high``."""


class Finding(NamedTuple):
    """What was measured, in words, and whether it bears the rule out: one of ``VERDICTS``."""

    measured: str
    verdict: str


class Rule(NamedTuple):
    """What to do; the tables it rests on, the first of which is named in the report; how they test it."""

    text: str
    tables: tuple[str, ...]
    find: Callable[[Tables], Finding | None]

    @property
    def over_models(self) -> bool:
        return self.tables[0].startswith("across_")


def rows_by(rows: pd.DataFrame, column: str) -> dict[Any, Row]:
    """The rows by what they have in a column, in its order."""
    return dict(rows.sort_values(column).set_index(column).to_dict("index"))


def interval_of(row: Row) -> Interval:
    """The estimate of a row."""
    return Interval(*(float(row[name]) for name in ("value", "low", "high")))


def reaches(estimate: Interval, bound: float) -> str:
    """Whether an estimate's interval lies above a bound, or below it, by a tenth of the bound at least."""
    return YES if estimate.low > 1.1 * bound else NO if estimate.high < 0.9 * bound else INCONCLUSIVE


def difference(first: Row, second: Row) -> Interval:
    """The first of two rows' values minus the second's, as of independent ones: where no table pairs them."""
    one, other = (Interval(float(row["value"]), float(row["low"]), float(row["high"])) for row in (first, second))
    return statistics.independent_difference(one, other)


def positive(gap: Interval) -> str:
    """Whether a difference lies above 0 by its interval, or below it."""
    return YES if gap.low > 0 else NO if gap.high < 0 else INCONCLUSIVE


def negative(gap: Interval) -> str:
    """Whether a difference lies below 0 by its interval, or above it."""
    return positive(Interval(-gap.value, -gap.high, -gap.low))


KNOWN = 0.1
"""A ceiling below this is too near 0 to divide by."""


def range_of(values: pd.Series) -> str:
    return f"{values.min():.2f} to {values.max():.2f}"


def of_ceiling(pairs: pd.DataFrame) -> pd.DataFrame:
    """ρ from disjoint halves of the topics over its ceiling, of the pairs that have one.

    With the interval over emotions of the whole ρ, moved there.
    """
    if "ceiling" not in pairs:
        return pairs.iloc[:0]
    pairs = pairs[pairs["ceiling"] > KNOWN]
    moved = {name: (pairs[name] - pairs["value"] + pairs["disjoint"]) / pairs["ceiling"] for name in ("low", "high")}
    return pairs.assign(value=pairs["disjoint"] / pairs["ceiling"], **moved)


def closer(models: pd.DataFrame, methods: pd.DataFrame) -> str:
    """Whether any two models are closer than any two methods, or any two methods closer than any two models."""
    (far, near), (low, high) = (
        (part.loc[part["value"].idxmin()], part.loc[part["value"].idxmax()]) for part in (models, methods)
    )
    if positive(difference(far, high)) == YES:
        return YES
    return NO if positive(difference(near, low)) == NO else INCONCLUSIVE


RULES: list[Rule] = []


def states(text: str, *tables: str) -> Callable[[Callable[[Tables], Finding | None]], None]:
    """Makes a function of these tables, called where each of them has rows, the test of a rule.

    It returns None where the model does not have what the rule is about.
    """
    return lambda find: RULES.append(Rule(text, tables, find))


def rules(tables: Tables) -> list[dict[str, Any]]:
    """The rules that a run's tables can speak to.

    Returns:
        One a rule: ``rule``; ``table``, where the numbers come from; ``findings``, one a model with ``model, measured,
        verdict``; ``verdict`` over them: one of ``VERDICTS``, or ``yes in 2 of 3 models`` (``no in …``) of those
        that it was tested on.
    """
    models = [name for name in tables["claims"]["model"].unique() if name != ALL_MODELS] if "claims" in tables else []
    by_model = {model: of_main_instrument(of_model(tables, model)) for model in models}
    stated = []
    for rule in RULES:
        findings = []
        for model, own in {ALL_MODELS: of_main_instrument(tables)}.items() if rule.over_models else by_model.items():
            if all(len(own.get(name, ())) for name in rule.tables):
                finding = rule.find(own) or Finding("nothing of the kind in this model", UNTESTED)
                findings.append({"model": model, **finding._asdict()})
        if findings:
            verdict = _together([finding["verdict"] for finding in findings])
            stated.append({"rule": rule.text, "table": rule.tables[0], "findings": findings, "verdict": verdict})
    return stated


def _together(verdicts: list[str]) -> str:
    """One verdict over models: theirs, where those tested agree, else how many said yes and how many no."""
    tested = [verdict for verdict in verdicts if verdict != UNTESTED]
    if not tested:
        return UNTESTED
    if len(set(tested)) == 1:
        return tested[0]
    said = [f"{verdict} in {tested.count(verdict)}" for verdict in (YES, NO) if verdict in tested]
    return f"{', '.join(said)} of {len(tested)} models"
