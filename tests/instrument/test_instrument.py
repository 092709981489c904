"""Anyone's emotions and texts: the shapes they come in, what is wrong with a row, and no row dropped silently."""

import csv
import io
import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import emotrace
from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.instrument.folds import alike, groups, text_folds
from emotrace.instrument.instrument import default, from_names, norms_of
from emotrace.instrument.kin import inflections
from emotrace.instrument.report import examine
from emotrace.readings import Reading

TEXTS = {
    "nostalgic": [
        "She kept the old ticket, and smelled it.",
        "He drove past the school twice.",
        "The song was theirs.",
    ],
    "curious": [
        "He looked behind the clock; it ticked.",
        "What was under the lid?",
        "She asked again, and wrote it down.",
    ],
    "neutral": ["The bus came at six.", "He put the cup on the shelf.", "The list had nine rows."],
}
RECORDS = [
    {"emotion": emotion, "topic": ["home", "road"][number % 2], "text": text}
    for emotion, texts in TEXTS.items()
    for number, text in enumerate(texts)
]
TABLE = pd.DataFrame(RECORDS)


def separated(table: pd.DataFrame, separator: str = ",") -> str:
    return table.to_csv(sep=separator, index=False)


def same(instrument) -> bool:
    """The texts, emotions and topics of ``TABLE``, in whatever order of rows."""
    found = instrument.passages.sort_values("text", ignore_index=True)[["emotion", "topic", "text"]]
    return found.equals(TABLE.sort_values("text", ignore_index=True)) and instrument.has_topics


# -- shapes -----------------------------------------------------------------------------------------------------------

STORIES = TABLE.rename(columns={"text": "story", "emotion": "label", "topic": "context"})
NESTED = {
    emotion: {
        topic: [row["text"] for row in RECORDS if (row["emotion"], row["topic"]) == (emotion, topic)]
        for topic in ("home", "road")
    }
    for emotion in TEXTS
}
FILES = {
    "commas.csv": separated(TABLE),
    "semicolons.csv": separated(TABLE, ";"),
    "tabs.tsv": separated(TABLE, "\t"),
    "bars.csv": separated(TABLE, "|"),
    "carets.csv": separated(TABLE, "^"),
    "mark.csv": "\ufeff" + separated(TABLE),
    "comments.csv": "# made by me, in May\n" + separated(TABLE).replace("\nneutral", "\n# not\n\n,,\nneutral", 1),
    "header_comment.tsv": "#" + separated(TABLE, "\t"),
    "index.csv": TABLE.to_csv(),
    "windows.csv": separated(TABLE).replace("\n", "\r\n"),
    "usual.csv": separated(STORIES),
    "Capitals.csv": separated(TABLE.rename(columns=str.title)),
    "records.json": json.dumps(RECORDS),
    "under.json": json.dumps({"version": 2, "stories": RECORDS}),
    "columns.json": TABLE.to_json(),
    "lists.json": json.dumps(TABLE.to_dict("list")),
    "nested.json": json.dumps(NESTED),
    "lines.jsonl": "\n".join(map(json.dumps, RECORDS)) + "\n\n",
    "lines.json": "\n".join(map(json.dumps, RECORDS)),
    "one_array.jsonl": json.dumps(RECORDS),
}


@pytest.mark.parametrize("name", FILES)
def test_files_as_people_have_them(name, tmp_path):
    (tmp_path / name).write_text(FILES[name])
    instrument = emotrace.load_instrument(tmp_path / name)
    assert same(instrument)
    assert (instrument.name, instrument.read, instrument.left_out) == (name.rsplit(".", 1)[0], 9, ())
    assert instrument.emotions == ("nostalgic", "curious")
    assert "\n" not in instrument.summary
    assert instrument.summary.startswith(f"{instrument.name}: 9 texts of 2 emotions and neutral on 2 topics; ")


def test_what_is_no_row_is_said(tmp_path):
    (tmp_path / "own.csv").write_text(FILES["comments.csv"])
    assert (
        "commas between columns; 2 comment lines (line 1, 9); 2 empty lines"
        in emotrace.load_instrument(tmp_path / "own.csv").summary
    )


