"""What ``emotrace check`` finds: nothing in our own texts, and each planted fault where it was planted."""

import sys

import numpy as np
import pandas as pd
import pytest

import emotrace
from emotrace import cli
from emotrace.errors import EmotraceError
from emotrace.instrument import checks, corpus, report
from emotrace.instrument.report import CHECKS, examine
from emotrace.measures.words_floor import Leak, decode_tfidf


def found(source, *whats) -> dict:
    return {finding.what: finding for finding in examine(emotrace.load_instrument(source), whats or None)}


@pytest.fixture(scope="module")
def scenes():
    return corpus.passages()[["emotion", "topic", "text"]]


def test_our_own_texts_keep_every_promise():
    findings = found("scenes")
    assert list(findings) == list(CHECKS)
    assert [one.what for one in findings.values() if one.kept is not True] == ["words-only floor"]
    # 240 texts of 20 emotions: the accuracies of words_floor, which its own tests check
    assert [line.split(":")[0] for line in findings["words-only floor"].details] == [
        f"{topics} topics, {20 * topics} texts" for topics in (3, 6, 9, 12)
    ]
    assert "(chance 0.050)" in findings["words-only floor"].said


def test_the_words_only_floor_is_that_of_the_measures(scenes):
    some = scenes[scenes["emotion"].isin(["happy", "sad", "neutral", "calm"])]
    rows = some[some["emotion"] != "neutral"]
    correct = decode_tfidf([corpus.any_words(text) for text in rows["text"]], rows["emotion"], rows["topic"])
    floor = found(some, "words-only floor")["words-only floor"]
    assert f"at {correct.mean():.3f} (chance 0.333)" in floor.said
    assert floor.details[-1] == f"12 topics, 36 texts: {correct.mean():.3f}"
    with pytest.raises(EmotraceError, match="unknown check 'magic'"):
        found(some, "magic")


def planted(scenes, row: int, **cells) -> pd.DataFrame:
    table = scenes.copy()
    for column, value in cells.items():
        table.loc[row, column] = value
    return table


