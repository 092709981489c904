"""The data files keep their promises, and each checker finds a planted fault."""

import re

import numpy as np
import pytest

from emotrace.errors import EmotraceError
from emotrace.instrument import corpus

NORMS = {
    "afraid": (2.25, 5.12), "angry": (2.53, 6.20), "anxious": (3.80, 6.20), "blissful": (7.67, 3.74),
    "brooding": (3.29, 4.00), "calm": (6.89, 1.67), "desperate": (3.19, 5.00), "enthusiastic": (7.55, 5.90),
    "gloomy": (3.15, 3.32), "grateful": (7.50, 4.29), "guilty": (3.09, 4.65), "happy": (8.47, 6.05),
    "hopeful": (7.44, 4.84), "hostile": (2.35, 5.39), "nervous": (3.56, 5.51), "neutral": (5.50, 3.45),
    "proud": (7.00, 5.55), "reflective": (5.57, 3.38), "sad": (2.10, 3.49), "loving": (8.00, 5.36),
}  # fmt: skip
EMOTIONS = [
    "happy", "sad", "calm", "desperate", "afraid", "angry", "proud", "guilty", "nervous", "hopeful", "brooding",
    "gloomy", "reflective", "enthusiastic", "hostile", "loving", "exasperated", "blissful", "anxious", "grateful",
]  # fmt: skip
GOEMOTIONS = {
    "admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire",
    "disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief", "joy",
    "love", "nervousness", "optimism", "pride", "realization", "relief", "remorse", "sadness", "surprise",
    "neutral",
}  # fmt: skip


def edited(**texts):
    """The shipped passages with the texts of some ids (``_`` for the hyphen) changed by a function."""
    table = corpus.passages().set_index("id", drop=False)
    for name, change in texts.items():
        name = name.replace("_", "-")
        table.loc[name, "text"] = change(table.loc[name, "text"])
    return table


def nonsense(n, tag="zq"):
    return " ".join(f"{tag}{place}" for place in range(n)) + "."


def written(tmp_path, table):
    path = tmp_path / "own.csv"
    table.to_csv(path, index=False)
    return path


# -- the shipped tables ---------------------------------------------------------------------------------------------


def test_the_shipped_passages_pass_the_instrument_check():
    table = corpus.passages()
    assert corpus.check_instrument(table) == []
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
    assert abs(np.mean(lengths) / passages - 1) < 0.05


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
    [("He was gloomy.", ["gloomy"]), ("GLOOMY!", ["gloomy"]), ("The gloom's end", ["gloom"]), ("GLOOM’S", ["gloom"]),
     ("a gloomy-looking man", ["gloomy"]), ("half-Gloomy", ["gloomy"]), ("happy—sad", ["happy", "sad"]),
     ("'joys'", ["joys"]), ("a happening in a saddle", [])],
)  # fmt: skip
def test_leaks_finds_kin_in_capitals_possessives_and_hyphenations_but_not_inside_other_words(text, found):
    assert corpus.leaks(text) == found


def test_leaks_finds_a_possessive_within_a_hyphenation():
    assert corpus.leaks("the mother-love's end") == ["love"]


def test_leaks_looks_for_the_named_emotions_only():
    assert corpus.leaks("sad and happy", ["sad"]) == ["sad"]


def test_the_fingerprint_depends_on_texts_and_labels_alone():
    table = corpus.passages()
    relabelled = table.assign(emotion=["sad", *table["emotion"][1:]])
    prints = [corpus.fingerprint(t) for t in (table, edited(cooking_sad=str.upper), relabelled)]
    assert corpus.fingerprint(corpus.passages().set_index("text", drop=False)) == prints[0]
    assert len(set(prints)) == 3
    assert re.fullmatch("[0-9a-f]{16}", prints[0])


# -- planted faults -------------------------------------------------------------------------------------------------


def test_a_missing_cell_is_found():
    faults = corpus.check_instrument(edited().drop(index="cooking-sad"))
    assert faults[0] == "cooking × sad: 0 passages, not 1"
    assert [fault.split(":")[0] for fault in faults[1:]] == ["sad"]  # and its balance is gone


def test_a_passage_under_the_wrong_topic_is_found():
    table = edited()
    table.loc["cooking-sad", "topic"] = "shift"
    assert corpus.check_instrument(table) == [
        "cooking × sad: 0 passages, not 1",
        "shift × sad: 2 passages, not 1",
    ]
    table.loc["cooking-sad", "topic"] = "fishing"
    assert corpus.check_instrument(table) == ["unknown topic fishing", "cooking × sad: 0 passages, not 1"]


@pytest.mark.parametrize(("length", "ok"), [(34, False), (35, True), (60, True), (61, False)])
def test_a_passage_out_of_the_35_to_60_words_is_found(length, ok):
    faults = corpus.check_instrument(edited(cooking_happy=lambda _: nonsense(length)))
    assert faults == ([] if ok else [f"cooking-happy: {length} words, not 35 to 60"])