def test_a_text_may_begin_with_a_hash(tmp_path):
    lines = ["text,emotion", "#blessed to be here,happy", "# made by me", "The bus came.,neutral", "We ran.,sad"]
    (tmp_path / "own.csv").write_text("\n".join(lines))
    assert emotrace.load_instrument(tmp_path / "own.csv").passages["text"].iloc[0] == "#blessed to be here"


@pytest.mark.parametrize("kind", ["jsonl", "csv", "txt"])
def test_a_folder_of_one_file_an_emotion(kind, tmp_path):
    folder = tmp_path / "stories"
    folder.mkdir()
    for emotion, part in TABLE.groupby("emotion"):
        rows = part.drop(columns="emotion")
        contents = {
            "jsonl": rows.to_json(orient="records", lines=True),
            "csv": separated(rows),
            "txt": "\n".join(rows["text"]),
        }
        (folder / f"{emotion}.{kind}").write_text(contents[kind])
    (folder / "README.md").write_text("ours")
    instrument = emotrace.load_instrument(folder)
    assert instrument.name == "stories"
    assert "3 files; unread: README.md" in instrument.summary
    if kind != "txt":
        assert same(instrument)
    assert {e: list(rows["text"]) for e, rows in instrument.passages.groupby("emotion")} == TEXTS


def test_a_folder_like_data_brings_what_stands_beside_the_texts(tmp_path):
    TABLE.to_csv(tmp_path / "passages.csv", index=False)
    emotions = pd.DataFrame(
        {"emotion": ["curious", "nostalgic"], "valence": [6.5, ""], "arousal": [5, 4], "kin": ["nosy|prying", ""]}
    )
    emotions.to_csv(tmp_path / "emotions.csv", index=False)
    pd.DataFrame({"topic": ["home"], "description": ["At home"]}).to_csv(tmp_path / "topics.csv", index=False)
    pd.DataFrame({"text": ["Basalt is dark."]}).to_csv(tmp_path / "baseline_texts.csv", index=False)
    instrument = emotrace.load_instrument(tmp_path)
    assert same(instrument)
    assert instrument.emotions == ("curious", "nostalgic")
    assert instrument.kin["curious"] == ("nosy", "prying")
    assert "nostalgically" in instrument.kin["nostalgic"]
    assert instrument.norms.loc["curious"].tolist() == [6.5, 5]
    assert np.isnan(instrument.norms.loc["nostalgic", "valence"])
    assert instrument.norms.loc["neutral", "valence"] == 5.5
    assert instrument.topics == {"home": "At home", "road": "road"}
    assert list(instrument.baseline_texts["text"]) == ["Basalt is dark."]
    assert instrument.leaks("A nosy, nostalgic-looking man.") == ["nostalgic", "nosy"]


@pytest.mark.parametrize(
    "source",
    [TABLE, TABLE.set_axis(range(50, 59)), RECORDS, NESTED, {"texts": TABLE}, TABLE.astype({"emotion": "category"})],
)
def test_what_is_in_memory(source):
    assert same(emotrace.load_instrument(source))


def test_a_mapping_names_other_columns(tmp_path):
    own = TABLE.rename(columns={"text": "prose", "emotion": "mood"}).assign(label=range(9), text="x")
    own.to_csv(tmp_path / "own.csv", index=False)
    mapping = {"text": "prose", "emotion": "mood"}
    assert same(emotrace.load_instrument(tmp_path / "own.csv", columns=mapping))
    untopical = emotrace.load_instrument(tmp_path / "own.csv", columns={**mapping, "topic": ""})
    assert not untopical.has_topics
    with pytest.raises(EmotraceError, match="has no column 'poem' for the text: its columns are mood, topic, prose"):
        emotrace.load_instrument(tmp_path / "own.csv", columns={"text": "poem"})


def test_published_norms_may_come_from_a_file_of_their_own(tmp_path):
    words = pd.DataFrame({"Word": ["aardvark", "curious"], "V.Mean.Sum": [6.26, 6.1], "A.Mean.Sum": [2.41, 5.2]})
    words.to_csv(tmp_path / "norms.csv", index=False)
    instrument = emotrace.load_instrument(TABLE, norms=tmp_path / "norms.csv")
    assert instrument.norms.loc["curious"].tolist() == [6.1, 5.2]
    assert "no norms of 1: no valence of theirs" in instrument.summary


