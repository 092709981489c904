"""Generation against comprehension on anyone's texts: the model and the texts are the authors, as far as they go."""

import pandas as pd
import pytest

import emotrace
from emotrace.instrument import corpus
from emotrace.study.experiments import by_name
from emotrace.study.folder import RunFolder
from emotrace.study.methods import design, measure
from emotrace.study.settings import Settings
from emotrace.study.study import read

MOODS = {"happy": "smug", "sad": "bored", "angry": "curious"}


@pytest.fixture(scope="module")
def texts() -> pd.DataFrame:
    """Three moods of one's own, none of them neutral, on five topics."""
    table = corpus.passages()
    table = table[table["emotion"].isin(MOODS) & table["topic"].isin(table["topic"].unique()[:5])]
    return table.replace({"emotion": MOODS, "topic": {"cooking": "a long queue"}})[["emotion", "topic", "text"]]


def studied(model, texts, folder, told=None):
    own = emotrace.load_instrument(texts, name="moods")
    settings = Settings.quick()
    run = RunFolder(folder, {})

    def progress(what, done, of):
        if told is not None:
            told.append((what, done, of))

    return read(model, settings, run, progress, {"moods": own})


def test_the_model_writes_on_ones_own_topics_and_both_are_authors(tiny_folder, texts, tmp_path):
    told = []
    study = studied(emotrace.load(str(tiny_folder("qwen")), instruct=True), texts, tmp_path, told)
    results = measure.measure_methods(study)
    stories = results.texts["stories"]
    assert set(stories["emotion"]) == {*MOODS.values(), corpus.NEUTRAL}
    assert set(stories["topic"]) <= set(texts["topic"])
    assert stories["topic"].nunique() == 4
    for asked in ("feels smug", "a long queue"):
        assert stories["prompt"].str.contains(asked).any()
    factorial = results.tables["factorial"]
    assert set(factorial["author"]) == {"ours", "self"}
    assert set(factorial["frame"]) == set(design.FRAMES)
    assert set(factorial["instrument"]) == {"moods"}
    effects = results.tables["factorial_effects"].query("kind == 'decomposition'")
    assert {"author", "frame", "pooling"} <= set(effects["factor"])
    assert set(results.tables["method_comparison"]["instrument"]) == {"moods"}
    for what in {what for what, *_ in told}:  # no more is done than was said
        done, of = sum(n for name, n, _ in told if name == what), next(of for name, _, of in told if name == what)
        assert done <= of, what


def test_a_base_model_leaves_it_out_with_the_reason(tiny_folder, texts, tmp_path):
    results = measure.measure_methods(
        studied(emotrace.load(str(tiny_folder("llama")), instruct=False), texts, tmp_path)
    )
    assert not results.tables
    assert "instruct model" in results.left_out["method_comparison"]["moods"]


def test_stories_too_few_of_which_pass_leave_their_rates(tiny_folder, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(measure.stories, "kept", lambda table: table[table["topic"] == table["topic"].iloc[0]])
    results = measure.measure_methods(studied(emotrace.load(str(tiny_folder("qwen")), instruct=True), texts, tmp_path))
    assert list(results.tables) == ["story_rates"]
    assert "needs four topics" in results.left_out["method_comparison"]["moods"]
    assert len(results.texts["stories"])


def test_folds_are_no_topics_to_write_on(texts):
    for name in ("method_comparison", "factorial"):
        asked = by_name(name).requires
        assert asked(emotrace.load_instrument("accounts")) == ""
        assert asked(emotrace.load_instrument(texts, name="moods")) == ""
        assert "four topics" in asked(emotrace.load_instrument(texts.drop(columns="topic"), name="folds")).replace(
            "4", "four"
        )
        few = texts[texts["topic"].isin(texts["topic"].unique()[:3])]
        assert "topics" in asked(emotrace.load_instrument(few, name="few"))
