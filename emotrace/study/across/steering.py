"""Steering over models: deltas in raw and in comparable units beside the anisotropy (C7).

A *delta* is how far an edit moved the residual stream, at a later layer, along the emotion's direction there. ``raw_delta``
is in the stream's own units, in which residual norms differ a thousandfold between models. ``delta`` is in that
layer's mean residual norms. In an anisotropic space most of a norm is one shared direction that says nothing, so
``delta_in_gaps`` is also given: in lengths of the emotion's own vector there, which is how far its texts lie from the mean
of all classes. All three from the same texts and edits. The paper's own unit is not public; these are ours.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from emotrace import activations
from emotrace.instrument import corpus
from emotrace.measures import statistics
from emotrace.study.across import regimes as across_regimes
from emotrace.study.across.geometry import standardised_ranks
from emotrace.study.effects.dose import mean_interval
from emotrace.study.folder import file_name, select
from emotrace.study.steered import POOLING, reading_layer
from emotrace.vectors import EmotionVectors

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.study.across.measure import Facts
    from emotrace.study.study import Study

MEASURES = ("raw_delta", "delta", "delta_in_gaps")


def residual_norms(study: Study, model: Model) -> pd.DataFrame:
    """``residual_norms``: the mean Euclidean norm of the residual stream at each layer, the unit of a strength."""
    texts = int((corpus.passages()["emotion"] == corpus.NEUTRAL).sum())

    def compute() -> list[dict[str, Any]]:
        return [
            {"model": study.model, "layer": layer, "depth": layer / study.n_layers, "value": norm, "n": texts}
            for layer, norm in enumerate(activations.residual_norms(model))
        ]

    return pd.DataFrame(study.unit("residual norms", compute))


def tables(
    path: Path, kept: dict[str, pd.DataFrame], facts: dict[str, Facts], draws: int, seed: int
) -> dict[str, pd.DataFrame]:
    """The tables of steering over models that a run folder's tables and vectors allow.

    ``across_steering``, ``across_steering_contrasts``, ``across_units``, ``across_regimes`` and
    ``across_regimes_contrasts``; see the functions below and :mod:`emotrace.study.across.regimes`.
    """
    found: dict[str, pd.DataFrame] = {}
    if {"residual_norms", "anisotropy"} <= set(kept):
        scales = {name: Scale.of(path, kept, name) for name in facts if _vectors(path, name).exists()}
        if "dose_response" in kept:
            values = emotion_deltas(kept["dose_response"], scales)
            found["across_steering"] = steering_deltas(values, scales)
            found["across_steering_contrasts"] = steering_contrasts(values, scales, draws, seed)
        found["across_units"] = units(scales, draws, seed)
    if "regimes" in kept:
        counts = across_regimes.regime_counts(kept["regimes"], list(facts))
        found["across_regimes"] = across_regimes.regime_shares(counts, draws, seed)
        found["across_regimes_contrasts"] = across_regimes.regime_contrasts(counts, facts, draws, seed)
    return found


def _vectors(path: Path, model: str) -> Path:
    return path / "vectors" / f"{file_name(model)}-comprehension-{POOLING}.safetensors"


class Scale:
    """The units of one model's residual stream.

    Attributes:
        norms: mean residual norm at each layer, ``[layer]``.
        anisotropy: mean pairwise cosine of unrelated texts, mean-pooled, ``[layer]``.
        emotions: names along the first axis of ``gaps``.
        gaps: lengths of the emotion vectors (comprehension, mean-pooled), ``[emotion, layer]``.
    """

    def __init__(self, norms: np.ndarray, anisotropy: np.ndarray, emotions: tuple[str, ...], gaps: np.ndarray) -> None:
        self.norms, self.anisotropy, self.emotions, self.gaps = norms, anisotropy, emotions, gaps
        self.n_layers = len(norms) - 1

    @classmethod
    def of(cls, path: Path, kept: dict[str, pd.DataFrame], model: str) -> Scale:
        """From a run folder's tables and vectors."""
        norms = select(kept["residual_norms"], model=model).sort_values("layer")["value"].to_numpy()
        cosines = select(kept["anisotropy"], model=model, pooling=POOLING, metric="cosine").sort_values("layer")
        vectors = EmotionVectors.load(_vectors(path, model))
        gaps = np.linalg.norm(vectors.values.astype(np.float64), axis=-1)
        return cls(norms, cosines["value"].to_numpy(), vectors.emotions, gaps)


