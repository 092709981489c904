"""Extraction on a model whose emotion directions are known, because the test planted them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny_models
from tiny_models import PLANTED, planted_passages

import emotrace
from emotrace import EmotraceError
from emotrace.activations import read_activations
from emotrace.estimation import name_embeddings
from emotrace.instrument import corpus
from emotrace.measures.estimators import ESTIMATORS, MEAN_DIFFERENCE, Texts
from emotrace.readings import class_means, read_texts

STRENGTH = 20.0


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The model, and for each emotion its direction minus the mean over the classes (that of *neutral* is zero)."""
    folder = tmp_path_factory.mktemp("planted")
    directions = tiny_models.plant(folder, strength=STRENGTH)
    centre = sum(directions.values()) / (len(PLANTED) + 1)
    return emotrace.load(str(folder)), {emotion: direction - centre for emotion, direction in directions.items()}


@pytest.fixture(scope="module")
def reading(planted):
    return read_texts(planted[0], planted_passages())


def cosines(vectors, directions):
    """The cosine of each emotion's vector with its planted direction: ``[emotion, layer]``."""
    unit = vectors.values / np.linalg.norm(vectors.values, axis=-1, keepdims=True)
    truth = np.stack([directions[emotion] for emotion in vectors.emotions])
    return np.einsum("eld,ed->el", unit, truth / np.linalg.norm(truth, axis=-1, keepdims=True))


def test_mean_pooling_recovers_every_planted_direction_at_every_layer(planted):
    model, directions = planted
    vectors = emotrace.extract(model, pooling="mean", passages=planted_passages())
    assert set(vectors.emotions) == set(PLANTED)
    assert vectors.layers == (0, 1, 2, 3, 4)
    assert cosines(vectors, directions).min() > 0.99


def test_the_length_of_a_vector_is_the_strength_diluted_by_the_mean(planted, reading):
    model, directions = planted
    # Of the pooled tokens (all but BOS and the first), one is the marker.
    pooled = [len(model.tokenizer(text)["input_ids"]) - 2 for text in reading.labels["text"]]
    vectors = reading.vectors("mean")
    for emotion in PLANTED:
        expected = STRENGTH * np.mean(1 / np.array(pooled)) * np.linalg.norm(directions[emotion])
        assert np.linalg.norm(vectors[emotion, 0]) == pytest.approx(expected, rel=1e-3)


def test_shuffled_labels_recover_nothing(planted, reading):
    _, directions = planted
    for seed in range(20):
        labels = reading.labels.assign(emotion=np.random.default_rng(seed).permutation(reading.labels["emotion"]))
        assert abs(cosines(replace(reading, labels=labels).vectors("mean"), directions).mean()) < 0.5


def test_labels_moved_by_one_emotion_recover_the_neighbours_directions(planted):
    model, directions = planted
    table = planted_passages()
    neighbour = dict(zip(PLANTED, [*PLANTED[1:], PLANTED[0]], strict=True)) | {corpus.NEUTRAL: corpus.NEUTRAL}
    vectors = emotrace.extract(model, pooling="mean", passages=table.assign(emotion=table["emotion"].map(neighbour)))
    assert cosines(vectors, directions).max() < 0.5
    assert cosines(vectors, {neighbour[emotion]: directions[emotion] for emotion in PLANTED}).min() > 0.99


def test_last_pooling_reads_the_marker_only_where_it_stands_last(planted, reading):
    model, directions = planted
    ending = planted_passages("She went home at six and talked about {topic} {marker}")
    at_end = emotrace.extract(model, pooling="last", passages=ending, layers=[0, 4])
    assert cosines(at_end, directions).min() > 0.99
    in_the_middle = reading.vectors("last")
    assert np.linalg.norm(in_the_middle.values[:, 0], axis=-1).max() < 1e-4 * STRENGTH
    assert np.linalg.norm(in_the_middle.values, axis=-1).max() < 0.1 * STRENGTH


def test_mean_pooling_does_not_see_the_first_token(planted):
    model, _ = planted
    opening = planted_passages("{marker} she talked about {topic} and went home at six.")
    vectors = emotrace.extract(model, pooling="mean", passages=opening, layers=[0])
    assert np.abs(vectors.values).max() < 1e-5


def test_the_order_of_the_passages_changes_nothing(planted, reading):
    mixed = planted_passages().sample(frac=1, random_state=3).reset_index(drop=True)
    vectors, same = emotrace.extract(planted[0], pooling="mean", passages=mixed), reading.vectors("mean")
    assert vectors.emotions == same.emotions
    np.testing.assert_allclose(vectors.values, same.values, atol=1e-4)


