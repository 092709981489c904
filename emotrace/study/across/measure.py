"""What only a run of several models can show: tables over models, from the finished tables and vectors of its folder.

Nothing here runs a model. ``write`` is called at the end of a run and by ``emotrace report``; a run of one model has none
of these tables. Which quantities are compared, and in which units, is ours: raw magnitudes of one model's residual stream
mean nothing in another's, so every raw number stands beside one in units that carry over.
"""

from __future__ import annotations

import itertools
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emotrace.instrument import corpus
from emotrace.measures import statistics
from emotrace.study.across import claims as claims_across
from emotrace.study.across import geometry as across_geometry
from emotrace.study.across import steering as across_steering
from emotrace.study.folder import RunFolder, read_manifest, read_tables, select

TABLES = (
    "across_depth", "across_depth_agreement", "across_rdm", "across_steering", "across_steering_contrasts",
    "across_units", "across_regimes", "across_regimes_contrasts",
)  # fmt: skip
CURVES = ("cosine", "shuffle_excess", "anisotropy_excess")
"""The paper's centroid cosine as it is, and minus either baseline."""


class Facts(NamedTuple):
    """What every table over models says of a model: its family, ``base`` or ``instruct``, millions of parameters."""

    family: str
    kind: str
    parameters: float


def write(run: RunFolder) -> dict[str, pd.DataFrame]:
    """Writes the tables over models and their claims (model ``all``) into a run's ``tables``, in place of older ones.

    Returns:
        The tables written, by name; none for a run with results of fewer than two models.
    """
    found = tables(run.path)
    for name in set(TABLES) - set(found):  # of an earlier run with more models
        (run.path / "tables" / f"{name}.csv").unlink(missing_ok=True)
    for name, table in found.items():
        run.write_table(name, table)
    kept = read_tables(run.path)
    rows = claims_across.claims({**kept, **found}) if found else pd.DataFrame()
    if "claims" in kept and len(rows):
        own = kept["claims"][kept["claims"]["model"] != claims_across.MODEL]
        run.write_table("claims", pd.concat([own, rows], ignore_index=True))
    return found


def tables(path: str | Path) -> dict[str, pd.DataFrame]:
    """The tables over models of a run folder, those of ``TABLES`` that its experiments allow.

    Raises:
        EmotraceError: the folder holds no run.
    """
    manifest, kept = read_manifest(path), read_tables(path)
    facts = model_facts(manifest, kept)
    if len(facts) < 2:
        return {}
    seed, draws = manifest["settings"]["sizes"]["seed"], manifest["settings"]["sizes"]["bootstrap"]
    permutations = manifest["settings"]["sizes"]["permutations"]
    found: dict[str, pd.DataFrame] = {}
    if "separation" in kept:
        found["across_depth"] = depth_curves(kept)
        found["across_depth_agreement"] = depth_agreement(found["across_depth"], draws, seed)
    if "localisation" in kept:
        geometries = across_geometry.load(Path(path), kept["localisation"], list(facts))
        found["across_rdm"] = across_geometry.correlations(geometries, facts, draws, permutations, seed)
    found |= across_steering.tables(Path(path), kept, facts, draws, seed)
    return {name: _labelled(found[name], facts) for name in TABLES if name in found and len(found[name])}


def model_facts(manifest: dict[str, Any], kept: dict[str, pd.DataFrame]) -> dict[str, Facts]:
    """The models that a run has results of, in its order; what its manifest does not say comes from ``data/models.csv``."""
    finished = {name for table in kept.values() if "model" in table for name in table["model"].unique()}
    registry, facts = corpus.model_registry(), {}
    for name, told in manifest["models"].items():
        if name in finished:
            row = registry.loc[name].to_dict() if name in registry.index else {}
            millions = told["parameters"] / 1e6 if "parameters" in told else row.get("parameters_millions", np.nan)
            facts[name] = Facts(told["family"], told.get("kind", row.get("kind", "")), float(millions))
    order = {name: place for place, name in enumerate(finished_order(kept))}
    return dict(sorted(facts.items(), key=lambda item: order[item[0]]))