def test_the_default_is_the_one_of_data():
    for name in ("scenes", "accounts"):
        instrument = emotrace.load_instrument(name)
        assert instrument.passages.equals(corpus.passages(instrument=name))
        assert instrument.classes == tuple(corpus.emotions().index)
        assert list(instrument.kin) == list(corpus.emotions().index)
        assert instrument.default
        text = "Her gladness showed; joy's own, half-angry."
        assert instrument.leaks(text) == corpus.leaks(text) == ["angry", "gladness", "joy"]
    file = emotrace.load_instrument(corpus.data_dir() / "passages.csv")
    assert file.emotions == default().emotions
    pd.testing.assert_frame_equal(file.passages[corpus.passages().columns], corpus.passages(), check_dtype=False)
    assert dict(file.kin) == dict(default().kin)


def test_names_alone():
    instrument = from_names(["nostalgic", "sad"])
    assert instrument.classes == ("nostalgic", "sad", "neutral")
    assert instrument.kin["sad"] == corpus.emotions()["kin"]["sad"]
    assert list(instrument.topics) == list(corpus.topics().index)
    for names in ([], ["neutral"], ["sad", "sad"], [""]):
        with pytest.raises(EmotraceError):
            from_names(names)


def test_contrast_pairs_are_a_concept_and_its_absence(tmp_path):
    pairs = pd.DataFrame({"positive": ["I am so glad.", "What joy!"], "negative": ["I am here.", "What now?"]})
    pairs.to_csv(tmp_path / "joy.csv", index=False)
    instrument = emotrace.load_instrument(tmp_path / "joy.csv")
    assert instrument.pairs
    assert instrument.emotions == ("joy",)
    assert list(instrument.passages["emotion"]) == ["joy", "neutral"] * 2
    assert list(instrument.passages["topic"]) == ["pair 1", "pair 1", "pair 2", "pair 2"]
    pairs["negative"] = ["I am here.", None]
    with pytest.raises(EmotraceError, match=r"record 2 \(negative\), column text: the text is missing"):
        emotrace.load_instrument(pairs.to_dict("records"), name="joy")


# -- what cannot be used ----------------------------------------------------------------------------------------------


def changed(column: str, value: object) -> list[dict]:
    """The records with the third one's cell changed."""
    return [{**row, column: value} if number == 2 else row for number, row in enumerate(RECORDS)]


