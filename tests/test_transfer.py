"""Transfer between instruments: exact where emotions are planted, at chance where they are not, and the words' part."""

import sys

import numpy as np
import pandas as pd
import pytest

import emotrace
from emotrace import cli
from emotrace.activations import read_activations
from emotrace.errors import EmotraceError
from emotrace.measures.transfer import centred_vectors, decode_by_vectors, decode_by_words, mean_cosine

NAMES = ["sad", "smug", "calm", "proud"]


def planted(rng, feeling, count=30, shift=0.0, noise=0.3):
    labels = np.repeat(NAMES, count)
    texts = np.array([feeling[name] for name in labels]) + noise * rng.normal(size=(len(labels), 16)) + shift
    return texts, labels


def test_planted_emotions_are_decoded_through_another_authors_shift():
    rng = np.random.default_rng(0)
    feeling = dict(zip(NAMES, rng.normal(size=(4, 16)), strict=True))
    a, labels = planted(rng, feeling)
    b, truth = planted(rng, feeling, shift=7 * rng.normal(size=16))
    vectors = centred_vectors(a, labels, NAMES)
    np.testing.assert_allclose(vectors.sum(axis=0), 0, atol=1e-12)
    assert decode_by_vectors(vectors, b, truth, NAMES).all()
    assert mean_cosine(vectors, centred_vectors(b, truth, NAMES)) > 0.97
    wrong = dict(zip(NAMES, [feeling[name] for name in ("smug", "calm", "proud", "sad")], strict=True))
    other, truth = planted(rng, wrong)
    assert not decode_by_vectors(vectors, other, truth, NAMES).any()
    noise, truth = planted(rng, dict.fromkeys(NAMES, np.zeros(16)), count=200)
    assert decode_by_vectors(vectors, noise, truth, NAMES).mean() == pytest.approx(0.25, abs=0.05)


def test_words_carry_over_only_where_both_have_them():
    train = [["rain", "grey"], ["rain", "slow"], ["sun", "gold"], ["sun", "loud"]]
    labels = ["sad", "sad", "proud", "proud"]
    test = [["rain", "away"], ["gold", "sun"], ["sun"]]
    assert decode_by_words(train, labels, test, ["sad", "proud", "sad"]).tolist() == [True, True, False]


def texts(seed: int, names=NAMES) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = [(name, f"t{topic}") for topic in range(4) for name in names]
    words = [f"{name} the {rng.choice(['sea', 'shop', 'lamp'])} number {rng.integers(99)}." for name, _ in rows]
    return pd.DataFrame(rows, columns=["emotion", "topic"]).assign(text=words)


def test_the_table_is_what_the_measures_give_on_the_models_activations(tiny):
    model = tiny("llama")
    a, b = emotrace.load_instrument(texts(0), name="a"), emotrace.load_instrument(texts(1, [*NAMES, "odd"]), name="b")
    table = emotrace.transfer(model, a, b, poolings="mean")
    shared = b.passages[b.passages["emotion"] != "odd"]
    held = [read_activations(model, list(part["text"]), poolings=("mean",))["mean"] for part in (a.passages, shared)]
    rows = table[(table["train"] == "a") & (table["pooling"] == "mean") & (table["layer"] == 2)].set_index("metric")
    vectors = centred_vectors(held[0][:, 2], a.passages["emotion"], NAMES)
    centre, found = held[1][:, 2].mean(axis=0), []
    for topic in ("t0", "t1", "t2", "t3"):  # learnt on the other topics
        others, tested = (a.passages["topic"] != topic).to_numpy(), (shared["topic"] == topic).to_numpy()
        learnt = centred_vectors(held[0][others, 2], a.passages["emotion"][others], NAMES)
        found += list(decode_by_vectors(learnt, held[1][tested, 2], shared["emotion"][tested], NAMES, centre))
    right = np.array(found)
    assert rows.loc["accuracy", "value"] == pytest.approx(right.mean())
    assert rows.loc["accuracy", "null"] == 0.25
    assert rows.loc["accuracy", "n"] == 16
    assert rows.loc["accuracy", "low"] <= right.mean() <= rows.loc["accuracy", "high"]
    others = centred_vectors(held[1][:, 2], shared["emotion"], NAMES)
    assert rows.loc["cosine", "value"] == pytest.approx(mean_cosine(vectors, others), abs=1e-6)
    words = table[(table["pooling"] == "words") & (table["train"] == "a")]["value"]
    assert words.tolist() == [1.0]  # every text names its emotion
    chosen = table[table["chosen"] == True]  # noqa: E712
    assert chosen.groupby(["train", "pooling"])["layer"].nunique().tolist() == [1, 1]
    assert (chosen["layer"] > 0).all()
    pd.testing.assert_frame_equal(emotrace.transfer(model, a, b, poolings="mean"), table)


def test_what_cannot_be_transferred_is_one_line(tiny):
    a = emotrace.load_instrument(texts(0), name="a")
    with pytest.raises(EmotraceError, match=r"a and b have 2 emotions in common \(sad, smug\): 3 are needed"):
        emotrace.transfer(tiny("llama"), a, emotrace.load_instrument(texts(1, ["sad", "smug", "x"]), name="b"))
    with pytest.raises(EmotraceError, match="two instruments are called 'a'"):
        emotrace.transfer(tiny("llama"), a, a)


def test_the_command_writes_every_layer_and_shows_the_chosen_one(tiny_folder, tmp_path, monkeypatch, capsys):
    for name, seed in (("mine", 0), ("yours", 1)):
        texts(seed).to_csv(tmp_path / f"{name}.csv", index=False)
    out = tmp_path / "transfer.csv"
    called = ["emotrace", "transfer", tmp_path / "mine.csv", tmp_path / "yours.csv", "--out", out]
    monkeypatch.setattr(sys, "argv", [*map(str, called), "--model", str(tiny_folder("llama"))])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    assert set(pd.read_csv(out)["layer"].dropna()) == set(range(5))
    said = capsys.readouterr().out
    assert said.count("decoded by the other's vectors") == 4
    assert said.count("decoded by the other's words") == 2
