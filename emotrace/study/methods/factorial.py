"""Why generation separates emotions better, if it does: who wrote the texts, how they are framed, pooled, how many (C5).

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

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from threadpoolctl import threadpool_limits

from emotrace.measures import geometry, statistics
from emotrace.measures.grams import (
    centroid_cosine,
    decode,
    decode_resampled,
    gram,
    gram_across,
    mean_cosine,
    shuffled_cosine,
    within,
)
from emotrace.study.methods.design import AUTHORS, FRAMES, Design, design, read_design

__all__ = ["AUTHORS", "FACTORS", "FRAMES", "METRICS", "Design", "design", "read_design", "tables"]

METRICS = ("cosine", "shuffle_excess", "nearest_centroid")
# Resamples in which the decoder is trained anew.
DECODER_DRAWS = 200
FACTORS = ("author", "frame", "pooling", "texts", "components")


def tables(design: Design) -> dict[str, pd.DataFrame]:
    """``factorial``, ``factorial_effects``, ``factorial_decoding`` and ``factorial_rdm`` of one model.

    ``factorial``: one row a cell and metric (columns model, author, frame, pooling, texts, components, metric, layer,
    depth, layer_swapped, value, low, high, n). ``layer``: chosen by the first half of the topics and reported on the
    second; ``layer_swapped``: the other way round; n: topics. ``cosine``: mean pairwise cosine of the emotions'
    centroids before centring (lower is better; fewer texts make noisier centroids, which lowers it by itself);
    ``shuffle_excess``: the same minus its mean under labels shuffled within topics; ``nearest_centroid``: accuracy on
    held-out topics.

    ``factorial_effects``: ``kind`` *marginal*: level minus reference, averaged over all other factors; *decomposition*:
    the whole difference between generation as it is used (self, chat, mean) and comprehension (ours, plain, last), and
    what author, frame and pooling contribute to it, as the average over the orders in which they can be changed one
    after another (Shapley), so that the parts add up to the whole.

    ``factorial_decoding``: trained on one author's texts in one frame, tested on another's on other topics, at the layer
    that decodes the training texts best in the other half; ``centre`` as in :func:`~emotrace.measures.grams.decode`. Its intervals
    resample the tested topics alone (those of the other tables train anew in every resample).

    ``factorial_rdm``: Spearman's ρ between the dissimilarities (1 − cosine, centred on the emotions) of two cells with
    all texts, each at its own layer. The same texts in two frames share their noise, which raises it.
    """
    # The matrices are small: more threads only wait for one another.
    with threadpool_limits(1):
        results = _Results(design)
        return {
            "factorial": results.cells(), "factorial_effects": results.effects(),
            "factorial_decoding": _decoding(design, results), "factorial_rdm": _rdm(design, results),
        }  # fmt: skip


class _Results:
    """Every cell's value, resamples and layers, for each metric."""

    def __init__(self, design: Design) -> None:
        self.design = design
        self.shape = tuple(len(levels) for levels in design.levels.values())
        self.values = {metric: np.empty(self.shape) for metric in METRICS}
        draws = dict.fromkeys(METRICS, design.bootstrap) | {"nearest_centroid": min(DECODER_DRAWS, design.bootstrap)}
        self.resampled = {metric: np.empty((*self.shape, draws[metric])) for metric in METRICS}
        self.layers = {metric: np.empty((*self.shape, 2), dtype=int) for metric in METRICS}
        levels = design.levels
        for place in np.ndindex(*(self.shape[axis] for axis in (0, 1, 2, 4))):
            author, frame, pooling, components = (
                levels[factor][index]
                for factor, index in zip(("author", "frame", "pooling", "components"), place, strict=True)
            )
            activations = design.activations(author, frame, pooling, components)
            products = gram(activations)
            for column, texts in enumerate(levels["texts"]):
                self._fill((*place[:3], column, place[3]), activations, products, design.halves(texts))

    def _fill(
        self,
        place: tuple[int, ...],
        activations: np.ndarray,
        products: np.ndarray,
        halves: tuple[np.ndarray, np.ndarray],
    ) -> None:
        present = self.design.present
        curves = [
            _curves(within(products, half), present[half], self.design.rng("shuffle", list(half))) for half in halves
        ]
        both = np.concatenate(halves)
        everyone = within(products, both)
        by_topic = np.nanmean(decode(everyone, everyone, present[both]), axis=2)  # [layer, topic]
        weights = np.hstack([self.design.draws(half)[:DECODER_DRAWS] for half in halves])
        for metric in METRICS:
            best = np.argmax if metric == "nearest_centroid" else np.argmin
            chosen = [int(best(curve[metric])) for curve in curves]
            values, resampled = [], []
            for number, half in enumerate(halves):
                layer, draws = chosen[1 - number], self.design.draws(half)
                if metric == "nearest_centroid":
                    held = slice(0, len(half)) if number == 0 else slice(len(halves[0]), None)
                    values.append(by_topic[layer, held].mean())
                    right = decode_resampled(everyone[layer], present[both], weights)[:, held]
                    resampled.append((right * weights[:, held]).sum(axis=1) / len(half))
                    continue
                curve = curves[number]
                values.append(curve[metric][layer])
                cells = geometry.Cells(activations[half][:, :, layer], present[half].astype(np.float64))
                null = curve["cosine"][layer] - curve[metric][layer]
                resampled.append(mean_cosine(cells.centroid_grams(draws)) - null)
            self.values[metric][place] = np.mean(values)
            self.resampled[metric][place] = np.mean(resampled, axis=0)
            self.layers[metric][place] = chosen

    def names(self, place: Sequence[int]) -> dict[str, object]:
        return {
            factor: levels[index] for (factor, levels), index in zip(self.design.levels.items(), place, strict=True)
        }

    def cells(self) -> pd.DataFrame:
        rows = []
        for place in np.ndindex(*self.shape):
            names = self.names(place)
            for metric in METRICS:
                interval = statistics.centred_interval(self.values[metric][place], self.resampled[metric][place])
                first, second = (self.design.layers[layer] for layer in self.layers[metric][place])
                rows.append({
                    "model": self.design.model, **names, "metric": metric, "layer": first,
                    "depth": first / self.design.n_layers, "layer_swapped": second, **interval._asdict(),
                    "n": names["texts"],
                })  # fmt: skip
        return pd.DataFrame(rows)

    def effects(self) -> pd.DataFrame:
        rows = []
        for metric, (axis, factor) in itertools.product(METRICS, enumerate(FACTORS)):
            for first, second in itertools.combinations(range(self.shape[axis]), 2):
                weights = np.zeros(self.shape)
                np.moveaxis(weights, axis, 0)[second] = self.shape[axis] / weights.size
                np.moveaxis(weights, axis, 0)[first] = -self.shape[axis] / weights.size
                levels = self.design.levels[factor]
                rows.append(self._effect("marginal", factor, levels[second], levels[first], metric, weights))
        return pd.DataFrame(rows + self._decomposition())

    def _effect(
        self, kind: str, factor: str, level: object, reference: object, metric: str, weights: np.ndarray
    ) -> dict[str, object]:
        """A weighted sum of cells, with its interval from the same sum of their resamples."""
        value = float((weights * self.values[metric]).sum())
        draws = np.tensordot(weights, self.resampled[metric], weights.ndim)
        return {
            "model": self.design.model, "kind": kind, "factor": factor, "level": level, "reference": reference,
            "metric": metric, **statistics.centred_interval(value, draws)._asdict(), "n": len(self.design.topics),
        }  # fmt: skip

    def _decomposition(self) -> list[dict[str, object]]:
        levels = self.design.levels
        changes = {"author": ("ours", "self"), "frame": ("plain", "chat"), "pooling": ("last", "mean")}
        if not all(set(ends) <= set(levels[factor]) for factor, ends in changes.items()):
            return []
        ends = {factor: [levels[factor].index(end) for end in pair] for factor, pair in changes.items()}

        def place(changed: Sequence[str]) -> tuple[int, ...]:
            return (*(pair[factor in changed] for factor, pair in ends.items()), len(levels["texts"]) - 1, 0)

        parts = {factor: np.zeros(self.shape) for factor in changes}
        orders = list(itertools.permutations(changes))
        for order in orders:
            for step, factor in enumerate(order):
                parts[factor][place(order[: step + 1])] += 1 / len(orders)
                parts[factor][place(order[:step])] -= 1 / len(orders)
        parts["whole"] = sum(parts.values())
        named = {factor: pair[::-1] for factor, pair in changes.items()} | {"whole": ("generation", "comprehension")}
        return [
            self._effect("decomposition", factor, *named[factor], metric, weights)
            for metric in METRICS
            for factor, weights in parts.items()
        ]


