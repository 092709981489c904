"""Separation, decoding and axes against naive loops, closed forms and planted structure."""

import itertools

import numpy as np
import pytest
from scipy import stats
from shuffled_labels import shuffled_cosine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from emotrace.errors import EmotraceError
from emotrace.measures import geometry, groups

NAMES = ["happy", "sad", "calm", "angry", "proud"]
DECODERS = ["nearest_centroid", "logistic_regression"]


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def naive_mean_cosine(vectors):
    return np.mean([cosine(a, b) for a, b in itertools.combinations(vectors, 2)])


def planted(rng, signal, topics=12, copies=2, width=40):
    """Texts = a common offset + their topic + ``signal`` × their emotion + noise, with topics and emotions crossed."""
    labels = [(f"t{t}", name) for t in range(topics) for name in NAMES for _ in range(copies)]
    topic_of, emotion_of = map(list, zip(*labels, strict=True))
    topic_parts, emotion_parts = rng.normal(size=(topics, width)), rng.normal(size=(len(NAMES), width))
    texts = 3 + rng.normal(size=(len(labels), width))
    texts += topic_parts[[int(topic[1:]) for topic in topic_of]]
    texts += signal * emotion_parts[[NAMES.index(emotion) for emotion in emotion_of]]
    return texts, topic_of, emotion_of


def uneven():
    """Two texts in one cell, none in another, and a class that is not asked for."""
    rng = np.random.default_rng(0)
    topics = ["b", "b", "b", "a", "a", "c", "c", "c", "b"]
    emotions = ["happy", "happy", "sad", "happy", "calm", "sad", "calm", "neutral", "calm"]
    return rng.normal(size=(9, 6)), topics, emotions


def naive_centroids(texts, topics, emotions, names, weights):
    """Weights by topic; NaN for an emotion without a text."""
    centroids = []
    for name in names:
        rows = [(weights[t], x) for x, t, e in zip(texts, topics, emotions, strict=True) if e == name]
        total = sum(weight for weight, _ in rows)
        centroids.append(sum(w * x for w, x in rows) / total if total else np.full(texts.shape[1], np.nan))
    return np.stack(centroids)


# -- cells ----------------------------------------------------------------------------------------------------------


def test_cells_sum_by_topic_in_order_of_appearance_and_by_the_names_asked_for():
    texts, topics, emotions = uneven()
    cells = geometry.cells(texts, topics, emotions, ["sad", "happy", "calm"])
    np.testing.assert_array_equal(cells.counts, [[1, 2, 1], [0, 1, 1], [1, 0, 1]])
    np.testing.assert_allclose(cells.sums[0], [texts[2], texts[0] + texts[1], texts[8]])
    np.testing.assert_allclose(cells.sums[1], [np.zeros(6), texts[3], texts[4]])
    np.testing.assert_allclose(cells.sums[2], [texts[5], np.zeros(6), texts[6]])


def test_cells_accumulate_float32_activations_in_float64():
    texts = np.array([[2**24], *[[1]] * 100], dtype=np.float32)
    assert geometry.cells(texts, ["t"] * 101, ["sad"] * 101, ["sad"]).sums.item() == 2**24 + 100


def test_centroids_are_the_means_of_all_texts_whatever_their_cells():
    texts, topics, emotions = uneven()
    names = ["happy", "sad", "calm"]
    expected = [texts[np.array(emotions) == name].mean(axis=0) for name in names]
    np.testing.assert_allclose(geometry.cells(texts, topics, emotions, names).centroids(), expected)


@pytest.mark.parametrize("weights", [(1, 1, 1), (2, 0, 1), (0, 3, 0), (0, 2, 1), (3, 0, 0)])
def test_weighted_centroids_and_their_gram_are_the_naive_ones_and_unknown_without_a_text(weights):
    texts, topics, emotions = uneven()
    names = ["happy", "sad", "calm"]
    cells = geometry.cells(texts, topics, emotions, names)
    expected = naive_centroids(texts, topics, emotions, names, dict(zip("bac", weights, strict=True)))
    np.testing.assert_allclose(cells.centroids(np.array(weights, dtype=float)), expected)
    gram = cells.centroid_grams(np.array([[1, 1, 1], weights], dtype=float))[1]
    np.testing.assert_allclose(gram, expected @ expected.T, atol=1e-12)


def test_an_emotion_without_a_text_in_a_draw_is_unknown_and_the_others_are_not():
    texts, topics, emotions = uneven()
    cells = geometry.cells(texts, topics, emotions, ["happy", "sad", "calm"])
    weights = np.array([0.0, 3, 0])  # topic a has no sad text
    assert np.isnan(cells.centroids(weights)).all(axis=1).tolist() == [False, True, False]
    unknown = np.isnan(cells.centroid_grams(weights[None])[0])
    assert unknown.tolist() == [[False, True, False], [True, True, True], [False, True, False]]