# -- deltas -------------------------------------------------------------------------------------------------------------


def emotion_deltas(dose: pd.DataFrame, scales: dict[str, Scale]) -> pd.DataFrame:
    """Each emotion's delta under its own vector, and the mean under random directions of equal norm, in every unit.

    Args:
        dose: ``dose_response`` of several models, whose ``projection`` is in norms of the layer where it is read.
        scales: of each model.

    Returns:
        One row a model, relative strength, emotion and measure: ``model, layer, read_layer, relative, strength, emotion,
        measure, value, random``.
    """
    rows = []
    table = select(dose, metric="projection")
    for row in table[(table["emotion"] != "all") & (table["strength"] != 0)].itertuples():
        if row.model not in scales:
            continue
        scale = scales[row.model]
        read = reading_layer(int(row.layer), scale.n_layers)
        norm, gap = scale.norms[read], scale.gaps[scale.emotions.index(row.emotion), read]
        for measure, unit in (("raw_delta", norm), ("delta", 1.0), ("delta_in_gaps", norm / gap)):
            rows.append({
                "model": row.model, "layer": int(row.layer), "read_layer": read, "relative": round(row.relative, 6),
                "strength": row.strength, "emotion": row.emotion, "measure": measure, "value": row.value * unit,
                "random": row.random * unit,
            })  # fmt: skip
    return pd.DataFrame(rows)


def steering_deltas(values: pd.DataFrame, scales: dict[str, Scale]) -> pd.DataFrame:
    """``across_steering``: mean deltas of each model beside its anisotropy and residual norm.

    Returns:
        One row a model, relative strength and measure (``MEASURES``): ``model, layer, depth, read_layer, relative,
        strength, metric, value, low, high, n`` (emotions, Student's t interval), ``random`` (mean under random directions
        of equal norm), and of the layer where it is read ``anisotropy`` and ``residual_norm``.
    """
    rows = []
    keys = ["model", "relative", "measure"]
    for (model, relative, measure), some in values.groupby(keys, sort=False) if len(values) else ():
        scale, read = scales[model], int(some["read_layer"].iloc[0])
        rows.append({
            "model": model, "layer": some["layer"].iloc[0], "depth": some["layer"].iloc[0] / scale.n_layers,
            "read_layer": read, "relative": relative, "strength": some["strength"].iloc[0], "metric": measure,
            **mean_interval(some["value"].to_numpy())._asdict(), "n": len(some), "random": some["random"].mean(),
            "anisotropy": scale.anisotropy[read], "residual_norm": scale.norms[read],
        })  # fmt: skip
    return pd.DataFrame(rows)


