"""The list of guidelines: how one is stated, asked of each model that has its tables, and judged over models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import pandas as pd

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
        verdict``; ``verdict`` over them: one of ``VERDICTS``, or ``yes in 2 of 3 models`` of those that it was tested
        on.
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
    """One verdict over models: theirs, where those that were tested agree, else how many said yes."""
    tested = [verdict for verdict in verdicts if verdict != UNTESTED]
    if not tested:
        return UNTESTED
    return tested[0] if len(set(tested)) == 1 else f"{YES} in {tested.count(YES)} of {len(tested)} models"
