"""A run on anyone's texts: what can be asked is measured, what cannot is said, and the default changes no byte."""

import numpy as np
import pandas as pd
import pytest

import emotrace
from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.instrument.instrument import of_passages
from emotrace.study import pipeline
from emotrace.study.experiment import of_instrument
from emotrace.study.folder import read_manifest, read_tables
from emotrace.study.settings import Settings

CHOSEN = "separation,reliability,localisation,geometry"
MOODS = ("smug", "nostalgic", "curious", "bored", "тоска")


@pytest.fixture(scope="module")
def texts() -> pd.DataFrame:
    """Five emotions and no neutral class, three texts each on every one of six topics, of words drawn at random."""
    rng, words = np.random.default_rng(0), " ".join(corpus.passages()["text"][:80]).split()
    rows = [(mood, topic) for topic in ("sea", "shop", "road", "roof", "lake", "yard") for mood in MOODS * 3]
    table = pd.DataFrame(rows, columns=["emotion", "topic"])
    return table.assign(text=[" ".join(rng.choice(words, 14)) + "." for _ in rows])


@pytest.fixture(scope="module")
def model(tiny_folder):
    return str(tiny_folder("llama", n_layers=6))


def tables_of(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "tables").iterdir())}


def test_the_default_through_the_new_path_changes_no_byte(tiny_folder, tmp_path):
    model = str(tiny_folder("llama", n_layers=2))
    pipeline.run([model], tmp_path / "old", chosen="separation", quick=True)
    named = [emotrace.load_instrument(name) for name in corpus.INSTRUMENTS]
    pipeline.run([model], tmp_path / "new", chosen="separation", quick=True, instruments=named)
    assert tables_of(tmp_path / "new") == tables_of(tmp_path / "old")
    old, new = (read_manifest(tmp_path / name)["settings"] for name in ("old", "new"))
    assert new == old
    # the keys and fingerprints by which runs of before are gone on with
    assert "instruments" not in old
    assert old["passages"] == {
        name: corpus.fingerprint(corpus.passages(instrument=name)) for name in corpus.INSTRUMENTS
    }
    assert old["baseline_texts"] == corpus.fingerprint(corpus.baseline_texts())
    # the same texts from a file, as anyone's: the same numbers
    file = emotrace.load_instrument(corpus.data_dir() / "passages.csv", name="scenes")
    assert not file.default
    pipeline.run([model], tmp_path / "file", chosen="separation", quick=True, instruments=[file])
    scenes = of_instrument(read_tables(tmp_path / "old"), "scenes")["separation"].reset_index(drop=True)
    pd.testing.assert_frame_equal(read_tables(tmp_path / "file")["separation"], scenes, check_dtype=False)


def test_what_an_instrument_lacks_is_left_out_with_a_reason(texts, model, tmp_path, capsys):
    own = emotrace.load_instrument(texts, name="moods")
    chosen = f"{CHOSEN},crosslingual,implicit,graded"
    pipeline.run([model], tmp_path, chosen=chosen, quick=True, instruments=[own])
    left_out = read_manifest(tmp_path)["left_out"]
    gone = "geometry crosslingual implicit graded"
    assert {name: list(reasons) for name, reasons in left_out.items()} == {name: ["moods"] for name in gone.split()}
    assert left_out["geometry"]["moods"] == "needs norms of valence and arousal of 5 emotions, not of 0 (--norms)"
    said = capsys.readouterr().err.splitlines()
    assert "emotrace: without geometry on moods: " + left_out["geometry"]["moods"] in said
    assert "<strong>Without geometry</strong> on moods: it needs norms" in (tmp_path / "report.html").read_text()
    tables = read_tables(tmp_path)
    assert set(tables) == {
        "separation",
        "anisotropy",
        "reliability",
        "localisation",
        "space",
        "learning_curve",
        "claims",
    }
    assert set(tables["separation"]["instrument"]) == {"moods"}
    chance = tables["separation"].query("metric == 'logistic_regression'")["null"]
    assert chance.unique() == [0.2]
    assert set(tables["reliability"]["emotion"]) == {*MOODS, "all"}
    vectors = emotrace.EmotionVectors.load(next((tmp_path / "vectors").glob("*-comprehension-last.safetensors")))
    assert vectors.emotions == MOODS
    other = emotrace.load_instrument(texts.assign(text=texts["text"] + " It was late."), name="moods")
    with pytest.raises(EmotraceError, match=r"another run|holds a run"):
        pipeline.run([model], tmp_path, chosen=chosen, quick=True, instruments=[other], resume=True)


def test_each_instrument_of_several_is_asked_what_it_can_be(texts, model, tmp_path):
    both = [emotrace.load_instrument("scenes"), emotrace.load_instrument(texts, name="moods")]
    pipeline.run([model], tmp_path, chosen="separation,geometry", quick=True, instruments=both)
    tables = read_tables(tmp_path)
    assert list(tables["separation"]["instrument"].unique()) == ["scenes", "moods"]
    assert set(tables["geometry"]["instrument"]) == {"scenes"}
    assert read_manifest(tmp_path)["left_out"].keys() == {"geometry"}
    figures = {file.name for file in (tmp_path / "figures").iterdir()}
    name = next(iter(read_manifest(tmp_path)["models"]))
    assert f"separation_over_depth-{name}-moods.png" in figures
    assert f"axes_over_depth-{name}.png" in figures
    assert f"axes_over_depth-{name}-moods.png" not in figures


