"""Statements whose verdict depends on the estimator, or on the precision of the weights. Ours.

Each statement is a rule of this run's claims, asked of every estimator's vectors, or of the model at every precision,
on the same texts. A claim that holds by one of them and not by another must say by which it was measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from emotrace.measures.estimators import ESTIMATORS
from emotrace.study.effects.claims import signed_rule
from emotrace.study.effects.contrasts import TOWARDS
from emotrace.study.estimators.claims import precision_rule
from emotrace.study.estimators.steering import READINGS
from emotrace.study.experiment import Tables
from emotrace.study.folder import select
from emotrace.study.verdicts import Estimate, Rule, exceeds, significant

ABOVE_CHANCE = 0.05
"""Smallest distance from chance of accuracy and rank: one text in twenty."""


class Statement(NamedTuple):
    """A statement and its verdict by each estimator, or at each precision."""

    id: str
    text: str
    verdicts: dict[str, str]

    @property
    def changes(self) -> bool:
        """Whether they do not all agree."""
        return len(set(self.verdicts.values())) > 1

    def words(self) -> str:
        """The statement and its verdicts, each with those that give it."""
        given: dict[str, list[str]] = {}
        for name, verdict in self.verdicts.items():
            given.setdefault(verdict, []).append(name)
        return f"{self.text} (`{self.id}`): " + ", ".join(
            f"{verdict} by {', '.join(names)}" for verdict, names in given.items()
        )


def by_estimator(tables: Tables) -> list[Statement]:
    """What is decoded, ranked and steered, by each estimator that reads activations."""
    found = []
    if "estimators" in tables:
        rows = select(tables["estimators"], choice="chosen", pooling="mean")
        for metric, text in (
            ("decoding", "emotions are decoded on unseen topics"),
            ("ranking", "texts are ranked on unseen topics"),
            ("transfer_ranking", "the vectors rank another author's texts"),
        ):
            own = select(rows, metric=metric)
            rule_of = {name: _chance_rule(row) for name, row in _by_name(own).items()}
            found.append(_judged(f"estimator.{metric}", text, own, rule_of))
    if "estimator_effects" in tables:
        words = dict(zip(READINGS, ("kin words more probable", "the judge's score rise"), strict=True))
        for reading in READINGS:
            own = select(tables["estimator_effects"], metric=reading)
            rule = signed_rule(reading, TOWARDS)
            text = f"steering towards an emotion makes {words[reading]}, at equal harm"
            found.append(_judged(f"C8.{TOWARDS}.{reading}", text, own, dict.fromkeys(_by_name(own), rule)))
    return [one for one in found if one.verdicts]


def by_precision(tables: Tables) -> list[Statement]:
    """What is decoded and steered, and whether the geometry changes, with the weights at each precision."""
    if "precision" not in tables:
        return []
    rows = select(tables["precision"], choice="chosen", pooling="mean")
    halves = select(rows, metric="rdm_halves")
    if halves.empty:
        return []
    own = halves["reference"].iloc[0]
    rows = rows[rows["reference"] == own]
    changed = select(rows, metric="rdm_change").set_index("precision")
    verdicts = {str(name): precision_rule().verdict(_estimate(row)) for name, row in changed.iterrows()}
    found = [Statement("sequel.precision.mean", f"precision changes the geometry ({own} weights otherwise)", verdicts)]
    steered = select(rows, metric="steering").set_index("precision")
    rule = signed_rule("kin_log_probability", TOWARDS)
    verdicts = {str(name): rule.verdict(_estimate(row)) for name, row in steered.iterrows()}
    found.append(Statement("C8.towards.kin_log_probability", "steering makes kin words more probable", verdicts))
    return [one for one in found if one.verdicts]


def named(statements: Iterable[Statement]) -> str:
    """Those whose verdict changes, in words; empty where none does."""
    return "; ".join(one.words() for one in statements if one.changes)


def _chance_rule(row: pd.Series) -> Rule:
    return significant(exceeds(ABOVE_CHANCE, float(row["chance"])))


def _by_name(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Each estimator's row, without the floors, in the list's order."""
    real = [name for name, one in ESTIMATORS.items() if not one.floor]
    return {name: select(rows, estimator=name).iloc[0] for name in real if len(select(rows, estimator=name))}


def _judged(id: str, text: str, rows: pd.DataFrame, rule_of: dict[str, Rule]) -> Statement:
    own = _by_name(rows)
    return Statement(id, text, {name: rule.verdict(_estimate(own[name])) for name, rule in rule_of.items()})


def _estimate(row: pd.Series) -> Estimate:
    return Estimate(*(float(row[column]) for column in ("value", "low", "high", "n", "p")))
