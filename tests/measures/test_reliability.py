"""Reliability of vectors against closed forms: planted emotions, noise, and what halves of the topics agree on."""

import numpy as np
import pytest

from emotrace.errors import EmotraceError
from emotrace.measures import geometry
from emotrace.measures.reliability import reliability

TOPICS, EMOTIONS, WIDTH = 12, 20, 400
NAMES = [f"e{index}" for index in range(EMOTIONS)]
TOPIC_OF = np.repeat([f"t{index}" for index in range(TOPICS)], EMOTIONS)
EMOTION_OF = np.array(NAMES * TOPICS)


def texts(strengths, rng):
    """A topic, an emotion of its own strength in units of the noise, and noise of unit variance in each dimension."""
    emotion = np.asarray(strengths)[:, None] * rng.normal(size=(EMOTIONS, WIDTH))
    topic = 4 * rng.normal(size=(TOPICS, 1, WIDTH))
    return (7 + topic + emotion + rng.normal(size=(TOPICS, EMOTIONS, WIDTH))).reshape(-1, WIDTH)


def test_split_half_cosine_and_its_correction_are_the_shares_of_variance():
    """Halves of 6 topics: signal s², noise 1/6 each; the whole against another whole: s² / (s² + 1/12)."""
    strengths = np.linspace(0.2, 1.0, EMOTIONS)
    rng = np.random.default_rng(0)
    found = reliability(texts(strengths, rng), TOPIC_OF, EMOTION_OF, NAMES, rng, splits=30, draws=19)
    variance = 0.95 * strengths**2 + 0.05 * np.mean(strengths**2)  # less the mean of all emotions
    noise = 0.95
    np.testing.assert_allclose(found.split_half, variance / (variance + noise / 6), atol=0.12)
    np.testing.assert_allclose(found.spearman_brown, variance / (variance + noise / 12), atol=0.12)
    assert np.corrcoef(found.split_half, strengths)[0, 1] > 0.9
    assert (found.texts == TOPICS).all()


def test_length_is_the_permuted_labels_where_there_is_no_emotion_and_grows_with_one():
    rng, ps, lengths = np.random.default_rng(1), [], []
    for _ in range(15):
        found = reliability(texts(np.zeros(EMOTIONS), rng), TOPIC_OF, EMOTION_OF, NAMES, rng, splits=2, draws=39)
        ps, lengths = [*ps, *found.p], [*lengths, *found.length]
    assert np.mean(lengths) == pytest.approx(1, abs=0.02)
    assert np.mean(np.array(ps) <= 0.05) < 0.09
    assert np.mean(ps) == pytest.approx(0.5, abs=0.06)
    one = np.zeros(EMOTIONS)
    one[3] = 1.0
    found = reliability(texts(one, rng), TOPIC_OF, EMOTION_OF, NAMES, rng, splits=2, draws=39)
    # |signal|² 0.95² + noise 0.95 / 12, over the noise and the 1/12 of the emotion that a shuffled class holds
    assert found.length[3] > 2.5
    assert found.p[3] == 1 / 40
    assert np.delete(found.length, 3).max() < 1.5


def test_a_vector_of_noise_has_halves_that_do_not_agree():
    rng = np.random.default_rng(2)
    found = reliability(texts(np.zeros(EMOTIONS), rng), TOPIC_OF, EMOTION_OF, NAMES, rng, splits=30, draws=9)
    assert np.abs(found.split_half).max() < 0.2
    assert np.isnan(found.spearman_brown[found.split_half < 0]).all()


def test_only_the_names_asked_for_are_reported_and_all_classes_are_the_centre():
    rng = np.random.default_rng(3)
    activations = texts(np.ones(EMOTIONS), rng)
    whole = reliability(activations, TOPIC_OF, EMOTION_OF, NAMES, np.random.default_rng(0), splits=5, draws=9)
    some = reliability(activations, TOPIC_OF, EMOTION_OF, NAMES[:3], np.random.default_rng(0), splits=5, draws=9)
    np.testing.assert_allclose(some.split_half, whole.split_half[:3])
    expected = geometry.cells(activations, TOPIC_OF, EMOTION_OF, NAMES).centroids()
    null = geometry.permuted_label_vectors(activations, TOPIC_OF, EMOTION_OF, NAMES, 9, _after_splits(5))
    lengths = np.linalg.norm(expected - expected.mean(axis=0), axis=1) / np.linalg.norm(null, axis=2).mean(axis=0)
    np.testing.assert_allclose(whole.length, lengths)


