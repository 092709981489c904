"""The paper's test of generation against comprehension, on samples that are stated (C5).

The paper reports a Mann–Whitney p of 0.007, Cohen's d = −107.5, and generation ahead in 7 of 7 cases; which values made
the two samples is not in its abstract. The measure, as we read it: the mean pairwise cosine of the emotions' centroids
before centring, lower being better; so a negative d favours generation. Our samples are these (column ``sample``):

- ``pairs_chosen``: the cosines of all pairs of emotions (190 of 20), each method at the layer where its own mean cosine
  was lowest on one half of the topics, measured on the other half;
- ``pairs_half_depth``: the same at half depth and on all topics, where nothing is chosen;
- ``layers``: the mean cosine at each layer 1 … L, on all topics.

What d = −107.5 can and cannot be. d is a difference of means divided by the pooled standard deviation (SD). Cosines
lie within −1 … 1, so their means differ by 2 at most, and d = −107.5 needs an SD below 0.019; for a difference of 0.05,
below 0.0005. The cosines of 190 pairs of emotions spread over hundredths, so it is not an effect among pairs. Values
that are nearly identical within each method do give it: (0.8625, 0.8635, 0.8645) against (0.970, 0.971, 0.972) has a
difference of −0.1075 and an SD of 0.001, d = −107.5. Summaries of repeated runs, or of neighbouring layers of a flat
curve, are such values: d then says how well the procedure repeats, not how far the methods are apart in units of the
emotions. Or it is no standardised difference at all (a percentage, say). The p of 0.007 tells of small samples, too:
complete separation, which so large a d implies, has the exact two-sided p of 2 / C(n + m, n): 0.0079 for 5 against 5,
0.0070 for 3 against 10, below 1e-100 for 190 against 190. So d is shown here beside Hedges' g, the rank-biserial
correlation (which cannot exceed 1), a bootstrap interval over topics and a permutation p.

Mann–Whitney's own p takes the values for independent, which pairs that share an emotion, and layers of one model, are
not. The p of ``difference`` does not: the two methods are exchanged topic by topic, on the topics' jackknife
pseudo-values (:mod:`emotrace.measures.jackknife`).

The raw cosine is the paper's measure; ours stands beside it (:mod:`emotrace.study.methods.intraclass`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from threadpoolctl import threadpool_limits

from emotrace.measures import geometry, jackknife, statistics
from emotrace.measures.grams import centroid_cosine, gram, mean_cosine, within
from emotrace.study.methods import intraclass
from emotrace.study.methods.design import Design

METHODS = {"comprehension": ("ours", "plain"), "generation": ("self", "chat")}
"""Method → author and frame of its texts."""
MIN_MODELS = 5
SAMPLES = ("pairs_chosen", "pairs_half_depth", "layers")


def compare_methods(design: Design, *, family: str, instruct: bool) -> pd.DataFrame:
    """``method_comparison`` of one model: generation against comprehension, for each pooling and sample.

    Returns:
        One row a sample, pooling and metric: ``model, family, kind`` (instruct or base), ``sample, pooling,
        layer_comprehension, layer_generation`` (empty for ``layers``), ``n_comprehension, n_generation`` (values in
        each sample), ``metric, value, low, high, p, m, n`` (topics). Metrics: ``mean_comprehension``,
        ``mean_generation``, ``difference`` (generation − comprehension; p two-sided), ``mann_whitney_u`` (p: its own),
        ``cohens_d``, ``hedges_g``, ``rank_biserial``; then those of :func:`emotrace.study.methods.intraclass.rows`. No
        rows for a model that wrote nothing.
    """
    if not all(any(key[:2] == source for key in design.pooled) for source in METHODS.values()):
        return pd.DataFrame()
    model = {"model": design.model_name, "family": family, "kind": "instruct" if instruct else "base"}
    rows = []
    with threadpool_limits(1):
        for pooling in design.levels["pooling"]:
            pair = [design.activations(*source, pooling) for source in METHODS.values()]
            readings = np.stack(pair)
            for sample in SAMPLES:
                columns = {**model, "sample": sample, "pooling": pooling}
                rows += [columns | row for row in _Comparison(design, readings, sample).rows()]
            for sample in intraclass.SAMPLES:
                columns = {**model, "sample": sample, "pooling": pooling}
                rows += [columns | row for row in intraclass.rows(design, pair, sample)]
    return pd.DataFrame(rows)


def layer_curves(design: Design) -> pd.DataFrame:
    """``method_by_layer``: the mean centroid cosine of either method at each layer, on all topics, with intervals.

    Returns:
        One row a method, pooling and layer: ``model, method, pooling, layer, depth, metric`` (``cosine``), ``value,
        low, high, n`` (topics). A method that the design lacks has no rows.
    """
    topics, present = np.arange(len(design.topics)), design.present.astype(np.float64)
    weights = np.vstack([np.ones(len(topics)), design.draws(topics)])
    rows = []
    for method, source in METHODS.items():
        for pooling in design.levels["pooling"]:
            if (*source, pooling) not in design.pooled:
                continue
            reading = design.activations(*source, pooling)
            columns = {"model": design.model_name, "method": method, "pooling": pooling}
            for idx, layer in enumerate(design.layers):
                cosines = mean_cosine(geometry.Cells(reading[:, :, idx], present).centroid_grams(weights))
                interval = statistics.Interval(*np.clip(statistics.centred_interval(cosines[0], cosines[1:]), -1, 1))
                row = {**columns, "layer": layer, "depth": layer / design.n_layers, "metric": "cosine"}
                rows.append({**row, **interval._asdict(), "n": len(topics)})
    return pd.DataFrame(rows)


class _Comparison:
    """One sample of values of the two methods, comprehension first.

    Attributes:
        readings: ``[method, topic, emotion, layer, d_model]``, of the sample's topics alone.
        present: bool ``[topic, emotion]``, of the emotions that have a text on them.
        layers: for each method, the indices of its layers.
        by_layer: whether a value is a layer's mean cosine, not the cosine of one pair at one layer.
    """

    def __init__(self, design: Design, readings: np.ndarray, sample: str) -> None:
        self.design, self.by_layer = design, sample == "layers"
        first, second = design.halves(len(design.topics))
        self.topics = second if sample == "pairs_chosen" else np.arange(len(design.topics))
        if sample == "pairs_chosen":
            curves = (centroid_cosine(within(gram(reading), first), design.present[first]) for reading in readings)
            self.layers = [[int(curve.argmin())] for curve in curves]
        elif sample == "pairs_half_depth":
            self.layers = [[design.layers.index(max(1, design.n_layers // 2))]] * 2
        else:
            self.layers = [list(range(len(design.layers)))] * 2
        present = design.present[self.topics]
        known = present.any(axis=0)  # of few topics some may lack all texts of an emotion
        self.readings, self.present = readings[:, self.topics][:, :, known], present[:, known]

    def rows(self) -> list[dict[str, Any]]:
        """One row a metric, without the columns of model and sample."""
        comprehension, generation = (values[0] for values in self._values(np.ones((1, len(self.topics)))))
        c_draws, g_draws = self._values(self.design.draws(self.topics))
        contrast = statistics.contrast(generation, comprehension)
        difference = generation.mean() - comprehension.mean()
        left_out = [values.mean(axis=1) for values in self._values(jackknife.leave_one_out(len(self.topics)))]
        p, patterns = jackknife.flip_p(jackknife.pseudo_values(left_out[1] - left_out[0]), "two-sided")
        d_draws = statistics.cohens_d(g_draws, c_draws)
        shrink = statistics.hedges_correction(len(generation) + len(comprehension) - 2)
        estimates = {
            "mean_comprehension": (comprehension.mean(), c_draws.mean(axis=1)),
            "mean_generation": (generation.mean(), g_draws.mean(axis=1)),
            "difference": (difference, g_draws.mean(axis=1) - c_draws.mean(axis=1)),
            "cohens_d": (contrast.d, d_draws),
            "hedges_g": (contrast.g, d_draws * shrink),
            "rank_biserial": (contrast.rank_biserial, _rank_biserial(g_draws, c_draws)),
        }
        chosen = [None if self.by_layer else self.design.layers[own[0]] for own in self.layers]
        columns = {"layer_comprehension": chosen[0], "layer_generation": chosen[1]}
        columns |= {"n_comprehension": len(comprehension), "n_generation": len(generation), "n": len(self.topics)}
        rows = []
        for metric, (value, resampled) in estimates.items():
            interval = statistics.centred_interval(value, resampled)
            if metric == "rank_biserial":  # near its bounds the shift may leave the range, or the value behind
                low, high = np.clip([interval.low, interval.high], -1, 1)
                interval = statistics.Interval(float(value), float(min(low, value)), float(max(high, value)))
            tests = {"p": p, "m": patterns} if metric == "difference" else {"p": np.nan}
            rows.append({**columns, "metric": metric, **interval._asdict(), **tests})
        return [*rows, {**columns, "metric": "mann_whitney_u", "value": contrast.u, "p": contrast.p}]

    def _values(self, weights: np.ndarray) -> list[np.ndarray]:
        """Each method's values under topic weights ``[draw, topic]``: ``[draw, value]``."""
        present = self.present.astype(np.float64)
        return [
            self._summary([geometry.Cells(own[:, :, layer], present).centroid_grams(weights) for layer in layers])
            for own, layers in zip(self.readings, self.layers, strict=True)
        ]

    def _summary(self, grams: list[np.ndarray]) -> np.ndarray:
        """Inner products of centroids at each layer, ``[draw, emotion, emotion]`` → ``[draw, value]``."""
        rows, columns = np.triu_indices(grams[0].shape[-1], 1)
        cosines = geometry.cosines_of_gram(np.stack(grams))[..., rows, columns]  # [layer, draw, pair]
        return cosines.mean(axis=-1).T if self.by_layer else cosines[0]