# -- cosines --------------------------------------------------------------------------------------------------------


def test_unit_vectors_have_norm_one_and_zero_stays_zero():
    vectors = np.array([[3.0, 4], [0, 0], [-2, 0]])
    np.testing.assert_allclose(geometry.unit(vectors), [[0.6, 0.8], [0, 0], [-1, 0]])


def test_mean_pairwise_cosine_is_the_double_loop_for_each_of_a_stack():
    stack = np.random.default_rng(1).normal(0.5, 1, size=(4, 7, 5))
    stack *= np.arange(1, 8)[:, None]
    np.testing.assert_allclose(geometry.mean_pairwise_cosine(stack), [naive_mean_cosine(vectors) for vectors in stack])


def test_mean_pairwise_cosine_refuses_a_single_vector():
    with pytest.raises(EmotraceError, match="at least two"):
        geometry.mean_pairwise_cosine(np.ones((1, 4)))


def test_orthonormal_vectors_are_pinned_at_minus_one_over_n_minus_one_by_centring():
    vectors = np.linalg.qr(np.random.default_rng(2).normal(size=(30, 9)))[0].T
    assert geometry.mean_pairwise_cosine(vectors) == pytest.approx(0, abs=1e-12)
    assert geometry.mean_pairwise_cosine(vectors - vectors.mean(axis=0)) == pytest.approx(-1 / 8)


def test_cosines_from_the_gram_are_those_of_the_vectors():
    stack = np.random.default_rng(3).normal(0.3, 1, size=(2, 6, 8))
    gram = stack @ stack.swapaxes(1, 2)
    expected = [[[cosine(a, b) for b in vectors] for a in vectors] for vectors in stack]
    np.testing.assert_allclose(geometry.cosines_of_gram(gram), expected)
    np.testing.assert_allclose(geometry.mean_cosine_of_gram(gram), geometry.mean_pairwise_cosine(stack))


def test_centring_the_gram_is_centring_the_vectors():
    stack = np.random.default_rng(4).normal(2, 1, size=(3, 6, 8))
    centred = stack - stack.mean(axis=1, keepdims=True)
    result = geometry.centre_gram(stack @ stack.swapaxes(1, 2))
    np.testing.assert_allclose(result, centred @ centred.swapaxes(1, 2), atol=1e-12)


def test_resampled_cosine_is_the_loop_over_drawn_pairs_without_a_vector_and_itself():
    rng = np.random.default_rng(5)
    vectors = rng.normal(0.2, 1, size=(6, 4)) * rng.uniform(1, 5, size=(6, 1))
    draws = rng.multinomial(6, np.full(6, 1 / 6), size=5).astype(float)
    assert draws.max() >= 2
    expected = []
    for draw in draws:
        drawn = np.repeat(np.arange(6), draw.astype(int))
        pairs = [(i, j) for i, j in itertools.combinations(drawn, 2) if i != j]
        expected.append(np.mean([cosine(vectors[i], vectors[j]) for i, j in pairs]))
    np.testing.assert_allclose(geometry.resampled_pairwise_cosine(vectors, draws), expected)


@pytest.mark.parametrize(("size", "expected"), [(1, 1 / 5), (4, 1 / 2), (16, 4 / 5)])
def test_group_cosine_is_what_averaging_leaves_of_the_noise(size, expected):
    # A common part of squared norm d and noise of squared norm 4d / size: cosine 1 / (1 + 4 / size).
    rng = np.random.default_rng(6)
    vectors = 1 + rng.normal(0, 2, size=(50, 4000)).astype(np.float32)
    assert groups.group_cosine(vectors, [size] * 3, 5, rng) == pytest.approx(expected, abs=0.02)


def test_group_cosine_of_single_vectors_is_the_mean_pairwise_cosine():
    vectors = np.random.default_rng(7).normal(1, 1, size=(10, 5))
    assert groups.group_cosine(vectors, [1], 3, np.random.default_rng(0)) == pytest.approx(naive_mean_cosine(vectors))


def test_group_cosine_needs_two_groups():
    with pytest.raises(EmotraceError, match="23 vectors do not make two groups of 12"):
        groups.group_cosine(np.ones((23, 3)), [12] * 20, 1, np.random.default_rng(0))


def test_shuffled_labels_make_planted_emotions_more_alike():
    rng = np.random.default_rng(8)
    texts = planted(rng, 1.5)
    cells, null = geometry.cells(*texts, NAMES), shuffled_cosine(*texts, NAMES, 99, rng)
    assert len(null) == 99
    assert geometry.mean_pairwise_cosine(cells.centroids()) < null.min() - 0.02