def _after_splits(splits):
    rng = np.random.default_rng(0)
    for _ in range(splits):
        rng.permutation(TOPICS)
    return rng


def test_an_emotion_of_one_topic_has_no_split_half_and_three_topics_are_refused():
    rng = np.random.default_rng(4)
    activations = texts(np.ones(EMOTIONS), rng)
    kept = (EMOTION_OF != "e0") | (TOPIC_OF == "t2")
    found = reliability(activations[kept], TOPIC_OF[kept], EMOTION_OF[kept], NAMES, rng, splits=5, draws=9)
    assert np.isnan(found.split_half).tolist() == [True] + [False] * (EMOTIONS - 1)
    few = np.isin(TOPIC_OF, ["t0", "t1", "t2"])
    with pytest.raises(EmotraceError, match="at least four topics, not 3"):
        reliability(activations[few], TOPIC_OF[few], EMOTION_OF[few], NAMES, rng)


# -- vectors of permuted labels ---------------------------------------------------------------------------------------


def five_classes(rng, topics):
    """Two texts a cell: an offset, a class and noise; their topics and classes."""
    topic_of, class_of = (index.ravel() for index in np.indices((topics, 5, 2))[:2])
    activations = 3 + 2 * rng.normal(size=(5, 40))[class_of] + rng.normal(size=(len(class_of), 40))
    return activations, [f"t{index}" for index in topic_of], [f"e{index}" for index in class_of]


def test_permuted_label_vectors_are_centred_class_means_of_shuffled_labels():
    texts, topics, emotions = five_classes(np.random.default_rng(30), 4)
    vectors = geometry.permuted_label_vectors(texts, topics, emotions, ["e1", "e4"], 3, np.random.default_rng(1))
    rng, labels = np.random.default_rng(1), []
    for _ in range(3):
        labels.append(geometry.shuffle_within_topics(emotions, topics, rng))
    for draw, shuffled in enumerate(labels):
        means = {name: texts[shuffled == name].mean(axis=0) for name in NAMES[:5]}
        grand = sum(means.values()) / 5
        np.testing.assert_allclose(vectors[draw], [means["e1"] - grand, means["e4"] - grand])


def test_permuted_label_vectors_lose_the_emotion_and_keep_the_length_that_noise_alone_gives():
    """Of 20 classes' means of 12 texts each, noise of unit variance leaves a squared length of d (1 − 1/20) / 12."""
    rng, width = np.random.default_rng(31), 60
    names = [f"e{index}" for index in range(20)]
    emotion_of, topic_of = names * 12, np.repeat([f"t{index}" for index in range(12)], 20)
    direction = 30 * rng.normal(size=width)
    texts = 5 + 9 * rng.normal(size=(12, width)).repeat(20, axis=0) + rng.normal(size=(240, width))
    null = geometry.permuted_label_vectors(texts, topic_of, emotion_of, names, 50, rng)
    assert (null**2).sum(axis=2).mean() == pytest.approx(width * (1 - 1 / 20) / 12, rel=0.05)
    texts[np.array(emotion_of) == "e3"] += direction
    shuffled = geometry.permuted_label_vectors(texts, topic_of, emotion_of, ["e3"], 400, rng)[:, 0]
    # A shuffled class holds a twentieth of the direction on average, as does the mean of all.
    assert abs((shuffled @ direction).mean() / (direction @ direction)) < 0.02
    real = texts[np.array(emotion_of) == "e3"].mean(axis=0) - texts.mean(axis=0)
    assert real @ direction / (direction @ direction) == pytest.approx(0.95, abs=0.02)


def test_permuted_label_vectors_shuffle_alike_in_every_layer_and_refuse_a_name_without_text():
    texts, topics, emotions = five_classes(np.random.default_rng(32), 3)
    both = np.stack([texts, 2 * texts], axis=1)
    vectors = geometry.permuted_label_vectors(both, topics, emotions, NAMES[:5], 2, np.random.default_rng(2))
    assert vectors.shape == (2, 5, 2, texts.shape[1])
    np.testing.assert_allclose(vectors[:, :, 1], 2 * vectors[:, :, 0])
    with pytest.raises(EmotraceError, match="'bored'"):
        geometry.permuted_label_vectors(texts, topics, emotions, ["bored"], 2, np.random.default_rng(2))
