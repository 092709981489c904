"""Why generation separates emotions better, if it does: who wrote the texts, their frame, their pooling, how many (C5).

The paper compares comprehension (prewritten texts, read plain) with generation (the model's own texts, read after the
request for them), which differ in several respects at once. Here each respect is a factor of its own, crossed with all
others; the design is ours:

- **author**: ``ours`` (``data/passages.csv``), ``self`` (the model's own stories), ``other`` (another model's);
- **frame**: ``plain``, ``unnamed`` (after a request for a story on the topic), ``chat`` (after the request that also
  names the feeling: the label is then in the context, and later tokens can read it off there);
- **pooling**: ``last`` or ``mean``;
- **texts** for each emotion: all topics, or half of them;
- **components**: whether the leading principal components of unrelated texts are projected out first.

Texts are matched: one a topic and emotion, and only where every author has one. Layers are chosen on one half of the
topics and reported on the other, both ways round: a value is the mean of the two halves, each at the layer that the
other chose. Intervals resample topics, with the same draws in every cell, so that differences are paired.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from threadpoolctl import threadpool_limits

from emotrace.measures import geometry, jackknife, statistics
from emotrace.measures.grams import centroid_cosine, decode, decode_resampled, gram, mean_cosine, within
from emotrace.study.experiment import Tables
from emotrace.study.methods.design import FACTORS, READING_FACTORS, Design
from emotrace.study.methods.intraclass import shares

METRICS = ("cosine", "intraclass", "nearest_centroid")
LOWER_IS_BETTER = ("cosine",)
_TEXTS = FACTORS.index("texts")
# Resamples in which the decoder is trained anew.
DECODER_DRAWS = 200


def factorial_tables(design: Design) -> Tables:
    """``factorial``, ``factorial_effects``, ``factorial_decoding`` and ``factorial_rdm`` of one model.

    ``factorial``: one row a cell and metric (columns model, author, frame, pooling, texts, components, metric, layer,
    depth, layer_swapped, value, low, high, n). ``layer`` was chosen on the first half of the topics and is reported on
    the second, ``layer_swapped`` was chosen on the second and is reported on the first; n: topics. ``cosine``: mean
    pairwise cosine of the emotions' centroids before centring (lower is better; fewer texts make noisier centroids,
    which lowers it by itself); ``intraclass``: the share of the variance among texts on one topic that is their
    emotion's (:func:`emotrace.measures.spread.intraclass`), which neither the number of texts moves nor the width of
    the cone in which all states lie; ``nearest_centroid``: accuracy on held-out topics.

    ``factorial_effects``: ``kind`` *marginal*: level minus reference, averaged over all other factors; *decomposition*:
    the whole difference between generation as it is used (self, chat, mean) and comprehension (ours, plain, last), and
    what author, frame and pooling contribute to it, as the average over the orders in which they can be changed one
    after another (Shapley), so that the parts add up to the whole.

    ``factorial_decoding``: trained on one author's texts in one frame, tested on another's on other topics, at the
    layer that decodes the training texts best in the other half; ``centre`` as in
    :func:`~emotrace.measures.grams.decode`. Its intervals resample the tested topics alone (those of the other tables
    train anew in every resample).

    ``factorial_rdm``: Spearman's ρ between the dissimilarities (1 − cosine, centred on the emotions) of two cells with
    all texts, each at its own layer. The same texts in two frames share their noise, which raises it.
    """
    # The matrices are small: more threads only wait for one another.
    with threadpool_limits(1):
        cells = _Factorial(design)
        return {
            "factorial": cells.table(),
            "factorial_effects": cells.effects(),
            "factorial_decoding": _decoding(design, cells.layers["nearest_centroid"]),
            "factorial_rdm": _rdm(design, cells.layers["nearest_centroid"]),
        }


class _Factorial:
    """Every cell's value, resamples and layers, for each metric.

    Attributes:
        shape: number of levels of each of ``FACTORS``.
        values: metric → ``[*shape]``.
        resampled: metric → ``[*shape, draw]``; of ``intraclass``, the topics' jackknife pseudo-values ``[*shape,
            topic]``, for cells with all texts alone.
        layers: metric → ``[*shape, half]``, the index of the layer that each half of the topics chose.
    """

    def __init__(self, design: Design) -> None:
        self.design, levels = design, design.levels
        self.shape = tuple(len(levels[factor]) for factor in FACTORS)
        draws = dict.fromkeys(METRICS, design.bootstrap) | {"nearest_centroid": min(DECODER_DRAWS, design.bootstrap)}
        self.values = {metric: np.empty(self.shape) for metric in METRICS}
        draws["intraclass"] = len(design.topics)
        self.resampled = {metric: np.full((*self.shape, draws[metric]), np.nan) for metric in METRICS}
        self.layers = {metric: np.empty((*self.shape, 2), dtype=int) for metric in METRICS}
        for (author, frame, pooling, components), names in design.readings():
            activations = design.activations(*names)
            products = gram(activations)
            for texts in range(len(levels["texts"])):
                self._fill((author, frame, pooling, texts, components), activations, products)

    def _fill(self, cell: tuple[int, ...], activations: np.ndarray, products: np.ndarray) -> None:
        """Measures one cell on two halves of the topics, each at the layer that the other half chose."""
        halves = self.design.halves(self.design.levels["texts"][cell[_TEXTS]])
        present = self.design.present
        curves = [_curves(within(products, half), present[half]) for half in halves]
        for metric in METRICS:
            best = np.nanargmin if metric in LOWER_IS_BETTER else np.nanargmax
            known = (np.isfinite(curve[metric]).any() for curve in curves)  # of half the topics there may be no pair
            chosen = [int(best(curve[metric])) if some else 0 for curve, some in zip(curves, known, strict=True)]
            if metric == "nearest_centroid":
                values, resampled = self._accuracies(products, halves, chosen[::-1])
                self.resampled[metric][cell] = np.mean(resampled, axis=0)
            elif metric == "cosine":
                values = [curve[metric][layer] for curve, layer in zip(curves, chosen[::-1], strict=True)]
                resampled = []
                for half, layer in zip(halves, chosen[::-1], strict=True):
                    cells = geometry.Cells(activations[half][:, :, layer], present[half].astype(np.float64))
                    resampled.append(mean_cosine(cells.centroid_grams(self.design.draws(half))))
                self.resampled[metric][cell] = np.mean(resampled, axis=0)
            else:
                values, pseudo = self._intraclass(products, halves, chosen[::-1])
                if cell[_TEXTS] == self.shape[_TEXTS] - 1:
                    self.resampled[metric][cell] = pseudo
            self.values[metric][cell] = np.mean(values)
            self.layers[metric][cell] = chosen

    def _intraclass(
        self, products: np.ndarray, halves: tuple[np.ndarray, np.ndarray], layers: list[int]
    ) -> tuple[list[float], np.ndarray]:
        """Each half's intraclass correlation at its layer, and the pseudo-values of all topics of both ``[topic]``."""
        values, pseudo = [], []
        for half, layer in zip(halves, layers, strict=True):
            draws = jackknife.leave_one_out(len(half))
            left_out = shares(within(products, half)[[layer]], self.design.present[half], draws)[0]
            values.append(float(left_out[0]))
            pseudo.append(jackknife.pseudo_values(left_out))
        return values, np.concatenate(pseudo)

    def _accuracies(
        self, products: np.ndarray, halves: tuple[np.ndarray, np.ndarray], layers: list[int]
    ) -> tuple[list[float], list[np.ndarray]]:
        """Each half's accuracy at its layer, trained on all other topics of both, and its resamples ``[draw]``."""
        both = np.concatenate(halves)
        products, present = within(products, both), self.design.present[both]
        by_topic = np.nanmean(decode(products, products, present), axis=2)  # [layer, topic]
        weights = np.hstack([self.design.draws(half)[:DECODER_DRAWS] for half in halves])
        values, resampled = [], []
        for layer, tested in zip(layers, np.split(np.arange(len(both)), [len(halves[0])]), strict=True):
            correct = decode_resampled(products[layer], present, weights)[:, tested]
            values.append(by_topic[layer, tested].mean())
            resampled.append((correct * weights[:, tested]).sum(axis=1) / len(tested))
        return values, resampled

    def table(self) -> pd.DataFrame:
        """``factorial``."""
        rows = []
        for cell in np.ndindex(*self.shape):
            names = {factor: self.design.levels[factor][idx] for factor, idx in zip(FACTORS, cell, strict=True)}
            for metric in METRICS:
                interval = _interval(metric, float(self.values[metric][cell]), self.resampled[metric][cell])
                layers = _layer_columns(self.design, self.layers[metric][cell])
                row = {"model": self.design.model_name, **names, "metric": metric, **layers}
                rows.append({**row, **interval._asdict(), "n": names["texts"]})
        return pd.DataFrame(rows)

    def effects(self) -> pd.DataFrame:
        """``factorial_effects``."""
        rows = []
        for metric, (axis, factor) in itertools.product(METRICS, enumerate(FACTORS)):
            if (metric, factor) == ("intraclass", "texts"):
                continue  # it does not depend on their number, and has no interval with few
            for first, second in itertools.combinations(range(self.shape[axis]), 2):
                weights = np.zeros(self.shape)
                np.moveaxis(weights, axis, 0)[second] = self.shape[axis] / weights.size
                np.moveaxis(weights, axis, 0)[first] = -self.shape[axis] / weights.size
                levels = self.design.levels[factor]
                rows.append(self._effect("marginal", factor, (levels[second], levels[first]), metric, weights))
        return pd.DataFrame(rows + self._decomposition())

    def _effect(
        self, kind: str, factor: str, levels: tuple[Any, Any], metric: str, weights: np.ndarray
    ) -> dict[str, Any]:
        """A weighted sum of cells, with its interval from the same sum of their resamples."""
        if metric == "intraclass":  # cells with all texts alone have pseudo-values
            last = np.moveaxis(np.zeros(self.shape), _TEXTS, 0)
            last[-1] = self.shape[_TEXTS] if kind == "marginal" else 1
            weights = weights * np.moveaxis(last, 0, _TEXTS)
        counted = np.nonzero(weights)
        value = float((weights[counted] * self.values[metric][counted]).sum())
        draws = weights[counted] @ self.resampled[metric][counted]
        row = {"model": self.design.model_name, "kind": kind, "factor": factor, "level": levels[0]}
        row |= {"reference": levels[1], "metric": metric}
        return {**row, **_interval(metric, value, draws)._asdict(), "n": len(self.design.topics)}

    def _decomposition(self) -> list[dict[str, Any]]:
        levels = self.design.levels
        changes = {"author": ("ours", "self"), "frame": ("plain", "chat"), "pooling": ("last", "mean")}
        if not all(set(ends) <= set(levels[factor]) for factor, ends in changes.items()):
            return []

        def cell(changed: Sequence[str]) -> tuple[int, ...]:
            """All texts, components kept, and the factors in ``changed`` as in generation."""
            ends = (levels[factor].index(pair[factor in changed]) for factor, pair in changes.items())
            return (*ends, len(levels["texts"]) - 1, 0)

        parts = {factor: np.zeros(self.shape) for factor in changes}
        orders = list(itertools.permutations(changes))
        for order in orders:
            for step, factor in enumerate(order):
                parts[factor][cell(order[: step + 1])] += 1 / len(orders)
                parts[factor][cell(order[:step])] -= 1 / len(orders)
        parts["whole"] = np.sum(list(parts.values()), axis=0)
        ends = {factor: pair[::-1] for factor, pair in changes.items()} | {"whole": ("generation", "comprehension")}
        return [
            self._effect("decomposition", factor, ends[factor], metric, weights)
            for metric in METRICS
            for factor, weights in parts.items()
        ]