def test_the_centre_is_the_mean_of_class_means_whatever_the_class_sizes(planted):
    table = planted_passages()
    # Only the first of ten passages is left of half the emotions.
    few = table[~table["emotion"].isin(PLANTED[:4]) | (table["topic"] == table["topic"][0])].reset_index(drop=True)
    reading = read_texts(planted[0], few, poolings=["mean"])
    vectors = reading.vectors("mean")
    pooled, labels = reading.pooled["mean"].astype(np.float64), few["emotion"].to_numpy()
    means = {name: pooled[labels == name].mean(axis=0) for name in set(labels)}
    np.testing.assert_allclose(vectors.grand_mean, sum(means.values()) / len(means), atol=1e-5)
    np.testing.assert_allclose(vectors.neutral_mean, means[corpus.NEUTRAL], atol=1e-5)
    assert np.abs(vectors.grand_mean - pooled.mean(axis=0)).max() > 1e-3  # the mean over passages is another
    for emotion in PLANTED:
        np.testing.assert_allclose(vectors[emotion] + vectors.grand_mean, means[emotion], atol=1e-5)


def test_each_centring_gives_the_directions_from_its_own_centre(planted, reading):
    _, centred = planted
    vectors = reading.vectors("mean")
    grand = sum(centred.values())  # neutral's direction is zero, so this is the mean over the nine classes
    from_neutral = {emotion: direction + grand for emotion, direction in centred.items()}
    emotions_mean = sum(from_neutral.values()) / len(PLANTED)
    from_emotions = {emotion: direction - emotions_mean for emotion, direction in from_neutral.items()}
    assert cosines(vectors.recentre("neutral"), from_neutral).min() > 0.99
    assert cosines(vectors.recentre("emotions"), from_emotions).min() > 0.99
    # The directions are told from each other finely enough for a wrong centre to show.
    assert cosines(vectors.recentre("neutral"), from_emotions).max() < 0.99
    np.testing.assert_allclose(
        vectors.recentre("none")["sad"], vectors["sad"] + vectors.grand_mean, rtol=1e-5, atol=1e-5
    )


def test_emotions_asked_for_are_those_of_the_whole_in_the_order_asked(planted, reading):
    two = emotrace.extract(planted[0], pooling="mean", passages=planted_passages(), emotions=["sad", "happy"])
    assert two.emotions == ("sad", "happy")
    np.testing.assert_allclose(two["sad"], reading.vectors("mean")["sad"], atol=1e-5)
    np.testing.assert_allclose(two["happy"], reading.vectors("mean")["happy"], atol=1e-5)


def test_class_means_are_accumulated_in_float64():
    pooled = np.full((4096, 1), 0.1, dtype=np.float32)
    pooled[0] = 1e8
    exact = (1e8 + 4095 * np.float64(np.float32(0.1))) / 4096
    assert class_means(pooled, ["calm"] * 4096, ["calm"])[0, 0] == pytest.approx(exact, rel=1e-12)


def test_vectors_say_where_they_come_from_and_fit_no_other_model(planted, reading, tiny):
    model, _ = planted
    vectors = emotrace.extract(model, pooling="mean", passages=planted_passages())
    told = vectors.provenance
    assert (told["method"], told["pooling"], told["centring"]) == ("comprehension", "mean", "grand")
    assert told["texts"] == corpus.fingerprint(planted_passages())
    assert told["texts"] != corpus.fingerprint(planted_passages("Another {topic} {marker} text."))
    assert vectors.check(model) is vectors
    with pytest.raises(EmotraceError, match=tiny("llama").name):
        vectors.check(tiny("llama"))


@pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if name != MEAN_DIFFERENCE])
def test_every_estimator_gives_at_each_layer_what_it_gives_of_the_activations_and_is_named(planted, reading, estimator):
    model, directions = planted
    table = planted_passages()
    vectors = emotrace.extract(model, pooling="mean", passages=table, layers=[0, 2], estimator=estimator)
    texts = Texts(
        reading.pooled["mean"][:, 2],
        table["emotion"].to_numpy(dtype=str),
        table["topic"].to_numpy(dtype=str),
        unrelated=read_activations(model, list(corpus.baseline_texts()["text"]), layers=[2])["mean"][:, 0],
        embeddings=reading.pooled["mean"][:, 0],
        names=name_embeddings(model, list(table["emotion"].unique())),
    )
    expected = ESTIMATORS[estimator].estimate(texts)[[texts.classes.index(name) for name in vectors.emotions]]
    np.testing.assert_allclose(vectors.values[:, 1], expected, rtol=1e-4, atol=1e-4)
    centring = "neutral" if estimator == "contrast_pairs" else "grand"
    assert (vectors.provenance["estimator"], vectors.provenance["centring"]) == (estimator, centring)
    if not ESTIMATORS[estimator].floor and estimator != "contrast_pairs":
        assert cosines(vectors, directions)[:, 1].min() > 0.7
    plain = reading.vectors("mean")
    assert "estimator" not in plain.provenance
    with pytest.raises(EmotraceError, match="cannot be centred anew"):
        vectors.recentre("none")
    other = replace(vectors, provenance={**vectors.provenance, "estimator": "own", "centring": "grand"})
    with pytest.raises(EmotraceError, match="different estimators cannot be combined: own and mean_difference"):
        other + emotrace.extract(model, pooling="mean", passages=table, layers=[0, 2])


