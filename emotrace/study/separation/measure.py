"""What the residual stream held, over depth → tables: how alike texts are, how well emotions separate, by which axes.

No function here touches a model; each works on a :class:`~emotrace.study.study.Study`, layer by layer, and every layer
is a unit of work that a run folder keeps. Every random draw comes from the seed and the name of what it is drawn for,
so that the order of work, or an interruption, changes nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from emotrace.instrument import corpus
from emotrace.measures import geometry, statistics
from emotrace.study.experiment import Tables
from emotrace.study.folder import select
from emotrace.study.study import GROUP_REPEATS, Study, choose_layer, half_cosine

CRITERIA = ("cosine", "shuffle_excess", "anisotropy_excess", "nearest_centroid", "logistic_regression")


def anisotropy(study: Study) -> pd.DataFrame:
    """How alike the activations of *unrelated* texts are, layer by layer (C7).

    Metrics: ``cosine``, mean pairwise cosine of single texts, interval by bootstrap over texts; ``group_cosine``, of
    the means of random disjoint groups with as many texts as an emotion has, the baseline that is fair to centroids;
    ``top_dimension_share``, the share of the mean squared norm that lies in the single largest dimension;
    ``mean_norm``, the mean Euclidean norm (in the units of this model's residual stream: not comparable to another's).
    """

    def rows(pooling: str, layer: int) -> list[dict[str, Any]]:
        activations = study.baseline[pooling][:, study.reading.layers.index(layer)].astype(np.float64)
        n, sizes = len(activations), study.group_sizes()
        draws = statistics.topic_draws(n, study.settings.bootstrap, study.rng("anisotropy"))
        value = float(geometry.mean_pairwise_cosine(activations))
        cosine = statistics.centred_interval(value, geometry.resampled_pairwise_cosine(activations, draws))
        group = geometry.group_cosine(activations, sizes, GROUP_REPEATS, study.rng("groups"))
        squares = (activations**2).mean(axis=0)
        return [
            study.row(pooling, layer, metric="cosine", **cosine._asdict(), n=n),
            study.row(pooling, layer, metric="group_cosine", value=group, n=geometry.group_count(n, sizes)),
            study.row(pooling, layer, metric="top_dimension_share", value=squares.max() / squares.sum(), n=n),
            study.row(pooling, layer, metric="mean_norm", value=np.linalg.norm(activations, axis=1).mean(), n=n),
        ]

    return study.each_layer("anisotropy", rows)


def separation(study: Study) -> pd.DataFrame:
    """How well the emotions separate, layer by layer, with intervals over topics.

    Metrics: ``cosine``, mean pairwise cosine of the emotions' centroids before centring (lower = better separated; the
    paper's measure as we read it), beside the mean (column ``null``) and the p of labels shuffled within topics;
    ``shuffle_excess``, cosine − that null; ``silhouette``; ``nearest_centroid`` and ``logistic_regression``, accuracy
    on held-out topics (``null`` is chance: what the commonest emotion's name alone gets). At layer 0 with mean pooling
    these two are the bag-of-embeddings baseline: what the words alone give.
    """
    n_topics, chance = len(set(study.topics)), _commonest(study.emotions)

    def rows(pooling: str, layer: int) -> list[dict[str, Any]]:
        activations, cells = study.layer(pooling, layer), study.cells(pooling, layer)
        value = float(geometry.mean_pairwise_cosine(cells.centroids()))
        draws = geometry.mean_cosine_of_gram(cells.centroid_grams(study.draws()))
        cosine = statistics.centred_interval(value, draws)
        texts = activations, study.topics, study.emotions, study.names
        null = geometry.shuffled_cosine(*texts, study.settings.permutations, study.rng("shuffle"))
        excess = statistics.Interval(*(number - null.mean() for number in cosine))
        tests = {"p": statistics.permutation_p(value, null, "less"), "m": len(null), "n": n_topics}
        table = [
            study.row(pooling, layer, metric="cosine", **cosine._asdict(), null=null.mean(), **tests),
            study.row(pooling, layer, metric="shuffle_excess", **excess._asdict(), null=0.0, **tests),
        ]
        scores = {"silhouette": geometry.silhouettes(activations, study.emotions)}
        for decoder in geometry.DECODERS:
            scores[decoder] = geometry.decode(activations, study.emotions, study.topics, decoder).astype(float)
        for metric, by_text in scores.items():
            by_topic, sizes = _by_topic(by_text, study.topics)
            draws = by_topic @ study.draws().T / (study.draws() @ sizes)
            interval = statistics.centred_interval(float(by_text.mean()), draws)
            null_value = None if metric == "silhouette" else chance
            table.append(study.row(pooling, layer, metric=metric, **interval._asdict(), null=null_value, n=n_topics))
        return table

    return study.each_layer("separation", rows)


def _cosine_draws(study: Study, pooling: str, layer: int, half: np.ndarray | None = None) -> np.ndarray:
    """The centroids' mean pairwise cosine in each resample of topics (of one half of them): ``[draw]``."""
    return geometry.mean_cosine_of_gram(study.cells(pooling, layer, half).centroid_grams(study.draws(half)))


def _by_topic(scores: np.ndarray, topics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sum of per-text scores ``[text]`` in each topic, in order of appearance, and its number of texts.

    Both ``[topic]``, in units of the mean number of texts a topic: 1 for each where all have as many.
    """
    names = list(dict.fromkeys(topics))
    sizes = np.array([(topics == name).sum() for name in names]) / (len(topics) / len(names))
    return np.array([scores[topics == name].mean() for name in names]) * sizes, sizes


def _commonest(emotions: np.ndarray) -> float:
    """The share of the commonest emotion among the texts."""
    return float(np.unique(emotions, return_counts=True)[1].max() / len(emotions))


# -- geometry ---------------------------------------------------------------------------------------------------------


def geometry_table(study: Study) -> pd.DataFrame:
    """Valence and arousal in the emotion vectors, layer by layer, and once on held-out topics.

    Metrics: ``pcK_valence_r`` and ``pcK_arousal_r``, Pearson's r of the emotions' scores on principal component K with
    the norms (Warriner et al. 2013; *exasperated* has none), Fisher interval, permutation p by |r|; a component's sign
    is arbitrary, so each is turned to correlate positively with valence; ``pcK_variance``, its share;
    ``rdm_rho``, Spearman's ρ between the vectors' dissimilarities (1 − cosine, centred on the 20) and distances in the
    valence–arousal plane, interval by bootstrap over topics, Mantel p; ``pc1_length_r``, with the texts' mean lengths.
    Column ``split``: ``all`` topics, or ``held_out``, the half of the topics that did not choose the layer.
    """
    table = study.each_layer("geometry", partial(_axes, study, half=None))
    rows = []
    for pooling in study.reading.pooled:
        layer = choose_layer(study, pooling, "nearest_centroid")
        compute = partial(_axes, study, pooling, layer, half=study.halves[1])
        rows += study.unit(f"geometry held out {pooling} {layer}", compute)
    return pd.concat([table, pd.DataFrame(rows)], ignore_index=True)


def _axes(study: Study, pooling: str, layer: int, half: np.ndarray | None) -> list[dict[str, Any]]:
    """The rows of one layer, from the topics of ``half`` (bool ``[topic]``; None: all)."""
    cells, names = study.cells(pooling, layer, half), study.names_in(half)
    weights = np.ones(len(cells.sums)) if half is None else half.astype(float)
    centroids = cells.centroids(weights)
    vectors = centroids - centroids.mean(axis=0)
    # The last token of every passage is a full stop: its embedding is the same vector in all of them.
    if np.abs(vectors).max() <= 1e-6 * np.abs(centroids).max():
        return []
    row = partial(study.row, pooling, layer, split="all" if half is None else "held_out")
    norms = corpus.emotions().loc[names]
    valence, arousal = norms["valence"].to_numpy(), norms["arousal"].to_numpy()
    permutations = study.settings.permutations
    scores, shares = geometry.principal_components(vectors)
    rows = []
    for component, (score, share) in enumerate(zip(scores.T, shares, strict=True), 1):
        score = score * (np.sign(statistics.pearson(score, valence).value) or 1)
        for axis, rating in (("valence", valence), ("arousal", arousal)):
            r = statistics.pearson(score, rating)
            p = _correlation_p(score, rating, permutations, study.rng("axes", component, axis))
            tests = {"p": p, "m": permutations, "n": int(np.isfinite(rating).sum())}
            rows.append(row(metric=f"pc{component}_{axis}_r", **r._asdict(), **tests))
        rows.append(row(metric=f"pc{component}_variance", value=share, n=len(score)))
    texts = study.reading.labels["text"].to_numpy()[study.emotional]
    lengths = np.array([len(corpus.words(text)) for text in texts])
    mean_lengths = np.array([lengths[study.emotions == name].mean() for name in names])
    r = statistics.pearson(scores[:, 0], mean_lengths)
    rows.append(row(metric="pc1_length_r", **r._asdict(), n=len(mean_lengths)))

    known = np.isfinite(valence)
    plane = geometry.plane_distances(valence[known], arousal[known])
    dissimilarities = geometry.rdm(vectors)[np.ix_(known, known)]
    rho, p = statistics.mantel(dissimilarities, plane, permutations, study.rng("mantel"))
    grams = geometry.centre_gram(cells.centroid_grams(study.draws(half)))
    interval = statistics.centred_interval(rho, _rdm_draws(1 - geometry.cosines_of_gram(grams), plane, known))
    n_topics = int((weights > 0).sum())
    rows.append(row(metric="rdm_rho", **interval._asdict(), p=p, m=permutations, n=n_topics))
    return rows


def _correlation_p(x: np.ndarray, y: np.ndarray, permutations: int, rng: np.random.Generator) -> float:
    """Permutation p of |Pearson's r|, over the pairs where y is known."""
    known = np.isfinite(y)
    x, y = x[known] - x[known].mean(), y[known] - y[known].mean()
    scale = np.linalg.norm(x) * np.linalg.norm(y)
    null = rng.permuted(np.tile(y, (permutations, 1)), axis=1) @ x / scale
    return statistics.permutation_p(float(x @ y / scale), null, "two-sided")


def _rdm_draws(rdms: np.ndarray, plane: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Spearman's ρ of each resampled dissimilarity matrix with the distances in the plane.

    Args:
        rdms: ``[draw, emotion, emotion]``; a draw with a NaN is left out.
        plane: distances between the known emotions ``[known, known]``.
        known: bool ``[emotion]``, which emotions are in the norms.

    Returns:
        ``[draw]``, of the draws that are whole.
    """
    upper = np.triu_indices(int(known.sum()), 1)
    values = rdms[:, known][:, :, known][:, upper[0], upper[1]]
    values = rankdata(values[np.isfinite(values).all(axis=1)], axis=1)
    target = rankdata(plane[upper])
    values = values - values.mean(axis=1, keepdims=True)
    target = target - target.mean()
    return values @ target / (np.linalg.norm(values, axis=1) * np.linalg.norm(target))


# -- localisation -----------------------------------------------------------------------------------------------------


def localisation(study: Study, tables: Tables) -> pd.DataFrame:
    """Where over depth the emotions separate best, and whether a U describes it (C6).

    One row a pooling and criterion. ``layer`` and ``depth``: the best layer on all topics, with a bootstrap interval of
    the depth over topics. ``chosen_layer``: the best on one half of the topics; ``held_out``: the criterion there on
    the other half, with interval, ``chance`` and, for the decoders, a label-permutation p. ``u_gain``: AICc of a line
    minus that of a parabola, layers 1 … L; ``u_share``: share of resamples in which the curve is a U (better than a
    line, open towards worse, turning inside); ``vertex``: where it turns, with interval, if the curve is a U.

    Criteria: ``cosine`` (the paper's), ``shuffle_excess`` and ``anisotropy_excess`` (the same minus the two baselines),
    ``nearest_centroid`` and ``logistic_regression``, the accuracy of either.

    Args:
        study: what one model held.
        tables: its ``separation`` and ``anisotropy``.
    """
    rows: list[dict[str, Any]] = []
    for pooling in study.reading.pooled:
        for criterion in CRITERIA:
            compute = partial(_locate, study, tables, pooling, criterion)
            rows += study.unit(f"localisation {pooling} {criterion}", compute)
            study.progress("localisation", 1, len(study.reading.pooled) * len(CRITERIA))
    return pd.DataFrame(rows)


def _locate(study: Study, tables: Tables, pooling: str, criterion: str) -> list[dict[str, Any]]:
    """The row of one pooling and criterion."""
    layers = np.array(study.reading.layers[1:])  # the embedding output is no layer of the model's own work
    depth = layers / study.n_layers
    losses, resampled = _losses(study, tables, pooling, criterion)
    best = int(layers[losses.argmin()])
    # A resample in which some emotion lost all its texts has no curve.
    resampled = resampled[np.isfinite(resampled).all(axis=1)]
    interval = statistics.percentile_interval(best / study.n_layers, depth[resampled.argmin(axis=1)])
    chosen = choose_layer(study, pooling, criterion)
    held_out = _decoding_held_out if criterion in geometry.DECODERS else _cosine_held_out
    row = study.row(pooling, best, criterion=criterion, low=interval.low, high=interval.high, n=len(set(study.topics)))
    row |= {"chosen_layer": chosen, "chosen_depth": chosen / study.n_layers}
    return [row | held_out(study, pooling, criterion, chosen) | _bends(depth, losses, resampled)]


def _losses(study: Study, tables: Tables, pooling: str, criterion: str) -> tuple[np.ndarray, np.ndarray]:
    """The criterion over layers 1 … L so that lower is better.

    Returns:
        As measured ``[layer]``, and in each resample of topics ``[draw, layer]``.
    """
    layers = study.reading.layers[1:]
    if criterion in geometry.DECODERS:
        correct = (
            geometry.decode(study.layer(pooling, layer), study.emotions, study.topics, criterion) for layer in layers
        )
        sums, sizes = zip(*(_by_topic(texts.astype(float), study.topics) for texts in correct), strict=True)
        by_topic = np.stack(sums)  # [layer, topic]
        return -by_topic.mean(axis=1), -(study.draws() @ by_topic.T) / (study.draws() @ sizes[0])[:, None]
    separation, anisotropy = (
        select(tables[name], pooling=pooling).pivot(index="layer", columns="metric", values="value").loc[layers]
        for name in ("separation", "anisotropy")
    )
    cosine = separation["cosine"].to_numpy()
    baseline = {
        "cosine": np.zeros(len(layers)),
        "shuffle_excess": cosine - separation["shuffle_excess"].to_numpy(),
        "anisotropy_excess": anisotropy["group_cosine"].to_numpy(),
    }[criterion]
    resampled = np.stack([_cosine_draws(study, pooling, layer) for layer in layers], axis=1)
    return cosine - baseline, resampled - baseline


def _bends(depth: np.ndarray, losses: np.ndarray, resampled: np.ndarray) -> dict[str, float]:
    """Whether the curve is a U, in how many resamples, and where it turns; NaN for a model of too few layers."""
    row = dict.fromkeys(("u_gain", "u_share", "vertex", "vertex_low", "vertex_high"), np.nan)
    if len(depth) < statistics.MIN_BEND_LAYERS:
        return row
    whole = statistics.bend(depth, losses)
    draws = [statistics.bend(depth, draw) for draw in resampled]
    row |= {"u_gain": whole.gain, "u_share": float(np.mean([draw.is_u for draw in draws])) if draws else np.nan}
    if not whole.is_u:
        return row
    vertex = statistics.percentile_interval(whole.vertex, np.array([draw.vertex for draw in draws if draw.is_u]))
    return row | {"vertex": vertex.value, "vertex_low": vertex.low, "vertex_high": vertex.high}


def _cosine_held_out(study: Study, pooling: str, criterion: str, layer: int) -> dict[str, float]:
    """A cosine criterion at the chosen layer on the half of the topics that did not choose it."""
    half = study.halves[1]
    value = half_cosine(study, pooling, layer, half, criterion)
    interval = statistics.centred_interval(value, _cosine_draws(study, pooling, layer, half))
    return {"held_out": value, "held_low": interval.low, "held_high": interval.high}


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
    null = np.empty(study.settings.decoder_permutations)
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
