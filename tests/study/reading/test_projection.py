"""Vectors, ranks and orders against what they are by definition, computed in another way."""

import math
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from emotrace.measures.geometry import shuffle_within_topics
from emotrace.study.reading import projection
from emotrace.study.reading.projection import Projections, Texts

NAMES = ["a", "b", "c"]


def texts(seed: int = 0, offset: float = 1e4) -> Texts:
    """Unequal numbers of texts, and an offset that all share, a thousand times what tells them apart."""
    rng = np.random.default_rng(seed)
    labels = [("t1", "a"), ("t1", "a"), ("t1", "b"), ("t2", "c"), ("t2", "b"), ("t2", "a"), ("t3", "b"), ("t3", "c")]
    topics, emotions = (np.array(column) for column in zip(*labels, strict=True))
    return Texts(rng.normal(size=(8, 5)) + offset, topics, emotions, NAMES)


def by_hand(features: np.ndarray, emotions: np.ndarray) -> np.ndarray:
    centroids = np.array([features[emotions == name].mean(axis=0) for name in NAMES])
    vectors = centroids - centroids.mean(axis=0)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_vector_leads_from_the_mean_of_the_centroids_to_one_of_them():
    given = texts()
    assert np.allclose(given.vectors(), by_hand(given.features, given.emotions), atol=1e-9)


def test_projections_are_those_on_the_vectors_after_the_states_mean_is_taken_off():
    given, states = texts(), np.random.default_rng(1).normal(size=(4, 5)) - 300
    expected = (states - states.mean(axis=0)) @ by_hand(given.features, given.emotions).T
    assert np.allclose(Projections(given, states).own(), expected, atol=1e-7)
    # what all states share does not count
    assert np.allclose(Projections(given, states + np.arange(5)).own(), expected, atol=1e-7)


def test_a_shuffle_keeps_the_labels_of_every_topic_and_gives_the_vectors_of_the_new_ones():
    given, states = texts(), np.random.default_rng(1).normal(size=(4, 5))
    centred, rng = states - states.mean(axis=0), np.random.default_rng(7)
    drawn = list(Projections(given, states).shuffled(20, np.random.default_rng(7)))
    for scored in drawn:
        labels = given.emotions[shuffle_within_topics(np.arange(8), given.topics, rng)]
        for topic in set(given.topics):
            assert sorted(labels[given.topics == topic]) == sorted(given.emotions[given.topics == topic])
        assert np.allclose(scored, centred @ by_hand(given.features, labels).T, atol=1e-7)
    assert len({scored.tobytes() for scored in drawn}) > 10


def test_ranks_count_higher_scores_and_share_ties():
    scored = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [5.0, 5.0, 0.0], [0.0, 0.0, 0.0]])
    assert list(projection.ranks(scored, np.array([0, 1, 1, 2]))) == [1, 3, 1.5, 2]


def test_emotions_are_near_within_the_distance_and_alone_without_norms():
    valence, arousal = np.array([1.0, 1.6, 4.0, np.nan]), np.array([2.0, 2.8, 2.0, 2.0])
    family = projection.near(valence, arousal, 1.0)
    assert [list(row) for row in family.astype(int)] == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    scored = np.array([[0.0, 9.0, 5.0, 1.0], [0.0, 9.0, 5.0, 1.0]])
    assert list(projection.near_hits(scored, np.array([0, 2]), family, 1)) == [True, False]
    assert list(projection.near_hits(scored, np.array([3, 2]), family, 2)) == [False, True]


def test_the_chance_of_a_near_hit_is_that_of_random_orders():
    family = np.eye(6, dtype=bool)
    family[0, 1] = family[1, 0] = True
    targets, rng = np.array([0, 2, 3]), np.random.default_rng(0)
    exact = (2 * (1 / 3) + 1 - math.comb(4, 2) / math.comb(6, 2)) / 3
    assert projection.chance_near(targets, family, 2) == pytest.approx(exact)
    drawn = [projection.near_hits(rng.normal(size=(3, 6)), targets, family, 2).mean() for _ in range(4000)]
    assert np.mean(drawn) == pytest.approx(exact, abs=0.02)


def test_a_resample_takes_whole_clusters():
    values, clusters = np.array([1.0, 1.0, 0.0, 0.0]), np.array(["a", "a", "b", "b"])
    draws = projection.cluster_draws(values, clusters, 400, np.random.default_rng(0))
    assert set(draws) == {0.0, 0.5, 1.0}  # four units drawn singly would also give quarters
    assert (draws == 0.5).mean() == pytest.approx(0.5, abs=0.08)


def test_rho_is_spearmans_along_the_last_axis():
    values = np.random.default_rng(0).normal(size=(3, 2, 7))
    expected = [[stats.spearmanr(np.arange(7), row).statistic for row in block] for block in values]
    assert np.allclose(projection.rho(values), expected)
    tied = np.array([1.0, 1.0, 2.0, 2.0, 3.0])
    assert projection.rho(tied) == pytest.approx(stats.spearmanr(np.arange(5), tied).statistic)
    assert np.isnan(projection.rho(np.ones(5)))


def test_the_p_of_rho_counts_every_order():
    values = np.array([0.3, 0.1, 0.7, 0.6, 0.9])
    own = stats.spearmanr(np.arange(5), values).statistic
    orders = [stats.spearmanr(np.arange(5), order).statistic for order in permutations(values)]
    assert projection.rho_p(values) == pytest.approx(np.mean(np.array(orders) >= own - 1e-12))
    assert projection.rho_p(np.arange(8.0)) == pytest.approx(1 / math.factorial(8))
    assert projection.rho_p(-np.arange(8.0)) == 1
    with pytest.raises(ValueError, match="too many"):
        projection.rho_p(np.arange(9.0))
