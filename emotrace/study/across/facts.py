"""The models of a run that have results, and what every table over models says of each of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emotrace.instrument import corpus
from emotrace.study.experiment import Tables

CODE_MODEL = "a code model"
"""How ``data/models.csv`` begins its note on one."""


class Facts(NamedTuple):
    """A model's family, its kind (``base`` or ``instruct``), and millions of parameters."""

    family: str
    kind: str
    parameters: float


def model_facts(manifest: dict[str, Any], tables: Tables) -> dict[str, Facts]:
    """The models that ``tables`` have results of, in the order of the run, whatever tables lie there from before.

    What the manifest does not say of a model comes from ``data/models.csv``.
    """
    registry = corpus.model_registry()
    found = dict.fromkeys(name for table in tables.values() if "model" in table for name in table["model"])
    order = [name for name in manifest.get("settings", {}).get("models", ()) if name in found]
    facts = {}
    for name in dict.fromkeys([*order, *found]):
        if name not in manifest["models"]:
            continue
        noted = manifest["models"][name]
        registered = registry.loc[name].to_dict() if name in registry.index else {}
        kind = noted.get("kind", registered.get("kind", ""))
        facts[name] = Facts(
            noted.get("family", registered.get("family", "")), kind, millions(name, noted.get("parameters"))
        )
    return facts


def millions(name: str, counted: float | None) -> float:
    """Millions of parameters, as a model's publisher counts them where ``data/models.csv`` has the model.

    ``counted`` are those of the module in memory. A GGUF file may hold input and output embeddings as two tensors of
    different precision although the model ties them: counted there, they count twice.
    """
    registry = corpus.model_registry()
    if name in registry.index:
        return float(registry.loc[name, "parameters_millions"])
    return np.nan if counted is None else float(counted) / 1e6


def in_words(manifest: dict[str, Any]) -> dict[str, str]:
    """What to say of each model of a run wherever its results are quoted: size, kind, and what its weights are."""
    registry = corpus.model_registry()
    described = {}
    for name, noted in manifest["models"].items():
        parts = [
            f"{millions(name, noted.get('parameters')):.0f}M parameters",
            f"{noted['family']} architecture",
            noted.get("kind", ""),
        ]
        if name in registry.index and str(registry.loc[name, "note"]).startswith(CODE_MODEL):
            parts.append(CODE_MODEL)
        weights = str(noted.get("quantisation", "none"))
        bits = "4-bit weights: " if "Q4" in weights else ""
        parts.append("weights as published" if weights == "none" else f"{bits}{weights}")
        described[name] = ", ".join(part for part in parts if part)
    return described


def with_facts(table: pd.DataFrame, facts: dict[str, Facts]) -> pd.DataFrame:
    """The models' facts after the first column, ``model``, where a table has it."""
    table = table.reset_index(drop=True)
    if "model" in table:
        for position, column in enumerate(Facts._fields, 1):
            table.insert(position, column, [getattr(facts[name], column) for name in table["model"]])
    return table
