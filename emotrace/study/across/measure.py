"""What only a run of several models can show: tables over models, from the finished tables and vectors of its folder.

Nothing here runs a model. ``write`` is called at the end of a run and by ``emotrace report``; a run of one model has
none of these tables. Which quantities are compared, and in which units, is ours: raw magnitudes of one model's residual
stream mean nothing in another's, so every raw number stands beside one in units that carry over.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from emotrace.measures import statistics
from emotrace.measures.randomness import generator
from emotrace.study.across import geometry, regimes, steering
from emotrace.study.across.agreement import standardised_ranks
from emotrace.study.across.claims import claims
from emotrace.study.across.facts import model_facts, with_facts
from emotrace.study.experiment import Tables, of_main_instrument
from emotrace.study.folder import RunFolder, read_manifest, read_tables
from emotrace.study.verdicts import ALL_MODELS, COLUMNS, claims_table

TABLES = (
    "across_depth",
    "across_depth_agreement",
    "across_rdm",
    "across_steering",
    "across_steering_contrasts",
    "across_units",
    "across_regimes",
    "across_regimes_contrasts",
)
CURVES = ("cosine", "shuffled_cosine", "ratio")
"""The paper's centroid cosine, its null of labels shuffled within topics, and R, the emotions' spread over chance."""


def write(run: RunFolder) -> Tables:
    """Writes the tables over models and their claims (model ``all``) into a run's ``tables``, in place of older ones.

    Returns:
        The tables written, by name; none for a run with results of fewer than two models.
    """
    made = tables(run.path)
    for name in set(TABLES) - set(made):  # of an earlier run with more models
        (run.path / "tables" / f"{name}.csv").unlink(missing_ok=True)
    for name, table in made.items():
        run.write_table(name, table)
    run_tables = read_tables(run.path)
    rows = claims_table(ALL_MODELS, claims({**of_main_instrument(run_tables), **made}) if made else [])
    if "claims" in run_tables and len(rows):
        of_one = run_tables["claims"][run_tables["claims"]["model"] != ALL_MODELS]
        run.write_table("claims", pd.concat([of_one, rows], ignore_index=True).reindex(columns=COLUMNS))
    return made


def tables(path: str | Path) -> Tables:
    """The tables over models of a run folder, those of ``TABLES`` that its experiments allow.

    Raises:
        EmotraceError: the folder holds no run.
    """
    manifest, every_instrument = read_manifest(path), read_tables(path)
    run_tables = of_main_instrument(every_instrument)
    facts = model_facts(manifest, run_tables)
    if len(facts) < 2:
        return {}
    sizes, models = manifest["settings"]["sizes"], list(facts)
    seed, draws = sizes["seed"], sizes["bootstrap"]
    made = steering.tables(Path(path), run_tables, models, draws, seed)
    if "separation" in run_tables:
        made["across_depth"] = depth_curves(run_tables)
        made["across_depth_agreement"] = depth_agreement(made["across_depth"], draws, seed)
    if "localisation" in run_tables:
        geometries = geometry.load(Path(path), every_instrument["localisation"], models)
        made["across_rdm"] = geometry.correlations(geometries, facts, draws, sizes["permutations"], seed)
    if "regimes" in run_tables:
        counts = regimes.regime_counts(run_tables["regimes"], models)
        made["across_regimes"] = regimes.regime_shares(counts, draws, seed)
        made["across_regimes_contrasts"] = regimes.regime_contrasts(counts, facts, draws, seed)
    return {name: with_facts(made[name], facts) for name in TABLES if name in made and len(made[name])}


def depth_curves(run_tables: Tables) -> pd.DataFrame:
    """``across_depth``: the centroid cosine over depth, its null, and R (C6, C7).

    One row a model, pooling, metric (``CURVES``) and layer, as ``separation.csv`` has them.
    """
    separation = run_tables["separation"]
    columns = ["model", "instrument", "pooling", "layer", "depth", "metric", "value", "low", "high", "n"]
    kept = [name for name in columns if name in separation]
    return separation.loc[separation["metric"].isin(CURVES), kept].reset_index(drop=True)


def depth_agreement(curves: pd.DataFrame, draws: int, seed: int) -> pd.DataFrame:
    """``across_depth_agreement``: do two models' curves rise and fall at the same depths?

    One row a pooling, metric and pair of models: Spearman's ρ of both curves (of :func:`depth_curves`) at the ``n``
    depths of the coarser model (layers 1 … L), the finer one interpolated between its layers. Neighbouring layers are
    not independent: the interval resamples circular blocks of a quarter of the depth. No pairs with a model of fewer
    than six layers, which has no curve.
    """
    rows = []
    curves = curves[curves["layer"] > 0]
    for (pooling, metric), part in curves.groupby(["pooling", "metric"], sort=False):
        of_model = {name: curve.sort_values("depth") for name, curve in part.groupby("model", sort=False)}
        for a, b in itertools.combinations(of_model, 2):
            grid = min((of_model[a]["depth"], of_model[b]["depth"]), key=len).to_numpy()
            if len(grid) < statistics.MIN_COURSE:
                continue
            first, second = (np.interp(grid, of_model[name]["depth"], of_model[name]["value"]) for name in (a, b))
            picks = _circular_blocks(len(grid), draws, generator(seed, "depth blocks", len(grid)))
            interval = statistics.percentile_interval(float(_rho(first, second)), _rho(first[picks], second[picks]))
            pair = {"model_a": a, "model_b": b, "pooling": pooling, "metric": metric}
            rows.append({**pair, **interval._asdict(), "n": len(grid)})
    return pd.DataFrame(rows)


def _rho(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's ρ along the last axis; NaN where one of them is constant."""
    return (standardised_ranks(first) * standardised_ranks(second)).sum(axis=-1)


def _circular_blocks(n: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Indices ``[draw, n]``: circular blocks of a quarter of ``n``, drawn with replacement."""
    length = max(2, round(n / 4))
    starts = rng.integers(n, size=(draws, -(-n // length)))
    indices = (starts[:, :, None] + np.arange(length)) % n
    return indices.reshape(draws, -1)[:, :n]
