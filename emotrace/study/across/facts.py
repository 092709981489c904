"""The models of a run that have results, and what every table over models says of each of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emotrace.instrument import corpus
from emotrace.study.experiment import Tables


class Facts(NamedTuple):
    """A model's family, its kind (``base`` or ``instruct``), and millions of parameters."""

    family: str
    kind: str
    parameters: float


def model_facts(manifest: dict[str, Any], tables: Tables) -> dict[str, Facts]:
    """The models that ``tables`` have results of, in the order of the tables, which is that of the run.

    What the manifest does not say of a model comes from ``data/models.csv``.
    """
    registry = corpus.model_registry()
    facts = {}
    for name in dict.fromkeys(name for table in tables.values() if "model" in table for name in table["model"]):
        if name not in manifest["models"]:
            continue
        noted = manifest["models"][name]
        registered = registry.loc[name].to_dict() if name in registry.index else {}
        millions = noted["parameters"] / 1e6 if "parameters" in noted else registered.get("parameters_millions", np.nan)
        facts[name] = Facts(noted["family"], noted.get("kind", registered.get("kind", "")), float(millions))
    return facts


def with_facts(table: pd.DataFrame, facts: dict[str, Facts]) -> pd.DataFrame:
    """The models' facts after the first column, ``model``, where a table has it."""
    table = table.reset_index(drop=True)
    if "model" in table:
        for position, column in enumerate(Facts._fields, 1):
            table.insert(position, column, [getattr(facts[name], column) for name in table["model"]])
    return table
