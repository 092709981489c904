"""Vectors of anyone's emotions: each centre and stand-in by itself, the default through the new path, the commands."""

import itertools
import json
import sys

import numpy as np
import pandas as pd
import pytest

import emotrace
from emotrace import cli, stories
from emotrace.activations import read_activations
from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.instrument.instrument import from_names
from emotrace.readings import Reading
from emotrace.tokens import Writing
from emotrace.vectors import EmotionVectors
from emotrace.whatif.text_reading import cached_vectors
from emotrace.whatif.token_reading import read_emotions

TEXTS = {
    "nostalgic": [
        "She kept the old ticket, and smelled it.",
        "He drove past the school twice.",
        "The song was theirs.",
    ],
    "curious": ["He looked behind the clock; it ticked.", "What was under the lid?", "She asked, and wrote it down."],
    "smug": ["He had told them so.", "She let them find out."],
}
PLAIN = ["The bus came at six.", "He put the cup on the shelf."]


@pytest.fixture(scope="module")
def llama(tiny):
    return tiny("llama")


def mean(model, texts) -> np.ndarray:
    """The mean of the texts' activations at their last token, read by itself: float64 ``[layer, d_model]``."""
    return read_activations(model, list(texts), poolings=("last",))["last"].mean(axis=0, dtype=np.float64)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_vectors_are_class_means_minus_their_grand_mean(llama):
    own = {**TEXTS, "neutral": PLAIN}
    vectors = emotrace.extract(llama, instrument=own)
    assert vectors.emotions == tuple(TEXTS)
    means = {name: mean(llama, texts) for name, texts in own.items()}
    grand = np.mean(list(means.values()), axis=0)
    close(vectors.values, np.stack([means[name] - grand for name in TEXTS]))
    close(vectors.neutral_mean, means["neutral"])
    assert vectors.provenance["neutral"] == "the class neutral"
    some = emotrace.extract(llama, instrument=own, emotions=["smug"])
    np.testing.assert_array_equal(some.values[0], vectors["smug"])


def test_without_neutral_texts_unrelated_ones_stand_in_and_move_no_vector(llama):
    source = {"passages": pd.DataFrame([(n, t) for n, ts in TEXTS.items() for t in ts], columns=["emotion", "text"])}
    vectors = emotrace.extract(llama, instrument={**source, "baseline_texts": pd.DataFrame({"text": PLAIN})})
    means = np.stack([mean(llama, texts) for texts in TEXTS.values()])
    close(vectors.values, means - means.mean(axis=0))
    close(vectors.neutral_mean, mean(llama, PLAIN))
    assert vectors.provenance["neutral"] == "2 baseline texts, outside the grand mean"
    ours = emotrace.extract(llama, instrument=source)
    np.testing.assert_array_equal(ours.values, vectors.values)
    close(ours.neutral_mean, mean(llama, corpus.baseline_texts()["text"]))


def test_contrast_pairs_give_the_difference_of_their_means(llama):
    pairs = [{"positive": a, "negative": b} for a, b in zip(TEXTS["curious"], TEXTS["nostalgic"], strict=True)]
    vectors = emotrace.extract(llama, instrument=emotrace.load_instrument(pairs, name="curious"))
    assert vectors.emotions == ("curious",)
    close(vectors["curious"], mean(llama, TEXTS["curious"]) - mean(llama, TEXTS["nostalgic"]))
    assert vectors.provenance["centring"] == "neutral"
    close(vectors.recentre("grand")["curious"], vectors["curious"] / 2)


