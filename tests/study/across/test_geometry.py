"""Geometries of emotions: planted ones that agree or do not, resamples against naive loops, shared texts."""

import itertools

import numpy as np
import pandas as pd
import pytest
from planted_streams import EMOTIONS, FACTS
from scipy.stats import spearmanr

from emotrace.errors import EmotraceError
from emotrace.measures import geometry
from emotrace.study.across import geometry as across_geometry
from emotrace.study.across.geometry import Geometry, TopicGram


def geometry_of(model: str, vectors: np.ndarray, method="comprehension", pooling="mean", topics=None) -> Geometry:
    return Geometry(model, method, pooling, 3, 0.5, EMOTIONS[: len(vectors)], vectors, topics)


def compared(*geometries: Geometry, draws=50, permutations=199) -> pd.DataFrame:
    return across_geometry.correlations(list(geometries), FACTS, draws, permutations, 0)


def test_a_geometry_that_is_shifted_scaled_and_turned_into_another_width_is_the_same():
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((20, 6))
    turned = 40 * vectors @ np.linalg.qr(rng.standard_normal((9, 9)))[0][:6] + 7
    row = compared(geometry_of("a", vectors), geometry_of("b", turned)).iloc[0]
    assert row["value"] == pytest.approx(1, abs=1e-9)
    assert row["p"] == 1 / 200
    assert (row["n"], row["m"]) == (20, 199)
    assert row["low"] == pytest.approx(1, abs=1e-9)


def test_permuted_emotions_have_nothing_in_common():
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((20, 2))  # two dimensions: a geometry with structure, not twenty equal distances
    row = compared(geometry_of("a", vectors), geometry_of("b", vectors[rng.permutation(20)])).iloc[0]
    assert abs(row["value"]) < 0.25
    assert row["p"] > 0.05
    assert row["low"] < 0 < row["high"]


def test_pairs_are_described_by_what_they_share():
    vectors = np.random.default_rng(3).standard_normal((20, 5))
    table = compared(
        geometry_of("a", vectors),
        geometry_of("a", vectors, method="generation"),
        geometry_of("b", vectors, pooling="last"),
        geometry_of("c", vectors),
    )
    assert len(table) == 6
    flags = ["same_model", "same_family", "same_method", "same_pooling"]
    assert [table[flag].tolist() for flag in flags] == [
        [True, False, False, False, False, False],
        [True, False, True, False, True, False],
        [False, True, True, False, False, True],
        [True, False, True, False, True, False],
    ]
    assert table["kinds"].tolist() == ["instruct × instruct", *["base × instruct"] * 4, "base × base"]


def test_only_common_emotions_are_compared():
    vectors = np.random.default_rng(4).standard_normal((20, 5))
    fewer = Geometry("b", "comprehension", "mean", 2, 0.5, EMOTIONS[9:0:-1], vectors[9:0:-1])
    row = compared(geometry_of("a", vectors), fewer).iloc[0]
    assert row["n"] == 9
    assert row["value"] == pytest.approx(1, abs=1e-9)
    with pytest.raises(EmotraceError, match="four common emotions or more, not 3"):
        compared(geometry_of("a", vectors), geometry_of("b", vectors[:3]))


def test_resamples_of_emotions_equal_a_naive_loop():
    rng = np.random.default_rng(5)
    rdms = np.stack([geometry.rdm(rng.standard_normal((8, 4))) for _ in range(2)])
    picks = rng.integers(8, size=(6, 8))
    found = across_geometry._over_emotions(rdms, picks)
    for draw, pick in enumerate(picks):
        pairs = [(pick[i], pick[j]) for i, j in itertools.combinations(range(8), 2) if pick[i] != pick[j]]
        naive = spearmanr(*([rdm[pair] for pair in pairs] for rdm in rdms)).statistic
        assert found[draw, 0, 1] == pytest.approx(naive, abs=1e-12)


def topic_gram(cells: np.ndarray) -> TopicGram:
    """Of one text a cell ``[topic, emotion, d_model]``."""
    flat = (cells - cells.mean(axis=(0, 1))).reshape(-1, cells.shape[2])
    gram = (flat @ flat.T).reshape(cells.shape[:2] * 2)
    return TopicGram(
        tuple(f"t{n}" for n in range(len(cells))), EMOTIONS[: cells.shape[1]], gram, np.ones(cells.shape[:2])
    )


def test_topic_weights_give_the_geometry_of_the_weighted_means():
    rng = np.random.default_rng(6)
    cells = rng.standard_normal((5, 7, 11)) + 30  # a common offset, as in an anisotropic space
    weights = rng.multinomial(5, np.full(5, 0.2), size=4).astype(float)
    chosen = [EMOTIONS[place] for place in (4, 0, 6, 2)]
    found = topic_gram(cells).rdms(weights, chosen)
    for draw, weight in enumerate(weights):
        means = np.tensordot(weight / weight.sum(), cells, 1)[[4, 0, 6, 2]]
        np.testing.assert_allclose(found[draw], geometry.rdm(means - means.mean(axis=0)), atol=1e-9)


def test_halves_of_the_topics_tell_shared_texts_from_shared_emotions():
    rng = np.random.default_rng(7)
    emotions, texts = rng.standard_normal((1, 20, 4)), rng.standard_normal((8, 20, 4))
    same = np.broadcast_to(emotions, (8, 20, 4)) + 0 * texts

    def both(cells: np.ndarray) -> pd.Series:
        sides = [geometry_of(model, cells.mean(axis=0), topics=topic_gram(cells)) for model in ("a", "b")]
        return compared(*sides).iloc[0]

    noiseless, noise = both(same), both(texts)
    assert noiseless["disjoint"] == pytest.approx(1, abs=1e-9)
    assert noiseless["ceiling"] == pytest.approx(1, abs=1e-9)
    # The same texts with no emotion in them agree perfectly, until they are read on different topics.
    assert noise["value"] == pytest.approx(1, abs=1e-9)
    assert abs(noise["disjoint"]) < 0.15
    assert noise["ceiling"] < 0.3
    assert noise["n_topics"] == 8
    other = topic_gram(texts)
    renamed = TopicGram(tuple("stuvwxyz"), other.emotions, other.gram, other.counts)
    pair = geometry_of("a", texts.mean(axis=0), topics=other), geometry_of("b", texts.mean(axis=0), topics=renamed)
    assert "disjoint" not in compared(*pair)  # other topics cannot be resampled together
