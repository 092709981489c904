"""Valence and arousal in the emotion vectors over depth, and what else their axes follow → ``geometry``."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from emotrace.measures import geometry, statistics, words_floor
from emotrace.study.study import Study, choose_layer

_PRODUCTS = 20_000_000
"""Inner products that are held at once."""
SURFACE = ("dialogue", "length", "exclamation_marks", "question_marks", "commas")
"""What of the passages themselves a first component may follow: means over an emotion's texts."""


def geometry_table(study: Study) -> pd.DataFrame:
    """Valence and arousal in the emotion vectors, layer by layer, and once on held-out topics.

    Metrics: ``pcK_valence_r`` and ``pcK_arousal_r``, Pearson's r of the emotions' scores on principal component K with
    the norms (Warriner et al. 2013; *exasperated* has none), Fisher interval, permutation p by |r|; a component's sign
    is arbitrary, so each is turned to correlate positively with valence; ``pcK_variance``, its share;
    ``rdm_rho``, Spearman's ρ between the vectors' dissimilarities (1 − cosine, centred on the 20) and distances in the
    valence–arousal plane, interval by bootstrap over topics, Mantel p. What else the first component may follow:
    ``pc1_X_r`` with X of ``SURFACE``, the share of an emotion's texts with direct speech, their mean numbers of words
    and marks; ``pc1_valence_given_dialogue_r``, partial.
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
    norms = study.source.norms.loc[names]
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
    rows += [row(**values) for values in _surface_rows(study, names, scores[:, 0], valence)]
    known = np.isfinite(valence)
    plane = geometry.plane_distances(valence[known], arousal[known])
    dissimilarities = geometry.rdm(vectors)[np.ix_(known, known)]
    rho, p = statistics.mantel(dissimilarities, plane, permutations, study.rng("mantel"))
    draws = study.draws(half)
    few = max(1, _PRODUCTS // cells.gram[0].size)  # draws at once: each has inner products of as many sums
    grams = (
        geometry.centre_gram(cells.centroid_grams(draws[start : start + few])) for start in range(0, len(draws), few)
    )
    resampled = [_rdm_draws(1 - geometry.cosines_of_gram(gram), plane, known) for gram in grams]
    interval = statistics.centred_interval(rho, np.concatenate(resampled))
    n_topics = int((weights > 0).sum())
    rows.append(row(metric="rdm_rho", **interval._asdict(), p=p, m=permutations, n=n_topics))
    return rows


def _surface_rows(study: Study, names: list[str], scores: np.ndarray, valence: np.ndarray) -> list[dict[str, Any]]:
    """How the emotions' scores on the first component go with what their texts look like."""
    surface = study.once(_surface).loc[names]
    scores = scores * (np.sign(statistics.pearson(scores, valence).value) or 1)
    rows = []
    for name in SURFACE:
        values = surface[name].to_numpy()
        r = statistics.pearson(scores, values)
        rows.append({"metric": f"pc1_{name}_r", **r._asdict(), "n": len(values)})
    known = np.isfinite(valence)
    kept = [_without(values[known], surface["dialogue"].to_numpy()[known]) for values in (scores, valence)]
    # Rounding is all that is left where dialogue is the component.
    rest = statistics.pearson(*kept) if min(map(np.ptp, kept)) > 1e-9 * np.ptp(scores) else (np.nan,) * 3
    value, low, high = rest
    n = int(known.sum())
    return [*rows, {"metric": "pc1_valence_given_dialogue_r", "value": value, "low": low, "high": high, "n": n}]


def _surface(study: Study) -> pd.DataFrame:
    """Mean surface of each emotion's passages, the columns ``SURFACE``."""
    texts = study.reading.labels["text"].to_numpy()[study.emotional]
    tokens = [study.source.words(text) for text in texts]
    table = pd.DataFrame(words_floor.surface_counts(texts, tokens), columns=words_floor.SURFACE)
    table = table.assign(dialogue=[words_floor.has_speech(text) for text in texts], length=table["words"])
    return table[list(SURFACE)].astype(float).groupby(study.emotions).mean()


def _without(values: np.ndarray, other: np.ndarray) -> np.ndarray:
    """What a line through ``other`` leaves of ``values``."""
    if np.ptp(other) == 0:
        return values - values.mean()
    return values - np.polyval(np.polyfit(other, values, 1), other)


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