LINE = separated(TABLE).splitlines()
MALFORMED = {
    "a.csv": ("", "is empty"),
    "b.csv": ("# a\n# b\n", "all its lines begin with #"),
    "c.csv": ("emotion,topic,text\n", "has no rows"),
    "d.csv": ("\n".join(LINE[1:]), "has no column of the text (text, story, passage"),
    "e.csv": (separated(TABLE.drop(columns="emotion")), "has no column of the emotion (emotion, label, class"),
    "f.csv": ("\n".join([*LINE[:3], "curious,home"]), "line 4: 2 fields, but 3 columns"),
    "g.csv": ("\n".join([*LINE[:3], "curious,home,He came, and saw."]), "line 4: 4 fields, but 3 columns"),
    "h.csv": ("\n".join([*LINE[:3], 'curious,home,"He came', *LINE[3:]]), "cannot be read as separated values"),
    "i.csv": ("\n".join([*LINE[:3], "curious,home,  "]), "line 4, column text: the text is empty"),
    "j.csv": ("\n".join([*LINE[:3], " ,home,He came."]), "line 4, column emotion: the emotion is empty"),
    "k.csv": ("\n".join([*LINE[:3], "curious,,He came."]), "line 4, column topic: the topic is empty"),
    "l.csv": ("\n".join([*LINE[:3], "Nostalgic,home,He came."]), "'Nostalgic' and 'nostalgic'"),
    "m.csv": ("\n".join([*LINE[:3], "3,home,He came."]), "line 4, column emotion: the emotion is the number 3"),
    "n.csv": (separated(TABLE.rename(columns={"text": "emotion", "emotion": "text"})), None),
    "o.csv": ("emotion,text,text\nsad,a,b\nneutral,a,c\n", "has the column text twice"),
    "p.csv": ("class,label,text\nsad,a,b\nneutral,a,c\n", "label and class could each be the emotion"),
    "q.csv": (separated(TABLE[TABLE["emotion"] == "curious"]), "has texts of curious alone"),
    "r.csv": (separated(TABLE[TABLE["emotion"] == "neutral"]), "has texts of neutral alone"),
    "s.csv": (
        "emotion,text\nsad,Café\nneutral,a\n".encode("cp1252"),
        "line 2: it cannot be read: byte 20 is not UTF-8",
    ),
    "t.csv": (b"emotion\0,text", "it is no text"),
    "u.txt": ("one\ntwo\n", "has no column of the emotion"),
    "v.xlsx": ("", "end in .csv, .tsv, .json"),
    "a.json": ("[{", "line 1, character 3: it is no JSON"),
    "b.json": ("[]", "has no rows"),
    "c.json": ("3", "a list of objects, or {emotion: [text, …]}, is wanted, not 3"),
    "d.json": (json.dumps([RECORDS[0], "text"]), "record 2: a list of objects"),
    "e.json": (json.dumps(changed("text", None)), "record 3, column text: the text is missing"),
    "f.json": (json.dumps(changed("text", 7)), "record 3, column text: the text is no text: 7 (int)"),
    "g.json": (json.dumps(changed("text", ["a"])), "record 3, column text: the text is no text: ['a'] (list)"),
    "h.json": (json.dumps(changed("emotion", 4)), "record 3, column emotion: the emotion is no text: 4"),
    "i.json": (json.dumps(changed("emotion", ["sad", "calm"])), "record 3, column emotion: the emotion is no text"),
    "j.json": (json.dumps(changed("text", float("nan"))), "record 3, column text: the text is missing"),
    "k.json": (json.dumps(changed("emotion", "a" * 80)), "an emotion's name of 80 characters"),
    "l.json": (json.dumps(changed("emotion", "sad\nly")), "a line break or another control character"),
    "m.json": ('{"sad": ["a"], "sad": ["b"], "neutral": ["c"]}', "the name 'sad' stands there twice"),
    "n.json": ('{"text": ["a", "b"], "emotion": ["sad"]}', "its columns have 2 text, 1 emotion values"),
    "o.json": (json.dumps(changed("text", "half \ud83d here")), "record 3, column text: the text has half a character"),
    "p.json": ("[" * 100_000, "is nested too deep"),
    "q.json": ('[{"text": ' + "1" * 5000 + ', "emotion": "sad"}]', "is no JSON of texts: Exceeds the limit"),
    "d.jsonl": ('{"text": "a"}\n{"text": ' + "1" * 5000 + "}", "line 2: it is no JSON (Exceeds the limit"),
    "a.jsonl": ('{"emotion": "sad", "text": "a"}\n{"emotion"', "line 2: it is no JSON"),
    "b.jsonl": ('{"emotion": "sad", "text": "a"}\n["a"]', "line 2: an object {…} is wanted on each line"),
    "c.jsonl": ('{"emotion": "sad", "text": "a"}\n{"emotion": "calm"}', "line 2, column text: the text is missing"),
    "a.parquet": ("", "Parquet"),
}


