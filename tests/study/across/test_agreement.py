"""What two geometries share beyond the words: planted words, planted emotions, naive partial correlations."""

import itertools

import numpy as np
import pytest
from planted_streams import EMOTIONS, FACTS
from scipy.stats import rankdata

from emotrace.study.across import geometry as across_geometry
from emotrace.study.across.agreement import beyond_words, residual_ranks, standardised_ranks
from emotrace.study.across.geometry import Geometry, TopicGram

TOPICS, N, WIDTH = 12, 20, 30


def topic_gram(cells: np.ndarray) -> TopicGram:
    """Of one text a cell ``[topic, emotion, d_model]``."""
    flat = (cells - cells.mean(axis=(0, 1))).reshape(-1, cells.shape[2])
    gram = (flat @ flat.T).reshape(cells.shape[:2] * 2)
    return TopicGram(tuple(f"t{n}" for n in range(len(cells))), EMOTIONS, gram, np.ones(cells.shape[:2]))


def turned(rng, vectors):
    """The same vectors in a wider space, turned at random."""
    return vectors @ np.linalg.qr(rng.normal(size=(WIDTH, vectors.shape[-1])))[0].T


def read(rng, name, words, emotions, noise=0.5) -> Geometry:
    """A model that reads ``words [topic, emotion, …]`` and adds ``emotions [emotion, …]`` of its own."""
    cells = turned(rng, words) + turned(rng, emotions)[None] + noise * rng.normal(size=(TOPICS, N, WIDTH))
    kept = (topic_gram(turned(rng, words)), topic_gram(words))
    return Geometry(name, "comprehension", "mean", 3, 0.5, EMOTIONS, cells.mean(axis=0), topic_gram(cells), kept)


def compared(*geometries):
    return across_geometry.correlations(list(geometries), FACTS, 60, 99, 0).iloc[0]


def words_of(rng):
    return rng.normal(size=(1, N, 6)) + 0.5 * rng.normal(size=(TOPICS, N, 6))


def test_models_that_know_no_more_than_the_words_agree_until_the_words_are_taken_out():
    """The published verdict: ρ in the sequel's band although neither model adds anything."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(6):
        words, nothing = words_of(rng), np.zeros((N, 4))
        rows.append(compared(read(rng, "a", words, nothing), read(rng, "b", words, nothing)))
    assert np.mean([row["value"] for row in rows]) > 0.74
    assert min(row["words"] for row in rows) > 0.9
    assert abs(np.mean([row["given_words"] for row in rows])) < 0.2
    assert all(row["shared_low"] < 0.5 for row in rows)


def test_emotions_that_two_models_share_are_found_beyond_the_words_and_their_own_are_not():
    rng = np.random.default_rng(1)
    shared, own = [], []
    for _ in range(6):
        words, one, other = words_of(rng), 1.5 * rng.normal(size=(N, 4)), 1.5 * rng.normal(size=(N, 4))
        shared.append(compared(read(rng, "a", words, one), read(rng, "b", words, one)))
        own.append(compared(read(rng, "a", words, one), read(rng, "b", words, other)))
    assert np.mean([row["shared"] for row in shared]) > 0.7
    assert min(row["shared_low"] for row in shared) > 0
    assert abs(np.mean([row["shared"] for row in own])) < 0.15
    assert max(row["shared_high"] for row in own) < 0.7
    for row in shared:
        assert row["shared"] == pytest.approx(row["disjoint_given_words"] / row["ceiling_given_words"])
        assert row["shared_low"] < row["shared"] < row["shared_high"]


def test_residual_ranks_give_the_partial_correlation_of_regressions():
    rng = np.random.default_rng(2)
    controls = rng.normal(size=(2, 50))
    x, y = controls[0] + rng.normal(size=50), controls[0] - controls[1] + rng.normal(size=50)
    design = np.column_stack([np.ones(50), *map(rankdata, controls)])
    rests = [rankdata(v) - design @ np.linalg.lstsq(design, rankdata(v), rcond=None)[0] for v in (x, y)]
    expected = np.corrcoef(*rests)[0, 1]
    assert residual_ranks(x, controls) @ residual_ranks(y, controls) == pytest.approx(expected)
    assert standardised_ranks(x) @ standardised_ranks(y) != pytest.approx(expected, abs=0.05)
    assert residual_ranks(x, controls[:0]) @ residual_ranks(y, controls[:0]) == pytest.approx(
        standardised_ranks(x) @ standardised_ranks(y)
    )


def test_disjoint_halves_equal_a_loop_and_splits_that_lack_an_emotion_are_left_out():
    rng = np.random.default_rng(3)
    halves = [np.array([[_rdm(rng) for _ in range(4)] for _ in range(2)]) for _ in range(2)]
    words, picks = np.array([_rdm(rng)]), np.array([np.arange(6)])
    wholes = _rdm(rng), _rdm(rng)
    pairs = np.triu_indices(6, 1)

    def partial(a, b):
        return residual_ranks(a[pairs], words[:, *pairs]) @ residual_ranks(b[pairs], words[:, *pairs])

    found = beyond_words(wholes, (halves[0], halves[1]), words, picks)
    crossed = [partial(halves[0][h, s], halves[1][1 - h, s]) for h, s in itertools.product(range(2), range(4))]
    own = [np.mean([partial(half[0, s], half[1, s]) for s in range(4)]) for half in halves]
    assert found.given_words == pytest.approx(partial(*wholes))
    assert found.disjoint == pytest.approx(np.mean(crossed))
    assert found.ceiling == pytest.approx(np.sqrt(max(own[0], 0) * max(own[1], 0)))
    broken = np.concatenate([halves[0], halves[0][:, :1]], axis=1)
    broken[0, -1, 2] = np.nan
    other = np.concatenate([halves[1], halves[1][:, :1]], axis=1)
    assert beyond_words(wholes, (broken, other), words, picks).disjoint == pytest.approx(found.disjoint)


def test_a_geometry_that_does_not_agree_with_itself_has_any_share():
    rng = np.random.default_rng(4)
    words, nothing = words_of(rng), np.zeros((N, 4))
    row = compared(read(rng, "a", words, nothing, 8), read(rng, "b", words, nothing, 8))
    assert (row["shared_low"], row["shared_high"]) == (-2, 2)


def _rdm(rng):
    vectors = rng.normal(size=(6, 3))
    return np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
