"""The data files keep their promises, and a file of one's own is refused by what is wrong with it."""

import re

import numpy as np
import pytest

from emotrace.errors import EmotraceError
from emotrace.instrument import corpus

NORMS = {
    "afraid": (2.25, 5.12),
    "angry": (2.53, 6.20),
    "anxious": (3.80, 6.20),
    "blissful": (7.67, 3.74),
    "brooding": (3.29, 4.00),
    "calm": (6.89, 1.67),
    "desperate": (3.19, 5.00),
    "enthusiastic": (7.55, 5.90),
    "gloomy": (3.15, 3.32),
    "grateful": (7.50, 4.29),
    "guilty": (3.09, 4.65),
    "happy": (8.47, 6.05),
    "hopeful": (7.44, 4.84),
    "hostile": (2.35, 5.39),
    "nervous": (3.56, 5.51),
    "neutral": (5.50, 3.45),
    "proud": (7.00, 5.55),
    "reflective": (5.57, 3.38),
    "sad": (2.10, 3.49),
    "loving": (8.00, 5.36),
}
EMOTIONS = [
    "happy",
    "sad",
    "calm",
    "desperate",
    "afraid",
    "angry",
    "proud",
    "guilty",
    "nervous",
    "hopeful",
    "brooding",
    "gloomy",
    "reflective",
    "enthusiastic",
    "hostile",
    "loving",
    "exasperated",
    "blissful",
    "anxious",
    "grateful",
]
GOEMOTIONS = {
    "admiration",
    "amusement",
    "anger",
    "annoyance",
    "approval",
    "caring",
    "confusion",
    "curiosity",
    "desire",
    "disappointment",
    "disapproval",
    "disgust",
    "embarrassment",
    "excitement",
    "fear",
    "gratitude",
    "grief",
    "joy",
    "love",
    "nervousness",
    "optimism",
    "pride",
    "realization",
    "relief",
    "remorse",
    "sadness",
    "surprise",
    "neutral",
}


def written(tmp_path, table):
    path = tmp_path / "own.csv"
    table.to_csv(path, index=False)
    return path


# -- the shipped tables ---------------------------------------------------------------------------------------------


def test_the_shipped_passages_are_fully_crossed():
    table = corpus.passages()
    assert len(table) == 252
    assert set(table.groupby("topic").size()) == {21}
    assert set(table.groupby("emotion").size()) == {12}


def test_the_emotions_are_the_papers_twenty_in_order_and_neutral():
    assert corpus.emotion_names() == EMOTIONS
    assert list(corpus.emotions().index) == [*EMOTIONS, "neutral"]


def test_valence_and_arousal_are_the_norms_and_unknown_for_exasperated():
    table = corpus.emotions()
    known = table.drop(index="exasperated")
    assert {name: (row.valence, row.arousal) for name, row in known.iterrows()} == NORMS
    assert np.isnan(table.loc["exasperated", ["valence", "arousal"]].astype(float)).all()


def test_every_goemotions_label_exists():
    assert len(GOEMOTIONS) == 28
    used = {label for labels in corpus.emotions()["goemotions"] for label in labels}
    assert used <= GOEMOTIONS
    assert corpus.emotions().loc["desperate", "goemotions"] == ("fear", "sadness")


def test_every_emotion_is_its_own_kin():
    assert [corpus.leaks(f"so {name} then", [name]) for name in corpus.emotions().index] == [
        [name] for name in corpus.emotions().index
    ]


def test_twelve_topics_are_those_of_the_passages():
    assert list(corpus.topics().index) == list(dict.fromkeys(corpus.passages()["topic"]))
    assert len(corpus.topics()) == 12


def test_baseline_texts_are_150_distinct_emotionless_texts_as_long_as_the_passages():
    table = corpus.baseline_texts()
    assert len(table) == table["text"].nunique() == table["id"].nunique() == 150
    assert not set(table["text"]) & set(corpus.passages()["text"])
    assert [corpus.leaks(text) for text in table["text"]] == [[]] * 150
    lengths = [len(corpus.words(text)) for text in table["text"]]
    assert min(lengths) >= 35
    assert max(lengths) <= 60
    passages = np.mean([len(corpus.words(text)) for text in corpus.passages()["text"]])
    assert abs(np.mean(lengths) / passages - 1) < 0.08


def test_the_registry_marks_nine_models_of_five_families_within_the_papers_sizes():
    table = corpus.model_registry()
    nine = table[table["paper_nine"] == "ours"]
    assert len(nine) == 9
    assert set(nine["family"]) == {"gpt2", "gemma", "qwen", "llama", "mistral"}
    assert (nine["parameters_millions"].min(), nine["parameters_millions"].max()) == (124, 8030)
    assert set(nine["kind"]) == {"base", "instruct"}


def test_packaged_models_are_pinned_by_sha256_and_list_their_files():
    table = corpus.model_registry()
    packaged = table[table["source"] == "packaged"]
    assert set(packaged.index) == {"smollm2-135m-instruct", "gemma-3-270m", "qwen2.5-coder-0.5b-instruct"}
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in packaged["sha256"])
    assert [len(files) for files in packaged["files"]] == [1, 4, 6]
    assert set(table.drop(index=packaged.index)["files"]) == {()}


def test_the_quick_subset_keeps_each_combination_of_each_emotion_once():
    subset = corpus.quick_subset(corpus.passages())
    assert list(dict.fromkeys(subset["topic"])) == list(corpus.topics().index[:6])
    assert len(subset) == 6 * 21
    assert list(subset.index) == list(range(126))
    third = {("third", gender, tense) for gender in ("female", "male") for tense in ("past", "present")}
    expected = third | {("first", "unmarked", tense) for tense in ("past", "present")}
    for _, rows in subset.groupby("emotion"):
        combinations = list(rows[["person", "gender", "tense"]].itertuples(index=False, name=None))
        assert len(combinations) == 6
        assert set(combinations) == expected


