"""Steering over models: deltas in raw and in comparable units beside the anisotropy (C7).

A *delta* is how far an edit moved the residual stream, at a later layer, along the emotion's direction there.
``raw_delta`` is in the stream's own units, in which residual norms differ a thousandfold between models. ``delta`` is
in that layer's mean residual norms. In an anisotropic space most of a norm is one shared direction that says nothing,
so ``delta_in_gaps`` is also given: in lengths of the emotion's own vector there, which is how far its texts lie from
the mean of all classes. All three come from the same texts and edits. The units are ours: the full text of the paper
could not be read here.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from emotrace.measures import statistics
from emotrace.measures.randomness import generator_for
from emotrace.study.across.agreement import standardised_ranks
from emotrace.study.effects.arms import CALIBRATED
from emotrace.study.experiment import Tables
from emotrace.study.folder import file_name, select
from emotrace.study.steered import POOLING, reading_layer
from emotrace.vectors import EmotionVectors

MEASURES = ("raw_delta", "delta", "delta_in_gaps")


@dataclass(frozen=True)
class Scale:
    """The units of one model's residual stream.

    Attributes:
        norms: mean residual norm at each layer, ``[layer]``.
        anisotropy: mean pairwise cosine of unrelated texts, mean-pooled, ``[layer]``.
        emotions: names along the first axis of ``gaps``.
        gaps: lengths of the emotion vectors (comprehension, mean-pooled), ``[emotion, layer]``.
    """

    norms: np.ndarray
    anisotropy: np.ndarray
    emotions: tuple[str, ...]
    gaps: np.ndarray

    @property
    def n_layers(self) -> int:
        return len(self.norms) - 1


def tables(path: Path, run_tables: Tables, models: list[str], draws: int, seed: int) -> Tables:
    """``across_steering``, ``across_steering_contrasts`` and ``across_units``, as a run's tables and vectors allow."""
    if not {"residual_norms", "anisotropy"} <= set(run_tables):
        return {}
    scales = {}
    for model in models:
        file = path / "vectors" / f"{file_name(model)}-comprehension-{POOLING}.safetensors"
        if file.exists():
            norms = _by_layer(select(run_tables["residual_norms"], model=model))
            cosines = _by_layer(select(run_tables["anisotropy"], model=model, pooling=POOLING, metric="cosine"))
            vectors = EmotionVectors.load(file)
            gaps = np.linalg.norm(vectors.values.astype(np.float64), axis=-1)
            scales[model] = Scale(norms, cosines, vectors.emotions, gaps)
    made = {"across_units": units(scales, draws, seed)}
    if "dose_response" in run_tables:
        deltas = emotion_deltas(run_tables["dose_response"], scales)
        made["across_steering"] = steering_deltas(deltas, scales)
        made["across_steering_contrasts"] = steering_contrasts(deltas, scales, draws, seed)
    return made


def _by_layer(table: pd.DataFrame) -> np.ndarray:
    return table.sort_values("layer")["value"].to_numpy()


def emotion_deltas(dose: pd.DataFrame, scales: dict[str, Scale]) -> pd.DataFrame:
    """Each emotion's delta under its own vector, and the means under control directions of equal norm, in every unit.

    Controls: vectors of permuted labels (``permuted``) and Gaussian ones (``random``). From ``dose_response`` of
    several models, whose ``projection`` is in norms of the layer where it is read. One row a model, relative strength,
    emotion and measure (``MEASURES``).
    """
    rows = []
    table = select(dose, arm=CALIBRATED, metric="projection")
    table = table[(table["emotion"] != "all") & (table["strength"] != 0) & table["model"].isin(list(scales))]
    for row in table.to_dict("records"):
        scale, layer = scales[row["model"]], int(row["layer"])
        read = reading_layer(layer, scale.n_layers)
        norm, gap = scale.norms[read], scale.gaps[scale.emotions.index(row["emotion"]), read]
        front = {"model": row["model"], "layer": layer, "read_layer": read, "relative": round(row["relative"], 6)}
        front |= {"strength": row["strength"], "emotion": row["emotion"]}
        for measure, unit in zip(MEASURES, (norm, 1.0, norm / gap), strict=True):
            values = {column: row[column] * unit for column in ("value", "permuted", "random")}
            rows.append({**front, "measure": measure, **values})
    return pd.DataFrame(rows)


