"""The shipped passages pass the check of the instrument, and each part of it finds a planted fault."""

import re

import numpy as np
import pytest

from emotrace.instrument import checks, corpus
from emotrace.instrument.checks import check_instrument


def edited(**texts):
    """The shipped passages with the texts of some ids (``_`` for the hyphen) changed by a function."""
    table = corpus.passages().set_index("id", drop=False)
    for name, change in texts.items():
        name = name.replace("_", "-")
        table.loc[name, "text"] = change(table.loc[name, "text"])
    return table


def nonsense(n, tag="zq"):
    return " ".join(f"{tag}{index}" for index in range(n)) + "."


def faults_but_for_the_surface(table):
    return check_instrument(table, surface=False)


def test_the_shipped_passages_pass():
    assert check_instrument(corpus.passages()) == []


def test_a_missing_cell_is_found():
    faults = faults_but_for_the_surface(edited().drop(index="cooking-sad"))
    assert faults[0] == "cooking × sad: 0 passages, not 1"
    assert [fault.split(":")[0] for fault in faults[1:]] == ["sad"]  # and its balance is gone


def test_a_passage_under_the_wrong_topic_is_found():
    table = edited()
    table.loc["cooking-sad", "topic"] = "shift"
    assert faults_but_for_the_surface(table) == ["cooking × sad: 0 passages, not 1", "shift × sad: 2 passages, not 1"]
    table.loc["cooking-sad", "topic"] = "fishing"
    assert faults_but_for_the_surface(table) == ["unknown topic fishing", "cooking × sad: 0 passages, not 1"]


@pytest.mark.parametrize(("length", "ok"), [(34, False), (35, True), (60, True), (61, False)])
def test_a_passage_out_of_the_35_to_60_words_is_found(length, ok):
    faults = faults_but_for_the_surface(edited(cooking_happy=lambda _: nonsense(length)))
    assert faults == ([] if ok else [f"cooking-happy: {length} words, not 35 to 60"])


def test_a_mean_length_more_than_five_percent_off_is_found_in_its_emotion():
    grand = np.mean([len(corpus.words(text)) for text in corpus.passages()["text"]])

    def all_sad(n):
        texts = {f"{topic}_sad": lambda _, topic=topic: nonsense(n, topic) for topic in corpus.topics().index}
        return [fault for fault in faults_but_for_the_surface(edited(**texts)) if "mean length" in fault]

    assert all_sad(int(grand * 1.04)) == all_sad(int(grand * 0.97)) == []
    for n in (int(grand * 1.07), int(grand * 0.93)):
        (fault,) = all_sad(n)
        assert fault.startswith(f"sad: mean length {n}.0 words, more than 5% from")


@pytest.mark.parametrize(
    ("word", "kin"),
    [("gloomily", "gloomily"), ("GLOOM", "gloom"), ("ever-gloomy", "gloomy"), ("gloom's", "gloom"), ("hate", "hate")],
)
def test_a_kin_word_of_any_emotion_is_found_in_a_passage(word, kin):
    faults = faults_but_for_the_surface(edited(cooking_happy=lambda text: f"{text[:-1]}, {word}."))
    assert faults == [f"cooking-happy: names an emotion ({kin})"]


@pytest.mark.parametrize("ending", ["", "!", '."', ". "])
def test_a_passage_that_does_not_end_with_a_full_stop_is_found(ending):
    faults = faults_but_for_the_surface(edited(cooking_happy=lambda text: text[:-1] + ending))
    assert faults == ["cooking-happy: does not end with a full stop"]


@pytest.mark.parametrize("change", [{"tense": "present"}, {"person": "third", "gender": "female"}])
def test_an_unbalanced_emotion_is_found(change):
    table = edited()
    assert list(table.loc["cooking-happy", ["person", "gender", "tense"]]) == ["first", "unmarked", "past"]
    table.loc["cooking-happy", list(change)] = list(change.values())
    (fault,) = faults_but_for_the_surface(table)
    assert fault.startswith("happy: person/gender/tense uneven")


def test_a_stray_combination_is_blamed_on_its_own_emotion_alone():
    table = edited()
    table.loc["cooking-happy", "gender"] = "male"  # first person, which no other passage has with a gender
    assert [fault.split(":")[0] for fault in faults_but_for_the_surface(table)] == ["happy"]


def test_a_sentence_shared_by_two_passages_is_found():
    faults = faults_but_for_the_surface(
        edited(cooking_happy=lambda text: f"{text} Zqa zqb.", train_calm=lambda text: f"Zqa ZQB. {text}")
    )
    assert faults == ["the same sentence in cooking-happy, train-calm: zqa zqb."]


@pytest.mark.parametrize("shared", [4, 5])
def test_five_words_shared_by_two_passages_are_found_and_four_are_not(shared):
    run = nonsense(shared)[:-1]
    faults = faults_but_for_the_surface(
        edited(
            cooking_happy=lambda text: f"{text[:-1]} {run}.",
            train_calm=lambda text: text.replace(" ", f" {run.upper().replace(' ', ', ')} ", 1),
        )
    )
    assert faults == ([f"the same run of 5 words in cooking-happy, train-calm: {run}"] if shared == 5 else [])


def test_three_opening_words_shared_by_two_passages_are_found():
    faults = faults_but_for_the_surface(
        edited(cooking_happy=lambda text: f"Zqa zqb zqc {text}", train_calm=lambda text: f"Zqa, zqb zqc {text}")
    )
    assert faults == ["the same opening in cooking-happy, train-calm: zqa zqb zqc"]


# -- what the surface and the words give away -----------------------------------------------------------------------