@pytest.mark.parametrize("seed", range(5))
def test_random_labels_lie_inside_the_range_of_the_shuffled(seed):
    rng = np.random.default_rng(seed)
    texts = planted(rng, 0)
    cells, null = geometry.cells(*texts, NAMES), shuffled_cosine(*texts, NAMES, 199, rng)
    assert null.std() > 0
    assert null.min() < geometry.mean_pairwise_cosine(cells.centroids()) < null.max()


def test_silhouettes_are_the_cosine_silhouettes_of_the_centred_texts():
    texts, _, emotions = planted(np.random.default_rng(10), 0.7, topics=3)
    centred = texts - texts.mean(axis=0)
    distance = 1 - np.array([[cosine(a, b) for b in centred] for a in centred])
    labels = np.array(emotions)
    expected = []
    for row, own in enumerate(labels):
        mates = (labels == own) & (np.arange(len(labels)) != row)
        inside = distance[row, mates].mean()
        nearest = min(distance[row, labels == name].mean() for name in NAMES if name != own)
        expected.append((nearest - inside) / max(inside, nearest))
    np.testing.assert_allclose(geometry.silhouettes(texts + 50, emotions), expected, atol=1e-9)


def test_silhouettes_are_positive_for_planted_emotions_and_not_for_shuffled_labels():
    rng = np.random.default_rng(11)
    texts, topics, emotions = planted(rng, 3)
    assert geometry.silhouettes(texts, emotions).mean() > 0.5
    assert geometry.silhouettes(texts, geometry.shuffle_within_topics(emotions, topics, rng)).mean() < 0


# -- decoding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_topics", "folds"), [(12, 6), (4, 4)])
def test_each_topic_lies_in_one_test_fold_and_never_on_both_sides(n_topics, folds):
    topics = np.array([f"t{t}" for t in range(n_topics)] * 5)
    result = geometry.topic_folds(topics)
    assert len(result) == folds
    for train, test in result:
        assert not set(topics[train]) & set(topics[test])
        assert sorted([*train, *test]) == list(range(len(topics)))
    assert sorted(np.concatenate([test for _, test in result])) == list(range(len(topics)))


def test_one_topic_cannot_be_held_out():
    with pytest.raises(EmotraceError, match="at least two topics"):
        geometry.topic_folds(["t"] * 9)


@pytest.mark.parametrize("decoder", DECODERS)
def test_planted_emotions_are_decoded_on_topics_held_out(decoder):
    texts, topics, emotions = planted(np.random.default_rng(12), 1.5)
    assert geometry.decode(texts, emotions, topics, decoder).mean() > 0.95


@pytest.mark.parametrize("decoder", DECODERS)
def test_shuffled_labels_are_decoded_at_chance(decoder):
    rng = np.random.default_rng(13)
    texts, topics, emotions = planted(rng, 1.5)
    labels = geometry.shuffle_within_topics(emotions, topics, rng)
    low, high = stats.binom.interval(0.999, len(texts), 1 / 5)
    assert low <= geometry.decode(texts, labels, topics, decoder).sum() <= high


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_label_owned_by_topics_is_at_chance_though_ungrouped_folds_decode_it(decoder):
    rng = np.random.default_rng(14)
    topics = np.repeat([f"t{t}" for t in range(36)], 3)
    labels = np.repeat(np.array(["sad", "calm", "proud"])[np.arange(36) % 3], 3)
    texts = np.repeat(rng.normal(size=(36, 150)), 3, axis=0) + 0.05 * rng.normal(size=(108, 150))
    low, high = stats.binom.interval(0.999, 36, 1 / 3)  # 36 independent topics, not 108 texts
    assert low / 36 <= geometry.decode(texts, labels, topics, decoder).mean() <= high / 36
    leaky = np.zeros(108, dtype=bool)
    for train, test in KFold(6, shuffle=True, random_state=0).split(texts):
        leaky[test] = geometry.DECODERS[decoder](texts[train], labels[train], texts[test]) == labels[test]
    assert leaky.mean() > 0.75


@pytest.mark.parametrize("decoder", DECODERS)
def test_loud_test_rows_change_their_own_decoding_alone(decoder):
    texts, topics, emotions = planted(np.random.default_rng(15), 3, copies=1, width=20)
    before = geometry.decode(texts, emotions, topics, decoder)
    assert before.mean() > 0.95
    kept, loud_rows = [], []
    for fold, (_, test) in enumerate(geometry.topic_folds(topics)):
        keep = test[fold % len(test)]
        others = test[test != keep]
        loud = texts.copy()
        loud[others] *= -1e6
        after = geometry.decode(loud, emotions, topics, decoder)
        kept.append(after[keep] == before[keep])
        loud_rows.extend(after[others])
    assert all(kept)
    assert np.mean(loud_rows) < 0.5