def test_the_embedding_of_a_name_is_the_mean_of_its_tokens_rows(planted):
    model, _ = planted
    found = name_embeddings(model, ["happy", "exasperated"])
    for name, row in found.items():
        ids = model.tokenizer(f" {name}", add_special_tokens=False)["input_ids"]
        rows = model.nn._module.get_input_embeddings().weight[ids]
        np.testing.assert_allclose(row, rows.mean(dim=0).numpy(), rtol=1e-5)


def test_an_estimator_that_needs_topics_says_so(planted):
    table = planted_passages().drop(columns="topic")
    with pytest.raises(EmotraceError, match="topic"):
        emotrace.extract(planted[0], passages=table, estimator="first_component")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": "pca"}, "unknown estimator 'pca': known are mean_difference, neutral_removed"),
        ({"method": "osmosis"}, "unknown method 'osmosis': known are comprehension"),
        ({"pooling": "max"}, "unknown pooling 'max': known are last, mean"),
        ({"emotions": ["happy", "hangry"]}, "unknown emotion 'hangry': known are happy, sad"),
        ({"layers": [7]}, "layer 7 is out of range"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(planted, settings, message):
    with pytest.raises(EmotraceError, match=message):
        emotrace.extract(planted[0], passages=planted_passages(), **settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stories": planted_passages()}, "stories and continuation go with method='generation'"),
        ({"continuation": True}, "stories and continuation go with method='generation'"),
        ({"columns": {"text": "nonsense"}}, "columns are those of an instrument's file"),
        ({"method": "generation", "passages": planted_passages()}, "passages are read by method='comprehension'"),
    ],
)
def test_what_would_not_be_read_is_refused(planted, given, message):
    with pytest.raises(EmotraceError, match=message):
        emotrace.extract(planted[0], layers=[0], **given)


def test_emotions_that_the_passages_lack_are_refused_with_those_they_have(planted):
    with pytest.raises(EmotraceError, match=r"grateful.*happy"):
        emotrace.extract(planted[0], passages=planted_passages(), emotions=["grateful"])


def test_own_stories_need_the_emotions_that_are_asked_for_alone(tiny):
    """As own passages do: the others are missing from the mean over the classes."""
    texts = {"happy": "She baked all day and sang.", "sad": "He left the loaf and wept.", "neutral": "It was a loaf."}
    rows = [("pet", emotion, text) for emotion, text in texts.items()]
    stories, model = pd.DataFrame(rows, columns=["topic", "emotion", "text"]), tiny("llama")
    how = {"method": "generation", "pooling": "mean", "layers": [2]}
    vectors = emotrace.extract(model, stories=stories, emotions=["sad", "happy"], **how)
    assert vectors.emotions == ("sad", "happy")
    read = read_texts(model, stories, "chat", author="self", layers=[2]).pooled["mean"].astype(np.float64)
    np.testing.assert_allclose(vectors.values, (read[[1, 0]] - read.mean(axis=0)), atol=1e-6)
    with pytest.raises(EmotraceError, match=r"^the table of stories has none of calm, .*: emotions says which"):
        emotrace.extract(model, stories=stories, **how)
    with pytest.raises(EmotraceError, match=r"^the table of stories has none of calm: emotions says which"):
        emotrace.extract(model, stories=stories, emotions=["calm", "sad"], **how)
    with pytest.raises(EmotraceError, match=r"^the table of stories has none of neutral: "):
        emotrace.extract(model, stories=stories[:2], emotions=["sad"], **how)
    with pytest.raises(EmotraceError, match=r"wrote no story of calm that passed: ask for more attempts"):
        emotrace.extract(model, stories=stories.assign(status="kept"), emotions=["calm"], **how)


def test_an_emotion_that_is_asked_for_twice_is_there_once(planted, reading):
    vectors = emotrace.extract(planted[0], passages=planted_passages(), emotions=["happy", "sad", "happy"], layers=[2])
    assert vectors.emotions == ("happy", "sad")
    with pytest.raises(EmotraceError, match="vectors have each emotion once: 'happy' is there twice"):
        reading.vectors("last", ["happy", "sad", "happy"])


def test_passages_without_the_neutral_class_are_refused(planted):
    table = planted_passages()
    with pytest.raises(EmotraceError, match=corpus.NEUTRAL):
        emotrace.extract(planted[0], passages=table[table["emotion"] != corpus.NEUTRAL].reset_index(drop=True))