def test_parquet_is_read_as_the_same_table_would_be(tmp_path, monkeypatch):
    path = tmp_path / "moods.parquet"
    try:
        pd.DataFrame(TABLE).to_parquet(path)
    except ImportError:  # without pyarrow only what comes after it can be tested
        path.write_bytes(b"")
        monkeypatch.setattr(pd, "read_parquet", lambda path: pd.DataFrame(TABLE))
    found = emotrace.load_instrument(path)
    table = emotrace.load_instrument(pd.DataFrame(TABLE), name="moods")
    pd.testing.assert_frame_equal(found.passages, table.passages)
    assert "Parquet" in found.summary

    def without(path):
        raise ImportError("Unable to find a usable engine")

    monkeypatch.setattr(pd, "read_parquet", without)
    with pytest.raises(EmotraceError, match=r"moods.parquet: pandas reads Parquet with pyarrow: pip install pyarrow"):
        emotrace.load_instrument(path)


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_refused_in_one_line(name, tmp_path):
    content, message = MALFORMED[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    if message is None:  # texts for emotions and emotions for texts: every text names its own class
        with pytest.raises(EmotraceError) as error:
            emotrace.load_instrument(tmp_path / name)
    else:
        with pytest.raises(EmotraceError) as error:
            emotrace.load_instrument(tmp_path / name)
        assert message in str(error.value)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("~nouser/x.csv", "no file or folder ~nouser/x.csv"),
        ("I am so happy today. " * 30, "no file or folder I am so happy today. I am"),
        ("a\0b.csv", "no file or folder a\\x00b.csv"),
        (TABLE.assign(Text="other"), "text and Text could each be the text"),
        (
            {"passages": TABLE, "emotions": pd.DataFrame({"emotion": ["curious", "nostalgic", "curious "]})},
            "the table emotions has curious twice",
        ),
        (
            {"passages": TABLE, "topics": pd.DataFrame({"topic": ["home", "home"], "description": ["At", "In"]})},
            "the table topics has home twice",
        ),
        (
            {"passages": TABLE, "norms": pd.DataFrame({"word": ["curious"], "valence": ["inf"]})},
            "a number is needed, not 'inf'",
        ),
        (
            {"passages": TABLE, "norms": pd.DataFrame({"word": ["curious", "Curious"], "valence": [1, 2]})},
            "row 2: 'curious' stands there twice",
        ),
        (
            {"passages": TABLE, "norms": pd.DataFrame({"word": ["curious"], "valence": [1], "Valence": [2]})},
            "the table of norms has the column Valence twice",
        ),
        (3, "an instrument is a file, a folder, a table"),
        ({"passages": TABLE, "poems": TABLE}, "not 'poems'"),
        ({"topics": TABLE}, "a table of texts is needed"),
        ({}, "is wanted, not {}"),
        ([], "has no rows"),
        (TABLE[:0], "has no rows"),
        (pd.concat([TABLE, TABLE[["text"]]], axis=1), "has the column text twice"),
        (
            {"passages": TABLE, "emotions": pd.DataFrame({"emotion": ["curious"]})},
            "texts of nostalgic, which its table",
        ),
        ({"passages": TABLE, "emotions": pd.DataFrame({"name": ["curious"]})}, "lacks the column emotion"),
        (
            {"passages": TABLE, "prompts": pd.DataFrame({"use": ["dose"], "prompt": [4]})},
            "row 1, column prompt: a text",
        ),
        ({"passages": TABLE, "norms": pd.DataFrame({"word": ["curious"], "valence": ["high"]})}, "a number is needed"),
        ({"passages": TABLE, "norms": pd.DataFrame({"word": ["curious"]})}, "the table of norms needs the columns"),
    ],
)
def test_what_is_no_instrument_in_memory(source, message):
    with pytest.raises(EmotraceError) as error:
        emotrace.load_instrument(source)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("columns", [{"mood": "a"}, "text=a", {"text": 3}, ["text"]])
def test_a_mapping_that_is_none(columns):
    with pytest.raises(EmotraceError, match=r"role of a column|columns are a mapping"):
        emotrace.load_instrument(TABLE, columns=columns)


@pytest.mark.parametrize(
    ("norms", "message"), [(5, "a table or a file, not 5"), ("~nouser/x.csv", "no file or folder")]
)
def test_norms_that_are_none(norms, message):
    with pytest.raises(EmotraceError, match=message):
        emotrace.load_instrument(TABLE, norms=norms)