def test_permuted_pairs_are_measured_from_their_own_second_texts():
    pairs = [{"positive": a, "negative": b} for a, b in zip(TEXTS["curious"], TEXTS["nostalgic"], strict=True)]
    own = emotrace.load_instrument(pairs, name="curious")
    pooled = {"mean": np.random.default_rng(0).normal(size=(6, 1, 4)).astype(np.float32)}
    labels = own.passages["emotion"].to_numpy(str)
    permuted = Reading(own.passages, pooled, [1], {"model": "m"}, own).permuted("mean", 5, np.random.default_rng(1))
    assert permuted.provenance["centring"] == "neutral"
    sides = pooled["mean"][labels == "curious"][:, 0] - pooled["mean"][labels == "neutral"][:, 0]
    signed = np.array(list(itertools.product((1, -1), repeat=3))) @ sides / 3
    for vector in permuted.values[:, 0]:  # a shuffle within a pair leaves it or turns it around
        assert np.abs(signed - vector).max(axis=1).min() < 1e-6
    with pytest.raises(EmotraceError, match="cannot be centred anew"):
        permuted.recentre("grand")


def test_the_default_through_the_new_path_gives_the_same_vectors(llama):
    expected = emotrace.extract(llama)
    for source in ("scenes", corpus.data_dir() / "passages.csv"):
        found = emotrace.extract(llama, instrument=source)
        assert found.emotions == expected.emotions
        for name in ("values", "neutral_mean", "grand_mean", "emotions_mean"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert emotrace.extract(llama, instrument="scenes") == expected
    assert cached_vectors(llama, instrument=emotrace.load_instrument("scenes")) == cached_vectors(llama)


def test_stories_are_asked_for_by_name_and_judged_by_its_words(llama):
    own = from_names(["nostalgic", "curious"])
    asked = stories.request("pet", "nostalgic", instrument=own)
    assert asked == stories.request("pet", "sad").replace("sad", "nostalgic")
    with pytest.raises(EmotraceError, match="unknown emotion 'sad': known are nostalgic, curious, neutral"):
        stories.request("pet", "sad", instrument=own)
    text = "She put the kettle on and looked out at the rain, full of nostalgia, then sat down again by the window."
    ids = llama.tokenizer(text, add_special_tokens=False)["input_ids"]
    judged = stories.judge(llama, ids, "nostalgic", 1000, own)
    assert (judged["leaks"], judged["status"]) == ("nostalgia", "leaks")
    assert stories.judge(llama, ids, "curious", 1000, own)["other_leaks"] == "nostalgia"
    written = stories.write_stories(
        llama, topics=["pet"], instrument=own, attempts=1, writing=Writing(8, temperature=1.0)
    )
    assert list(written["emotion"]) == ["nostalgic", "curious", "neutral"]


def test_generation_takes_any_names(llama):
    names = ["nostalgic", "sad"]
    told = [
        f"{name} on {topic}: and then the day went on." for topic in ("pet", "train") for name in (*names, "neutral")
    ]
    rows = [(topic, name) for topic in ("pet", "train") for name in (*names, "neutral")]
    table = pd.DataFrame(rows, columns=["topic", "emotion"]).assign(text=told)
    vectors = emotrace.extract(llama, method="generation", emotions=names, stories=table)
    assert vectors.emotions == ("nostalgic", "sad")
    assert not np.allclose(vectors["nostalgic", 2], vectors["sad", 2])
    with pytest.raises(EmotraceError, match="the table of stories has none of neutral: "):
        emotrace.extract(llama, method="generation", emotions=names, stories=table[table["emotion"] != "neutral"])
    with pytest.raises(EmotraceError, match=r"names of emotions alone have no texts: use method='generation'"):
        emotrace.extract(llama, instrument=from_names(names))
    with pytest.raises(EmotraceError, match="by instrument or by passages, not by both"):
        emotrace.extract(llama, instrument=TEXTS, passages=corpus.passages())


def test_a_text_is_read_by_the_instruments_own_emotions(llama, monkeypatch, tmp_path):
    monkeypatch.setenv("EMOTRACE_CACHE", str(tmp_path))
    own = emotrace.load_instrument({**TEXTS, "neutral": PLAIN})
    reading = read_emotions(llama, "The clock ticked, and she asked again.", instrument=own)
    assert reading.emotions == tuple(TEXTS)
    assert reading.n == sum(len(llama.tokenizer(text)["input_ids"]) for text in PLAIN) - 2 * len(PLAIN)
    again = read_emotions(llama, "The clock ticked, and she asked again.", instrument=own)
    np.testing.assert_array_equal(again.score, reading.score)
    vectors = cached_vectors(llama, instrument=own)
    assert vectors.emotions == tuple(TEXTS)
    other = emotrace.load_instrument({**TEXTS, "neutral": PLAIN[:1]})
    assert cached_vectors(llama, instrument=other) != vectors


# -- commands ---------------------------------------------------------------------------------------------------------


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["emotrace", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    printed = capsys.readouterr()
    return stopped.value.code or 0, printed.out, printed.err


@pytest.fixture
def file(tmp_path):
    """The texts in a file with columns of other names, one row twice."""
    rows = [{"mood": name, "prose": text} for name, texts in TEXTS.items() for text in texts]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, [*rows, rows[0]])))
    return tmp_path / "own.jsonl"