def _curves(products: np.ndarray, present: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Each metric over the layers, from the texts of one half alone: ``[layer]``."""
    cosine = centroid_cosine(products, present)
    return {
        "cosine": cosine, "shuffle_excess": cosine - shuffled_cosine(products, present, rng),
        "nearest_centroid": np.nanmean(decode(products, products, present), axis=(1, 2)),
    }  # fmt: skip


def _decoding(design: Design, results: _Results) -> pd.DataFrame:
    levels, present = design.levels, design.present
    halves = design.halves(len(design.topics))
    draws = [design.draws(half) for half in halves]
    rows = []
    for column, pooling in enumerate(levels["pooling"]):
        sources = list(itertools.product(enumerate(levels["author"]), enumerate(levels["frame"])))
        readings = {(author, frame): design.activations(author, frame, pooling) for (_, author), (_, frame) in sources}
        for (row, author), (at, frame) in sources:
            chosen = results.layers["nearest_centroid"][row, at, column, -1, 0]
            # The first half is tested at the layer that the second chose, and the other way round.
            layers = list(chosen[::-1])
            train = readings[author, frame][:, :, layers]
            products = gram(train)
            for tested, other in readings.items():
                across = gram_across(other[:, :, layers], train)
                for centre in ("train", "own"):
                    by_topic = np.nanmean(decode(products, across, present, centre), axis=2)
                    held = [by_topic[number, half] for number, half in enumerate(halves)]
                    resampled = np.mean([d @ h / len(h) for d, h in zip(draws, held, strict=True)], axis=0)
                    value = np.mean([h.mean() for h in held])
                    rows.append({
                        "model": design.model, "pooling": pooling, "train_author": author, "train_frame": frame,
                        "test_author": tested[0], "test_frame": tested[1], "centre": centre,
                        "layer": design.layers[chosen[0]], "depth": design.layers[chosen[0]] / design.n_layers,
                        "layer_swapped": design.layers[chosen[1]],
                        **statistics.centred_interval(value, resampled)._asdict(),
                        "chance": 1 / len(design.emotions), "n": len(design.topics),
                    })  # fmt: skip
    return pd.DataFrame(rows)


def _rdm(design: Design, results: _Results) -> pd.DataFrame:
    halves = design.halves(len(design.topics))
    levels = design.levels
    keys = list(
        itertools.product(*(enumerate(levels[factor]) for factor in ("author", "frame", "pooling", "components")))
    )
    names = [tuple(name for _, name in key) for key in keys]
    correlations, resampled = [], []
    for number, half in enumerate(halves):
        whole, draws = [], []
        weights = np.vstack([np.ones(len(half)), design.draws(half)])
        for key, name in zip(keys, names, strict=True):
            place = (*(index for index, _ in key[:3]), -1, key[3][0])
            layer = results.layers["nearest_centroid"][place][1 - number]
            chosen = design.activations(*name, places=[layer])[half][:, :, 0]
            dissimilar = _dissimilarities(geometry.Cells(chosen, design.present[half].astype(np.float64)), weights)
            whole.append(dissimilar[0])
            draws.append(dissimilar[1:])
        correlations.append(_spearman(np.stack(whole)[None])[0])
        resampled.append(_spearman(np.stack(draws, axis=1)))
    values, draws = np.mean(correlations, axis=0), np.mean(resampled, axis=0)
    rows = []
    for first, second in itertools.combinations(range(len(names)), 2):
        interval = statistics.centred_interval(values[first, second], draws[:, first, second])
        pair = {
            f"{factor}_{side}": level
            for side, index in (("a", first), ("b", second))
            for factor, level in zip(("author", "frame", "pooling", "components"), names[index], strict=True)
        }
        rows.append({"model": design.model, **pair, **interval._asdict(), "n": len(design.topics)})
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
