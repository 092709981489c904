"""Each experiment as one function: what a model's residual stream held → tidy tables.

``read`` is the only function here that touches a model. The rest works on its result, layer by layer; every layer is a
unit of work that a run folder keeps. Every random draw comes from the seed and the name of what it is drawn for, so
that the order of work, or an interruption, changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from emotrace.instrument import corpus
from emotrace.measures import geometry, statistics
from emotrace.study.study import GROUP_REPEATS, Study, choose_layer, half_cosine

if TYPE_CHECKING:
    pass


def anisotropy(study: Study) -> pd.DataFrame:
    """How alike the activations of *unrelated* texts are, layer by layer (C7).

    Metrics: ``cosine``, mean pairwise cosine of single texts, interval by bootstrap over texts; ``group_cosine``, of
    the means of random disjoint groups with as many texts as an emotion has, the baseline that is fair to centroids;
    ``top_dimension_share``, the share of the mean squared norm that lies in the single largest dimension;
    ``mean_norm``, the mean Euclidean norm (in the units of this model's residual stream: not comparable to another's).
    """

    def at(pooling: str, layer: int) -> list[dict[str, Any]]:
        activations = study.baseline[pooling][:, study.reading.layers.index(layer)].astype(np.float64)
        n, size = len(activations), len(set(study.topics))
        resamples = statistics.topic_draws(n, study.settings.bootstrap, study.rng("anisotropy"))
        cosine = statistics.centred_interval(
            float(geometry.mean_pairwise_cosine(activations)),
            geometry.resampled_pairwise_cosine(activations, resamples),
        )
        group = geometry.group_cosine(activations, size, GROUP_REPEATS, study.rng("groups"))
        squares = (activations**2).mean(axis=0)
        return [
            study.row(pooling, layer, metric="cosine", **cosine._asdict(), n=n),
            study.row(pooling, layer, metric="group_cosine", value=group, n=n // size),
            study.row(pooling, layer, metric="top_dimension_share", value=squares.max() / squares.sum(), n=n),
            study.row(pooling, layer, metric="mean_norm", value=np.linalg.norm(activations, axis=1).mean(), n=n),
        ]

    return study.each_layer("anisotropy", at)


def separation(study: Study) -> pd.DataFrame:
    """How well the emotions separate, layer by layer, with intervals over topics.

    Metrics: ``cosine``, mean pairwise cosine of the emotions' centroids before centring (lower = better separated; the
    paper's measure as we read it), beside the mean (column ``null``) and the p of labels shuffled within topics;
    ``shuffle_excess``, cosine − that null; ``silhouette``; ``nearest_centroid`` and ``logistic_regression``, accuracy on
    held-out topics (``null`` is chance). At layer 0 with mean pooling these two are the bag-of-embeddings baseline:
    what the words alone give.
    """
    n_topics, chance = len(set(study.topics)), 1 / len(study.names)

    def at(pooling: str, layer: int) -> list[dict[str, Any]]:
        activations, cells = study.layer(pooling, layer), study.cells(pooling, layer)
        value = float(geometry.mean_pairwise_cosine(cells.centroids()))
        resampled = geometry.mean_cosine_of_gram(cells.centroid_grams(study.draws()))
        cosine = statistics.centred_interval(value, resampled)
        null = geometry.shuffled_cosine(cells, study.settings.permutations, study.rng("shuffle"))
        excess = statistics.Interval(*(number - null.mean() for number in cosine))
        tests = {"p": statistics.permutation_p(value, null, "less"), "m": len(null), "n": n_topics}
        rows = [
            study.row(pooling, layer, metric="cosine", **cosine._asdict(), null=null.mean(), **tests),
            study.row(pooling, layer, metric="shuffle_excess", **excess._asdict(), null=0.0, **tests),
        ]
        scores = {"silhouette": geometry.silhouettes(activations, study.emotions)}
        for decoder in geometry.DECODERS:
            scores[decoder] = geometry.decode(activations, study.emotions, study.topics, decoder).astype(float)
        for metric, score in scores.items():
            interval = statistics.centred_interval(
                float(score.mean()), _topic_means(study, score) @ study.draws().T / n_topics
            )
            null_value = None if metric == "silhouette" else chance
            rows.append(study.row(pooling, layer, metric=metric, **interval._asdict(), null=null_value, n=n_topics))
        return rows

    return study.each_layer("separation", at)


def _topic_means(study: Study, scores: np.ndarray) -> np.ndarray:
    """The mean of per-text scores in each topic: ``[topic]``."""
    return np.array([scores[study.topics == topic].mean() for topic in dict.fromkeys(study.topics)])


def geometry_table(study: Study) -> pd.DataFrame:
    """Valence and arousal in the emotion vectors, layer by layer, and once on held-out topics.

    Metrics: ``pcK_valence_r`` and ``pcK_arousal_r``, Pearson's r of the emotions' scores on principal component K with
    the norms (Warriner et al. 2013; *exasperated* has none), Fisher interval, permutation p by |r|; a component's sign
    is arbitrary, so each is turned to correlate positively with valence; ``pcK_variance``, its share;
    ``rdm_rho``, Spearman's ρ between the vectors' dissimilarities (1 − cosine, centred on the 20) and distances in the
    valence–arousal plane, interval by bootstrap over topics, Mantel p; ``pc1_length_r``, with the texts' mean lengths.
    Column ``split``: ``all`` topics, or ``held_out``, the half of the topics that did not choose the layer.
    """
    table = study.each_layer("geometry", lambda pooling, layer: _axes(study, pooling, layer, None))
    rows = []
    for pooling in study.reading.pooled:
        layer = choose_layer(study, pooling, "nearest_centroid")
        what = f"geometry held out {pooling} {layer}"
        rows += study.unit(what, lambda p=pooling, la=layer: _axes(study, p, la, study.halves[1]))
    return pd.concat([table, pd.DataFrame(rows)], ignore_index=True)


def _axes(study: Study, pooling: str, layer: int, half: np.ndarray | None) -> list[dict[str, Any]]:
    cells = study.cells(pooling, layer)
    weights = np.ones(len(cells.sums)) if half is None else half.astype(float)
    centroids = cells.centroids(weights)
    vectors = centroids - centroids.mean(axis=0)
    split, n_topics = ("all" if half is None else "held_out"), int((weights > 0).sum())
    # The last token of every passage is a full stop: its embedding is the same vector in all of them.
    if np.abs(vectors).max() <= 1e-6 * np.abs(centroids).max():
        return []
    norms = corpus.emotions().loc[study.names]
    valence, arousal = norms["valence"].to_numpy(), norms["arousal"].to_numpy()
    scores, shares = geometry.principal_components(vectors)
    rows = []
    for component, (score, share) in enumerate(zip(scores.T, shares, strict=True), 1):
        score = score * (np.sign(statistics.pearson(score, valence).value) or 1)
        for axis, known in (("valence", valence), ("arousal", arousal)):
            r = statistics.pearson(score, known)
            p = _correlation_p(score, known, study.settings.permutations, study.rng("axes", component, axis))
            name = f"pc{component}_{axis}_r"
            tests = {"p": p, "m": study.settings.permutations, "n": int(np.isfinite(known).sum())}
            rows.append(study.row(pooling, layer, split=split, metric=name, **r._asdict(), **tests))
        rows.append(study.row(pooling, layer, split=split, metric=f"pc{component}_variance", value=share, n=len(score)))
    lengths = study.reading.labels["text"].map(lambda text: len(corpus.words(text))).to_numpy()[study.emotional]
    of_emotion = np.array([lengths[study.emotions == name].mean() for name in study.names])
    r = statistics.pearson(scores[:, 0], of_emotion)
    rows.append(study.row(pooling, layer, split=split, metric="pc1_length_r", **r._asdict(), n=len(of_emotion)))

    known = np.isfinite(valence)
    plane = geometry.plane_distances(valence[known], arousal[known])
    rho, p = statistics.mantel(
        geometry.rdm(vectors)[np.ix_(known, known)], plane, study.settings.permutations, study.rng("mantel")
    )
    grams = geometry.centre_gram(cells.centroid_grams(study.draws(half)))
    interval = statistics.centred_interval(rho, _rdm_draws(1 - geometry.cosines_of_gram(grams), plane, known))
    tests = {"p": p, "m": study.settings.permutations, "n": n_topics}
    rows.append(study.row(pooling, layer, split=split, metric="rdm_rho", **interval._asdict(), **tests))
    return rows


def _correlation_p(x: np.ndarray, y: np.ndarray, permutations: int, rng: np.random.Generator) -> float:
    """Permutation p of |Pearson's r|, over the pairs where y is known."""
    known = np.isfinite(y)
    x, y = x[known] - x[known].mean(), y[known] - y[known].mean()
    scale = np.linalg.norm(x) * np.linalg.norm(y)
    null = rng.permuted(np.tile(y, (permutations, 1)), axis=1) @ x / scale
    return statistics.permutation_p(float(x @ y / scale), null, "two-sided")


