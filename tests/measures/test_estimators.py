"""Each estimator against a closed form and on planted directions; each test of the second kind says where it fails."""

import itertools

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression

from emotrace.errors import EmotraceError
from emotrace.measures import estimators, geometry
from emotrace.measures.estimators import ESTIMATORS, Texts

CLASSES, TOPICS, WIDTH = ("neutral", "happy", "sad", "calm", "angry", "proud"), 12, 60


def crossed(rng, *, signal=1.0, shared=0.0, topic=0.0, copies=1, noise=1.0):
    """Texts = topic + signal × class + ``shared`` × one loud direction that says nothing + noise; and the truth.

    Classes' directions are orthonormal, times 3, and have a quarter of their square along the loud direction.
    """
    basis = np.linalg.qr(rng.normal(size=(WIDTH, len(CLASSES) + 1)))[0].T
    loud, own = basis[0], 3 * (np.sqrt(0.75) * basis[1:] + 0.5 * rng.choice([-1, 1], len(CLASSES))[:, None] * basis[0])
    rows = list(itertools.product(range(TOPICS), range(len(CLASSES)), range(copies)))
    topic_parts = topic * rng.normal(size=(TOPICS, WIDTH))
    activations = np.array([2 + topic_parts[t] + signal * own[c] for t, c, _ in rows])
    activations += shared * rng.normal(size=(len(rows), 1)) * loud + noise * rng.normal(size=activations.shape)
    texts = Texts(
        activations,
        np.array([CLASSES[c] for _, c, _ in rows]),
        np.array([f"t{t}" for t, _, _ in rows]),
        unrelated=2 + 5 * rng.normal(size=(80, 1)) * loud + rng.normal(size=(80, WIDTH)),
    )
    return texts, own - own.mean(axis=0), loud


def cosines(first, second):
    return (geometry.unit(first) * geometry.unit(second)).sum(axis=1)


def discrimination(vectors, own, shared, loud):
    """d′ of each class's read-out: its truth along the vector over the noise along it, with unit noise and the loud."""
    units = geometry.unit(vectors)
    return (units * own).sum(axis=1) / np.sqrt(1 + shared**2 * (units @ loud) ** 2)


# -- closed forms -----------------------------------------------------------------------------------------------------


def test_the_mean_difference_is_class_means_less_their_mean_however_many_texts_each_has():
    texts, _, _ = crossed(np.random.default_rng(0))
    some = texts.rows(np.array([row for row in range(len(texts.emotions)) if row % 7]))
    means = np.stack([some.activations[some.emotions == name].mean(axis=0) for name in some.classes])
    np.testing.assert_allclose(estimators.mean_difference(some), means - means.mean(axis=0))


def test_neutral_removed_is_orthogonal_to_the_components_and_changes_nothing_else():
    texts, _, loud = crossed(np.random.default_rng(1))
    found, plain = estimators.neutral_removed(texts), estimators.mean_difference(texts)
    (basis,) = geometry.neutral_components(texts.unrelated[:, None], estimators.NEUTRAL_SHARE)
    np.testing.assert_allclose(found @ basis.T, 0, atol=1e-12)
    np.testing.assert_allclose(found, plain - plain @ basis.T @ basis)
    assert np.linalg.norm(basis @ loud) > 0.95


@pytest.mark.parametrize("copies", [1, 3])
def test_whitened_is_the_inverse_of_scikit_learns_shrunk_covariance_times_the_difference(copies):
    texts, _, _ = crossed(np.random.default_rng(2), shared=4, copies=copies)
    residuals = np.concatenate(
        [part - part.mean(axis=0) for part in (texts.activations[texts.emotions == name] for name in texts.classes)]
    )
    covariance, shrinkage = ledoit_wolf(residuals, assume_centered=True)
    assert 0 < shrinkage < 1
    plain = estimators.mean_difference(texts)
    expected = np.linalg.solve(covariance, plain.T).T
    found = estimators.whitened(texts)
    np.testing.assert_allclose(cosines(found, expected), 1)
    along = np.abs((geometry.unit(expected) * plain).sum(axis=1))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), along)