def test_a_line_ends_at_a_line_break_alone(tmp_path):
    record = {"emotion": "sad", "text": "He ran.\u2028Then\x85he\x0cstopped."}
    lines = [record, {"emotion": "calm", "text": "She sat."}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    (tmp_path / "folder").mkdir()
    for line in lines:
        (tmp_path / "folder" / f"{line['emotion']}.txt").write_text(line["text"] + "\r\nSo it was.\n", newline="")
    assert list(emotrace.load_instrument(tmp_path / "a.jsonl").passages["text"]) == [record["text"], "She sat."]
    (tmp_path / "folder" / "calm.txt").write_text("She sat.\nShe slept.\n")
    table = emotrace.load_instrument(tmp_path / "folder").passages
    assert list(table[table["emotion"] == "sad"]["text"]) == [record["text"], "So it was."]


def test_an_empty_line_in_a_list_of_texts_makes_no_two_texts_of_it(tmp_path):
    wrapped = "She kept the old\nticket, and smelled it.\n\nHe drove past\nthe school. Twice.\n"
    (tmp_path / "calm.txt").write_text("She sat.\n\nShe slept.\n")
    for listed in ("He fell.\nHe wept.\n\nHe sat.\nHe left.\n", "he fell\nhe wept\n\nhe sat\nhe left\n"):
        (tmp_path / "sad.txt").write_text(listed)
        with pytest.raises(EmotraceError, match=r"sad.txt, line 3: an empty line, and it cannot be told"):
            emotrace.load_instrument(tmp_path)
    (tmp_path / "sad.txt").write_text(wrapped)
    table = emotrace.load_instrument(tmp_path).passages
    assert table["text"].tolist() == [
        "She sat.",
        "She slept.",
        "She kept the old\nticket, and smelled it.",
        "He drove past\nthe school. Twice.",
    ]


def test_repeats_are_left_out_and_named(tmp_path):
    rows = [*RECORDS, {**RECORDS[0]}, {**RECORDS[4], "emotion": "nostalgic"}]
    instrument = emotrace.load_instrument(rows)
    assert [str(one) for one in instrument.left_out] == [
        "the texts, record 5, column text: the same text has the emotions curious, nostalgic",
        "the texts, record 10, column text: the same text stands in the texts, record 1",
        "the texts, record 11, column text: the same text has the emotions curious, nostalgic",
    ]
    assert (instrument.read, len(instrument.passages)) == (11, 8)
    assert "3 of 11 rows left out" in instrument.summary


CELLS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["sad", "Sad", "calm", "neutral", "Neutral ", "", "#", "3", 'a "b" c', "x\ny", "a,b;c\td|e"]),
)
VALUES = st.one_of(
    CELLS, st.none(), st.integers(), st.floats(), st.booleans(), st.lists(st.text(max_size=2), max_size=2)
)
COLUMNS = st.lists(
    st.sampled_from(["emotion", "text", "topic", "label", "story", "split", "id", ""]), max_size=4, unique=True
)


def accounted(load, rows: int) -> None:
    """Either one line of refusal, or every row is used or named."""
    try:
        instrument = load()
    except EmotraceError as error:
        line = str(error)
        assert line and "\n" not in line  # noqa: PT018
        return
    assert instrument.read == rows == len(instrument.passages) + len(instrument.left_out)
    assert all(len(str(one)) > 10 for one in instrument.left_out)
    assert all(isinstance(value, str) and value.strip() for value in instrument.passages["text"])
    assert set(instrument.emotions) == set(instrument.passages["emotion"]) - {"neutral"}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_a_table_holds_each_row_is_used_or_named(data):
    columns = data.draw(COLUMNS)
    rows = data.draw(st.lists(st.fixed_dictionaries(dict.fromkeys(columns, VALUES)), max_size=6))
    accounted(lambda: emotrace.load_instrument(rows), len(rows))
    accounted(lambda: emotrace.load_instrument(pd.DataFrame(rows)), len(rows))


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(",;\t|^"))
def test_whatever_a_file_holds_each_row_is_used_or_named(tmp_path_factory, data, separator):
    columns = data.draw(st.permutations(["emotion", "text", "topic"]))
    rows = data.draw(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=6))
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=separator, quoting=csv.QUOTE_ALL)
    writer.writerows([columns, *rows])
    file = tmp_path_factory.getbasetemp() / "any.csv"
    file.write_text(buffer.getvalue(), encoding="utf-8", errors="surrogatepass", newline="")
    shown = [row for row in rows if any(cell.strip() for cell in row)]
    comments = [row for row in shown if row[0].lstrip().startswith("#") and columns[0] != "text"]
    accounted(lambda: emotrace.load_instrument(file), len(shown) - len(comments))


# -- folds and kin ----------------------------------------------------------------------------------------------------


def test_near_duplicates_are_found_and_stay_in_one_fold():
    base = list("abcdefghijklmno")
    other = list("zyxwvutsrqponml")
    texts = [base, [*base[:-1], "bench"], other, ["short"], ["short"], ["else"]]
    pairs = alike(texts)
    assert [pair[:2] for pair in pairs] == [(0, 1), (3, 4)]
    assert pairs[0][2] == pytest.approx(12 / 14)  # 13 runs each, 12 of them shared
    assert pairs[1][2] == 1
    number = groups(texts)
    assert (number[0] == number[1], number[3] == number[4], len(set(number))) == (True, True, 4)
    assert alike([]) == alike([[]]) == alike([["a"]]) == alike([[], [], ["a"]]) == []


