"""The second author's passages (``accounts``) keep what ``data/README.md`` promises, and planted faults are found."""

import re

import numpy as np
import pytest

from emotrace.instrument import corpus
from emotrace.instrument.checks import FAMILIES, check_instrument
from emotrace.measures.geometry import shuffle_within_topics
from emotrace.measures.words_floor import decode_counts, owned_words, surface_counts

SENTENCE = re.compile(r"(?<=\.)\s+")


@pytest.fixture(scope="module")
def accounts():
    return corpus.passages(instrument="accounts")


@pytest.fixture(scope="module")
def feelings(accounts):
    return accounts[accounts["emotion"] != corpus.NEUTRAL].reset_index(drop=True)


def ten_counts(text):
    """Ten counts of the look of a text, among them some that the package's own fifteen lack (*I*, sentence lengths)."""
    tokens = corpus.words(text)
    lengths = [len(corpus.words(sentence)) for sentence in SENTENCE.split(text)]
    looks = [text.count(","), text.count("'"), sum(map(str.isupper, text)), len(re.findall(r"\bI\b", text))]
    sizes = [len(tokens), len(text), len(lengths), np.mean(lengths), max(lengths), np.mean([len(t) for t in tokens])]
    return looks + sizes


def test_the_accounts_pass_the_check_of_the_instrument(accounts):
    assert check_instrument(accounts, "accounts") == []


def test_every_cell_has_one_account_and_every_class_each_tense_half_the_time(accounts):
    assert list(accounts["id"]) == list("accounts-" + accounts["topic"] + "-" + accounts["emotion"])
    cells = accounts.groupby(["topic", "emotion"]).size()
    assert (len(cells), set(cells)) == (12 * 21, {1})
    assert set(accounts["person"]) == {"first"}
    assert set(accounts["gender"]) == {"unmarked"}
    assert set(accounts.groupby(["emotion", "tense"]).size()) == {6}
    assert set(corpus.quick_subset(accounts).groupby(["emotion", "tense"]).size()) == {3}


def test_an_account_has_70_to_110_plain_words_in_several_sentences(accounts):
    assert accounts["text"].map(lambda text: len(corpus.words(text))).between(70, 110).all()
    assert accounts["text"].map(lambda text: len(SENTENCE.split(text))).between(4, 9).all()
    assert accounts["text"].str.fullmatch(r"[A-Za-z,.' ]+\.").all()  # no digit, quotation, question or dash


@pytest.mark.parametrize("counts", ["ten", "fifteen"])
def test_counts_decode_the_emotions_at_chance(feelings, counts):
    texts, labels, topics = list(feelings["text"]), feelings["emotion"], feelings["topic"]
    tokens = [corpus.words(text) for text in texts]
    looks = np.array([ten_counts(text) for text in texts]) if counts == "ten" else surface_counts(texts, tokens)
    accuracy = decode_counts(looks, labels, topics).mean()
    rng = np.random.default_rng(0)
    null = [decode_counts(looks, shuffle_within_topics(labels, topics, rng), topics).mean() for _ in range(40)]
    assert accuracy <= 0.08
    assert (1 + sum(value >= accuracy for value in null)) / 41 > 0.05
    looks[labels == "angry", 0] += 8  # a mark that one emotion owns
    assert decode_counts(looks, labels, topics)[labels == "angry"].mean() > 0.5


def test_no_emotion_is_named_and_none_owns_a_word(accounts):
    assert [text for text in accounts["text"] if corpus.leaks(text)] == []
    tokens = [corpus.words(text) for text in accounts["text"]]
    assert owned_words(tokens, accounts["emotion"], FAMILIES) == []
    five = accounts.index[accounts["emotion"] == "gloomy"][:5]
    planted = [[*words, "zeppelin"] if row in five else words for row, words in enumerate(tokens)]
    (owned,) = owned_words(planted, accounts["emotion"], FAMILIES)
    assert (owned.emotion, owned.texts, owned.next) == ("gloomy", 5, 0)


def test_the_two_authors_share_no_sentence_and_hardly_a_run_of_five_words(accounts):
    def sentences(texts):
        return {sentence.lower() for text in texts for sentence in SENTENCE.split(text)}

    def runs(texts):
        return {tuple(t[k : k + 5]) for t in map(corpus.words, texts) for k in range(len(t) - 4)}

    ours, scenes = accounts["text"], corpus.passages()["text"]
    assert not sentences(ours) & sentences(scenes)
    assert len(runs(ours) & runs(scenes)) < 0.001 * len(runs(ours))  # idioms alone