def steering_deltas(deltas: pd.DataFrame, scales: dict[str, Scale]) -> pd.DataFrame:
    """``across_steering``: mean deltas of each model, Student's t interval over ``n`` emotions.

    One row a model, relative strength and measure (``MEASURES``), beside the anisotropy and the residual norm of the
    layer where it is read.
    """
    if deltas.empty:
        return pd.DataFrame()
    rows = []
    for (model, relative, measure), part in deltas.groupby(["model", "relative", "measure"], sort=False):
        scale, layer, read = scales[str(model)], part["layer"].iloc[0], int(part["read_layer"].iloc[0])
        row = {"model": model, "layer": layer, "depth": layer / scale.n_layers, "read_layer": read}
        row |= {"relative": relative, "strength": part["strength"].iloc[0], "metric": measure}
        row |= {**statistics.mean_interval(part["value"].to_numpy())._asdict(), "n": len(part)}
        row |= {
            "permuted": part["permuted"].mean(),
            "random": part["random"].mean(),
            "anisotropy": scale.anisotropy[read],
            "residual_norm": scale.norms[read],
        }
        rows.append(row)
    return pd.DataFrame(rows)


def steering_contrasts(deltas: pd.DataFrame, scales: dict[str, Scale], draws: int, seed: int) -> pd.DataFrame:
    """``across_steering_contrasts``: how far the models' deltas differ in each unit, at the calibrated strength.

    One row a measure and metric. ``ratio``: the mean delta of ``model_a`` over that of ``model_b``. ``between_models``:
    share of the variance of log \\|delta\\| over models × emotions that lies between models (η²). Their intervals
    resample the ``n`` emotions, the same ones in every model. ``anisotropy_rho``: Spearman's ρ of the ``n`` models'
    mean deltas with their anisotropy, exact one-sided p over all orders; with three models it cannot be below 1/6.
    """
    if deltas.empty:
        return pd.DataFrame()
    rows = []
    read_layers = deltas.drop_duplicates("model").set_index("model")["read_layer"]
    for measure in MEASURES:
        wide = select(deltas, measure=measure, relative=1.0).pivot(index="model", columns="emotion", values="value")
        wide = wide.reindex(list(read_layers.index)).dropna(axis=1)
        cube = wide.to_numpy()  # [model, emotion]
        n_models, n = cube.shape
        if min(n_models, n) < 2:
            continue
        picks = generator_for(seed, "steering over models").integers(n, size=(draws, n))
        cubes = [cube, *(cube[:, pick] for pick in picks)]  # the estimate, then the draws
        means = np.array([[values.mean() for values in draw] for draw in cubes])
        for a, b in itertools.combinations(range(n_models), 2):
            ratios = means[:, a] / means[:, b]
            interval = statistics.percentile_interval(ratios[0], ratios[1:])
            pair = {"measure": measure, "metric": "ratio", "model_a": wide.index[a], "model_b": wide.index[b]}
            rows.append({**pair, **interval._asdict(), "n": n})
        none = {"measure": measure, "metric": "between_models", "model_a": "", "model_b": ""}
        shares = np.array([_between(draw) for draw in cubes])
        interval = statistics.percentile_interval(shares[0], shares[1:])
        rows.append({**none, **interval._asdict(), "n": n})
        anisotropy = [scales[name].anisotropy[read_layers[name]] for name in wide.index]
        order = _order(cube.mean(axis=1), anisotropy)
        rows.append({"measure": measure, "metric": "anisotropy_rho", **order, "n": n_models})
    return pd.DataFrame(rows)