# -- words and leaks ------------------------------------------------------------------------------------------------


def test_words_are_lower_case_with_hyphens_and_apostrophes_inside():
    expected = ["dad's", "cat-sitter", "at", "6", "don't", "he", "said"]
    assert corpus.words("Dad’s cat-sitter, at 6: “Don't!” — he said.") == expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("He was gloomy.", ["gloomy"]),
        ("GLOOMY!", ["gloomy"]),
        ("The gloom's end", ["gloom"]),
        ("GLOOM’S", ["gloom"]),
        ("a gloomy-looking man", ["gloomy"]),
        ("half-Gloomy", ["gloomy"]),
        ("happy—sad", ["happy", "sad"]),
        ("'joys'", ["joys"]),
        ("a happening in a saddle", []),
    ],
)
def test_leaks_finds_kin_in_capitals_possessives_and_hyphenations_but_not_inside_other_words(text, found):
    assert corpus.leaks(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Dad’s cat-sitter, at 6: foo_bar", ["dad's", "cat-sitter", "at", "6", "foo", "bar"]),
        ("他走,坐下。iPhone-15的", [*"他走坐下", "iphone-15", "的"]),
        ("他在厨房里走来走去然后又坐下", [*"他在厨房里走来走去然后又坐下"]),
        ("ラーメン・東京", [*"ラーメン東京"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("बहुत खुशी हुई", ["बहुत", "खुशी", "हुई"]),
        ("fa\u0302che\u0301", ["fâché"]),
        ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaé", ["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaé"]),
    ],
)
def test_words_of_any_script_are_whole_and_characters_where_no_blanks_stand(text, found):
    assert corpus.any_words(text) == found


def test_our_texts_have_the_same_words_in_english_and_in_any_script():
    for name in corpus.INSTRUMENTS:
        texts = corpus.passages(instrument=name)["text"]
        assert [text for text in texts if corpus.words(text) != corpus.any_words(text)] == []


def test_leaks_finds_a_possessive_within_a_hyphenation():
    assert corpus.leaks("the mother-love's end") == ["love"]


def test_leaks_looks_for_the_named_emotions_only():
    assert corpus.leaks("sad and happy", ["sad"]) == ["sad"]


def test_the_fingerprint_depends_on_texts_and_labels_alone():
    table = corpus.passages()
    relabelled = table.assign(emotion=["sad", *table["emotion"][1:]])
    rewritten = table.assign(text=[table["text"][0].upper(), *table["text"][1:]])
    prints = [corpus.fingerprint(t) for t in (table, rewritten, relabelled)]
    assert corpus.fingerprint(corpus.passages().set_index("text", drop=False)) == prints[0]
    assert len(set(prints)) == 3
    assert re.fullmatch("[0-9a-f]{16}", prints[0])


# -- a file of one's own --------------------------------------------------------------------------------------------


def test_a_file_of_ones_own_reads_back_as_written(tmp_path):
    table = corpus.passages().tail(21).reset_index(drop=True)
    table.loc[0, "text"] = "NA"  # a text, not a missing value
    assert corpus.passages(written(tmp_path, table)).equals(table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns=["text", "person"]), "lacks the column text: it needs emotion, text"),
        (lambda t: t.assign(text=[t["text"][1], *t["text"][1:]]), "clinic-sad: the same text stands there twice"),
        (lambda t: t.assign(id=["clinic-sad", *t["id"][1:]]), "clinic-sad: the same id stands there twice"),
        (lambda t: t.assign(emotion=["merry", *t["emotion"][1:]]), "clinic-happy: unknown emotion 'merry': known are "),
        (lambda t: t.assign(text=["  ", *t["text"][1:]]), "clinic-happy: the text is empty"),
        (lambda t: t[t["emotion"] != "neutral"], "no passage of the class 'neutral'"),
        (lambda t: t[:0], "has no rows"),
    ],
)
def test_a_faulty_file_of_passages_is_refused_by_what_is_wrong(tmp_path, change, message):
    table = corpus.passages().tail(21).reset_index(drop=True)
    path = written(tmp_path, change(table))
    with pytest.raises(EmotraceError) as error:
        corpus.passages(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_emotion_in_a_file_lists_every_known_class(tmp_path):
    table = corpus.passages().tail(21).replace({"emotion": {"sad": "merry"}})
    with pytest.raises(EmotraceError) as error:
        corpus.passages(written(tmp_path, table))
    assert str(error.value).endswith(", ".join([*EMOTIONS, "neutral"]))


@pytest.mark.parametrize("content", [b"", b"\n", b'id,topic\n"a', b"id\n\xff\xfe\n"])
def test_an_empty_or_broken_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "own.csv"
    path.write_bytes(content)
    with pytest.raises(EmotraceError, match=r"own\.csv.*(cannot be read|lacks the column)") as error:
        corpus.passages(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(EmotraceError, match=r"no file a\\x00b\.csv: no path has a zero character"):
        corpus.passages("a\0b.csv")
    with pytest.raises(EmotraceError, match=r"no file .*none\.csv"):
        corpus.passages(tmp_path / "none.csv")
    with pytest.raises(EmotraceError, match="cannot be read"):
        corpus.passages(tmp_path)


def test_check_emotions_returns_the_known_and_lists_them_for_an_unknown_one():
    assert corpus.check_emotions(["sad", "calm"]) == ["sad", "calm"]
    with pytest.raises(EmotraceError) as error:
        corpus.check_emotions(["sad", "neutral"])
    assert str(error.value) == f"unknown emotion 'neutral': known are {', '.join(EMOTIONS)}"
