"""Somebody else's corpus: what is taken of it, and that the curves are those of the study."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from shuffled_labels import shuffled_cosine

from emotrace.errors import EmotraceError
from emotrace.measures import geometry


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).parent.parent / "scripts" / "foreign_corpus.py"
    spec = importlib.util.spec_from_file_location("foreign_corpus", path)
    module = sys.modules["foreign_corpus"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stories(emotions=("joyful", "weary", "lonely"), topics=10, each=3) -> pd.DataFrame:
    rows = [
        {"emotion": emotion, "topic": f"t{topic}", "text": f"{emotion} {topic} {number}", "perspective": "first"}
        for emotion in emotions
        for topic in range(topics)
        for number in range(each)
    ]
    return pd.DataFrame(rows)


def test_a_folder_a_file_and_their_formats_are_read_alike(script, tmp_path):
    table, folder = stories(), tmp_path / "stories"
    folder.mkdir()
    for emotion, part in table.groupby("emotion"):
        lines = [json.dumps(row) for row in part.to_dict("records")]
        (folder / f"{emotion}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "README.md").write_text("not a table")
    table.to_csv(tmp_path / "all.csv", index=False)
    table.to_json(tmp_path / "all.json", orient="records")
    expected = table[["emotion", "topic", "text"]].sort_values("text", ignore_index=True)
    for path in (folder, tmp_path / "all.csv", tmp_path / "all.json"):
        found = script.read_corpus(path).sort_values("text", ignore_index=True)
        pd.testing.assert_frame_equal(found, expected)
    (tmp_path / "bad.csv").write_text("emotion,text\nsad,x\n")
    with pytest.raises(EmotraceError, match="no column topic"):
        script.read_corpus(tmp_path / "bad.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmotraceError, match="holds no"):
        script.read_corpus(tmp_path / "empty")


def test_one_text_of_each_emotion_on_topics_spread_over_those_that_all_have(script):
    table = stories()
    table = table[~((table["emotion"] == "weary") & (table["topic"] == "t4"))]
    kept = script.crossed(table, 5)
    assert kept["topic"].unique().tolist() == ["t0", "t1", "t3", "t6", "t8"]
    assert kept.groupby(["emotion", "topic"]).size().tolist() == [1] * 15
    assert kept["text"].str.endswith(" 0").all()
    with pytest.raises(EmotraceError, match="four topics or more"):
        script.crossed(stories(topics=3), 5)


def test_cosine_null_and_ratio_are_those_of_the_measures(script):
    texts = script.crossed(stories(emotions=tuple("abcdefgh")), 6)
    rng = np.random.default_rng(0)
    feeling = dict(zip("abcdefgh", 1.5 * rng.normal(size=(8, 12)), strict=True))
    activations = np.array([9 + feeling[name] for name in texts["emotion"]]) + rng.normal(size=(len(texts), 12))
    options = argparse.Namespace(seed=0, permutations=400, bootstrap=60)
    table = pd.DataFrame(script.separation(texts, activations, options)).set_index("metric")
    labels = texts["topic"], texts["emotion"], list("abcdefgh")
    cosine = geometry.mean_pairwise_cosine(geometry.cells(activations, *labels).centroids())
    null = shuffled_cosine(activations, *labels, 400, np.random.default_rng(1)).mean()
    assert table.loc["cosine", "value"] == pytest.approx(cosine)
    assert table.loc["shuffled_cosine", "value"] == pytest.approx(null, abs=0.002)
    assert table.loc["ratio", "value"] == pytest.approx((1 - cosine) / (1 - null), rel=0.03)
    assert table.loc["ratio", "low"] > 1
    assert table.loc["ratio", "p"] == 1 / 401
    assert 0 < table.loc["intraclass", "value"] < 1
    assert script.separation(texts, np.ones_like(activations), options) == []  # nothing to tell apart


def test_the_summary_and_the_figure_say_where_each_curve_is_extreme(script):
    depth = np.arange(1, 11) / 10
    curves = {"cosine": 0.9 + (depth - 0.5) ** 2, "shuffled_cosine": 0.95 + (depth - 0.5) ** 2, "ratio": 2 + depth}
    rows = [
        {"model": "m", "pooling": pooling, "layer": layer, "depth": layer / 10, "metric": metric, "value": value}
        for pooling in ("last", "mean")
        for metric, values in curves.items()
        for layer, value in enumerate(values, 1)
    ]
    table = pd.DataFrame(rows).assign(n=6, p=0.01)
    table = table.assign(low=table["value"] - 0.01, high=table["value"] + 0.01)
    row = script.summary(table).iloc[0]
    assert (row["cosine lowest at"], row["null lowest at"], row["R highest at"]) == (0.5, 0.5, 1.0)
    assert row["r"] == pytest.approx(1)
    figure = script.draw(table)
    dots = [line.get_xdata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    assert dots == [0.5, 0.5]
