"""Counts and words decode what was planted in them, nothing from labels that mean nothing, and at the stated rate."""

import numpy as np
import pytest

from emotrace.errors import EmotraceError
from emotrace.measures import words_floor
from emotrace.measures.words_floor import (
    SURFACE,
    Owned,
    counts_leak,
    decode_counts,
    decode_tfidf,
    has_speech,
    owned_words,
    stem,
    surface_counts,
)

TOPICS, EMOTIONS = [f"t{number}" for number in range(6)], [f"e{number}" for number in range(6)]
TOPIC_OF = [topic for topic in TOPICS for _ in EMOTIONS]
EMOTION_OF = EMOTIONS * len(TOPICS)


def noise_counts(rng):
    """Counts with an effect of the topic, none of the emotion: ``[text, count]``."""
    of_topic = dict(zip(TOPICS, rng.integers(2, 6, len(TOPICS)), strict=True))
    rate = np.array([of_topic[topic] for topic in TOPIC_OF])
    return rng.poisson(rate[:, None], (len(TOPIC_OF), 3)).astype(float)


# -- counting -------------------------------------------------------------------------------------------------------


def test_each_count_is_what_its_name_says():
    text = "“Two, please,” I'd said; 12 p.m. — a well-known dish (soup…) followed! Why? Mr Lee: don't."
    words = ["two", "please", "i'd", "said", "12", "p", "m", "a", "well-known", "dish", "soup", "followed", "why"]
    words += ["mr", "lee", "don't"]
    (row,) = surface_counts([text], [words])
    assert dict(zip(SURFACE, row, strict=True)) == {
        "double_quotes": 2,
        "exclamation_marks": 1,
        "question_marks": 1,
        "commas": 2,
        "colons_semicolons": 2,
        "dashes_hyphens": 2,
        "apostrophes": 2,
        "brackets_ellipses": 3,
        "digits": 2,
        "capitals": 5,
        "words": 16,
        "characters": len(text),
        "sentences": 4,  # m. and followed! and Why? and the last; not the dots inside
        "mean_word_length": sum(map(len, words)) / 16,
        "words_quoted": 2,
    }


def test_a_sentence_that_ends_inside_quotation_marks_counts_once():
    texts = ['"Go on." He went.', '"Go on," he said.', "It cost 3.50 in all."]
    assert surface_counts(texts, [["x"]] * 3)[:, SURFACE.index("sentences")].tolist() == [2, 1, 1]


def test_a_text_without_words_has_counts_of_zero():
    assert surface_counts([""], [[]]).tolist() == [[0.0] * len(SURFACE)]


@pytest.mark.parametrize(
    ("text", "speech"),
    [
        ('"Go," he said.', True),
        ("“Go,” he said.", True),
        ("'Go on,' he said.", True),
        ("‘Go on.’", True),
        ("It's the dogs' bowl, isn't it.", False),
        ("He went without a word.", False),
        ('A 5" pipe.', False),
        ('A 5" pipe and a 7" one.', False),
        ("« Va », dit-il.", True),
        ("„Geh“, sagte er.", True),
        ("「行け」と言った。", True),
    ],
)
def test_direct_speech_is_told_from_apostrophes(text, speech):
    assert has_speech(text) is speech


# -- decoding from counts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", words_floor.COUNT_DECODERS)
def test_a_count_that_differs_between_emotions_is_decoded(decoder):
    counts = noise_counts(np.random.default_rng(0))
    counts[:, 1] += 20 * np.array([EMOTIONS.index(emotion) for emotion in EMOTION_OF])
    assert decode_counts(counts, EMOTION_OF, TOPIC_OF, decoder).mean() > 0.6


def test_only_the_forest_sees_a_count_that_is_high_or_low():
    rng = np.random.default_rng(1)
    emotions, topics = ["even", "odd"] * 60, [f"t{number}" for number in range(6) for _ in range(20)]
    odd = np.array(emotions) == "odd"
    counts = np.where(odd, rng.choice([0, 10], 120), 5)[:, None] + rng.normal(0, 0.5, (120, 1))
    assert decode_counts(counts, emotions, topics).mean() < 0.7
    assert decode_counts(counts, emotions, topics, "random_forest").mean() > 0.95


def test_topics_are_held_out():
    """A count that names the cell tells nothing of another topic's cells."""
    counts = np.random.default_rng(2).normal(size=(len(TOPIC_OF), 4))
    assert decode_counts(counts, EMOTION_OF, TOPIC_OF).mean() < 0.45
    with pytest.raises(EmotraceError, match="two topics"):
        decode_counts(counts, EMOTION_OF, ["one"] * len(TOPIC_OF))


def test_an_unknown_decoder_is_refused():
    with pytest.raises(EmotraceError, match="random_forest"):
        decode_counts(np.zeros((36, 1)), EMOTION_OF, TOPIC_OF, "oracle")


@pytest.mark.slow
def test_the_p_of_counts_is_rarely_at_most_0_05_without_an_effect_and_mostly_with_one():
    """False positives of 24 sets; power of 6 in which the emotions' means of one count spread by about 2 SD."""
    rng = np.random.default_rng(3)
    false = [counts_leak(noise_counts(rng), EMOTION_OF, TOPIC_OF, rng).p <= 0.05 for _ in range(24)]
    assert np.sum(false) <= 4  # 99% of binomial(24, 0.05)
    found = []
    for _ in range(6):
        moved = rng.normal(0, 5, len(EMOTIONS))
        counts = noise_counts(rng) + moved[[EMOTIONS.index(emotion) for emotion in EMOTION_OF]][:, None]
        found.append(counts_leak(counts, EMOTION_OF, TOPIC_OF, rng, 59).p <= 0.05)
    assert np.sum(found) >= 5