def _interval(metric: str, value: float, resampled: np.ndarray) -> statistics.Interval:
    """From bootstrap draws ``[draw]``, or of ``intraclass`` from jackknife pseudo-values ``[topic]``."""
    if metric != "intraclass":
        return statistics.centred_interval(value, resampled)
    _, low, high = statistics.mean_interval(resampled - resampled.mean() + value)
    return statistics.Interval(value, low, high)


def _curves(products: np.ndarray, present: np.ndarray) -> dict[str, np.ndarray]:
    """Each metric over the layers, from the texts of one half alone: ``[layer]``."""
    return {
        "cosine": centroid_cosine(products, present),
        "intraclass": shares(products, present, np.ones((1, len(present))))[:, 0],
        "nearest_centroid": np.nanmean(decode(products, products, present), axis=(1, 2)),
    }


def _layer_columns(design: Design, chosen: np.ndarray) -> dict[str, float]:
    """``layer``, ``depth`` and ``layer_swapped`` from the indices of the layers that the halves chose."""
    first, second = (design.layers[idx] for idx in chosen)
    return {"layer": first, "depth": first / design.n_layers, "layer_swapped": second}


def _decoding(design: Design, chosen: np.ndarray) -> pd.DataFrame:
    """``factorial_decoding``, at the layers ``chosen [*shape, half]`` by the training texts."""
    present, halves = design.present, design.halves(len(design.topics))
    draws = [design.draws(half) for half in halves]
    authors, frames, poolings = (tuple(enumerate(design.levels[name])) for name in ("author", "frame", "pooling"))
    rows = []
    for pooling_idx, pooling in poolings:
        readings = {(a, f): design.activations(a, f, pooling) for (_, a), (_, f) in itertools.product(authors, frames)}
        for (author_idx, author), (frame_idx, frame) in itertools.product(authors, frames):
            layers = chosen[author_idx, frame_idx, pooling_idx, -1, 0]
            swapped = list(layers[::-1])  # the first half is tested at the layer that the second chose
            train = readings[author, frame][:, :, swapped]
            products = gram(train)
            for (test_author, test_frame), tested in readings.items():
                across = gram(tested[:, :, swapped], train)
                for centre in ("train", "own"):
                    by_topic = np.nanmean(decode(products, across, present, centre), axis=2)  # [half, topic]
                    scores = [by_topic[idx, half] for idx, half in enumerate(halves)]
                    value = np.mean([score.mean() for score in scores])
                    resampled = [draw @ score / len(score) for draw, score in zip(draws, scores, strict=True)]
                    interval = statistics.centred_interval(value, np.mean(resampled, axis=0))
                    row = {"model": design.model_name, "pooling": pooling, "train_author": author, "train_frame": frame}
                    row |= {"test_author": test_author, "test_frame": test_frame, "centre": centre}
                    row |= _layer_columns(design, layers) | interval._asdict()
                    rows.append({**row, "chance": 1 / len(design.emotions), "n": len(design.topics)})
    return pd.DataFrame(rows)


