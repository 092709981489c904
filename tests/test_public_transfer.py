"""Ours and a public author's texts: the script's table is the measure's, and the published page is its table's."""

import importlib
import sys
from pathlib import Path

import pandas as pd
import pytest

import emotrace
from emotrace.instrument import corpus

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("public_transfer")


def test_the_published_rows_are_those_of_the_published_table(script):
    page = (ROOT / "docs" / "results" / "README.md").read_text(encoding="utf-8")
    rows = script.transfer_rows(pd.read_csv(ROOT / "docs" / "results" / "transfer_emotionscope.csv"))
    assert len(rows.splitlines()) == 2 + 3 * 2 * 2 * 2  # models, our sets, directions, poolings
    assert f"<!-- emotionscope:begin -->\n{rows}\n<!-- emotionscope:end -->" in page


def test_each_of_our_sets_and_the_corpus_decode_each_other(script, tiny_folder, tmp_path, monkeypatch):
    texts = (
        corpus.passages()
        .query("emotion in ['happy', 'sad', 'angry', 'calm']")
        .groupby("emotion")
        .head(6)[["emotion", "text"]]
    )
    texts.to_json(tmp_path / "theirs.jsonl", orient="records", lines=True)
    folder, out = str(tiny_folder("llama")), tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("<!-- them:begin -->old<!-- them:end -->")
    arguments = [str(tmp_path / "theirs.jsonl"), folder, "--name", "them", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["public_transfer.py", *arguments])
    script.main()
    table = pd.read_csv(out / "transfer_them.csv")
    pairs = {tuple(pair) for pair in table[["train", "test"]].drop_duplicates().to_numpy()}
    assert pairs == {("scenes", "them"), ("them", "scenes"), ("accounts", "them"), ("them", "accounts")}
    theirs = emotrace.load_instrument(tmp_path / "theirs.jsonl", name="them")
    direct = emotrace.transfer(emotrace.load(folder), "accounts", theirs)
    own = table[(table[["train", "test"]] == "accounts").any(axis=1)].reset_index(drop=True)
    pd.testing.assert_series_equal(own["value"], direct["value"], rtol=1e-4)
    page = (out / "README.md").read_text()
    assert page.count("| them | ") == 2 * 2 * 2  # our sets, directions, poolings
    assert "old" not in page
