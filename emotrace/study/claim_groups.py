"""The claims of one model as the report shows them: grouped by the paper's numbers, one line a claim."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Hashable, Iterable
from typing import Any

import pandas as pd

from emotrace.instrument import corpus

TITLES = {
    "C1": "Nine models of five families",
    "C2": "Twenty emotions and neutral",
    "C3": "Two ways to extract: comprehension and generation",
    "C4": "A vector is an emotion's mean minus the mean over all classes",
    "C5": "Generation separates the emotions better",
    "C6": "Emotions localise at about half depth, along a U",
    "C7": "The separation is validated against anisotropy",
    "C8": "Steering is causal, in both directions of sign, with a monotonic dose response",
    "C9": "An outside classifier confirms it",
    "C10": "Three regimes, separated by architecture",
    "C11": "Steering in English brings up Chinese",
    "C12": "Guidelines",
    "estimator": "Other estimators of a vector than the paper's",
    "layer": "The layer at which to steer",
    "sequel": "The sequel (arXiv:2604.11050)",
    "neighbour": "Neighbouring papers, beside C4",
}
NOTES = {
    "C1": "What the other claims rest on, not a result; a run of several models says which.",
    "C2": "The instrument, not a result.",
    "C3": "Both are built; how they differ is C5.",
    "C4": "How every vector here is made; what neighbouring papers measure of such vectors stands below.",
    "C12": "At the end of this page.",
}
"""Of the numbers that one model's run has no row for by its nature."""


def groups(claims: Iterable[dict[Hashable, Any]], expected: Iterable[str] = ()) -> list[dict[str, Any]]:
    """The rows of ``claims.csv`` under the numbers C1 to C12, then the sequel and the neighbours.

    Args:
        claims: the rows of one model.
        expected: ids of claims that the run will have once it is complete.

    Returns:
        One a number, with ``number, title, note``; ``lines``, one a claim, with ``id, claim, paper, rates`` and
        ``measures``, one a set of passages; ``missing``: the expected ids that are not there.
    """
    lines: dict[str, dict[str, Any]] = {}
    for row in claims:
        claim = str(row["claim"]).removeprefix(f"{number(row['id'])} ").removeprefix("neighbour: ")
        claim = claim.removeprefix("sequel: ").replace(", the paper's pooling", "")
        head = {"id": row["id"], "claim": claim, "paper": row["paper"], "rates": rates(row["id"]), "measures": []}
        lines.setdefault(row["id"], head)["measures"].append(row)
    missing = [id for id in dict.fromkeys(expected) if id not in lines]
    made = []
    for name, title in TITLES.items():
        own = [line for id, line in lines.items() if number(id) == name]
        later = [id for id in missing if number(id) == name]
        note = "" if own or later else NOTES.get(name, "Not part of this run.")
        if name.startswith("C") or own or later:
            made.append({"number": name, "title": title, "note": note, "lines": own, "missing": later})
    return made


def number(id: str) -> str:
    """The number that a claim belongs to: ``C6`` of ``C6.u.last``."""
    return id.partition(".")[0]


@functools.cache
def _rates() -> pd.DataFrame:
    """``data/verdict_rates.csv``: how often each rule errs on data of which the truth is known."""
    return pd.read_csv(corpus.data_dir() / "verdict_rates.csv")


def rates(id: str) -> list[dict[Hashable, Any]]:
    """How often the rule of this claim gives each verdict on simulated data; none where it was not simulated."""
    table = _rates()
    own = [fnmatch.fnmatchcase(id, pattern) for pattern in table["claim"]]
    return table[own].to_dict("records")
