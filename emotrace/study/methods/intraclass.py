"""How much of the variance among texts on one topic is their emotion's, in either method (C5): our primary measure.

The paper's measure, the mean cosine between raw centroids, depends on how wide the cone is in which a model's states
lie, and that differs between a text read plain and a story after a request, whatever the emotions do. The intraclass
correlation (:func:`emotrace.measures.spread.intraclass`) does not: a method's own mean, its mean on each topic and its
scale drop out of it, so that two methods are compared by their emotions alone. R, the emotions' spread over the spread
that labels shuffled within topics give, is 1 + (n − 1) times it, with n the texts an emotion.

Intervals and p are by the jackknife over topics (:mod:`emotrace.measures.jackknife`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from emotrace.measures import jackknife, statistics
from emotrace.measures.grams import gram, within
from emotrace.measures.spread import Crossed, intraclass
from emotrace.study.methods.design import Design

SAMPLES = ("intraclass_chosen", "intraclass_half_depth")
"""At the layer that the other half of the topics chose, both ways round; at half depth, where nothing is chosen."""


def shares(products: np.ndarray, present: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The intraclass correlation at each layer and under each row of topic weights: ``[layer, draw]``.

    Args:
        products: inner products between texts ``[layer, topic, emotion, topic, emotion]``.
        present: bool ``[topic, emotion]``, which texts exist.
        weights: ``[draw, topic]``.
    """
    topics, emotions = np.nonzero(present)
    crossed = Crossed(np.flatnonzero(present), topics, emotions, (present.shape[0], present.shape[1]))
    flat = products.reshape(len(products), present.size, present.size)[:, crossed.texts][:, :, crossed.texts]
    return np.stack([intraclass(layer, crossed, weights) for layer in flat])


def rows(design: Design, readings: Sequence[np.ndarray], sample: str) -> list[dict[str, Any]]:
    """The rows of ``method_comparison`` of one pooling and sample.

    Args:
        design: the matched texts.
        readings: comprehension's activations and generation's, ``[topic, emotion, layer, d_model]`` each.
        sample: one of ``SAMPLES``.

    Returns:
        One row a metric: ``ratio_…`` (R) and ``intraclass_…`` of either method, ``intraclass_difference`` (generation
        minus comprehension; positive: generation is better; p one-sided), with ``layer_…`` (where the first half of the
        topics chose it), ``value, low, high, p, m, n``.
    """
    halves = design.halves(len(design.topics)) if sample == SAMPLES[0] else (np.arange(len(design.topics)),)
    chosen, pseudo, whole = [], [], []
    texts = float(np.mean([len(half) for half in halves]))
    for reading in readings:
        products = gram(reading)
        layers = _layers(design, products, sample)
        parts = [
            _part(within(products, half)[[layer]], design.present[half])
            for half, layer in zip(halves, layers[::-1], strict=True)
        ]
        chosen.append(design.layers[layers[0]])
        pseudo.append(np.concatenate([part[1] for part in parts]))
        whole.append(float(np.average([part[0] for part in parts], weights=[len(half) for half in halves])))
    estimates = {}
    for name, value, values in zip(("comprehension", "generation"), whole, pseudo, strict=True):
        interval = statistics.mean_interval(values)._asdict() | {"value": value}
        estimates[f"ratio_{name}"] = {key: 1 + (texts - 1) * bound for key, bound in interval.items()}
        estimates[f"intraclass_{name}"] = interval
    difference = pseudo[1] - pseudo[0]
    p, patterns = jackknife.flip_p(difference)
    interval = statistics.mean_interval(difference)._asdict() | {"value": whole[1] - whole[0]}
    estimates["intraclass_difference"] = {**interval, "p": p, "m": patterns}
    columns = {"layer_comprehension": chosen[0], "layer_generation": chosen[1], "n": len(design.topics)}
    return [{**columns, "metric": metric, **values} for metric, values in estimates.items()]


def _layers(design: Design, products: np.ndarray, sample: str) -> list[int]:
    """The index of the layer that each half of the topics chose; of half depth where nothing is chosen."""
    if sample != SAMPLES[0]:
        return [design.layers.index(max(1, design.n_layers // 2))]
    best = []
    for half in design.halves(len(design.topics)):
        curve = shares(within(products, half), design.present[half], np.ones((1, len(half))))[:, 0]
        best.append(int(np.nanargmax(curve)) if np.isfinite(curve).any() else 0)
    return best


def _part(products: np.ndarray, present: np.ndarray) -> tuple[float, np.ndarray]:
    """The intraclass correlation on some topics, at one layer, and its pseudo-values ``[topic]``."""
    left_out = shares(products, present, jackknife.leave_one_out(len(present)))[0]
    return float(left_out[0]), jackknife.pseudo_values(left_out)