def test_the_sequential_p_stops_at_ten_as_good_and_else_counts_all():
    rng = np.random.default_rng(4)
    leak = counts_leak(np.zeros((36, 2)), EMOTION_OF, TOPIC_OF, rng)  # nothing to tell emotions by: all draws tie
    assert leak.p == 1.0
    assert leak.chance == pytest.approx(1 / 6)
    telling = 100.0 * np.eye(6)[[EMOTIONS.index(emotion) for emotion in EMOTION_OF]]
    assert counts_leak(telling, EMOTION_OF, TOPIC_OF, rng, 99) == (1.0, pytest.approx(1 / 6), 0.01)


# -- decoding from words --------------------------------------------------------------------------------------------


def planted_words(rng, mark):
    """Five words of a hundred a text, and the word that ``mark(topic, emotion)`` gives it."""
    return [
        [*(f"w{number}" for number in rng.integers(0, 100, 5)), mark(topic, emotion)]
        for topic, emotion in zip(TOPIC_OF, EMOTION_OF, strict=True)
    ]


def test_words_of_an_emotion_are_decoded_and_words_of_a_cell_are_not():
    rng = np.random.default_rng(5)
    assert decode_tfidf(planted_words(rng, lambda topic, emotion: emotion), EMOTION_OF, TOPIC_OF).mean() > 0.9
    cells = decode_tfidf(planted_words(rng, lambda topic, emotion: topic + emotion), EMOTION_OF, TOPIC_OF)
    assert cells.mean() < 0.4


# -- words that one emotion owns ------------------------------------------------------------------------------------


def texts_with(**counts):
    """Twelve texts of each of three emotions; ``word=(5, 1)`` puts it into 5 texts of e0 and 1 of e1."""
    texts = [["common", f"filler{number}"] for number in range(36)]
    for word, of in counts.items():
        for emotion, n in enumerate(of):
            for number in range(n):
                texts[12 * emotion + number].append(word)
    return texts, ["e0"] * 12 + ["e1"] * 12 + ["e2"] * 12


@pytest.mark.parametrize(
    ("counts", "owned"),
    [
        ((4, 0), False),
        ((5, 0), True),
        ((5, 1), True),
        ((5, 2), False),
        ((6, 2), False),
        ((7, 2), True),
        ((7, 0, 3), False),
    ],
)
def test_a_word_in_more_than_a_third_and_elsewhere_in_fewer_than_a_third_as_many_is_owned(counts, owned):
    found = owned_words(*texts_with(bellow=counts))
    assert found == ([Owned("e0", "bellow", counts[0], 12, max(counts[1:]))] if owned else [])


def test_forms_of_a_word_are_one_word_and_function_words_are_none():
    texts, emotions = texts_with(because=(12, 0), himself=(12, 0))
    for text, form in zip(texts, ["slam", "slams", "slammed", "slamming", "door-slam", "slam's"], strict=False):
        text.append(form)
    assert owned_words(texts, emotions) == [Owned("e0", "slam", 6, 12, 0)]


def test_near_synonyms_of_a_family_are_one_word():
    texts, emotions = texts_with(shout=(0, 1))
    for text, form in zip(texts, ["shouted", "yells", "bellowed", "roared", "shout"], strict=False):
        text.append(form)
    assert owned_words(texts, emotions) == []
    loud = {"loud voice": {stem(word) for word in ("shout", "yell", "bellow", "roar")}}
    assert owned_words(texts, emotions, loud) == [Owned("e0", "loud voice (family)", 5, 12, 1)]


@pytest.mark.parametrize(
    ("forms", "expected"),
    [
        (("slam", "slams", "slammed"), "slam"),
        (("bake", "bakes", "baked", "baking"), "bak"),
        (("carry", "carries", "carried"), "carr"),
    ],
)
def test_regular_forms_have_one_stem(forms, expected):
    assert {stem(form) for form in forms} == {expected}


def test_shuffled_labels_own_nothing():
    rng = np.random.default_rng(6)
    texts = [[f"w{number}" for number in rng.zipf(1.5, 40) if number < 2000] for _ in range(240)]
    assert owned_words(texts, [f"e{number % 20}" for number in range(240)]) == []


def test_a_word_is_owned_by_shares_not_by_counts():
    texts = [["rain"] if row < 40 else [f"word{row}"] for row in range(100)] + [["rain"]] * 10
    assert owned_words(texts, ["a"] * 100 + ["b"] * 10) == []
    texts = [["rain"] if row < 10 else [f"word{row}"] for row in range(100)] + [["rain"]] * 8 + [["snow"]] * 2
    assert owned_words(texts, ["a"] * 100 + ["b"] * 10) == [Owned("b", "rain", 8, 10, 10)]


def test_words_are_decoded_where_a_fold_has_one_emotion_or_no_word_to_learn_from():
    texts, topics = [["x"], ["y"], ["z"], ["v"]], list("aabb")
    assert decode_tfidf(texts, ["joy", "joy", "sad", "sad"], topics).tolist() == [False] * 4
    assert decode_tfidf([[]] * 4, ["joy", "sad", "joy", "sad"], topics).tolist() == [True, False] * 2