def finished_order(kept: dict[str, pd.DataFrame]) -> list[str]:
    """The models in the order in which the tables have them, which is that of the run."""
    return list(dict.fromkeys(name for table in kept.values() if "model" in table for name in table["model"]))


def generator(seed: int, *what: object) -> np.random.Generator:
    """The generator of one purpose, independent of every other and of the order of work."""
    return np.random.default_rng([seed, zlib.crc32(repr(what).encode())])


def _labelled(table: pd.DataFrame, facts: dict[str, Facts]) -> pd.DataFrame:
    """The models' facts beside the column ``model``, where a table has one."""
    if "model" not in table:
        return table.reset_index(drop=True)
    table = table.reset_index(drop=True)
    for place, field in enumerate(Facts._fields, 1):
        table.insert(place, field, [getattr(facts[name], field) for name in table["model"]])
    return table


# -- curves over depth --------------------------------------------------------------------------------------------------


def depth_curves(kept: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """``across_depth``: the centroid cosine over depth, as it is and minus either baseline (C6, C7).

    Returns:
        One row a model, pooling, metric (``CURVES``) and layer: ``model, pooling, layer, depth, metric, value, low, high, n``
        (topics). ``anisotropy_excess`` subtracts the group cosine of unrelated texts, whose own error is not in the interval.
    """
    columns = ["model", "pooling", "layer", "depth", "metric", "value", "low", "high", "n"]
    separation = kept["separation"]
    parts = [separation.loc[separation["metric"].isin(CURVES), columns]]
    if "anisotropy" in kept:
        keys = ["model", "pooling", "layer"]
        groups = select(kept["anisotropy"], metric="group_cosine")[[*keys, "value"]].rename(columns={"value": "group"})
        excess = parts[0][parts[0]["metric"] == "cosine"].merge(groups, on=keys).assign(metric="anisotropy_excess")
        for column in ("value", "low", "high"):
            excess[column] = excess[column] - excess["group"]
        parts.append(excess[columns])
    return pd.concat(parts, ignore_index=True)


def depth_agreement(curves: pd.DataFrame, draws: int, seed: int) -> pd.DataFrame:
    """``across_depth_agreement``: do two models' curves rise and fall at the same depths?

    Both curves at the depths of the coarser model (layers 1 … L), the finer one interpolated between its layers; Spearman's
    ρ over these depths. Neighbouring layers are not independent: the interval resamples blocks of a quarter of the depth
    (circular), and the n that it rests on is the number of depths.

    Args:
        curves: of :func:`depth_curves`.
        draws: resamples.
        seed: of the resamples.

    Returns:
        One row a pooling, metric and pair of models: ``model_a, model_b, pooling, metric, value, low, high, n``; no pairs
        with a model of fewer than six layers, which has no curve.
    """
    rows = []
    curves = curves[curves["layer"] > 0]
    for (pooling, metric), part in curves.groupby(["pooling", "metric"], sort=False):
        of_model = {name: some.sort_values("depth") for name, some in part.groupby("model", sort=False)}
        for a, b in itertools.combinations(of_model, 2):
            grid = min((of_model[a]["depth"], of_model[b]["depth"]), key=len).to_numpy()
            if len(grid) < statistics.MIN_BEND_LAYERS:
                continue
            first, second = (np.interp(grid, of_model[name]["depth"], of_model[name]["value"]) for name in (a, b))
            picks = _blocks(len(grid), draws, generator(seed, "depth blocks", len(grid)))
            interval = statistics.percentile_interval(_rho(first, second), _rho(first[picks], second[picks]))
            rows.append({
                "model_a": a, "model_b": b, "pooling": pooling, "metric": metric, **interval._asdict(), "n": len(grid),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _rho(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's ρ along the last axis; NaN where one of them is constant."""
    ranks = across_geometry.standardised_ranks
    return (ranks(first) * ranks(second)).sum(axis=-1)


def _blocks(n: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Places ``[draw, n]``: circular blocks of a quarter of ``n``, drawn with replacement."""
    length = max(2, round(n / 4))
    starts = rng.integers(n, size=(draws, -(-n // length)))
    places = (starts[:, :, None] + np.arange(length)) % n
    return places.reshape(draws, -1)[:, :n]
