"""Tables over models: curves that agree or do not, and whole runs of several models."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
from scipy.stats import spearmanr

from emotrace.instrument import corpus
from emotrace.measures import geometry
from emotrace.study import guidelines, pipeline
from emotrace.study.across import measure as across_tables
from emotrace.study.across import steering as across_steering
from emotrace.study.across.claims import CLAIM_IDS
from emotrace.study.across.figures import PICTURES
from emotrace.study.across.geometry import TopicGram
from emotrace.study.folder import read_manifest, read_tables, select
from emotrace.vectors import EmotionVectors

# -- curves -----------------------------------------------------------------------------------------------------------


def curves(**of_model: np.ndarray) -> pd.DataFrame:
    rows = [
        {
            "model": name,
            "pooling": "last",
            "metric": "cosine",
            "layer": layer,
            "depth": layer / len(values),
            "value": value,
        }
        for name, values in of_model.items()
        for layer, value in enumerate([9, *values])
    ]
    return pd.DataFrame(rows)


def test_curves_of_different_length_agree_if_they_are_one_function_of_depth():
    fine, coarse = (np.cos(3 * np.arange(1, n + 1) / n) for n in (30, 10))
    table = across_tables.depth_agreement(curves(a=fine, b=coarse, c=-coarse, d=np.ones(5)), 200, 0)
    assert table[["model_a", "model_b"]].to_numpy().tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]  # d is too short
    np.testing.assert_allclose(table["value"], [1, -1, -1], atol=1e-9)
    assert set(table["n"]) == {10}
    noisy = np.random.default_rng(0).standard_normal(10)
    row = across_tables.depth_agreement(curves(a=fine, b=noisy), 500, 0).iloc[0]
    grid = np.arange(1, 11) / 10
    assert row["value"] == pytest.approx(spearmanr(np.interp(grid, np.arange(1, 31) / 30, fine), noisy).statistic)
    assert row["low"] < row["value"] < row["high"]


def test_the_curves_are_the_cosine_its_null_and_the_ratio():
    columns = ["model", "pooling", "layer", "depth", "metric", "value", "low", "high", "n"]
    rows = [("a", "last", 1, 0.5, metric, 0.9, 0.8, 0.95, 4) for metric in ("cosine", "silhouette", "ratio")]
    table = across_tables.depth_curves({"separation": pd.DataFrame(rows, columns=columns)})
    assert table["metric"].tolist() == ["cosine", "ratio"]
    assert table.columns.tolist() == columns


# -- whole runs -------------------------------------------------------------------------------------------------------

FACTOR = 64.0
INSTRUMENTS = corpus.instruments()


@pytest.fixture(scope="module")
def rescaled(small, tiny_folder, tmp_path_factory) -> Path:
    """A small run of a tiny llama and of the same one with its whole residual stream 64 times as large.

    Every layer normalises what it reads, so the two write the same texts; a power of two changes no digit.
    """
    folder = tmp_path_factory.mktemp("models") / "large"
    shutil.copytree(tiny_folder("llama", n_layers=6), folder)
    file = folder / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    for name in weights:
        if name.endswith(("embed_tokens.weight", "o_proj.weight", "down_proj.weight")):
            weights[name] *= FACTOR
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["rms_norm_eps"] = FACTOR**2 * config.get("rms_norm_eps", 1e-6)
    (folder / "config.json").write_text(json.dumps(config))
    out = tmp_path_factory.mktemp("runs") / "run"
    pipeline.run([str(tiny_folder("llama", n_layers=6)), str(folder)], out, quick=True)
    return out


@pytest.mark.slow
def test_the_same_model_in_larger_units_differs_in_raw_deltas_alone(rescaled):
    tables = read_tables(rescaled)
    assert set(across_tables.TABLES) <= set(tables)
    contrasts = select(tables["across_steering_contrasts"], metric="ratio").set_index("measure")
    assert contrasts.loc["raw_delta", "value"] == pytest.approx(1 / FACTOR, rel=1e-3)
    assert contrasts.loc["delta", "value"] == pytest.approx(1, rel=1e-3)
    assert contrasts.loc["delta_in_gaps", "value"] == pytest.approx(1, rel=1e-3)
    rdm = tables["across_rdm"]
    twins = rdm[~rdm["same_model"] & rdm["same_method"] & rdm["same_pooling"] & rdm["same_instrument"]]
    twins = twins[twins["method_a"] == "comprehension"]
    assert len(twins) == 2 * len(INSTRUMENTS)
    np.testing.assert_allclose(twins["value"], 1, atol=1e-3)
    assert (twins["disjoint"] <= twins["ceiling"] + 1e-3).all()
    assert (twins["n_topics"] == 6).all()
    np.testing.assert_allclose(twins["words"], 1, atol=1e-3)
    np.testing.assert_allclose(twins["given_words"], 1, atol=1e-3)
    np.testing.assert_allclose(tables["across_depth_agreement"]["value"], 1, atol=0.06)
    shares = select(tables["across_regimes"], direction="emotions").pivot(
        index=["relative", "regime"], columns="model", values="value"
    )
    np.testing.assert_allclose(*shares.to_numpy().T)


@pytest.mark.slow
def test_the_topics_that_a_run_keeps_give_its_own_vectors_geometry(rescaled):
    for file in (rescaled / "vectors").glob("*-topics.npz"):
        vectors = EmotionVectors.load(Path(str(file).replace("-topics.npz", ".safetensors")))
        with np.load(file) as kept:
            layer = int(kept["layer"])
            topics = TopicGram(tuple(kept["topics"]), tuple(kept["emotions"]), kept["gram"], kept["counts"])
        own = vectors.at(layer).astype(float)
        found = topics.rdms(np.ones((1, len(topics.topics))), list(vectors.emotions))[0]
        np.testing.assert_allclose(found, geometry.rdm(own - own.mean(axis=0)), atol=2e-3)
        with np.load(file) as kept:  # and what the words alone give, beside them
            words = TopicGram(tuple(kept["topics"]), tuple(kept["emotions"]), kept["embeddings"], kept["counts"])
            assert kept["tfidf"].shape == kept["gram"].shape
        vectors = EmotionVectors.load(Path(re.sub("-(last|mean)(.*)-topics.npz", r"-mean\2.safetensors", str(file))))
        own = vectors.at(0).astype(float)
        found = words.rdms(np.ones((1, len(words.topics))), list(vectors.emotions))[0]
        np.testing.assert_allclose(found, geometry.rdm(own - own.mean(axis=0)), atol=2e-3)
    assert len(list((rescaled / "vectors").glob("*-topics.npz"))) == 4 * len(INSTRUMENTS)


@pytest.mark.slow
def test_the_report_has_a_section_over_models_and_is_made_again_the_same(rescaled):
    page = (rescaled / "report.html").read_text()
    assert 'id="across"' in page
    for picture in PICTURES:
        assert (rescaled / "figures" / f"{picture.name}.png").read_bytes().startswith(b"\x89PNG")
        assert f'id="{picture.name}"' in page
        assert picture.caption
    claims = read_tables(rescaled)["claims"]
    rows = select(claims, model="all")
    assert {id.split(".")[0] for id in rows["id"]} >= {"C1", "C5", "C7"}  # too few layers for a U, one family
    assert set(rows["id"]) <= set(CLAIM_IDS)
    assert rows["id"].is_unique
    assert 'id="guidelines"' in page
    before = {file: file.read_bytes() for file in (rescaled / "tables").glob("*.csv")}
    assert pipeline.report(rescaled).read_text() == page
    assert {file: file.read_bytes() for file in before} == before


@pytest.mark.slow
def test_every_rule_of_a_run_says_what_it_rests_on(rescaled):
    tables = read_tables(rescaled)
    found = guidelines.rules(tables)
    assert len(found) >= 10
    assert all(rule["table"] in tables for rule in found)
    models = set(tables["separation"]["model"])
    for rule in found:
        assert {finding["model"] for finding in rule["findings"]} in (models, {"all"})
        assert all("nan" not in finding["measured"] for finding in rule["findings"])
        assert {finding["verdict"] for finding in rule["findings"]} <= set(guidelines.VERDICTS)
    assert found[0]["rule"] != found[1]["rule"]


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_gpt2_and_mistral_go_through_every_experiment_together(tiny_folder, tmp_path):
    folders = [str(tiny_folder(family, n_layers=6)) for family in ("gpt2", "mistral")]
    pipeline.run(folders, tmp_path / "run", quick=True)
    manifest, tables = read_manifest(tmp_path / "run"), read_tables(tmp_path / "run")
    assert manifest["complete"]
    assert [facts["family"] for facts in manifest["models"].values()] in (["gpt2", "mistral"], ["mistral", "gpt2"])
    assert set(tables["across_regimes"]["family"]) == {"gpt2", "mistral"}
    assert set(tables["across_steering"]["metric"]) == set(across_steering.MEASURES)
    assert set(tables["across_rdm"]["kinds"]) == {"base × base"}
    assert not tables["across_rdm"]["same_family"].all()
    assert {"family", "kind", "parameters"} <= set(tables["across_depth"].columns)


def test_one_model_has_no_tables_over_models(tiny_folder, tmp_path):
    pipeline.run([str(tiny_folder("llama", n_layers=6))], tmp_path / "run", chosen="separation", quick=True)
    assert not {name for name in read_tables(tmp_path / "run") if name.startswith("across")}
    assert 'id="across"' not in (tmp_path / "run" / "report.html").read_text()