def test_folds_spread_every_emotion_and_split_no_group():
    rng = np.random.default_rng(0)
    words = [[f"w{n}" for n in rng.integers(0, 500, 12)] for _ in range(100)]
    words += [list(words[row]) for row in range(10)]  # ten texts twice
    emotions = [f"e{row % 5}" for row in range(110)]
    folds = text_folds(words, emotions)
    assert set(folds) == {f"fold {n:02d}" for n in range(1, 13)}
    assert all(folds[100 + row] == folds[row] for row in range(10))
    for name in set(emotions):
        counts = Counter(fold for fold, emotion in zip(folds, emotions, strict=True) if emotion == name)
        assert max(counts.values()) - min(counts.values()) <= 1
    assert text_folds(words, emotions) == folds
    assert len(set(text_folds(words[:6], list("aabbcc")))) == 2


def test_texts_without_topics_get_folds():
    for table in (
        TABLE.drop(columns="topic"),
        TABLE.assign(topic="one"),
        TABLE.assign(topic=[f"t{row}" for row in range(9)]),
    ):
        instrument = emotrace.load_instrument(table)
        assert not instrument.has_topics
        assert instrument.passages.groupby("topic").size().tolist() == [3, 3, 3]
        assert (pd.crosstab(instrument.passages["topic"], instrument.passages["emotion"]) == 1).all(axis=None)
        assert "no topics: folds by text" in instrument.summary


@pytest.mark.parametrize(
    ("name", "forms"),
    [
        ("nostalgic", "nostalgic nostalgically nostalgia"),
        ("curious", "curious curiously curiosity"),
        ("lonely", "lonely lonelier loneliness"),
        ("bored", "bored boring boredom"),
        ("amused", "amused amusing amusement"),
        ("confident", "confident confidence confidently"),
        ("hopeful", "hopeful hopefully hope"),
        ("confusion", "confusion confused confusing"),
        ("in love", "love loved loving"),
        ("self_doubt", "self doubt doubts"),
        ("traurig", "traurig"),
    ],
)
def test_inflections_by_rule(name, forms):
    assert set(forms.split()) <= set(inflections(name))
    assert "in" not in inflections(name)


def test_words_of_any_alphabet_leak(tmp_path):
    table = [{"emotion": "тоска", "text": "Он долго смотрел в окно."}, {"emotion": "überdrüssig", "text": "Sie ging."}]
    instrument = emotrace.load_instrument(table)
    assert instrument.leaks("Какая тоска!") == ["тоска"]
    assert instrument.leaks("Er war überdrüssig.") == ["überdrüssig"]


def test_kin_of_several_words_of_unspaced_scripts_and_with_marks_leak():
    texts = pd.DataFrame({"emotion": ["grief", "高兴", "खुशी", "fa\u0302ché"], "text": list("wxyz")})
    kin = pd.DataFrame({"emotion": texts["emotion"], "kin": ["heart-broken|Fed up", "高兴|喜び", "", "fa\u0302ché"]})
    instrument = emotrace.load_instrument({"texts": texts, "emotions": kin})
    assert instrument.emotions[3] == "fâché"
    assert instrument.leaks("She was heart-broken.") == instrument.leaks("heart broken") == ["heart-broken"]
    assert instrument.leaks("He is so fed\nup now.") == ["fed up"]
    assert instrument.leaks("His heart was broken; he was fed, up to now.".replace(",", " well")) == []
    assert instrument.leaks("他今天很高兴,一直在笑。") == ["高兴"]
    assert instrument.leaks("他站得很高,兴趣不大。") == []
    assert instrument.leaks("大きな喜びでした") == ["喜び"]
    assert instrument.leaks("वह बहुत खुशी से नाच रहा था") == ["खुशी"]
    assert instrument.leaks("उसने खाना खाया और खत लिखा") == []
    assert instrument.leaks("il est fâché") == instrument.leaks("il est fa\u0302che\u0301") == ["fâché"]
    found = {one.what: one for one in examine(instrument, ["leakage"])}
    assert found["leakage"].kept