def _between(cube: np.ndarray) -> float:
    """η² of the rows of log |cube| ``[model, emotion]``."""
    with np.errstate(divide="ignore"):
        logs = np.log(np.abs(cube))
    logs = logs[:, np.isfinite(logs).all(axis=0)]
    total = ((logs - logs.mean()) ** 2).sum() if logs.size else 0.0
    return float(logs.shape[1] * ((logs.mean(axis=1) - logs.mean()) ** 2).sum() / total) if total else np.nan


def _order(means: np.ndarray, anisotropy: list[float]) -> dict[str, float]:
    """Spearman's ρ over models and its exact one-sided p: the share of all orders that agree as well."""
    if len(means) < 3:
        return {"value": np.nan, "p": np.nan}
    rho = float(spearmanr(means, anisotropy).statistic)
    if len(means) > 8:  # all orders of nine are a third of a million
        return {"value": rho, "p": float(spearmanr(means, anisotropy, alternative="greater").pvalue)}
    orders = [spearmanr(order, anisotropy).statistic for order in itertools.permutations(means)]
    return {"value": rho, "p": float(np.mean(np.array(orders) >= rho - 1e-12))}


def units(scales: dict[str, Scale], draws: int, seed: int) -> pd.DataFrame:
    """``across_units``: in one model, does a residual norm buy more of an emotion where the space is more anisotropic?

    If unrelated texts have mean cosine c, a share 1 − c of their squared norm is what tells them apart, so one norm is
    1/√(1 − c) of that. Were emotions a fixed part of what tells texts apart, a norm would be worth so many class gaps.

    One row a model, layer 1 … L and metric. ``anisotropy`` is c; ``amplification``, 1/√(1 − c); ``gaps_per_norm``, the
    mean residual norm over an emotion vector's length, mean over the ``n`` emotions, which the interval resamples. With
    no layer: ``layers_rho``, Spearman's ρ of the last two over the ``n`` layers; neighbouring layers are not
    independent, so it has no p. ``layers_slope``: of the logarithm of one on that of the other, by least squares; 1 if
    the emotions are a fixed part. Both have intervals over emotions.
    """
    rows = []
    for model, scale in scales.items():
        layers = np.arange(1, scale.n_layers + 1)
        n = len(scale.emotions)
        with np.errstate(divide="ignore"):
            per_norm = scale.norms[layers] / scale.gaps[:, layers]  # [emotion, layer]
            amplification = 1 / np.sqrt(np.clip(1 - scale.anisotropy[layers], 0, None))
        picks = generator_for(seed, "units over layers").integers(n, size=(draws, n))
        resampled = per_norm[picks].mean(axis=1)  # [draw, layer]
        for idx, layer in enumerate(layers):
            front = {"model": model, "layer": layer, "depth": layer / scale.n_layers}
            interval = statistics.percentile_interval(per_norm[:, idx].mean(), resampled[:, idx])
            rows += [
                {**front, "metric": "anisotropy", "value": scale.anisotropy[layer]},
                {**front, "metric": "amplification", "value": amplification[idx]},
                {**front, "metric": "gaps_per_norm", **interval._asdict(), "n": n},
            ]
        if len(layers) < statistics.MIN_COURSE:
            continue
        curves = np.vstack([per_norm.mean(axis=0), resampled])  # the estimate, then the draws
        over_layers = {"layers_rho": standardised_ranks(curves) @ standardised_ranks(amplification)}
        if np.isfinite(curves).all() and np.isfinite(amplification).all():
            over_layers["layers_slope"] = np.polyfit(np.log(amplification), np.log(curves.T), 1)[0]
        for metric, values in over_layers.items():
            interval = statistics.percentile_interval(values[0], values[1:])
            rows.append({"model": model, "metric": metric, **interval._asdict(), "n": len(layers)})
    return pd.DataFrame(rows)