MAPPED = ("--columns", "emotion=mood,text=prose")


def test_extract_read_and_whatif_take_an_instrument(file, tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EMOTRACE_CACHE", str(tmp_path / "cache"))
    model, out = tiny_folder("llama"), tmp_path / "v.safetensors"
    code, said, error = call(monkeypatch, capsys, "extract", model, "--instrument", file, *MAPPED, "--out", out)
    assert (code, said.splitlines()[0]) == (0, f"3 emotions × 5 layers × 32 dimensions: {out}")
    lines = [line for line in error.splitlines() if line.startswith("emotrace: ")]
    assert lines[0].startswith("emotrace: own: 8 texts of 3 emotions, no topics: folds by text, 1 of 9 rows left out; ")
    assert lines[1].startswith(
        f"emotrace: left out: {file}, line 9, column text: the same text stands in {file}, line 1"
    )
    assert EmotionVectors.load(out).emotions == tuple(TEXTS)
    chosen = ("--instrument", file, *MAPPED, "--emotion", "smug", "--model", model)
    code, said, _ = call(monkeypatch, capsys, "read", "She let them find out.", "--layer", 2, *chosen)
    assert code == 0
    assert sorted(line.split()[0] for line in said.splitlines()[:3]) == sorted(TEXTS)
    assert "standardised over the 3" in said
    code, said, _ = call(monkeypatch, capsys, "whatif", "The door", "--tokens", 4, "--no-judge", *chosen)
    assert code == 0
    assert "smug" in said
    # vectors from a file bring their own names
    code, said, _ = call(
        monkeypatch, capsys, "read", "She left.", "--vectors", out, "--emotion", "smug", "--layer", 2, "--model", model
    )
    assert code == 0
    assert sorted(line.split()[0] for line in said.splitlines()[:3]) == sorted(TEXTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--instrument", "{file}"), "has no column of the text"),
        (("--instrument", "{file}", *MAPPED, "--emotions", "sad"), "unknown emotion 'sad': known are nostalgic"),
        (("--instrument", "{file}", "--columns", "text"), "columns are written text=story"),
        (("--instrument", "{file}", "--columns", "mood=text"), "unknown role of a column 'mood'"),
        (("--instrument", "nowhere"), "no file or folder nowhere"),
        (("--columns", "text=story"), "are of an --instrument, and none is named"),
        (("--instrument", "{file}", "--passages", "{file}"), "by --instrument or by --passages"),
    ],
)
def test_a_wrong_instrument_is_one_line_before_a_model_is_loaded(arguments, message, file, monkeypatch, capsys):
    given = [part.format(file=file) for part in arguments]
    code, _, error = call(monkeypatch, capsys, "extract", "no-such-model", *given)
    assert code == 2
    (line,) = [line for line in error.splitlines() if not line.startswith(("emotrace: own", "emotrace: left out"))]
    assert message in line