def test_the_probe_has_the_weights_of_the_regression_in_all_dimensions():
    texts, _, _ = crossed(np.random.default_rng(3))
    few = texts.rows(texts.topics < "t2")  # fewer texts than dimensions, so that the span is used
    assert len(few.emotions) < WIDTH
    centre, scale = few.activations.mean(axis=0), few.activations.std(axis=0)
    whole = LogisticRegression(C=1.0, max_iter=5000, tol=1e-8).fit((few.activations - centre) / scale, few.emotions)
    expected = (whole.coef_ / scale)[[list(whole.classes_).index(name) for name in few.classes]]
    np.testing.assert_allclose(cosines(estimators.logistic(few), expected), 1, atol=2e-3)


def test_the_first_component_is_that_of_the_contrasts_on_one_topic_turned_towards_the_class():
    texts, _, _ = crossed(np.random.default_rng(4), copies=2)
    found = estimators.first_component(texts)
    for index, name in enumerate(texts.classes):
        contrasts = np.array(
            [
                row - texts.activations[(texts.emotions != name) & (texts.topics == topic)].mean(axis=0)
                for row, emotion, topic in zip(texts.activations, texts.emotions, texts.topics, strict=True)
                if emotion == name
            ]
        )
        values, vectors = np.linalg.eigh(contrasts.T @ contrasts)
        assert abs(cosines(found[index : index + 1], vectors[:, -1:].T)[0]) == pytest.approx(1)
        assert found[index] @ contrasts.mean(axis=0) > 0
        assert values[-1] > 1.2 * values[-2]


def test_contrast_pairs_are_the_means_from_neutral_where_crossed_and_keep_the_topic_out_where_not():
    rng = np.random.default_rng(5)
    texts, _, _ = crossed(rng, topic=5)
    plain = estimators.mean_difference(texts)
    np.testing.assert_allclose(estimators.contrast_pairs(texts), plain - plain[texts.classes.index("neutral")])
    whole, own, _ = crossed(np.random.default_rng(6), signal=3, topic=8)
    # happy on the first six topics alone: its mean holds their topics, its pairs do not
    half = whole.rows((whole.emotions != "happy") | (whole.topics < "t5"))
    from_neutral = own - own[whole.classes.index("neutral")]
    happy = half.classes.index("happy")
    pairs, means = estimators.contrast_pairs(half), estimators.mean_difference(half)
    assert cosines(pairs, from_neutral)[happy] > 0.85
    assert cosines(means, own)[happy] < 0.6


def test_floors_see_the_words_alone():
    texts, _, _ = crossed(np.random.default_rng(7))
    embeddings = np.random.default_rng(8).normal(size=texts.activations.shape)
    names = {name: np.full(WIDTH, float(index)) for index, name in enumerate(CLASSES)}
    with_words = Texts(texts.activations, texts.emotions, embeddings=embeddings, names=names)
    of_embeddings = Texts(embeddings, texts.emotions)
    np.testing.assert_allclose(estimators.embedding_bag(with_words), estimators.mean_difference(of_embeddings))
    np.testing.assert_allclose(estimators.name_token(with_words)[:, 0], np.arange(6) - 2.5)


# -- what each is made for, and where it fails ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, one in ESTIMATORS.items() if not one.floor])
def test_each_recovers_planted_directions_in_even_noise_and_none_from_shuffled_labels(name):
    rng = np.random.default_rng(9)
    texts, own, loud = crossed(rng, signal=2, copies=2)
    truth = own - (own[0] if name == "contrast_pairs" else 0)
    if name == "neutral_removed":
        truth = own - (own @ loud)[:, None] * loud
    kept = slice(1, None)  # a baseline has no contrast with itself
    found = cosines(ESTIMATORS[name].estimate(texts)[kept], truth[kept])
    assert found.min() > 0.85, found
    shuffled = geometry.shuffle_within_topics(texts.emotions, texts.topics, rng)
    lost = Texts(texts.activations, shuffled, texts.topics, texts.unrelated)
    order = [lost.classes.index(one) for one in texts.classes]
    assert cosines(ESTIMATORS[name].estimate(lost)[order][kept], truth[kept]).mean() < 0.5


def test_under_correlated_noise_the_mean_fails_and_the_whitened_does_not():
    """One loud direction that says nothing, 12 times the noise: class means of 12 texts are mostly it."""
    shared, wins = 12.0, []
    for seed in range(5):
        texts, own, loud = crossed(np.random.default_rng(seed), shared=shared, copies=2)
        of = {name: ESTIMATORS[name].estimate(texts) for name in ("mean_difference", "whitened", "neutral_removed")}
        along = {name: np.abs(geometry.unit(vectors) @ loud).mean() for name, vectors in of.items()}
        quality = {name: discrimination(vectors, own, shared, loud).mean() for name, vectors in of.items()}
        assert along["mean_difference"] > 0.25 > 0.1 > along["whitened"]
        wins.append([quality["mean_difference"], quality["whitened"], quality["neutral_removed"]])
    mean, white, removed = np.mean(wins, axis=0)
    assert mean < 1.0
    assert white > 1.5
    assert removed > 1.5  # unrelated texts have that noise too


