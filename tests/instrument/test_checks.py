"""The shipped passages pass the check of the instrument, and each part of it finds a planted fault."""

import numpy as np
import pytest

from emotrace.instrument import corpus
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


def test_the_shipped_passages_pass():
    assert check_instrument(corpus.passages()) == []


def test_a_missing_cell_is_found():
    faults = check_instrument(edited().drop(index="cooking-sad"))
    assert faults[0] == "cooking × sad: 0 passages, not 1"
    assert [fault.split(":")[0] for fault in faults[1:]] == ["sad"]  # and its balance is gone


def test_a_passage_under_the_wrong_topic_is_found():
    table = edited()
    table.loc["cooking-sad", "topic"] = "shift"
    assert check_instrument(table) == ["cooking × sad: 0 passages, not 1", "shift × sad: 2 passages, not 1"]
    table.loc["cooking-sad", "topic"] = "fishing"
    assert check_instrument(table) == ["unknown topic fishing", "cooking × sad: 0 passages, not 1"]


@pytest.mark.parametrize(("length", "ok"), [(34, False), (35, True), (60, True), (61, False)])
def test_a_passage_out_of_the_35_to_60_words_is_found(length, ok):
    faults = check_instrument(edited(cooking_happy=lambda _: nonsense(length)))
    assert faults == ([] if ok else [f"cooking-happy: {length} words, not 35 to 60"])


def test_a_mean_length_more_than_five_percent_off_is_found_in_its_emotion():
    grand = np.mean([len(corpus.words(text)) for text in corpus.passages()["text"]])

    def all_sad(n):
        texts = {f"{topic}_sad": lambda _, topic=topic: nonsense(n, topic) for topic in corpus.topics().index}
        return check_instrument(edited(**texts))

    assert all_sad(int(grand * 1.04)) == all_sad(int(grand * 0.97)) == []
    for n in (int(grand * 1.07), int(grand * 0.93)):
        (fault,) = all_sad(n)
        assert fault.startswith(f"sad: mean length {n}.0 words, more than 5% from")


@pytest.mark.parametrize(
    ("word", "kin"),
    [("gloomily", "gloomily"), ("GLOOM", "gloom"), ("ever-gloomy", "gloomy"), ("gloom's", "gloom"), ("hate", "hate")],
)
def test_a_kin_word_of_any_emotion_is_found_in_a_passage(word, kin):
    faults = check_instrument(edited(cooking_happy=lambda text: f"{text[:-1]}, {word}."))
    assert faults == [f"cooking-happy: names an emotion ({kin})"]


@pytest.mark.parametrize("ending", ["", "!", '."', ". "])
def test_a_passage_that_does_not_end_with_a_full_stop_is_found(ending):
    faults = check_instrument(edited(cooking_happy=lambda text: text[:-1] + ending))
    assert faults == ["cooking-happy: does not end with a full stop"]


@pytest.mark.parametrize("change", [{"tense": "present"}, {"person": "third", "gender": "female"}])
def test_an_unbalanced_emotion_is_found(change):
    table = edited()
    assert list(table.loc["cooking-happy", ["person", "gender", "tense"]]) == ["first", "unmarked", "past"]
    table.loc["cooking-happy", list(change)] = list(change.values())
    (fault,) = check_instrument(table)
    assert fault.startswith("happy: person/gender/tense uneven")


def test_a_stray_combination_is_blamed_on_its_own_emotion_alone():
    table = edited()
    table.loc["cooking-happy", "gender"] = "male"  # first person, which no other passage has with a gender
    assert [fault.split(":")[0] for fault in check_instrument(table)] == ["happy"]


def test_a_sentence_shared_by_two_passages_is_found():
    faults = check_instrument(
        edited(cooking_happy=lambda text: f"{text} Zqa zqb.", train_calm=lambda text: f"Zqa ZQB. {text}")
    )
    assert faults == ["the same sentence in cooking-happy, train-calm: zqa zqb."]


@pytest.mark.parametrize("shared", [4, 5])
def test_five_words_shared_by_two_passages_are_found_and_four_are_not(shared):
    run = nonsense(shared)[:-1]
    faults = check_instrument(
        edited(
            cooking_happy=lambda text: f"{text[:-1]} {run}.",
            train_calm=lambda text: text.replace(" ", f" {run.upper().replace(' ', ', ')} ", 1),
        )
    )
    assert faults == ([f"the same run of 5 words in cooking-happy, train-calm: {run}"] if shared == 5 else [])


def test_three_opening_words_shared_by_two_passages_are_found():
    faults = check_instrument(
        edited(cooking_happy=lambda text: f"Zqa zqb zqc {text}", train_calm=lambda text: f"Zqa, zqb zqc {text}")
    )
    assert faults == ["the same opening in cooking-happy, train-calm: zqa zqb zqc"]
