"""The Chinese words hold what ``data/README.md`` promises; tokenizers take them as they say."""

from collections import Counter

import pandas as pd
import pytest

from emotrace.instrument import corpus
from emotrace.study.languages import lexicon, writing_systems
from emotrace.study.languages.writing_systems import HAN, script_of


def faults(table: pd.DataFrame, at_least: int = 14) -> list[str]:
    """Everything in which a lexicon falls short: unknown or missing emotions, too few words, a word given twice or
    standing inside a word of another emotion, characters that are not Han, empty cells."""
    known, words = corpus.emotion_names(), list(zip(table["word"], table["emotion"], strict=True))
    counts = Counter(table["emotion"])
    return [
        *(f"unknown emotion {name}" for name in counts if name not in known),
        *(f"{name}: {counts[name]} words, fewer than {at_least}" for name in known if counts[name] < at_least),
        *(f"{word} stands there {n} times" for word, n in Counter(table["word"]).items() if n > 1),
        *(f"{word}: not Han throughout" for word, _ in words if not word or {*map(script_of, word)} != {HAN}),
        *(
            f"{word} ({emotion}) stands inside {longer} ({other})"
            for word, emotion in words
            for longer, other in words
            if word and word in longer and word != longer and emotion != other
        ),
        *(f"{row.word}: no pinyin or gloss" for row in table.itertuples() if not (row.pinyin and row.gloss)),
    ]


def test_the_lexicon_holds_what_it_promises():
    table = lexicon.lexicon()
    assert faults(table) == []
    assert not set(table["word"]) & {word for words in lexicon.EXAMPLES.values() for word in words}
    assert len(set(table["word"].str.len())) >= 3


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t[t["emotion"] != "sad"], "sad: 0 words"),
        (lambda t: pd.concat([t, t[t["word"] == "绝望"].assign(emotion="gloomy")]), "绝望 stands there 2 times"),
        (lambda t: t.assign(word=t["word"].replace("高兴", "高兴!")), "高兴!: not Han"),
        (lambda t: t.assign(word=t["word"].replace("高兴", "glad")), "glad: not Han"),
        (lambda t: t.assign(word=t["word"].replace("不耐烦", "不安分")), "不安 (anxious) stands inside 不安分"),
        (lambda t: t.assign(emotion=t["emotion"].replace("calm", "relaxed")), "unknown emotion relaxed"),
        (lambda t: t.assign(gloss=t["gloss"].where(t["word"] != "高兴", "")), "高兴: no pinyin or gloss"),
    ],
)
def test_each_fault_of_a_lexicon_is_named(change, complaint):
    assert any(line.startswith(complaint) for line in faults(change(lexicon.lexicon())))


def test_tokenisation_is_reported_word_by_word(planted):
    model, _ = planted
    words = pd.DataFrame(
        [("sad", "绝望"), ("sad", "绝望了"), ("calm", "绝望吗"), ("calm", "平静"), ("calm", "水")],
        columns=["emotion", "word"],
    )
    table = lexicon.tokenised(model, words, writing_systems.vocabulary(model)).set_index("word")
    assert list(table["whole"]) == [True, False, False, True, False]
    assert list(table["shared"]) == [True, True, True, False, False]
    assert list(table["usable"]) == [False, False, False, True, False]  # the last begins with a piece of a character
    assert list(table["token"][:4]) == ["绝望", "绝望", "绝望", "平静"]
    assert table.loc["绝望了", "n_tokens"] == len(model.tokenizer("绝望了", add_special_tokens=False)["input_ids"])