def clean_set(seed):
    """Passages of words drawn at random, whose punctuation depends on no emotion; three of a class have speech."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("bcdfghjklmnpqrstvwxz"))
    vocabulary = ["zu" + "".join(rng.choice(letters, rng.integers(4, 9))) for _ in range(12000)]
    table = corpus.passages()
    texts = []
    for number in range(len(table)):
        tokens = list(rng.choice(vocabulary, rng.integers(46, 53)))
        for position in rng.choice(len(tokens) - 1, rng.poisson(3), replace=False):
            tokens[position] += rng.choice([",", ",", ";", "."])
        topic, emotion = divmod(number, 21)
        if topic % 4 == emotion % 4:
            tokens[5], tokens[9] = f'"{tokens[5]}', tokens[9].rstrip(",;.") + ',"'
        texts.append(" ".join(tokens) + ".")
    return table.assign(text=texts)


def planted(table, emotion, change):
    """The table with the texts of one emotion changed by ``change(text, number)``."""
    rows = np.flatnonzero(table["emotion"] == emotion)
    texts = list(table["text"])
    for number, row in enumerate(rows):
        texts[row] = change(texts[row], number)
    return table.assign(text=texts)


def test_sets_without_an_emotion_in_them_pass_but_for_about_one_in_twenty():
    faults = [check_instrument(clean_set(seed)) for seed in range(6)]
    assert sum(bool(of_set) for of_set in faults) <= 2
    assert all("punctuation and lengths" in fault for of_set in faults for fault in of_set)


def test_quotation_marks_in_every_text_of_one_emotion_are_found():
    speak = planted(clean_set(0), "angry", lambda text, _: text if '"' in text else f'"Zuza," {text}')
    (fault,) = [fault for fault in faults_but_for_the_surface(speak) if "direct speech" in fault]
    assert fault == "angry: 12 passages with direct speech, where most classes have 3"
    silent = planted(clean_set(0), "calm", lambda text, _: text.replace('"', ""))
    assert "calm: 0 passages with direct speech, where most classes have 3" in faults_but_for_the_surface(silent)


def test_a_set_without_any_direct_speech_is_balanced():
    table = clean_set(0)
    table["text"] = table["text"].str.replace('"', "")
    assert not [fault for fault in faults_but_for_the_surface(table) if "direct speech" in fault]


def test_punctuation_that_tells_emotions_apart_is_found():
    """Every third emotion has an exclamation mark, every fourth two more commas: what the first passages were like."""
    table = clean_set(0)
    for number, emotion in enumerate(corpus.emotion_names()):
        marks = "!" * (number % 3 == 0) + "," * (2 * (number % 4 == 0))
        table = planted(table, emotion, lambda text, _, marks=marks: text.replace(" ", f"{marks} ", 1))
    (fault,) = [fault for fault in check_instrument(table) if "decode" in fault]
    assert float(re.search(r"at (0\.\d+)", fault)[1]) > 0.1


def test_lengths_that_tell_emotions_apart_are_found_within_the_five_percent():
    table = clean_set(0)
    for number, emotion in enumerate(corpus.emotion_names()):
        n = 47 + number % 4
        table = planted(table, emotion, lambda text, _, n=n: " ".join(text.split()[: n - 1]) + " zuend" * 9)
        table["text"] = [" ".join(text.rstrip(".").split()[:n]) + "." for text in table["text"]]
    faults = check_instrument(table)
    assert any("punctuation and lengths" in fault for fault in faults)


@pytest.mark.parametrize(("texts", "found"), [(4, False), (5, True)])
def test_a_word_in_more_than_a_third_of_one_emotions_texts_is_found(texts, found):
    table = planted(clean_set(0), "angry", lambda text, n: text.replace(" ", " zubellow ", 1) if n < texts else text)
    faults = [fault for fault in faults_but_for_the_surface(table) if "owns" in fault]
    owned = "angry owns the word 'zubellow': in 5 of its 12 passages, in 0 of any other class's"
    assert faults == ([owned] if found else [])


def test_near_synonyms_together_are_found_as_one_motif():
    """The first passages: shouted in one, yelled in another, bellowed in a third."""
    loud = ["shouts", "yelled", "bellowing", "roar", "screams", "bawled"]
    table = planted(clean_set(0), "angry", lambda text, n: text.replace(" ", f" {loud[n % 6]} ", 1))
    (fault,) = [fault for fault in faults_but_for_the_surface(table) if "owns" in fault]
    assert fault.startswith("angry owns the word 'loud voice (family)': in 12 of its 12 passages, in 0 of")


def test_each_instrument_is_measured_by_its_own_length():
    """A hundred words are too many for a scene and right for an account; forty-five the other way round."""

    def lengths(n, instrument):
        table = clean_set(0)
        table["text"] = [nonsense(n, f"zu{number}x") for number in range(len(table))]
        return [fault for fault in check_instrument(table, instrument, surface=False) if f"{n} words" in fault]

    assert lengths(45, "scenes") == lengths(100, "accounts") == []
    assert lengths(100, "scenes")[0] == "cooking-happy: 100 words, not 35 to 60"
    assert lengths(45, "accounts")[0] == "cooking-happy: 45 words, not 60 to 120"


def test_promises_stand_for_every_instrument():
    assert set(checks.PROMISES) == set(corpus.INSTRUMENTS)


def test_three_passages_of_every_class_speak_and_none_exclaims_or_asks():
    table = corpus.passages()
    assert set(table["text"].str.contains('"').groupby(table["emotion"]).sum()) == {3}
    assert set(table["text"].str.count('"')) == {0, 2}
    assert not table["text"].str.contains("[!?0-9]").any()