def test_a_mean_length_more_than_five_percent_off_is_found_in_its_emotion():
    grand = np.mean([len(corpus.words(text)) for text in corpus.passages()["text"]])

    def all_sad(n):
        texts = {f"{topic}_sad": lambda _, topic=topic: nonsense(n, topic) for topic in corpus.topics().index}
        return corpus.check_instrument(edited(**texts))

    assert all_sad(int(grand * 1.04)) == all_sad(int(grand * 0.97)) == []
    for n in (int(grand * 1.07), int(grand * 0.93)):
        (fault,) = all_sad(n)
        assert fault.startswith(f"sad: mean length {n}.0 words, more than 5% from")


@pytest.mark.parametrize(
    ("word", "kin"),
    [("gloomily", "gloomily"), ("GLOOM", "gloom"), ("ever-gloomy", "gloomy"), ("gloom's", "gloom"), ("hate", "hate")],
)
def test_a_kin_word_of_any_emotion_is_found_in_a_passage(word, kin):
    faults = corpus.check_instrument(edited(cooking_happy=lambda text: f"{text[:-1]}, {word}."))
    assert faults == [f"cooking-happy: names an emotion ({kin})"]


@pytest.mark.parametrize("ending", ["", "!", '."', ". "])
def test_a_passage_that_does_not_end_with_a_full_stop_is_found(ending):
    faults = corpus.check_instrument(edited(cooking_happy=lambda text: text[:-1] + ending))
    assert faults == ["cooking-happy: does not end with a full stop"]


@pytest.mark.parametrize("change", [{"tense": "present"}, {"person": "third", "gender": "female"}])
def test_an_unbalanced_emotion_is_found(change):
    table = edited()
    assert list(table.loc["cooking-happy", ["person", "gender", "tense"]]) == ["first", "unmarked", "past"]
    table.loc["cooking-happy", list(change)] = list(change.values())
    (fault,) = corpus.check_instrument(table)
    assert fault.startswith("happy: person/gender/tense uneven")


def test_a_stray_combination_is_blamed_on_its_own_emotion_alone():
    table = edited()
    table.loc["cooking-happy", "gender"] = "male"  # first person, which no other passage has with a gender
    assert [fault.split(":")[0] for fault in corpus.check_instrument(table)] == ["happy"]


def test_a_sentence_shared_by_two_passages_is_found():
    faults = corpus.check_instrument(
        edited(cooking_happy=lambda text: f"{text} Zqa zqb.", train_calm=lambda text: f"Zqa ZQB. {text}")
    )
    assert faults == ["the same sentence in cooking-happy, train-calm: zqa zqb."]


@pytest.mark.parametrize("shared", [4, 5])
def test_five_words_shared_by_two_passages_are_found_and_four_are_not(shared):
    run = nonsense(shared)[:-1]
    faults = corpus.check_instrument(
        edited(
            cooking_happy=lambda text: f"{text[:-1]} {run}.",
            train_calm=lambda text: text.replace(" ", f" {run.upper().replace(' ', ', ')} ", 1),
        )
    )
    assert faults == ([f"the same run of 5 words in cooking-happy, train-calm: {run}"] if shared == 5 else [])


def test_three_opening_words_shared_by_two_passages_are_found():
    faults = corpus.check_instrument(
        edited(cooking_happy=lambda text: f"Zqa zqb zqc {text}", train_calm=lambda text: f"Zqa, zqb zqc {text}")
    )
    assert faults == ["the same opening in cooking-happy, train-calm: zqa zqb zqc"]


# -- a file of one's own --------------------------------------------------------------------------------------------


def test_a_file_of_ones_own_reads_back_as_written(tmp_path):
    table = corpus.passages().tail(21).reset_index(drop=True)
    table.loc[0, "text"] = "NA"  # a text, not a missing value
    assert corpus.passages(written(tmp_path, table)).equals(table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns=["tense", "person"]), "lacks the column person, tense: it needs id, topic, emotion"),
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
    with pytest.raises(EmotraceError, match=r"own\.csv (cannot be read as CSV|lacks the column)") as error:
        corpus.passages(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(EmotraceError, match=r"no file .*none\.csv"):
        corpus.passages(tmp_path / "none.csv")
    with pytest.raises(EmotraceError, match="cannot be read as CSV"):
        corpus.passages(tmp_path)


def test_check_emotions_returns_the_known_and_lists_them_for_an_unknown_one():
    assert corpus.check_emotions(["sad", "calm"]) == ["sad", "calm"]
    with pytest.raises(EmotraceError) as error:
        corpus.check_emotions(["sad", "neutral"])
    assert str(error.value) == f"unknown emotion 'neutral': known are {', '.join(EMOTIONS)}"