@pytest.mark.parametrize("width", [10, 60, 150])
def test_logistic_regression_in_the_span_predicts_what_the_plain_pipeline_does(width):
    rng = np.random.default_rng(16)
    centres = rng.normal(size=(4, width)) * 3 / np.sqrt(width)
    labels = np.arange(260) % 4
    texts = centres[labels] + rng.normal(size=(260, width)) + 2
    texts *= rng.uniform(0.1, 10, size=width)
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000, tol=1e-8))
    plain.fit(texts[:60], labels[:60])
    expected = plain.predict(texts[60:])
    assert 0.3 < (expected == labels[60:]).mean() < 0.99  # hard enough that other regressions would differ
    top = np.sort(plain.predict_proba(texts[60:]), axis=1)
    clear = top[:, -1] - top[:, -2] > 0.01  # the module stops at a looser tolerance
    assert clear.mean() > 0.95
    result = geometry.logistic_regression(texts[:60], labels[:60], texts[60:])
    np.testing.assert_array_equal(result[clear], expected[clear])


def test_nearest_centroid_subtracts_the_training_mean_and_compares_angles():
    train = np.array([[10.0, 1], [10, 3], [10, -2], [10, -2]])
    labels = np.array(["up", "up", "down", "down"])
    # About the training mean (10, 0) the first is up by a hair and far aside, the second down.
    test = np.array([[90, 0.1], [-70, -0.1], [10.0, 100]])
    assert geometry.nearest_centroid(train, labels, test).tolist() == ["up", "down", "up"]


def test_nearest_centroid_ignores_the_lengths_of_centroids():
    train = np.array([[1.0, 0.9], [-101, 0.1], [100, -1]])
    labels = np.array(["short", "left", "right"])
    # Directions from the mean (0, 0): (1, 0.9), (-1, 0), (1, -0.01); the longest must not win by its length.
    assert geometry.nearest_centroid(train, labels, np.array([[5.0, 5]])).tolist() == ["short"]


def test_shuffling_within_topics_keeps_each_topics_labels_and_mixes_them():
    topics = np.array(["a", "b"] * 50)
    emotions = np.where(topics == "a", np.repeat(["sad", "calm"], 50), np.repeat(["proud", "angry"], 50))
    original = emotions.copy()
    shuffled = geometry.shuffle_within_topics(emotions, topics, np.random.default_rng(17))
    np.testing.assert_array_equal(emotions, original)
    for topic in "ab":
        assert sorted(shuffled[topics == topic]) == sorted(emotions[topics == topic])
        assert 0.3 < (shuffled == emotions)[topics == topic].mean() < 0.7


# -- axes -----------------------------------------------------------------------------------------------------------


def test_principal_components_are_the_eigenvectors_of_the_covariance():
    vectors = np.random.default_rng(18).normal(4, [5, 3, 1, 0.5], size=(9, 4))
    values, axes = np.linalg.eigh(np.cov(vectors.T))
    scores, shares = geometry.principal_components(vectors, 4)
    np.testing.assert_allclose(shares, values[::-1] / values.sum())
    assert shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(np.abs(scores), np.abs((vectors - vectors.mean(axis=0)) @ axes[:, ::-1]))
    assert geometry.principal_components(vectors)[0].shape == (9, 2)


def test_the_first_component_recovers_a_planted_axis():
    rng = np.random.default_rng(19)
    valence = rng.uniform(1, 9, size=20)
    vectors = 7 + np.outer(valence, rng.normal(size=50)) + 0.1 * rng.normal(size=(20, 50))
    scores, shares = geometry.principal_components(vectors)
    assert abs(np.corrcoef(scores[:, 0], valence)[0, 1]) > 0.999
    assert shares[0] > 0.99


def test_rdm_is_one_minus_cosine_whatever_the_lengths():
    vectors = np.array([[1.0, 0], [0, 1], [-1, 0], [3, 4]])
    expected = [[0, 1, 2, 0.4], [1, 0, 1, 0.2], [2, 1, 0, 1.6], [0.4, 0.2, 1.6, 0]]
    np.testing.assert_allclose(geometry.rdm(vectors), expected, atol=1e-12)
    np.testing.assert_allclose(geometry.rdm(vectors * [[5], [0.1], [7], [1e3]]), expected, atol=1e-12)


def test_plane_distances_by_hand_and_unknown_where_a_norm_is():
    distances = geometry.plane_distances(np.array([1.0, 4, 1, np.nan]), np.array([1.0, 5, 3, 2]))
    np.testing.assert_allclose(distances[:3, :3], [[0, 5, 2], [5, 0, 13**0.5], [2, 13**0.5, 0]])
    assert np.isnan(distances[3]).all()