def _rdm(design: Design, chosen: np.ndarray) -> pd.DataFrame:
    """``factorial_rdm``, each cell at the layers ``chosen [*shape, half]`` for it."""
    readings = design.readings()
    by_half = []
    for number, half in enumerate(design.halves(len(design.topics))):
        weights = np.vstack([np.ones(len(half)), design.draws(half)])  # the topics as they are, then the resamples
        dissimilarities = []
        for (author, frame, pooling, components), names in readings:
            layer = chosen[author, frame, pooling, -1, components, 1 - number]
            activations = design.activations(*names, layers=[layer])[half][:, :, 0]
            cells = geometry.Cells(activations, design.present[half].astype(np.float64))
            dissimilarities.append(_dissimilarities(cells, weights))
        by_half.append(_spearman(np.stack(dissimilarities, axis=1)))
    correlations = np.mean(by_half, axis=0)  # [1 + draw, cell, cell]
    rows = []
    for first, second in itertools.combinations(range(len(readings)), 2):
        pair = {
            f"{factor}_{side}": level
            for side, cell in (("a", first), ("b", second))
            for factor, level in zip(READING_FACTORS, readings[cell][1], strict=True)
        }
        interval = statistics.centred_interval(correlations[0, first, second], correlations[1:, first, second])
        rows.append({"model": design.model_name, **pair, **interval._asdict(), "n": len(design.topics)})
    return pd.DataFrame(rows)


def _dissimilarities(cells: geometry.Cells, weights: np.ndarray) -> np.ndarray:
    """1 − cosine between the emotions' vectors, centred on their mean, under topic weights: ``[draw, pair]``."""
    grams = geometry.centre_gram(cells.centroid_grams(weights))
    rows, columns = np.triu_indices(grams.shape[-1], 1)
    return 1 - geometry.cosines_of_gram(grams)[:, rows, columns]


def _spearman(values: np.ndarray) -> np.ndarray:
    """Spearman's ρ between cells: ``[draw, cell, pair]`` → ``[draw, cell, cell]``; NaN where a pair is not known."""
    known = np.isfinite(values).all(axis=(1, 2))
    result = np.full((len(values), values.shape[1], values.shape[1]), np.nan)
    if known.any():
        ranks = rankdata(values[known], axis=-1)
        ranks -= ranks.mean(axis=-1, keepdims=True)
        ranks /= np.linalg.norm(ranks, axis=-1, keepdims=True)
        result[known] = ranks @ ranks.swapaxes(-1, -2)
    return result
