"""Statements whose verdict depends on the estimator, or on the precision of the weights. Ours.

Each statement is a rule of this run's claims, asked of every estimator's vectors, or of the model at every precision,
on the same texts. Two verdicts on one truth are often unlike by chance: a rule that finds an effect in half of all
samples calls six alike in few. So a verdict counts as another one where the paired difference is none by chance: from
the difference of means, or from the model as it was loaded, after Holm.

The ids are of this comparison alone. It steers few emotions on few prompts, and what it says of the difference of means
may be unlike what the claims say of it on more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from emotrace.measures.estimators import ESTIMATORS, MEAN_DIFFERENCE
from emotrace.study.effects.claims import signed_rule
from emotrace.study.effects.contrasts import TOWARDS
from emotrace.study.effects.dose import holm
from emotrace.study.estimators.claims import precision_rule
from emotrace.study.estimators.steering import NEXT_TOKEN, READINGS
from emotrace.study.experiment import Tables
from emotrace.study.folder import select
from emotrace.study.verdicts import (
    ALPHA,
    INCONCLUSIVE,
    NOT_REPRODUCED,
    REPRODUCED,
    Estimate,
    Rule,
    exceeds,
    significant,
)

ABOVE_CHANCE = 0.05
"""Smallest distance from chance of accuracy and rank: one text in twenty."""


class Statement(NamedTuple):
    """A statement and its verdict by each estimator, or at each precision.

    Attributes:
        id: its name in this comparison.
        text: the statement.
        verdicts: estimator, or precision → verdict.
        p: estimator, or precision → p of its paired difference from ``than``.
        than: the difference of means, or the weights as loaded; empty of a statement on what changes itself.
    """

    id: str
    text: str
    verdicts: dict[str, str]
    p: dict[str, float]
    than: str

    @property
    def depends(self) -> str:
        """Whether the verdict depends on what was asked: *reproduced* where it does.

        *Inconclusive*: verdicts are unlike, but no paired difference bears that out.
        """
        given = set(self.verdicts.values())
        if not self.than:  # says itself what changes
            return next((one for one in (REPRODUCED, INCONCLUSIVE) if one in given), NOT_REPRODUCED)
        return REPRODUCED if self.apart else INCONCLUSIVE if len(given) > 1 else NOT_REPRODUCED

    @property
    def apart(self) -> list[str]:
        """Those whose verdict is unlike that of ``than`` and whose paired difference is none by chance."""
        own = self.verdicts.get(self.than)
        unlike = [name for name, verdict in self.verdicts.items() if own not in (None, verdict)]
        return [name for name in unlike if self.p.get(name, np.nan) < ALPHA]

    def words(self) -> str:
        """The statement and its verdicts, each with those that give it, and what the paired differences say."""
        given: dict[str, list[str]] = {}
        for name, verdict in self.verdicts.items():
            given.setdefault(verdict, []).append(name)
        said = ", ".join(f"{verdict} by {', '.join(names)}" for verdict, names in given.items())
        known = [p for p in self.p.values() if np.isfinite(p)]
        least = f"; smallest p of a difference from {self.than}, after Holm, {min(known):.2g}" if known else ""
        return f"{self.text} (`{self.id}`): {said}{least}"


def by_estimator(tables: Tables) -> list[Statement]:
    """What is decoded, ranked and steered, by each estimator that reads activations."""
    asked: list[tuple[str, str, pd.DataFrame, Rule | None]] = []
    if "estimators" in tables:
        rows = select(tables["estimators"], choice="chosen", pooling="mean")
        for metric, text in (
            ("decoding", "emotions are decoded on unseen topics"),
            ("ranking", "texts are ranked on unseen topics"),
            ("transfer_ranking", "the vectors rank another author's texts"),
        ):
            asked.append((metric, text, rows, None))
    if "estimator_effects" in tables:
        rows = tables["estimator_effects"]
        for reading, what in zip(READINGS, ("kin words more probable", "the judge's score rise"), strict=True):
            text = f"steering towards an emotion makes {what}, at equal harm"
            asked.append((reading, text, rows, signed_rule(reading, TOWARDS)))
    found = []
    for metric, text, rows, rule in asked:
        own = _by_name(select(rows, metric=metric))
        verdicts = {name: (rule or _chance_rule(row)).verdict(_estimate(row)) for name, row in own.items()}
        p = {name: float(row["p"]) for name, row in _by_name(select(rows, metric=f"{metric}_gain")).items()}
        found.append(Statement(f"by_estimator.{metric}", text, verdicts, p, MEAN_DIFFERENCE))
    return _corrected(one for one in found if one.verdicts)


def by_precision(tables: Tables) -> list[Statement]:
    """What is steered, and whether the geometry changes, with the weights at each precision."""
    if "precision" not in tables:
        return []
    rows = select(tables["precision"], choice="chosen", pooling="mean")
    halves = select(rows, metric="rdm_halves")
    if halves.empty:
        return []
    own = str(halves["reference"].iloc[0])
    rows = rows[rows["reference"] == own]
    changed, steered, change = (
        select(rows, metric=metric).set_index("precision") for metric in ("rdm_change", "steering", "steering_change")
    )
    verdicts = {str(name): precision_rule().verdict(_estimate(row)) for name, row in changed.iterrows()}
    found = [Statement("by_precision.geometry", f"it changes the geometry that {own} weights give", verdicts, {}, "")]
    rises = signed_rule(NEXT_TOKEN, TOWARDS)
    verdicts = {str(name): rises.verdict(_estimate(row)) for name, row in steered.iterrows()}
    p = {str(name): float(row["p"]) for name, row in change.iterrows()}
    found.append(Statement(f"by_precision.{NEXT_TOKEN}", "steering makes kin words more probable", verdicts, p, own))
    return _corrected(one for one in found if one.verdicts)


def together(statements: Iterable[Statement]) -> str:
    """Whether any verdict depends on what was asked: *reproduced*, *not reproduced* or *inconclusive*."""
    answers = {one.depends for one in statements}
    return next((one for one in (REPRODUCED, INCONCLUSIVE) if one in answers), NOT_REPRODUCED)


def named(statements: Iterable[Statement]) -> str:
    """Those with unlike verdicts, or that say themselves that something changes, in words; empty where none does."""
    return "; ".join(one.words() for one in statements if one.depends != NOT_REPRODUCED)


def _corrected(statements: Iterable[Statement]) -> list[Statement]:
    """The statements with p after Holm's correction over all of them: the question is whether *any* verdict changes."""
    kept = list(statements)
    places = [(at, name) for at, one in enumerate(kept) for name, p in one.p.items() if np.isfinite(p)]
    values = dict(zip(places, holm([kept[at].p[name] for at, name in places]), strict=True))
    return [
        one._replace(p={name: float(values.get((at, name), np.nan)) for name in one.p}) for at, one in enumerate(kept)
    ]


def _chance_rule(row: pd.Series) -> Rule:
    return significant(exceeds(ABOVE_CHANCE, float(row["chance"])))


def _by_name(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Each estimator's row, without the floors, in the list's order."""
    real = [name for name, one in ESTIMATORS.items() if not one.floor]
    return {name: select(rows, estimator=name).iloc[0] for name in real if len(select(rows, estimator=name))}


def _estimate(row: pd.Series) -> Estimate:
    return Estimate(*(float(row[column]) for column in ("value", "low", "high", "n", "p")))