def steering_contrasts(values: pd.DataFrame, scales: dict[str, Scale], draws: int, seed: int) -> pd.DataFrame:
    """``across_steering_contrasts``: how far the models' deltas differ in each unit, at the calibrated strength.

    Args:
        values: of :func:`emotion_deltas`.
        scales: of each model.
        draws: resamples of the emotions, the same ones in every model.
        seed: of the resamples.

    Returns:
        One row a measure and metric, ``measure, metric, model_a, model_b, value, low, high, n, p``. ``ratio``: the mean delta
        of ``model_a`` over that of ``model_b``, n emotions. ``between_models``: share of the variance of log \\|delta\\| over
        models × emotions that lies between models (η²). ``anisotropy_rho``: Spearman's ρ of the models' mean deltas with
        their anisotropy, n models, exact one-sided p over all orders, no interval; with three models it cannot be
        below 1/6.
    """
    if values.empty:
        return pd.DataFrame()
    rows = []
    for measure in MEASURES:
        wide = select(values, measure=measure, relative=1.0).pivot(index="model", columns="emotion", values="value")
        wide = wide.reindex(list(dict.fromkeys(values["model"]))).dropna(axis=1)
        cube = wide.to_numpy()  # [model, emotion]
        if min(cube.shape) < 2:
            continue
        rng = np.random.default_rng([seed, zlib.crc32(b"steering over models")])
        picks = rng.integers(cube.shape[1], size=(draws, cube.shape[1]))
        statistics_of: dict[tuple[str, str, str], Callable[[np.ndarray], float]] = {
            ("ratio", wide.index[a], wide.index[b]): lambda x, a=a, b=b: x[a].mean() / x[b].mean()
            for a, b in itertools.combinations(range(len(cube)), 2)
        }
        statistics_of["between_models", "", ""] = _between
        for (metric, a, b), statistic in statistics_of.items():
            interval = statistics.percentile_interval(statistic(cube), np.array([statistic(cube[:, p]) for p in picks]))
            rows.append({
                "measure": measure, "metric": metric, "model_a": a, "model_b": b, **interval._asdict(), "n": cube.shape[1],
            })  # fmt: skip
        aniso = [scales[name].anisotropy[_read(values, name)] for name in wide.index]
        rows.append(
            {"measure": measure, "metric": "anisotropy_rho", **_order(cube.mean(axis=1), aniso), "n": len(cube)}
        )
    return pd.DataFrame(rows)


def _read(values: pd.DataFrame, model: str) -> int:
    return int(select(values, model=model)["read_layer"].iloc[0])


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
    """``across_units``: within a model, does a residual norm buy more of an emotion where the space is more anisotropic?

    If unrelated texts have mean cosine c, a share 1 − c of their squared norm is what tells them apart, so one norm is
    1/√(1 − c) of that. Were emotions a fixed part of what tells texts apart, a norm would be worth so many class gaps.

    Returns:
        One row a model, layer 1 … L and metric: ``model, layer, depth, metric, value, low, high, n``. ``anisotropy``;
        ``amplification``, 1/√(1 − c); ``gaps_per_norm``, the mean residual norm over an emotion vector's length, mean over
        the emotions (interval: resampled emotions). With no layer: ``layers_rho``, Spearman's ρ of the last two over the
        layers (``n``), interval over emotions; neighbouring layers are not independent, so it has no p. ``layers_slope``: of
        the logarithm of one on that of the other, by least squares; 1 if the emotions are a fixed part.
    """
    rows = []
    for model, scale in scales.items():
        layers = np.arange(1, scale.n_layers + 1)
        rng = np.random.default_rng([seed, zlib.crc32(b"units over layers")])
        picks = rng.integers(len(scale.emotions), size=(draws, len(scale.emotions)))
        with np.errstate(divide="ignore"):
            per_norm = scale.norms[layers] / scale.gaps[:, layers]  # [emotion, layer]
            amplification = 1 / np.sqrt(np.clip(1 - scale.anisotropy[layers], 0, None))
        resampled = per_norm[picks].mean(axis=1)
        for place, layer in enumerate(layers):
            where = {"model": model, "layer": layer, "depth": layer / scale.n_layers}
            interval = statistics.percentile_interval(per_norm[:, place].mean(), resampled[:, place])
            rows += [
                {**where, "metric": "anisotropy", "value": scale.anisotropy[layer]},
                {**where, "metric": "amplification", "value": amplification[place]},
                {**where, "metric": "gaps_per_norm", **interval._asdict(), "n": len(scale.emotions)},
            ]
        if len(layers) >= statistics.MIN_BEND_LAYERS:
            curves = np.vstack([per_norm.mean(axis=0), resampled])
            found = {"layers_rho": standardised_ranks(curves) @ standardised_ranks(amplification)}
            if np.isfinite(curves).all() and np.isfinite(amplification).all():
                found["layers_slope"] = np.polyfit(np.log(amplification), np.log(curves.T), 1)[0]
            for metric, draw in found.items():
                interval = statistics.percentile_interval(draw[0], draw[1:])
                rows.append({"model": model, "metric": metric, **interval._asdict(), "n": len(layers)})
    return pd.DataFrame(rows)