FAULTS = {
    "rows": (lambda t: pd.concat([t, t[:1]]), "253 rows read: 252 used, 1 left out"),
    "counts": (lambda t: t[(t["emotion"] != "sad") | (t["topic"] < "d")], "(sad) to 12"),
    "topics": (lambda t: t[(t["emotion"] != "sad") | (t["topic"] == "cooking")], "1 owned"),
    "lengths": (
        lambda t: t.assign(text=t["text"].where(t["emotion"] != "calm", t["text"] + " It was so for a long time.")),
        "the means of 1 emotions",
    ),
    "speech": (lambda t: planted(t, 1, text='"Go away," she said, and shut the door on him.'), "direct speech in"),
    "endings": (lambda t: planted(t, 1, text="She shut the door on him!"), "end in '.'"),
    "leakage": (lambda t: planted(t, 1, text="She was sad and shut the door on him."), "1 of 252 texts name their own"),
    "owned words": (
        lambda t: t.assign(text=t["text"].where(t["emotion"] != "proud", "The trombone shone. " + t["text"])),
        "words that one emotion has",
    ),
    "near-duplicates": (
        lambda t: planted(t, 1, text=t["text"][0] + " So it was."),
        "1 pairs of near-duplicates, 1 betw",
    ),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_planted_fault_is_found_where_it_is(what, scenes):
    plant, said = FAULTS[what]
    one = found(plant(scenes), what)[what]
    assert one.kept is False
    assert said in one.said


def test_commas_of_one_emotion_are_found(scenes):
    some = scenes[scenes["emotion"].isin(["happy", "sad", "neutral", "calm"])]
    signs = some["text"].where(some["emotion"] != "sad", some["text"] + ",,,,,,,,.")
    one = found(some.assign(text=signs), "surface")["surface"]
    assert one.kept is False
    assert "at 0.611 (chance 0.333, p = 0.0" in one.said


@pytest.mark.parametrize(("accuracy", "p", "kept"), [(0.4375, 0.156, True), (0.4375, 0.05, False), (0.2, 0.05, True)])
def test_what_counts_decode_is_judged_by_its_p_alone(accuracy, p, kept, scenes, monkeypatch):
    """Four emotions on four topics: 0.4375 is within chance, however far above 0.25."""
    some = scenes[scenes["emotion"].isin(["happy", "sad", "proud", "calm"])]
    for module in (report, checks):
        monkeypatch.setattr(module, "counts_leak", lambda *_: Leak(accuracy, 0.25, p))
    monkeypatch.setattr(checks, "decode_counts", lambda *_: np.array([accuracy]))
    assert found(some, "surface")["surface"].kept is kept
    assert (checks._check_surface(some) == []) is kept


@pytest.mark.parametrize(
    ("texts", "learnt"),
    [
        ({"joy": [("a", "one x"), ("a", "two y")], "sad": [("b", "three z"), ("b", "four w")]}, 0),
        (
            {
                "joy": [("a", "m n"), ("a", "o p"), ("c", "q r"), ("d", "s t")],
                "sad": [("b", "u v"), ("b", "w x"), ("c", "y z"), ("d", "k l")],
            },
            2,
        ),
        ({"joy": [("a", "😀😀"), ("b", "😂")], "sad": [("a", "😢"), ("b", "😭😭")]}, 0),
    ],
)
def test_topics_of_one_emotion_and_texts_without_words_are_examined(texts, learnt):
    rows = [{"emotion": name, "topic": topic, "text": text} for name, part in texts.items() for topic, text in part]
    findings = found(pd.DataFrame(rows), "near-duplicates", "surface", "words-only floor")
    floor = findings["words-only floor"]
    assert len(floor.details) == learnt
    assert ("are needed to decode anything" in floor.said) is (learnt == 0)


def test_the_floor_of_chinese_texts_does_not_hang_on_their_commas():
    rows = [
        {"emotion": emotion, "topic": topic, "text": f"他在{topic}{emotion}地走,坐下。"}
        for topic in ("厨房", "公园", "学校", "车站")
        for emotion in ("高兴", "悲伤", "愤怒")
    ]
    with_commas, without = (
        found([{**row, "text": row["text"].translate(cut)} for row in rows], "words-only floor", "leakage")
        for cut in ({}, str.maketrans("", "", ",。"))
    )
    assert with_commas["words-only floor"].said == without["words-only floor"].said
    assert "decode the emotions at 1.000 (chance 0.333)" in without["words-only floor"].said
    assert "12 of 12 texts name their own emotion" in with_commas["leakage"].said


def test_texts_without_topics_are_said_to_have_none(scenes):
    some = scenes[scenes["emotion"].isin(["happy", "sad", "neutral"])]
    findings = found(some.drop(columns="topic"), "topics", "words-only floor")
    assert findings["topics"].kept is None
    assert "nothing tells an emotion from its topics" in findings["topics"].said
    assert "folds of texts held out" in findings["words-only floor"].said


@pytest.mark.parametrize(("strict", "code"), [((), 0), (("--strict",), 1)])
def test_the_command_says_what_was_found(strict, code, tmp_path, monkeypatch, capsys):
    rows = [
        {"mood": mood, "text": f"{mood} {n} {'the cat sat. ' * n}"} for mood in ("smug", "dull") for n in range(1, 9)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "own.csv", index=False)
    called = ["emotrace", "check", str(tmp_path / "own.csv"), "--columns", "emotion=mood", *strict]
    monkeypatch.setattr(sys, "argv", called)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert (stopped.value.code or 0) == code
    said = capsys.readouterr().out
    assert said.startswith("own: 16 texts of 2 emotions, no topics: folds by text; commas between columns")
    assert "broken  leakage: 16 of 16 texts name their own emotion" in said
    assert np.char.count(said, "\n") < 60