def test_what_one_instrument_teaches_is_tried_on_the_others(texts, model, tmp_path, capsys):
    turned = texts.assign(text=texts["text"].map(lambda text: " ".join(text.rstrip(".").split()[::-1]) + "."))
    few = turned.replace({"emotion": {"bored": "tired", "smug": "vain", "curious": "keen"}})
    tables = {"moods": texts, "turned": turned, "few": few}
    own = [emotrace.load_instrument(table, name=name) for name, table in tables.items()]
    pipeline.run([model], tmp_path, chosen="transfer", quick=True, instruments=own)
    table = read_tables(tmp_path)["transfer"]
    assert list(table[["train", "test"]].drop_duplicates().itertuples(index=False, name=None)) == [
        ("moods", "turned"),
        ("turned", "moods"),
    ]
    values = ["train", "test", "pooling", "layer", "metric", "value", "null", "n", "chosen"]
    loaded = emotrace.load(model)
    direct = emotrace.transfer(loaded, own[0], own[1])  # from the texts themselves
    pd.testing.assert_frame_equal(table[values], direct[values], check_dtype=False, rtol=1e-4)
    words = table.query("pooling == 'words'")
    assert words["value"].lt(0.5).all()  # the same words in another order, but on a topic that was held out
    apart = "have 2 emotions in common (nostalgic, тоска): 3 are needed"
    reason = f"was not measured (moods and few {apart}; turned and few {apart})"
    assert read_manifest(tmp_path)["left_out"] == {"transfer": {"few": reason}}
    assert f"emotrace: without transfer on few: {reason}" in capsys.readouterr().err
    page = (tmp_path / "report.html").read_text()
    assert "<h4>Decoded at the layer that the training texts chose</h4>" in page
    assert page.count("<tr><td>moods</td><td>turned</td>") == 2  # a pooling each
    assert len(list((tmp_path / "figures").glob("transfer_over_depth-*.png"))) == 1


def test_texts_without_topics_and_with_norms_run(texts, model, tmp_path, capsys):
    norms = pd.DataFrame({"emotion": MOODS, "valence": [4, 6, 7, 3, 2], "arousal": [4, 3, 6, 2, 5]})
    own = emotrace.load_instrument(texts.drop(columns="topic"), name="moods", norms=norms)
    pipeline.run([model], tmp_path, chosen="geometry", quick=True, instruments=[own])
    said = capsys.readouterr().err
    assert "moods: no topics: 'topic' in every table is a fold of texts" in said
    assert "moods: 48 of 90 texts are read: those on the first 6 of 12 folds; --topics all reads all" in said
    assert read_manifest(tmp_path)["passages"]
    geometry = read_tables(tmp_path)["geometry"]
    assert geometry.query("metric == 'pc1_valence_r'")["n"].unique() == [5]


@pytest.mark.parametrize(("topics", "read"), [(None, 60), (5, 75), ("all", 120)])
def test_as_many_topics_are_read_as_are_asked_for(topics, read, texts, model, tmp_path, capsys):
    more = texts[texts["topic"] != "sea"].assign(topic="late " + texts["topic"], text="Late: " + texts["text"])
    own = emotrace.load_instrument(pd.concat([texts[texts["topic"].isin(["sea", "shop", "yard"])], more]), name="moods")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Settings, "quick", classmethod(lambda cls, seed=0: cls(seed, topics=4, bootstrap=50)))
        pipeline.run([model], tmp_path, chosen="reliability", quick=True, instruments=[own], topics=topics)
    manifest, rows = read_manifest(tmp_path), read_tables(tmp_path)["reliability"].query("emotion == 'all'")
    assert rows["n"].tolist() == [read] * 2
    assert manifest["settings"]["sizes"]["topics"] == {None: 4, 5: 5, "all": 8}[topics]
    assert (f"moods: {read} of 120 texts are read" in capsys.readouterr().err) == (topics != "all")


def test_a_number_of_topics_that_is_none_is_one_line(texts, model, tmp_path):
    own = emotrace.load_instrument(texts, name="moods")
    for wrong in (1, "some", 2.5):
        with pytest.raises(EmotraceError, match=r"the number of topics .or all. is"):
            pipeline.run([model], tmp_path, chosen="reliability", instruments=[own], topics=wrong)


def test_instruments_that_cannot_be_told_apart_are_refused(texts, tmp_path):
    own = emotrace.load_instrument(texts, name="moods")
    with pytest.raises(EmotraceError, match="two instruments are called 'moods'"):
        pipeline.run(["none"], tmp_path / "a", instruments=[own, own])
    with pytest.raises(EmotraceError, match="by instruments or by passages, not by both"):
        pipeline.run(["none"], tmp_path / "b", instruments=[own], passages=tmp_path / "own.csv")
    pairs = emotrace.load_instrument([{"positive": "a", "negative": "b"}, {"positive": "c", "negative": "d"}])
    with pytest.raises(EmotraceError, match="a run needs four topics or more"):
        pipeline.run(["none"], tmp_path / "c", instruments=[pairs])
    settings = pipeline.run_settings(["m"], ["separation"], True, Settings.quick(), "judge", of_passages())
    assert set(settings) == {
        "emotrace",
        "models",
        "experiments",
        "quick",
        "sizes",
        "classifier",
        "passages",
        "baseline_texts",
    }


@pytest.mark.parametrize(("topics", "said"), [(1, "finds 2 folds"), (3, "finds 3 topics")])
def test_texts_that_make_no_two_halves_are_one_line_before_anything_is_read(topics, said, tmp_path):
    rows = [(mood, f"t{topic}", f"{mood} {topic}") for topic in range(topics) for mood in MOODS]
    table = pd.DataFrame(rows, columns=["emotion", "topic", "text"])
    with pytest.raises(EmotraceError, match=rf"few: a run needs four topics or more.* {said}"):
        pipeline.run(["gpt2"], tmp_path / "run", instruments=[emotrace.load_instrument(table, name="few")])
    assert not (tmp_path / "run").exists()
