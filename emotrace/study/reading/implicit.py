"""Where an implied emotion ranks among all, from features of passages and of scenarios: arrays → rows of tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from emotrace.instrument import corpus
from emotrace.measures import statistics
from emotrace.study.reading import projection
from emotrace.study.reading.projection import Texts

TOP = 3
NEAR = 1.0
"""Two emotions are of one family within this distance in the plane of the norms (1–9)."""
VECTORS, EMBEDDINGS, TFIDF = READERS = ("vectors", "embeddings", "tfidf")
"""What ranks the emotions: the model's vectors; and words alone, as mean embeddings or as TF-IDF of the passages."""
METRICS = ("top3", "top3_near", "rank")

Generator = Callable[..., np.random.Generator]
"""Gives the generator of a purpose, as ``study.rng`` does."""
Rows = list[dict[str, Any]]


def ranked(
    table: pd.DataFrame, texts: Texts, states: np.ndarray, permutations: int, bootstrap: int, rng: Generator
) -> tuple[Rows, Rows]:
    """One reader's rows of ``implicit`` (scenarios) and of ``implicit_rates`` (metrics), without the study's columns.

    Args:
        table: the scenarios: columns ``id`` and ``emotion``, all of ``texts.names``.
        texts: the passages.
        states: the same features of the scenarios, ``[scenario, d]``.
        permutations: of the passages' labels, and of the targets.
        bootstrap: resamples of emotions.
        rng: the generators.
    """
    names, emotions = list(texts.names), table["emotion"].to_numpy(dtype=str)
    targets = np.array([names.index(name) for name in emotions])
    norms = corpus.emotions().loc[names]
    family = projection.near(norms["valence"].to_numpy(), norms["arousal"].to_numpy(), NEAR)
    projections = projection.Projections(texts, states)
    scored = projections.own()
    found = _found(scored, targets, family)
    first = [names[index] for index in scored.argmax(axis=1)]
    scenarios = [
        {"scenario": id, "emotion": emotion, "rank": float(rank), "hit": int(rank <= TOP), "first": highest}
        for id, emotion, rank, highest in zip(table["id"], emotions, found["rank"], first, strict=True)
    ]
    nulls = {
        "": [_found(drawn, targets, family) for drawn in projections.shuffled(permutations, rng("labels"))],
        "shuffled_": [
            _found(scored, rng("targets", draw).permutation(targets), family) for draw in range(permutations)
        ],
    }
    chance = (min(TOP / len(names), 1.0), projection.chance_near(targets, family, TOP), (len(names) + 1) / 2)
    rates = []
    for metric, at_chance in zip(METRICS, chance, strict=True):
        value, side = float(found[metric].mean()), "less" if metric == "rank" else "greater"
        clustered = clustered_interval(found[metric], emotions, bootstrap, rng)
        interval = statistics.wilson(int(found[metric].sum()), len(table)) if metric == "top3" else clustered
        row = {"metric": metric, **interval._asdict(), "n": len(table), "chance": at_chance, "m": permutations}
        row |= {"clustered_low": clustered.low, "clustered_high": clustered.high}
        for prefix, draws in nulls.items():
            null = np.array([draw[metric].mean() for draw in draws])
            row |= {f"{prefix}null": null.mean(), f"{prefix}p": statistics.permutation_p(value, null, side)}
        rates.append(row)
    return scenarios, rates


def _found(scored: np.ndarray, targets: np.ndarray, family: np.ndarray) -> dict[str, np.ndarray]:
    """Metric → its value of each scenario, ``[scenario]``."""
    rank = projection.ranks(scored, targets)
    hits = (rank <= TOP).astype(float), projection.near_hits(scored, targets, family, TOP).astype(float)
    return dict(zip(METRICS, (*hits, rank), strict=True))


def clustered_interval(values: np.ndarray, emotions: np.ndarray, bootstrap: int, rng: Generator) -> statistics.Interval:
    """The mean of ``values [scenario]`` with its bootstrap interval over emotions (some have two scenarios)."""
    draws = projection.cluster_draws(values, emotions, bootstrap, rng("emotions"))
    return statistics.percentile_interval(float(values.mean()), draws)


def over_words(own: Rows, words: Rows, metric: str, bootstrap: int, rng: Generator) -> dict[str, Any]:
    """The row of the difference in top-3 rate between two readers of the same scenarios, paired by scenario.

    ``p``: McNemar's exact test, one-sided, over the scenarios that one reader alone has in the top 3 (``m`` of them).
    """
    hits, others = (np.array([row["hit"] for row in rows], dtype=float) for rows in (own, words))
    interval = clustered_interval(hits - others, np.array([row["emotion"] for row in own]), bootstrap, rng)
    gained, lost = int((hits > others).sum()), int((hits < others).sum())
    p = float(stats.binomtest(gained, gained + lost, 0.5, "greater").pvalue) if gained + lost else 1.0
    row = {"metric": metric, **interval._asdict(), "n": len(own), "chance": 0.0, "p": p, "m": gained + lost}
    return row | {"clustered_low": interval.low, "clustered_high": interval.high}