def test_neutral_removed_fails_where_the_noise_is_not_in_unrelated_texts_or_the_emotion_is():
    texts, own, loud = crossed(np.random.default_rng(10), shared=12, copies=2)
    elsewhere = Texts(
        texts.activations,
        texts.emotions,
        unrelated=5 * np.random.default_rng(0).normal(size=(80, 1)) * geometry.unit(own[1]) + 0.1,
    )
    found = estimators.neutral_removed(elsewhere)
    assert np.abs(geometry.unit(found) @ loud).mean() > 0.4  # the noise is still there
    assert abs(cosines(found, own)[1]) < 0.3  # and the emotion that lies along what was removed is not


def test_the_first_component_fails_where_something_varies_more_than_the_emotion():
    """It is the mean's direction in even noise, and the loud direction's where that varies more; the mean keeps more"""
    quiet, own, _ = crossed(np.random.default_rng(11), shared=0, copies=2)
    assert cosines(estimators.first_component(quiet), own).min() > 0.85
    noisy, own, loud = crossed(np.random.default_rng(11), shared=6, copies=2)
    assert np.abs(geometry.unit(estimators.first_component(noisy)) @ loud).min() > 0.85
    assert np.abs(geometry.unit(estimators.mean_difference(noisy)) @ loud).mean() < 0.8


def test_the_probe_wins_with_many_texts_under_correlated_noise_and_has_worse_directions_in_even_noise():
    many, own, loud = crossed(np.random.default_rng(12), shared=12, copies=6)
    quality = [
        discrimination(ESTIMATORS[n].estimate(many), own, 12, loud).mean() for n in ("logistic", "mean_difference")
    ]
    assert quality[0] > 1.5 * quality[1]
    few, own, _ = crossed(np.random.default_rng(13), signal=0.5)
    mean, probe = (cosines(ESTIMATORS[n].estimate(few), own).mean() for n in ("mean_difference", "logistic"))
    assert mean > probe + 0.02


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_the_list_says_what_each_needs_and_without_it_each_says_so_in_a_line():
    bare = crossed(np.random.default_rng(14))[0]
    bare = Texts(bare.activations, bare.emotions)
    for one in ESTIMATORS.values():
        if one.needs:
            with pytest.raises(EmotraceError) as refused:
                one.estimate(bare)
            assert "\n" not in str(refused.value)
        else:
            assert one.estimate(bare).shape == (len(CLASSES), WIDTH)
        assert set(one.needs) <= set(Texts.__dataclass_fields__)


def test_what_has_no_pair_or_too_few_classes_is_refused_by_name():
    texts, _, _ = crossed(np.random.default_rng(15))
    alone = Texts(texts.activations, texts.emotions, np.where(texts.emotions == "sad", "elsewhere", texts.topics))
    for estimate in (estimators.first_component, estimators.contrast_pairs):
        with pytest.raises(EmotraceError, match=r"(those of|with those of) 'sad'"):
            estimate(alone)
    with pytest.raises(EmotraceError, match="three classes"):
        estimators.logistic(texts.rows(np.isin(texts.emotions, ["sad", "calm"])))
    with pytest.raises(EmotraceError, match="unknown estimator 'pca': known are mean_difference"):
        estimators.estimate("pca", texts)


@pytest.mark.parametrize("name", [name for name, one in ESTIMATORS.items() if not one.floor])
def test_where_all_texts_hold_the_same_every_vector_is_zero_and_without_noise_whitened_is_the_mean(name):
    texts, _, _ = crossed(np.random.default_rng(16))
    same = 1e-12 * texts.activations + np.arange(WIDTH)
    alike = Texts(same, texts.emotions, texts.topics, texts.unrelated)
    np.testing.assert_array_equal(estimators.estimate(name, alike), np.zeros((len(CLASSES), WIDTH)))
    certain = Texts(np.repeat(np.eye(6), 2, axis=0), np.repeat(CLASSES, 2))
    np.testing.assert_allclose(estimators.whitened(certain), estimators.mean_difference(certain))