def _rdm_draws(rdms: np.ndarray, plane: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Spearman's ρ of each resampled dissimilarity matrix with the distances in the plane: ``[draw]``."""
    from scipy.stats import rankdata

    upper = np.triu_indices(int(known.sum()), 1)
    values = rdms[:, known][:, :, known][:, upper[0], upper[1]]
    values = rankdata(values[np.isfinite(values).all(axis=1)], axis=1)
    target = rankdata(plane[upper])
    values = values - values.mean(axis=1, keepdims=True)
    target = target - target.mean()
    return values @ target / (np.linalg.norm(values, axis=1) * np.linalg.norm(target))


# -- localisation -----------------------------------------------------------------------------------------------------

CRITERIA = ("cosine", "shuffle_excess", "anisotropy_excess", "nearest_centroid", "logistic_regression")


def localisation(study: Study, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Where over depth the emotions separate best, and whether a U describes it (C6).

    One row a pooling and criterion. ``layer`` and ``depth``: the best layer on all topics, with a bootstrap interval of
    the depth over topics. ``chosen_layer``: the best on one half of the topics; ``held_out``: the criterion there on
    the other half, with interval, ``chance`` and, for the decoders, a label-permutation p. ``u_gain``: AICc of a line
    minus that of a parabola, layers 1 … L; ``u_share``: share of resamples in which the curve is a U (better than a
    line, open towards worse, turning inside); ``vertex``: where it turns, with interval, if the
    curve is a U.

    Criteria: ``cosine`` (the paper's), ``shuffle_excess`` and ``anisotropy_excess`` (the same minus the two baselines),
    ``nearest_centroid`` and ``logistic_regression``, the accuracy of either.
    """
    rows: list[dict[str, Any]] = []
    total = len(study.reading.pooled) * len(CRITERIA)
    for pooling in study.reading.pooled:
        for criterion in CRITERIA:
            curves = {
                "separation": _curve(tables["separation"], pooling),
                "anisotropy": _curve(tables["anisotropy"], pooling),
            }
            rows += study.unit(
                f"localisation {pooling} {criterion}",
                lambda p=pooling, c=criterion, t=curves: [_locate(study, p, c, t)],
            )
            study.progress("localisation", 1, total)
    return pd.DataFrame(rows)


def _curve(table: pd.DataFrame, pooling: str) -> pd.DataFrame:
    """Metrics of one pooling as columns, layers as rows."""
    return table[table["pooling"] == pooling].pivot(index="layer", columns="metric", values="value")


def _locate(study: Study, pooling: str, criterion: str, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    layers = np.array(study.reading.layers[1:])  # the embedding output is no layer of the model's own work
    depth = layers / study.n_layers
    curve, resampled = _losses(study, pooling, criterion, tables)
    best = int(layers[curve.argmin()])
    # A resample in which some emotion lost all its texts has no curve.
    resampled = resampled[np.isfinite(resampled).all(axis=1)]
    place = statistics.percentile_interval(best / study.n_layers, depth[resampled.argmin(axis=1)])
    bends = _bends(depth, curve, resampled)
    chosen = choose_layer(study, pooling, criterion)
    row = study.row(pooling, best, criterion=criterion, low=place.low, high=place.high, n=len(set(study.topics)))
    return {
        **row, "chosen_layer": chosen, "chosen_depth": chosen / study.n_layers,
        **_held_out(study, pooling, criterion, chosen),
        **bends,
    }  # fmt: skip


def _bends(depth: np.ndarray, curve: np.ndarray, resampled: np.ndarray) -> dict[str, Any]:
    """Whether the curve is a U, in how many resamples, and where it turns; nothing for a model of too few layers."""
    row = dict.fromkeys(("u_gain", "u_share", "vertex", "vertex_low", "vertex_high"), np.nan)
    if len(depth) < statistics.MIN_BEND_LAYERS:
        return row
    whole = statistics.bend(depth, curve)
    draws = [statistics.bend(depth, draw) for draw in resampled]
    share = float(np.mean([draw.is_u for draw in draws]))
    row |= {"u_gain": whole.gain, "u_share": share}
    if not whole.is_u:
        return row
    vertex = statistics.percentile_interval(whole.vertex, np.array([draw.vertex for draw in draws if draw.is_u]))
    return row | {"vertex": vertex.value, "vertex_low": vertex.low, "vertex_high": vertex.high}


def _losses(
    study: Study, pooling: str, criterion: str, tables: dict[str, pd.DataFrame]
) -> tuple[np.ndarray, np.ndarray]:
    """The criterion over layers 1 … L so that lower is better: as measured ``[layer]``, and resampled ``[draw, layer]``."""
    layers = study.reading.layers[1:]
    if criterion in geometry.DECODERS:
        by_topic = np.stack([_accuracy_by_topic(study, pooling, layer, criterion) for layer in layers])
        return -by_topic.mean(axis=1), -(study.draws() @ by_topic.T) / by_topic.shape[1]
    separation, anisotropy = tables["separation"], tables["anisotropy"]
    curve = separation.loc[layers, "cosine"].to_numpy()
    draws = study.draws()
    resampled = np.stack(
        [geometry.mean_cosine_of_gram(study.cells(pooling, layer).centroid_grams(draws)) for layer in layers], axis=1
    )
    baseline = {
        "cosine": np.zeros(len(layers)),
        "shuffle_excess": (separation["cosine"] - separation["shuffle_excess"]).loc[layers].to_numpy(),
        "anisotropy_excess": anisotropy.loc[layers, "group_cosine"].to_numpy(),
    }[criterion]
    return curve - baseline, resampled - baseline


def _accuracy_by_topic(study: Study, pooling: str, layer: int, decoder: str) -> np.ndarray:
    """Share of each topic's texts whose emotion is decoded right with that topic held out: ``[topic]``."""
    correct = geometry.decode(study.layer(pooling, layer), study.emotions, study.topics, decoder)
    return _topic_means(study, correct.astype(float))


def _held_out(study: Study, pooling: str, criterion: str, layer: int) -> dict[str, Any]:
    """The criterion at the chosen layer on the half of the topics that did not choose it."""
    first, second = study.halves
    if criterion not in geometry.DECODERS:
        value = half_cosine(study, pooling, layer, second, criterion)
        draws = geometry.mean_cosine_of_gram(study.cells(pooling, layer).centroid_grams(study.draws(second)))
        interval = statistics.centred_interval(value, draws)
        return {"held_out": value, "held_low": interval.low, "held_high": interval.high}
    activations, train, test = study.layer(pooling, layer), study.in_half(first), study.in_half(second)
    predict = geometry.DECODERS[criterion]
    correct = predict(activations[train], study.emotions[train], activations[test]) == study.emotions[test]
    topics = study.topics[test]
    by_topic = np.array([correct[topics == topic].mean() for topic in dict.fromkeys(topics)])
    draws = study.draws(second)[:, second] @ by_topic / len(by_topic)
    interval = statistics.centred_interval(float(correct.mean()), draws)
    rng = study.rng("decoder null", pooling, criterion)
    null = np.empty(study.settings.decoder_permutations)
    for draw in range(len(null)):
        shuffled = geometry.shuffle_within_topics(study.emotions, study.topics, rng)
        null[draw] = (predict(activations[train], shuffled[train], activations[test]) == shuffled[test]).mean()
    return {
        "held_out": interval.value, "held_low": interval.low, "held_high": interval.high, "chance": 1 / len(study.names),
        "null_mean": null.mean(), "p": statistics.permutation_p(interval.value, null, "greater"), "m": len(null),
    }  # fmt: skip


EXPERIMENTS = ("separation", "anisotropy", "geometry", "localisation")
"""What ``emotrace run --experiments`` takes; localisation needs separation and anisotropy, which it then runs as well."""


def run_all(study: Study, experiments: list[str]) -> dict[str, pd.DataFrame]:
    """The tables of the experiments asked for, and of those they need."""
    # The matrices are small: more threads only wait for one another, up to a hundred times longer on a busy machine.
    with threadpool_limits(1):
        return _run_all(study, experiments)


def _run_all(study: Study, experiments: list[str]) -> dict[str, pd.DataFrame]:
    wanted = set(experiments) | ({"separation", "anisotropy"} if "localisation" in experiments else set())
    tables: dict[str, pd.DataFrame] = {}
    if "anisotropy" in wanted:
        tables["anisotropy"] = anisotropy(study)
    if "separation" in wanted:
        tables["separation"] = separation(study)
    if "geometry" in wanted:
        tables["geometry"] = geometry_table(study)
    if "localisation" in wanted:
        tables["localisation"] = localisation(study, tables)
    return tables