def test_inflections_are_no_everyday_words_of_another_meaning():
    kin = from_names(["caring", "hating", "longing", "pleased", "bored"])
    assert kin.leaks("He parked the car after a long day, took off his hat and said please to the cars.") == []
    assert kin.leaks("She cares, he hates; they longed, and it bored and pleases.") == [
        "bored",
        "cares",
        "hates",
        "longed",
        "pleases",
    ]


def test_identity_tells_descriptions_of_topics_and_pairs_apart():
    texts = pd.DataFrame({"emotion": ["smug", "sad"] * 2, "topic": ["a", "a", "b", "b"], "text": list("wxyz")})
    described = [
        {"texts": texts, "topics": pd.DataFrame({"topic": ["a", "b"], "description": names})}
        for names in (["A funeral", "A war"], ["A party", "A wedding"])
    ]
    first, second = (emotrace.load_instrument(one).identity for one in described)
    assert {part for part in first if first[part] != second[part]} == {"topics"}
    paired = emotrace.load_instrument(pd.DataFrame({"positive": list("ab"), "negative": list("cd")}), name="warm")
    single = emotrace.load_instrument(paired.passages.copy(), name="warm")
    assert {part for part in paired.identity if paired.identity[part] != single.identity[part]} == {"pairs"}
    folds = emotrace.load_instrument(texts.drop(columns="topic"))
    own = emotrace.load_instrument(folds.passages.copy())
    assert (folds.has_topics, own.has_topics) == (False, True)
    assert folds.identity != own.identity
    assert "topics" not in default().identity


def test_scenarios_of_ones_own_need_a_target_and_a_prompt_alone():
    texts = pd.DataFrame({"emotion": ["smug", "keen"] * 2, "topic": ["a", "a", "b", "b"], "text": list("wxyz")})
    own = pd.DataFrame({"target": ["keen", "smug "], "prompt": ["She opened the door and", "He sat down and"]})
    table = emotrace.load_instrument({"texts": texts, "scenarios": own}).scenarios
    assert table.to_dict("list") == {
        "id": ["s01", "s02"],
        "target": ["keen", "smug"],
        "tone": ["", ""],
        "form": ["", ""],
        "prompt": list(own["prompt"]),
    }
    with pytest.raises(EmotraceError, match="scenarios has the target vain, of which there are no texts"):
        emotrace.load_instrument({"texts": texts, "scenarios": own.assign(target=["keen", "vain"])})
    with pytest.raises(EmotraceError, match="scenarios has the id x twice"):
        emotrace.load_instrument({"texts": texts, "scenarios": own.assign(id="x")})
    assert emotrace.load_instrument({"texts": texts}).scenarios is None


def test_labels_tell_instruments_apart_and_vectors_carry_their_norms():
    texts = pd.DataFrame({"emotion": ["smug", "sad"] * 2, "topic": ["a", "a", "b", "b"], "text": list("wxyz")})
    facts = pd.DataFrame({"emotion": ["smug", "sad"], "goemotions": ["pride", "grief"]})
    plain, labelled = emotrace.load_instrument(texts), emotrace.load_instrument({"texts": texts, "emotions": facts})
    assert plain.identity["labels"] != labelled.identity["labels"]
    assert labelled.labels["smug"] == ("pride",)
    rated = pd.DataFrame({"emotion": ["smug"], "valence": [3.5], "arousal": [4.25]})
    own = emotrace.load_instrument(texts, norms=rated)
    pooled = {"mean": np.random.default_rng(0).normal(size=(4, 1, 3)).astype(np.float32)}
    read = Reading(own.passages, pooled, [0], {"model": "m"}, own, {"mean": np.zeros((1, 3))})
    vectors = read.vectors("mean")
    found = norms_of(vectors.provenance, ("smug", "sad", "bored"))
    assert found.loc["smug"].tolist() == [3.5, 4.25]
    assert found.loc["sad"].tolist() == corpus.emotions().loc["sad", ["valence", "arousal"]].tolist()
    assert found.loc["bored"].isna().all()
    assert norms_of({}, ["sad"]).loc["sad"].tolist() == found.loc["sad"].tolist()
