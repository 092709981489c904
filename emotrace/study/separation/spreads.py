"""The emotions' spread at one layer of a study, its null and their ratio, as measured and in every resample of topics.

Computed once for a pooling and layer and shared by the tables that need it: the same resamples and shuffles at every
layer, so that curves can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from emotrace.measures import grams, groups, spread, statistics
from emotrace.study.study import GROUP_REPEATS, Study

SHUFFLES = 24
"""Label shuffles behind the null of every resample; the null as measured has all the permutations of the settings."""
SPREADS = {
    "cosine": None,
    "shuffled_cosine": None,
    "noise_cosine": None,
    "shuffle_excess": 0.0,
    "ratio": 1.0,
    "intraclass": 0.0,
}
"""The measures of separation, and what each is where a label says nothing; for the cosines that is measured."""


@dataclass(frozen=True)
class Spreads:
    """Separation at one layer, float64 ``[1 + draw]`` each: first as measured, then in the resamples of topics.

    Attributes:
        cosine: the centroids' mean pairwise cosine.
        null: the mean of the same with labels shuffled within topics, the same shuffles in every resample.
        intraclass: the emotions' cross-validated share of variance (:func:`emotrace.measures.spread.intraclass`).
        effective: texts a centroid.
        shuffled: the cosine as measured for each of the settings' permutations ``[permutation]``.
        m: how many of these differ, at most.
    """

    cosine: np.ndarray
    null: np.ndarray
    intraclass: np.ndarray
    effective: np.ndarray
    shuffled: np.ndarray
    m: float

    def of(self, criterion: str) -> np.ndarray:
        """One of ``SPREADS``, ``[1 + draw]``."""
        if criterion == "shuffled_cosine":
            return self.null
        if criterion == "shuffle_excess":
            return self.cosine - self.null
        if criterion == "noise_cosine":
            return spread.noise_cosine(self.cosine, self.null, self.effective)
        if criterion == "ratio":
            return spread.ratio(self.cosine, self.null, self.effective)
        return {"cosine": self.cosine, "intraclass": self.intraclass}[criterion]

    def interval(self, criterion: str) -> statistics.Interval:
        """The criterion with its interval over topics, the null recomputed in each resample."""
        values = self.of(criterion)
        return statistics.centred_interval(float(values[0]), values[1:])

    @property
    def p(self) -> float:
        """Of the cosine against labels shuffled within topics; R's too, of which it is a decreasing function."""
        return statistics.permutation_p(float(self.cosine[0]), self.shuffled, "less")


def spreads(study: Study, pooling: str, layer: int, half: np.ndarray | None = None) -> Spreads:
    """:class:`Spreads` at a layer, from the topics of ``half`` (bool ``[topic]``; None: all)."""
    key = ("spreads", pooling, layer, None if half is None else tuple(half))
    return study.measured(key, partial(_measure, study, pooling, layer, half))


def _measure(study: Study, pooling: str, layer: int, half: np.ndarray | None) -> Spreads:
    within = np.ones(len(set(study.topics)), dtype=bool) if half is None else half
    crossed = spread.Crossed.of(study.topics, study.emotions, study.names_in(half))
    products = crossed.products(study.layer(pooling, layer))
    weights = np.vstack([within, study.draws(half)]).astype(np.float64)
    orders = crossed.orders(study.settings.permutations, study.rng("shuffle", list(within)))
    shuffled = spread.whole_cosines(products, crossed, orders, within)[1:]
    few = spread.centroid_cosines(products, crossed, orders[: 1 + min(SHUFFLES, len(shuffled))], weights)
    null = few[1:].mean(axis=0)
    # A few shuffles stand for all of them in the resamples: their error, alike in each, is taken out.
    if null[0] < 1:
        null = 1 - (1 - null) * (1 - shuffled.mean()) / (1 - null[0])
    intraclass = spread.intraclass(products.gram, crossed, weights)
    differ = min(len(shuffled), crossed.groupings(within) - 1)
    return Spreads(few[0], null, intraclass, crossed.effective(weights), shuffled, differ)


def half_value(study: Study, pooling: str, layer: int, half: np.ndarray, criterion: str) -> float:
    """A criterion of one half of the topics, without resamples; baselines have the same number of texts a centroid.

    ``criterion`` as :meth:`Spreads.of` takes it, or ``anisotropy_excess``, the cosine less that of unrelated texts.
    """
    crossed = spread.Crossed.of(study.topics, study.emotions, study.names_in(half))
    products = crossed.products(study.layer(pooling, layer))
    permutations = min(99, study.settings.permutations)
    orders = crossed.orders(permutations, study.rng("half shuffle"))
    cosine, *shuffled = spread.whole_cosines(products, crossed, orders, half)
    if criterion == "anisotropy_excess":
        unrelated = study.baseline[pooling][:, study.reading.layers.index(layer)]
        sizes = study.group_sizes(half)
        return cosine - groups.group_cosine(unrelated, sizes, GROUP_REPEATS, study.rng("half groups"))
    weights = half[None].astype(np.float64)
    intraclass = spread.intraclass(products.gram, crossed, weights)
    value = Spreads(
        np.array([cosine]),
        np.array([np.mean(shuffled)]),
        intraclass,
        crossed.effective(weights),
        np.array(shuffled),
        len(shuffled),
    ).of(criterion)
    return float(value[0])


def against_unrelated(study: Study, pooling: str, layer: int, half: np.ndarray) -> statistics.Interval:
    """(1 − cosine of the emotions' centroids) / (1 − that of groups of unrelated texts of the same size), on one half.

    The paper's kind of baseline. Above 1: emotions lie further apart than unrelated texts. The interval resamples the
    topics and, independently, the unrelated texts, within the groups that they were dealt to.
    """
    unrelated = study.baseline[pooling][:, study.reading.layers.index(layer)].astype(np.float64)
    n, repeats = len(unrelated), GROUP_REPEATS
    draws = statistics.topic_draws(n, study.settings.bootstrap, study.rng("unrelated", "draws"))
    weights = np.vstack([np.ones(n), draws])
    dealt = groups.group_members(n, study.group_sizes(half), repeats, study.rng("half groups"))
    products = unrelated @ unrelated.T
    total = np.zeros(len(weights))
    for members in dealt:
        weighted = members[None] * weights[:, None]  # [draw, group, text]
        sums = (weighted.reshape(-1, n) @ products).reshape(weighted.shape) @ weighted.transpose(0, 2, 1)
        total += grams.mean_cosine(sums)  # a group that lost all its texts forms no pair
    ratio = (1 - spreads(study, pooling, layer, half).cosine) / (1 - total / repeats)
    return statistics.centred_interval(float(ratio[0]), ratio[1:])
