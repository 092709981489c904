"""The paper's test of generation against comprehension, on samples that are stated (C5).

The paper reports a Mann–Whitney p of 0.007, Cohen's d = −107.5, and generation ahead in 7 of 7 cases; which values made
the two samples is not in its abstract. The measure, as we read it: the mean pairwise cosine of the emotions' centroids
before centring, lower being better; so a negative d favours generation. Our samples are these (column ``sample``):

- ``pairs_chosen``: the cosines of all pairs of emotions (190 of 20), each method at the layer where its own mean cosine
  was lowest on one half of the topics, measured on the other half;
- ``pairs_half_depth``: the same at half depth and on all topics, where nothing is chosen;
- ``layers``: the mean cosine at each layer 1 … L, on all topics.

What d = −107.5 can and cannot be. d is a difference of means divided by the pooled standard deviation (SD). Cosines lie
within −1 … 1, so their means differ by 2 at most, and d = −107.5 needs an SD below 0.019; for a difference of 0.05, below
0.0005. The cosines of 190 pairs of emotions spread over hundredths, so it is not an effect among pairs. Values that
are nearly identical within each method do give it: (0.8625, 0.8635, 0.8645) against (0.970, 0.971, 0.972) has a difference
of −0.1075 and an SD of 0.001, d = −107.5. Summaries of repeated runs, or of neighbouring layers of a flat curve, are
such values: d then says how well the procedure repeats, not how far the methods are apart in units of the emotions. Or it
is no standardised difference at all (a percentage, say). The p of 0.007 tells of small samples, too: complete
separation, which so large a d implies, has the exact two-sided p of 2 / C(n + m, n): 0.0079 for 5 against 5, 0.0070 for 3
against 10, below 1e-100 for 190 against 190. So d is shown here beside Hedges' g, the rank-biserial correlation (which
cannot exceed 1), a bootstrap interval over topics and a permutation p.

Mann–Whitney's own p takes the values for independent, which pairs that share an emotion, and layers of one model, are
not. The permutation p does not: the two methods' texts are swapped within topic × emotion cells at random.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from threadpoolctl import threadpool_limits

from emotrace.measures import geometry, statistics
from emotrace.measures.grams import centroid_cosine, gram, mean_cosine, within
from emotrace.study.methods.design import Design

COMPREHENSION = ("ours", "plain")
GENERATION = ("self", "chat")
# Every layer is permuted in this sample; a floor of 1/200 for p is enough of them.
LAYER_PERMUTATIONS = 199
MIN_MODELS = 5
SAMPLES = ("pairs_chosen", "pairs_half_depth", "layers")


def compare_methods(design: Design, *, family: str, instruct: bool, permutations: int = 999) -> pd.DataFrame:
    """``method_comparison`` of one model: generation against comprehension, for each pooling and sample.

    Returns:
        One row a sample, pooling and metric: ``model, family, kind`` (instruct or base), ``sample, pooling,
        layer_comprehension, layer_generation`` (empty for ``layers``), ``n_comprehension, n_generation`` (values in each
        sample), ``metric, value, low, high, p, m, n`` (topics). Metrics: ``mean_comprehension``, ``mean_generation``,
        ``difference`` (generation − comprehension; p: permutation, two-sided), ``mann_whitney_u`` (p: its own),
        ``cohens_d``, ``hedges_g``, ``rank_biserial``. No rows for a model that wrote nothing.
    """
    if not all(any(key[:2] == method for key in design.pooled) for method in (COMPREHENSION, GENERATION)):
        return pd.DataFrame()
    rows = []
    with threadpool_limits(1):
        for pooling in design.levels["pooling"]:
            pair = _Pair(design, pooling)
            for sample in SAMPLES:
                shared = {
                    "model": design.model, "family": family, "kind": "instruct" if instruct else "base",
                    "sample": sample, "pooling": pooling,
                }  # fmt: skip
                rows += [{**shared, **row} for row in pair.compare(sample, permutations)]
    return pd.DataFrame(rows)


def layer_curves(design: Design) -> pd.DataFrame:
    """``method_by_layer``: the mean centroid cosine of either method at each layer, on all topics, with intervals.

    Returns:
        One row a method, pooling and layer: ``model, method, pooling, layer, depth, metric`` (``cosine``)``, value, low,
        high, n`` (topics). A method that the design lacks has no rows.
    """
    topics = np.arange(len(design.topics))
    weights = np.vstack([np.ones(len(topics)), design.draws(topics)])
    rows = []
    methods = {"comprehension": COMPREHENSION, "generation": GENERATION}
    for method, pooling in itertools.product(methods, design.levels["pooling"]):
        if (*methods[method], pooling) not in design.pooled:
            continue
        reading = design.activations(*methods[method], pooling)
        for place, layer in enumerate(design.layers):
            cells = geometry.Cells(reading[:, :, place], design.present.astype(np.float64))
            cosines = mean_cosine(cells.centroid_grams(weights))
            interval = statistics.centred_interval(cosines[0], cosines[1:])
            rows.append({
                "model": design.model, "method": method, "pooling": pooling, "layer": layer,
                "depth": layer / design.n_layers, "metric": "cosine", **interval._asdict(), "n": len(topics),
            })  # fmt: skip
    return pd.DataFrame(rows)


class _Pair:
    """The two methods' readings with one pooling, ``[method, topic, emotion, layer, d_model]``, comprehension first."""

    def __init__(self, design: Design, pooling: str) -> None:
        self.design, self.pooling = design, pooling
        self.readings = np.stack([design.activations(*key, pooling) for key in (COMPREHENSION, GENERATION)])

    def compare(self, sample: str, permutations: int) -> list[dict[str, Any]]:
        n_layers = len(self.design.layers)
        first, second = self.design.halves(len(self.design.topics))
        everything = np.arange(len(self.design.topics))
        if sample == "pairs_chosen":
            return self._rows(sample, second, [[self._best(method, first)] for method in (0, 1)], permutations)
        if sample == "pairs_half_depth":
            middle = self.design.layers.index(max(1, self.design.n_layers // 2))
            return self._rows(sample, everything, [[middle]] * 2, permutations)
        return self._rows(sample, everything, [list(range(n_layers))] * 2, min(permutations, LAYER_PERMUTATIONS))

    def _best(self, method: int, half: np.ndarray) -> int:
        """The place of the layer where a method's mean cosine is lowest on one half of the topics."""
        products = within(gram(self.readings[method]), half)
        return int(centroid_cosine(products, self.design.present[half]).argmin())

    def _rows(
        self, sample: str, topics: np.ndarray, places: list[list[int]], permutations: int
    ) -> list[dict[str, Any]]:
        summary = _layer_means if sample == "layers" else _pairs
        draws = self.design.draws(topics)
        whole = np.ones((1, len(topics)))
        values, resampled = (
            [summary(self._cosines(method, topics, places[method], weights)) for method in (0, 1)]
            for weights in (whole, draws)
        )
        comprehension, generation = values[0][0], values[1][0]
        difference = generation.mean() - comprehension.mean()
        found = statistics.contrast(generation, comprehension)
        null = self._swapped(topics, places, summary, permutations)
        # Where the methods have layers of their own, the null is not centred on zero.
        centre = np.append(null, difference).mean()
        p = statistics.permutation_p(difference - centre, null - centre, "two-sided")
        effects = statistics.cohens_d(resampled[1], resampled[0])
        shrink = statistics.hedges_correction(len(generation) + len(comprehension) - 2)
        spread = {
            "mean_comprehension": (comprehension.mean(), resampled[0].mean(axis=1), {}),
            "mean_generation": (generation.mean(), resampled[1].mean(axis=1), {}),
            "difference": (difference, resampled[1].mean(axis=1) - resampled[0].mean(axis=1), {"p": p, "m": permutations}),
            "cohens_d": (found.d, effects, {}),
            "hedges_g": (found.g, effects * shrink, {}),
            "rank_biserial": (found.rank_biserial, _rank_biserial(resampled[1], resampled[0]), {}),
        }  # fmt: skip
        names = [
            self.design.layers[chosen[0]] if len(chosen) == 1 and sample != "layers" else None for chosen in places
        ]
        shared = {
            "layer_comprehension": names[0], "layer_generation": names[1],
            "n_comprehension": len(comprehension), "n_generation": len(generation), "n": len(topics),
        }  # fmt: skip
        rows = []
        for metric, (value, draw, tests) in spread.items():
            interval = statistics.centred_interval(value, draw)
            if metric == "rank_biserial":  # near its bounds the shift may leave the range, or the value behind
                low, high = np.clip([interval.low, interval.high], -1, 1)
                interval = statistics.Interval(float(value), float(min(low, value)), float(max(high, value)))
            rows.append({**shared, "metric": metric, **interval._asdict(), "p": np.nan, **tests})
        return [*rows, {**shared, "metric": "mann_whitney_u", "value": found.u, "p": found.p}]

    def _cosines(self, method: int, topics: np.ndarray, places: list[int], weights: np.ndarray) -> np.ndarray:
        """Cosines between centroids under topic weights: ``[layer, draw, pair]``."""
        present = self.design.present[topics].astype(np.float64)
        grams = [
            geometry.Cells(self.readings[method][topics][:, :, place], present).centroid_grams(weights)
            for place in places
        ]
        return _upper(geometry.cosines_of_gram(np.stack(grams)))

    def _swapped(self, topics: np.ndarray, places: list[list[int]], summary: Callable, permutations: int) -> np.ndarray:
        """Generation − comprehension when the methods' texts are swapped within cells at random: ``[permutation]``."""
        present = self.design.present[topics]
        swap = self.design.rng("swap", list(topics)).random((permutations, *present.shape)) < 0.5
        counts = present.sum(axis=0)[:, None]
        means = []
        for method in (0, 1):
            cosines = []
            for place in places[method]:
                own, other = (self.readings[m][topics][:, :, place] for m in (method, 1 - method))
                # [emotion, permutation, topic] @ [emotion, topic, d_model]
                moved = swap.transpose(2, 0, 1).astype(np.float64) @ (other - own).transpose(1, 0, 2)
                with np.errstate(divide="ignore", invalid="ignore"):
                    centroids = (moved.transpose(1, 0, 2) + own.sum(axis=0)) / counts
                cosines.append(_upper(geometry.cosines_of_gram(centroids @ centroids.transpose(0, 2, 1))))
            means.append(summary(np.stack(cosines)).mean(axis=1))
        return means[1] - means[0]


def _upper(cosines: np.ndarray) -> np.ndarray:
    """One value a pair of emotions: ``[…, n, n]`` → ``[…, n (n − 1) / 2]``."""
    rows, columns = np.triu_indices(cosines.shape[-1], 1)
    return cosines[..., rows, columns]


def _pairs(cosines: np.ndarray) -> np.ndarray:
    """``[1, draw, pair]`` → ``[draw, value]``, one value a pair."""
    return cosines[0]


def _layer_means(cosines: np.ndarray) -> np.ndarray:
    """``[layer, draw, pair]`` → ``[draw, value]``, one value a layer."""
    return cosines.mean(axis=-1).T


def _rank_biserial(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The rank-biserial correlation of each resample: ``[draw, n_x]``, ``[draw, n_y]`` → ``[draw]``."""
    ranks = stats.rankdata(np.concatenate([x, y], axis=1), axis=1)[:, : x.shape[1]]
    n_x, n_y = x.shape[1], y.shape[1]
    result = 2 * (ranks.sum(axis=1) - n_x * (n_x + 1) / 2) / (n_x * n_y) - 1
    return np.where(np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1), result, np.nan)


# -- over models ----------------------------------------------------------------------------------------------------------


def compare_over_models(table: pd.DataFrame, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """``method_comparison_models``: the same test with one value a model and method, its mean cosine.

    Args:
        table: ``method_comparison`` of several models.
        draws: resamples of models.
        seed: of the resamples.

    Returns:
        One row a group (``all``, ``kind: instruct``, ``family: qwen`` …), sample, pooling and metric, with ``value, low,
        high, p, n`` (models). Metrics: ``wins``, the share of models where generation is lower (Wilson interval, p of a
        two-sided sign test); ``difference``, the mean over models (Student's interval); ``mann_whitney_u``,
        ``cohens_d``, ``hedges_g`` and ``rank_biserial``, with percentile intervals over models where there are five or
        more. Effect sizes need two models.
    """
    if table.empty:
        return pd.DataFrame()
    means = table[table["metric"].isin(["mean_comprehension", "mean_generation"])]
    wide = means.pivot(index=["sample", "pooling", "model", "kind", "family"], columns="metric", values="value")
    rows = []
    for (sample, pooling), part in wide.reset_index().groupby(["sample", "pooling"], sort=False):
        groups = {"all": part}
        groups |= {f"kind: {name}": some for name, some in part.groupby("kind")}
        groups |= {f"family: {name}": some for name, some in part.groupby("family")}
        for group, some in groups.items():
            rng = np.random.default_rng([seed, len(some)])
            found = _over(some["mean_generation"].to_numpy(), some["mean_comprehension"].to_numpy(), draws, rng)
            rows += [{"group": group, "sample": sample, "pooling": pooling, **row, "n": len(some)} for row in found]
    return pd.DataFrame(rows)


def _over(generation: np.ndarray, comprehension: np.ndarray, draws: int, rng: np.random.Generator) -> list[dict]:
    lower, n = int((generation < comprehension).sum()), len(generation)
    sign_p = stats.binomtest(lower, n).pvalue
    rows: list[dict[str, Any]] = [{"metric": "wins", **statistics.wilson(lower, n)._asdict(), "p": sign_p}]
    difference = generation - comprehension
    if n < 2:  # no spread, no interval
        return [*rows, {"metric": "difference", "value": float(difference[0])}]
    margin = stats.t.ppf(0.975, n - 1) * difference.std(ddof=1) / np.sqrt(n)
    rows.append({
        "metric": "difference", "value": difference.mean(), "low": difference.mean() - margin,
        "high": difference.mean() + margin,
    })  # fmt: skip
    found = statistics.contrast(generation, comprehension)
    rows.append({"metric": "mann_whitney_u", "value": found.u, "p": found.p})
    picks = rng.integers(n, size=(draws, n))
    picks = picks[[len(set(pick)) > 2 for pick in picks]]  # one model drawn n times has no spread
    d = statistics.cohens_d(generation[picks], comprehension[picks])
    resampled = {
        "cohens_d": d, "hedges_g": d * statistics.hedges_correction(2 * n - 2),
        "rank_biserial": _rank_biserial(generation[picks], comprehension[picks]),
    }  # fmt: skip
    for metric, values in resampled.items():
        value = {"cohens_d": found.d, "hedges_g": found.g, "rank_biserial": found.rank_biserial}[metric]
        interval = statistics.percentile_interval(value, values if n >= MIN_MODELS else np.empty(0))
        rows.append({"metric": metric, **interval._asdict()})
    return rows