def _rank_biserial(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The rank-biserial correlation of each resample: ``[draw, n_x]``, ``[draw, n_y]`` → ``[draw]``."""
    ranks = stats.rankdata(np.concatenate([x, y], axis=1), axis=1)[:, : x.shape[1]]
    n_x, n_y = x.shape[1], y.shape[1]
    result = 2 * (ranks.sum(axis=1) - n_x * (n_x + 1) / 2) / (n_x * n_y) - 1
    return np.where(np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1), result, np.nan)


# -- over models ------------------------------------------------------------------------------------------------------


def compare_over_models(table: pd.DataFrame, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """``method_comparison_models``: the same test with one value a model and method, its mean cosine (in the samples of
    :mod:`emotrace.study.methods.intraclass`, its intraclass correlation).

    Args:
        table: ``method_comparison`` of several models.
        draws: resamples of models.
        seed: of the resamples.

    Returns:
        One row a group (``all``, ``kind: instruct``, ``family: qwen`` …), sample, pooling and metric, with ``value,
        low, high, p, n`` (models). Metrics: ``wins``, the share of models where generation is better (Wilson interval,
        p of a two-sided sign test); ``difference``, the mean over models (Student's interval); ``mann_whitney_u``,
        ``cohens_d``, ``hedges_g`` and ``rank_biserial``, with percentile intervals over models where there are five or
        more. Effect sizes need two models.
    """
    if table.empty:
        return pd.DataFrame()
    table = table.assign(metric=table["metric"].str.replace("^intraclass_", "mean_", regex=True))
    means = table[table["metric"].isin(["mean_comprehension", "mean_generation"])]
    wide = means.pivot(index=["sample", "pooling", "model", "kind", "family"], columns="metric", values="value")
    rows = []
    for (sample, pooling), part in wide.reset_index().groupby(["sample", "pooling"], sort=False):
        groups = {"all": part}
        groups |= {
            f"{column}: {name}": models for column in ("kind", "family") for name, models in part.groupby(column)
        }
        for group, models in groups.items():
            rng = np.random.default_rng([seed, len(models)])
            columns = {"group": group, "sample": sample, "pooling": pooling}
            samples = models["mean_generation"].to_numpy(), models["mean_comprehension"].to_numpy()
            higher = sample in intraclass.SAMPLES
            rows += [{**columns, **row, "n": len(models)} for row in _over(*samples, higher, draws, rng)]
    return pd.DataFrame(rows)


def _over(
    generation: np.ndarray, comprehension: np.ndarray, higher: bool, draws: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """The rows of one group of models, from a value a model ``[model]`` and method, and whether higher is better."""
    better = generation > comprehension if higher else generation < comprehension
    wins, n = int(better.sum()), len(generation)
    rows: list[dict[str, Any]] = [
        {"metric": "wins", **statistics.wilson(wins, n)._asdict(), "p": stats.binomtest(wins, n).pvalue},
        {"metric": "difference", **statistics.mean_interval(generation - comprehension)._asdict()},
    ]
    if n < 2:  # no spread
        return rows
    contrast = statistics.contrast(generation, comprehension)
    rows.append({"metric": "mann_whitney_u", "value": contrast.u, "p": contrast.p})
    picks = rng.integers(n, size=(draws, n))
    picks = picks[[len(set(pick)) > 2 for pick in picks]]  # one model drawn n times has no spread
    if n < MIN_MODELS:
        picks = picks[:0]
    d = statistics.cohens_d(generation[picks], comprehension[picks])
    effects = {
        "cohens_d": (contrast.d, d),
        "hedges_g": (contrast.g, d * statistics.hedges_correction(2 * n - 2)),
        "rank_biserial": (contrast.rank_biserial, _rank_biserial(generation[picks], comprehension[picks])),
    }
    for metric, (value, resampled) in effects.items():
        rows.append({"metric": metric, **statistics.percentile_interval(value, resampled)._asdict()})
    return rows
