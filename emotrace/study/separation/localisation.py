"""Where over depth the emotions separate best, by which shape, and whether it is the emotions' doing (C6) → tables."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from emotrace.measures import curves, geometry, statistics
from emotrace.study.experiment import Tables
from emotrace.study.folder import select
from emotrace.study.separation.measure import _by_topic, _commonest
from emotrace.study.separation.spreads import against_unrelated, half_value, spreads
from emotrace.study.study import Study, choose_layer

HIGHER_IS_BETTER = ("ratio", "intraclass", *geometry.DECODERS)
CRITERIA = ("cosine", "shuffled_cosine", "noise_cosine", "shuffle_excess", "anisotropy_excess", *HIGHER_IS_BETTER)


def localisation(study: Study, tables: Tables) -> pd.DataFrame:
    """Where over depth the emotions separate best, and whether a U describes it (C6).

    One row a pooling and criterion. ``layer`` and ``depth``: the best layer on all topics, with a bootstrap interval of
    the depth over topics, half a layer wider to either side. ``chosen_layer``: the best on one half of the topics;
    ``held_out``: the criterion there on the other half, with interval, ``chance`` and a label-permutation p.
    ``u``, ``u_low``, ``u_high``: net depth of a U over the curve's range, layers 1 … L, with interval over topics;
    ``u_opposed``: share of resamples whose two lines fall, then rise; ``u_p``: against walks of the same increments;
    ``turn``: depth of the lowest point (:mod:`emotrace.measures.curves`). Of a criterion that is better where it is
    higher the curve is turned upside down, so that a U is *best in the middle* for all.

    Criteria: ``cosine`` (the paper's), ``shuffled_cosine`` (its null), ``noise_cosine`` (the space alone),
    ``shuffle_excess`` and ``anisotropy_excess`` (cosine minus the two baselines), ``ratio`` (R), ``intraclass``,
    ``nearest_centroid`` and ``logistic_regression``, the accuracy of either. The group cosine of unrelated texts is
    held fixed in resamples, but for ``unrelated_ratio``, (1 − cosine) / (1 − group cosine) on the half that did not
    choose, in the row of ``anisotropy_excess``.

    Args:
        study: what one model held.
        tables: its ``anisotropy``.
    """
    each = itertools.product(study.reading.pooled, CRITERIA)
    units = {f"localisation {pooling} {name}": partial(_locate, study, tables, pooling, name) for pooling, name in each}
    return pd.DataFrame(study.units("localisation", units))


def _locate(study: Study, tables: Tables, pooling: str, criterion: str) -> list[dict[str, Any]]:
    """The row of one pooling and criterion."""
    layers = np.array(study.reading.layers[1:])  # the embedding output is no layer of the model's own work
    losses, resampled = _losses(study, tables, pooling, criterion)
    best = int(layers[losses.argmin()])
    depths = layers[resampled.argmin(axis=1)] / study.n_layers
    interval, step = statistics.percentile_interval(best / study.n_layers, depths), 0.5 / study.n_layers
    chosen = chosen_layer(study, pooling, criterion)
    held_out = _decoding_held_out if criterion in geometry.DECODERS else _spread_held_out
    bounds = {"low": interval.low - step, "high": min(interval.high + step, 1.0)}
    row = study.row(pooling, best, criterion=criterion, **bounds, n=len(set(study.topics)))
    row |= {"chosen_layer": chosen, "chosen_depth": chosen / study.n_layers}
    return [row | held_out(study, pooling, criterion, chosen) | _shape(study, losses, resampled)]


def _losses(study: Study, tables: Tables, pooling: str, criterion: str) -> tuple[np.ndarray, np.ndarray]:
    """The criterion over layers 1 … L so that lower is better.

    Returns:
        As measured ``[layer]``, and in each resample of topics ``[draw, layer]``, without resamples in which some
        emotion lost all its texts.
    """
    layers = study.reading.layers[1:]
    if criterion in geometry.DECODERS:
        correct = (study.decoded(criterion, pooling, layer) for layer in layers)
        sums, sizes = zip(*(_by_topic(texts.astype(float), study.topics) for texts in correct), strict=True)
        by_topic = np.stack(sums)  # [layer, topic]
        return -by_topic.mean(axis=1), -(study.draws() @ by_topic.T) / (study.draws() @ sizes[0])[:, None]
    measured = "cosine" if criterion == "anisotropy_excess" else criterion
    values = np.stack([spreads(study, pooling, layer).of(measured) for layer in layers], axis=1)  # [1 + draw, layer]
    if criterion == "anisotropy_excess":
        unrelated = select(tables["anisotropy"], pooling=pooling, metric="group_cosine").set_index("layer")["value"]
        values = values - unrelated.loc[layers].to_numpy()
    if criterion in HIGHER_IS_BETTER:
        values = -values
    return values[0], values[1:][np.isfinite(values[1:]).all(axis=1)]


def _shape(study: Study, losses: np.ndarray, resampled: np.ndarray) -> dict[str, float]:
    """The columns on the U; NaN for a model of too few layers."""
    names = ("u", "u_low", "u_high", "u_opposed", "u_p", "turn")
    if len(losses) < curves.MIN_LAYERS or not len(resampled):
        return dict.fromkeys(names, np.nan)
    *found, lowest = curves.shape(losses, resampled, study.rng("walks"))
    return dict(zip(names, (*found, study.reading.layers[1 + lowest] / study.n_layers), strict=True))


def chosen_layer(study: Study, pooling: str, criterion: str) -> int:
    """The best layer by the first half of the topics alone."""
    if criterion in geometry.DECODERS:
        return choose_layer(study, pooling, criterion)
    layers, sign = study.reading.layers[1:], -1 if criterion in HIGHER_IS_BETTER else 1
    return min(layers, key=lambda layer: sign * half_value(study, pooling, layer, study.halves[0], criterion))


def _spread_held_out(study: Study, pooling: str, criterion: str, layer: int) -> dict[str, float]:
    """A spread at the chosen layer on the half of the topics that did not choose it, p by shuffles of that half."""
    half = study.halves[1]
    found = spreads(study, pooling, layer, half)
    if criterion == "anisotropy_excess":
        value = half_value(study, pooling, layer, half, criterion)
        interval = statistics.centred_interval(value, found.cosine[1:])
        ratio = against_unrelated(study, pooling, layer, half)
        extra = dict(zip(("unrelated_ratio", "unrelated_low", "unrelated_high"), ratio, strict=True))
    else:
        interval = found.interval(criterion)
        extra = {"null_mean": found.null[0], "p": found.p, "m": found.m}
        if criterion in ("shuffled_cosine", "noise_cosine"):  # of which there is nothing to test
            extra = {}
        if criterion == "noise_cosine":  # a difference of two noises; resamples of half the topics blow it up
            interval = interval._replace(low=np.nan, high=np.nan)
    return {"held_out": interval.value, "held_low": interval.low, "held_high": interval.high, **extra}


def _decoding_held_out(study: Study, pooling: str, decoder: str, layer: int) -> dict[str, float]:
    """Accuracy on the half that did not choose the layer, trained on the other half; the same for shuffled labels."""
    first, second = study.halves
    activations, train, test = study.layer(pooling, layer), study.in_half(first), study.in_half(second)

    def correct(emotions: np.ndarray) -> np.ndarray:
        predicted = geometry.DECODERS[decoder](activations[train], emotions[train], activations[test])
        return predicted == emotions[test]

    by_text = correct(study.emotions)
    by_topic, sizes = _by_topic(by_text, study.topics[test])
    draws = study.draws(second)[:, second] @ by_topic / (study.draws(second)[:, second] @ sizes)
    interval = statistics.centred_interval(float(by_text.mean()), draws)
    rng = study.rng("decoder null", pooling, decoder)
    # One regression takes as long as a hundred centroids, and its p decides on nothing.
    most = study.settings.decoder_permutations
    null = np.empty(min(most, 99) if decoder == "logistic_regression" else most)
    for draw in range(len(null)):
        null[draw] = correct(geometry.shuffle_within_topics(study.emotions, study.topics, rng)).mean()
    return {
        "held_out": interval.value,
        "held_low": interval.low,
        "held_high": interval.high,
        "chance": _commonest(study.emotions[test]),
        "null_mean": null.mean(),
        "p": statistics.permutation_p(interval.value, null, "greater"),
        "m": len(null),
    }


def space(study: Study) -> pd.DataFrame:
    """Does the cosine over depth go where the space alone goes? (C6)

    One row a pooling: ``value``, the share of the cosine's variance over layers 1 … L that ``noise_cosine`` leaves
    unexplained, 1 − r², with interval over topics (both curves recomputed in each resample); ``r``, and ``r_shuffled``
    with the null of shuffled labels, which holds the emotions' variance too; ``depth_cosine`` and ``depth_noise``,
    where each is lowest, and ``depth_ratio``, where R is highest.
    """
    rows: list[dict[str, Any]] = []
    for pooling in study.reading.pooled:
        rows += study.unit(f"space, centred {pooling}", partial(_space, study, pooling))
    return pd.DataFrame(rows)


def _space(study: Study, pooling: str) -> list[dict[str, Any]]:
    layers, n = study.reading.layers[1:], len(set(study.topics))
    if len(layers) < curves.MIN_LAYERS:
        return [study.row(pooling, np.nan, value=np.nan, n=n, layers=len(layers))]
    found = [spreads(study, pooling, layer) for layer in layers]
    cosine, noise, null, ratio = (
        np.stack([one.of(name) for one in found], axis=1)
        for name in ("cosine", "noise_cosine", "shuffled_cosine", "ratio")
    )
    whole = np.isfinite(cosine + noise).all(axis=1)
    r = _row_correlation(cosine[whole], noise[whole])
    shuffled = float(_row_correlation(cosine[:1], null[:1])[0])
    interval = unexplained(r)
    lowest = {"depth_cosine": cosine[0].argmin(), "depth_noise": noise[0].argmin(), "depth_ratio": ratio[0].argmax()}
    depths = {name: layers[index] / study.n_layers for name, index in lowest.items()}
    return [
        study.row(pooling, np.nan, **interval._asdict(), n=n, layers=len(layers), r=r[0], r_shuffled=shuffled, **depths)
    ]


def unexplained(r: np.ndarray) -> statistics.Interval:
    """1 − r² with its interval, from the correlation and those of resamples: ``[1 + draw]``.

    A resample repeats topics, whose noise both curves share: their correlation rises by that alone. So the draws are
    centred on the value, as Fisher's z.
    """
    z = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))
    around = statistics.centred_interval(float(z[0]), z[1:])
    squares = np.tanh([around.low, around.high]) ** 2
    opposed = around.low < 0 < around.high  # then no correlation at all is among what may be
    return statistics.Interval(
        float(1 - r[0] ** 2), float(1 - squares.max()), 1.0 if opposed else float(1 - squares.min())
    )


def _row_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson's r of the rows of two tables: ``[draw, layer]`` each → ``[draw]``."""
    first = first - first.mean(axis=1, keepdims=True)
    second = second - second.mean(axis=1, keepdims=True)
    return (first * second).sum(axis=1) / (np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1))
