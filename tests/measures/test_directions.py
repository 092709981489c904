"""Read-outs of directions against loops, scikit-learn's ROC curve and closed forms."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from emotrace.measures import directions


def test_decoding_standardises_by_the_training_texts_and_knows_no_scale():
    rng = np.random.default_rng(0)
    train = rng.normal(size=(500, 3)) * [1, 10, 1] + [0, 50, 0]
    vectors = np.diag([5.0, 0.1, 2.0])
    test = np.array([[2.0, 55, 0], [0, 75, 1], [0, 50, 1.0], [0.0, 20, -4]])  # z: 2 0.5 0; 0 2.5 1; 0 0 1; 0 −3 −4
    assert directions.decoded(vectors, train, test).tolist() == [0, 1, 2, 0]
    lost = np.vstack([np.full(3, np.nan), vectors[1:]])
    assert directions.decoded(lost, train, test).tolist() == [1, 1, 2, 1]


def test_mean_rank_is_the_area_under_the_roc_curve_and_an_offset_of_a_topic_changes_nothing():
    rng = np.random.default_rng(1)
    vectors, classes = rng.normal(size=(3, 8)), np.tile([0, 1, 2], 20)
    topics = np.zeros(60, dtype=int)
    texts = rng.normal(size=(60, 8)) + 0.4 * vectors[classes]
    found = directions.ranks(vectors, texts, classes, topics)
    for own in range(3):
        area = roc_auc_score(classes == own, texts @ vectors[own])
        assert found[classes == own].mean() == pytest.approx(area)
    halves = np.repeat([0, 1], 30)
    within = directions.ranks(vectors, texts, classes, halves)
    shifted = directions.ranks(vectors, texts + 100 * halves[:, None], classes, halves)
    np.testing.assert_allclose(within, shifted)
    assert not np.allclose(found, directions.ranks(vectors, texts + 100 * halves[:, None], classes, topics))


def test_ranks_of_ties_are_chance_and_of_a_topic_without_another_class_unknown():
    texts, vectors = np.ones((4, 2)), np.eye(2)
    found = directions.ranks(vectors, texts, np.array([0, 1, 0, 0]), np.array(["a", "a", "b", "b"]))
    np.testing.assert_array_equal(found, [0.5, 0.5, np.nan, np.nan])


def test_the_share_among_texts_is_that_of_the_components_and_of_a_random_direction_their_number():
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.normal(size=(50, 10)))[0].T
    texts = 3 + rng.normal(size=(400, 5)) @ basis[:5]
    vectors = np.array([basis[0], 3 * basis[7], basis[1] + basis[8], 2 * basis[2] + basis[9]])
    found, chance = directions.share_within(vectors, texts, 0.9999)
    np.testing.assert_allclose(found, [1, 0, 0.5, 0.8], atol=1e-6)
    assert chance == 5 / 50
    np.testing.assert_allclose(directions.cosines(vectors, basis[[0, 7, 1, 9]]), [1, 1, 0.5**0.5, 0.2**0.5])
