"""Tables over models: closed forms, planted geometries, rescaled streams; failures and kills in a run of several models."""

import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from scipy.stats import spearmanr

from emotrace import cli
from emotrace.errors import EmotraceError, WriteError
from emotrace.judges.regimes import EXPLOSIVE, REPETITIVE, SHORT, SURGICAL
from emotrace.measures import geometry
from emotrace.study import guidelines, pipeline
from emotrace.study.across import claims as claims_across
from emotrace.study.across import geometry as across_geometry
from emotrace.study.across import measure as across_models
from emotrace.study.across import regimes as across_regimes
from emotrace.study.across import steering as across_steering
from emotrace.study.across.figures import CAPTIONS, FIGURES
from emotrace.study.across.geometry import Geometry, TopicGram
from emotrace.study.across.measure import Facts
from emotrace.study.across.steering import Scale
from emotrace.study.folder import read_manifest, read_tables, select
from emotrace.vectors import EmotionVectors

EMOTIONS = tuple(f"e{number:02d}" for number in range(20))
FACTS = {"a": Facts("llama", "instruct", 100.0), "b": Facts("gemma", "base", 300.0), "c": Facts("llama", "base", 200.0)}


def geometry_of(model: str, vectors: np.ndarray, method="comprehension", pooling="mean", topics=None) -> Geometry:
    return Geometry(model, method, pooling, 3, 0.5, EMOTIONS[: len(vectors)], vectors, topics)


def compared(*geometries: Geometry, draws=50, permutations=199) -> pd.DataFrame:
    return across_geometry.correlations(list(geometries), FACTS, draws, permutations, 0)


# -- geometries ---------------------------------------------------------------------------------------------------------


def test_a_geometry_that_is_shifted_scaled_and_turned_into_another_width_is_the_same():
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((20, 6))
    turned = 40 * vectors @ np.linalg.qr(rng.standard_normal((9, 9)))[0][:6] + 7
    row = compared(geometry_of("a", vectors), geometry_of("b", turned)).iloc[0]
    assert row["value"] == pytest.approx(1, abs=1e-9)
    assert row["p"] == 1 / 200
    assert (row["n"], row["m"]) == (20, 199)
    assert row["low"] == pytest.approx(1, abs=1e-9)


def test_permuted_emotions_have_nothing_in_common():
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((20, 2))  # two dimensions: a geometry with structure, not twenty equal distances
    row = compared(geometry_of("a", vectors), geometry_of("b", vectors[rng.permutation(20)])).iloc[0]
    assert abs(row["value"]) < 0.25
    assert row["p"] > 0.05
    assert row["low"] < 0 < row["high"]


def test_pairs_are_described_by_what_they_share():
    vectors = np.random.default_rng(3).standard_normal((20, 5))
    table = compared(
        geometry_of("a", vectors), geometry_of("a", vectors, method="generation"), geometry_of("b", vectors, pooling="last"),
        geometry_of("c", vectors),
    )  # fmt: skip
    assert len(table) == 6
    flags = ["same_model", "same_family", "same_method", "same_pooling"]
    assert [table[flag].tolist() for flag in flags] == [
        [True, False, False, False, False, False],
        [True, False, True, False, True, False],
        [False, True, True, False, False, True],
        [True, False, True, False, True, False],
    ]
    assert table["kinds"].tolist() == ["instruct × instruct", *["base × instruct"] * 4, "base × base"]


def test_only_common_emotions_are_compared():
    vectors = np.random.default_rng(4).standard_normal((20, 5))
    fewer = Geometry("b", "comprehension", "mean", 2, 0.5, EMOTIONS[9:0:-1], vectors[9:0:-1])
    row = compared(geometry_of("a", vectors), fewer).iloc[0]
    assert row["n"] == 9
    assert row["value"] == pytest.approx(1, abs=1e-9)
    with pytest.raises(EmotraceError, match="four common emotions or more, not 3"):
        compared(geometry_of("a", vectors), geometry_of("b", vectors[:3]))


def test_resamples_of_emotions_equal_a_naive_loop():
    rng = np.random.default_rng(5)
    rdms = np.stack([geometry.rdm(rng.standard_normal((8, 4))) for _ in range(2)])
    picks = rng.integers(8, size=(6, 8))
    found = across_geometry._over_emotions(rdms, picks)
    for draw, pick in enumerate(picks):
        pairs = [(pick[i], pick[j]) for i, j in itertools.combinations(range(8), 2) if pick[i] != pick[j]]
        naive = spearmanr(*([rdm[pair] for pair in pairs] for rdm in rdms)).statistic
        assert found[draw, 0, 1] == pytest.approx(naive, abs=1e-12)


def topic_gram(cells: np.ndarray) -> TopicGram:
    """Of one text a cell ``[topic, emotion, d_model]``."""
    flat = (cells - cells.mean(axis=(0, 1))).reshape(-1, cells.shape[2])
    gram = (flat @ flat.T).reshape(cells.shape[:2] * 2)
    return TopicGram(
        tuple(f"t{n}" for n in range(len(cells))), EMOTIONS[: cells.shape[1]], gram, np.ones(cells.shape[:2])
    )


def test_topic_weights_give_the_geometry_of_the_weighted_means():
    rng = np.random.default_rng(6)
    cells = rng.standard_normal((5, 7, 11)) + 30  # a common offset, as in an anisotropic space
    weights = rng.multinomial(5, np.full(5, 0.2), size=4).astype(float)
    chosen = [EMOTIONS[place] for place in (4, 0, 6, 2)]
    found = topic_gram(cells).rdms(weights, chosen)
    for draw, weight in enumerate(weights):
        means = np.tensordot(weight / weight.sum(), cells, 1)[[4, 0, 6, 2]]
        np.testing.assert_allclose(found[draw], geometry.rdm(means - means.mean(axis=0)), atol=1e-9)


def test_halves_of_the_topics_tell_shared_texts_from_shared_emotions():
    rng = np.random.default_rng(7)
    emotions, texts = rng.standard_normal((1, 20, 4)), rng.standard_normal((8, 20, 4))
    same = np.broadcast_to(emotions, (8, 20, 4)) + 0 * texts

    def both(cells: np.ndarray) -> pd.Series:
        sides = [geometry_of(model, cells.mean(axis=0), topics=topic_gram(cells)) for model in ("a", "b")]
        return compared(*sides).iloc[0]

    noiseless, noise = both(same), both(texts)
    assert noiseless["disjoint"] == pytest.approx(1, abs=1e-9)
    assert noiseless["ceiling"] == pytest.approx(1, abs=1e-9)
    # The same texts with no emotion in them agree perfectly, until they are read on different topics.
    assert noise["value"] == pytest.approx(1, abs=1e-9)
    assert abs(noise["disjoint"]) < 0.15
    assert noise["ceiling"] < 0.3
    assert noise["n_topics"] == 8
    other = topic_gram(texts)
    renamed = TopicGram(tuple("stuvwxyz"), other.emotions, other.gram, other.counts)
    pair = geometry_of("a", texts.mean(axis=0), topics=other), geometry_of("b", texts.mean(axis=0), topics=renamed)
    assert "disjoint" not in compared(*pair)  # other topics cannot be resampled together


# -- curves -------------------------------------------------------------------------------------------------------------


def curves(**of_model: np.ndarray) -> pd.DataFrame:
    rows = [
        {"model": name, "pooling": "last", "metric": "cosine", "layer": layer, "depth": layer / len(values), "value": value}
        for name, values in of_model.items() for layer, value in enumerate([9, *values])
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_curves_of_different_length_agree_if_they_are_one_function_of_depth():
    fine, coarse = (np.cos(3 * np.arange(1, n + 1) / n) for n in (30, 10))
    table = across_models.depth_agreement(curves(a=fine, b=coarse, c=-coarse, d=np.ones(5)), 200, 0)
    assert table[["model_a", "model_b"]].to_numpy().tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]  # d is too short
    np.testing.assert_allclose(table["value"], [1, -1, -1], atol=1e-9)
    assert set(table["n"]) == {10}
    noisy = np.random.default_rng(0).standard_normal(10)
    row = across_models.depth_agreement(curves(a=fine, b=noisy), 500, 0).iloc[0]
    grid = np.arange(1, 11) / 10
    assert row["value"] == pytest.approx(spearmanr(np.interp(grid, np.arange(1, 31) / 30, fine), noisy).statistic)
    assert row["low"] < row["value"] < row["high"]


def test_a_curve_minus_its_baselines():
    separation = pd.DataFrame(
        [("a", "last", 1, 0.5, "cosine", 0.9, 0.8, 0.95, 4), ("a", "last", 1, 0.5, "silhouette", 0.1, 0, 0.2, 4)],
        columns=["model", "pooling", "layer", "depth", "metric", "value", "low", "high", "n"],
    )
    anisotropy = pd.DataFrame(
        {"model": ["a"], "pooling": ["last"], "layer": [1], "metric": ["group_cosine"], "value": [0.7]}
    )
    table = across_models.depth_curves({"separation": separation, "anisotropy": anisotropy}).set_index("metric")
    assert set(table.index) == {"cosine", "anisotropy_excess"}
    np.testing.assert_allclose(table.loc["anisotropy_excess", ["value", "low", "high"]].astype(float), [0.2, 0.1, 0.25])


# -- deltas -------------------------------------------------------------------------------------------------------------


def dose(**of_model: list[float]) -> pd.DataFrame:
    """``projection`` of each emotion at once and twice the calibrated strength."""
    rows = [
        {
            "model": model, "layer": 2, "relative": relative, "strength": 0.1 * relative, "emotion": emotion,
            "metric": "projection", "value": relative * value, "random": 0.01,
        }
        for model, values in of_model.items() for relative in (0, 1, 2)
        for emotion, value in (*zip(EMOTIONS, values, strict=False), ("all", 99.0))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def scale(size: float, cosines=(0.9, 0.8, 0.5, 0.75, 0.0), emotions: int = 3) -> Scale:
    norms = size * np.arange(1, 6, dtype=float)
    gaps = np.outer(np.arange(1, emotions + 1), norms * np.sqrt(1 - np.array(cosines))) / 2
    return Scale(norms, np.array(cosines), EMOTIONS[:emotions], gaps)


def test_a_rescaled_stream_changes_the_raw_delta_alone():
    readings = [0.3, 0.2, 0.6]
    scales = {"a": scale(1), "b": scale(1000)}
    values = across_steering.emotion_deltas(dose(a=readings, b=readings), scales)
    table = across_steering.steering_deltas(values, scales)
    at = select(table, relative=1).set_index(["model", "metric"])
    # An edit at layer 2 of 4 is read at layer 3, whose norm is 4, mean cosine 0.75, gaps 1, 2 and 3.
    assert set(table["read_layer"]) == {3}
    assert at.loc[("a", "raw_delta"), "value"] == pytest.approx(4 * np.mean(readings))
    assert at.loc[("b", "raw_delta"), "value"] == pytest.approx(4000 * np.mean(readings))
    for model in "ab":
        assert at.loc[(model, "delta"), "value"] == pytest.approx(np.mean(readings))
        assert at.loc[(model, "delta_in_gaps"), "value"] == pytest.approx(4 * np.mean([0.3 / 1, 0.2 / 2, 0.6 / 3]))
        assert at.loc[(model, "delta"), "random"] == pytest.approx(0.01)
    assert (at["n"] == 3).all()
    assert (at["anisotropy"] == 0.75).all()
    contrasts = across_steering.steering_contrasts(values, scales, 100, 0).set_index(["measure", "metric"])
    assert contrasts.loc[("raw_delta", "ratio"), "value"] == pytest.approx(1e-3)
    assert contrasts.loc[("raw_delta", "ratio"), "high"] == pytest.approx(1e-3)
    for measure in ("delta", "delta_in_gaps"):
        assert contrasts.loc[(measure, "ratio"), "value"] == pytest.approx(1)
        assert contrasts.loc[(measure, "between_models"), "value"] == pytest.approx(0, abs=1e-12)
    assert contrasts.loc[("raw_delta", "between_models"), "value"] > 0.9


def test_the_share_of_variance_between_models_is_eta_squared():
    cube = np.array([[1.0, 2.0, 4.0], [3.0, 9.0, 1.0], [5.0, 5.0, -7.0]])
    logs = np.log(np.abs(cube))
    between = 3 * ((logs.mean(axis=1) - logs.mean()) ** 2).sum()
    within = ((logs - logs.mean(axis=1, keepdims=True)) ** 2).sum()
    assert across_steering._between(cube) == pytest.approx(between / (between + within))


@pytest.mark.parametrize(
    ("means", "rho", "p"), [([1, 2, 9], 1.0, 1 / 6), ([9, 2, 1], -1.0, 1.0), ([1, 9, 2], 0.5, 3 / 6)]
)
def test_the_order_of_three_models_has_an_exact_p(means, rho, p):
    found = across_steering._order(np.array(means), [0.1, 0.5, 0.9])
    assert found["value"] == pytest.approx(rho)
    assert found["p"] == pytest.approx(p)


def test_what_a_norm_is_worth_follows_the_closed_form():
    cosines = np.array([0.0, 0.9, 0.3, 0.99, 0.5, 0.6, 0.8])
    norms = np.linspace(3, 8, 7)
    gaps = np.outer([1.0, 0.5], norms * np.sqrt(1 - cosines))
    table = across_steering.units({"a": Scale(norms, cosines, EMOTIONS[:2], gaps)}, 50, 0)
    rho = select(table, metric="layers_rho").iloc[0]
    assert (rho["value"], rho["n"]) == (pytest.approx(1), 6)
    assert select(table, metric="layers_slope")["value"].tolist() == [pytest.approx(1)]
    wide = table.dropna(subset=["layer"]).pivot(index="layer", columns="metric", values="value")
    np.testing.assert_allclose(wide["gaps_per_norm"], 1.5 / np.sqrt(1 - cosines[1:]))
    np.testing.assert_allclose(wide["amplification"], 1 / np.sqrt(1 - cosines[1:]))


# -- regimes ------------------------------------------------------------------------------------------------------------


def regime_table() -> pd.DataFrame:
    rows = []
    shares = {"a": (0.5, 0.5, 0.0), "b": (0.0, 0.25, 0.75), "c": (0.75, 0.0, 0.25)}
    for model, relative in [("a", 1), ("a", 4), ("b", 1), ("b", 4), ("c", 1), ("c", 4), ("c", 2)]:
        for emotion in (*EMOTIONS[:3], "all", "random", "random-1", "unsteered"):
            surgical, collapse, explosive = shares[model] if relative == 4 else (1.0, 0.0, 0.0)
            rows.append({
                "model": model, "relative": relative + 1e-9, "strength": relative / 10, "emotion": emotion, "n": 8,
                "surgical": surgical, "repetitive_collapse": collapse, "explosive": explosive, "too_short": 0.0,
            })  # fmt: skip
    return pd.DataFrame(rows)


def test_shares_of_the_regimes_at_common_strengths():
    counts = across_regimes.regime_counts(regime_table(), list(FACTS))
    assert set(counts["relative"]) == {1, 4}  # 2 was given to one model only
    assert set(counts["emotion"]) == {*EMOTIONS[:3], "random"}
    shares = across_regimes.regime_shares(counts, 50, 0)
    row = select(shares, model="b", relative=4, direction="emotions").set_index("regime")
    assert row["value"].to_dict() == {
        SURGICAL: 0, REPETITIVE: 0.25, EXPLOSIVE: 0.75, SHORT: 0, across_regimes.BROKEN: 0.25,
    }  # fmt: skip
    assert row.loc[REPETITIVE, "n"] == 24
    assert row.loc[REPETITIVE, "low"] < 0.25 < row.loc[REPETITIVE, "high"]
    broken = select(shares, model="a", relative=1, direction="random", regime=across_regimes.BROKEN).iloc[0]
    assert broken["n"] == 0
    assert np.isnan(broken["value"])


def test_contrasts_of_how_models_break():
    counts = across_regimes.regime_counts(regime_table(), list(FACTS))
    table = across_regimes.regime_contrasts(counts, FACTS, 50, 0)
    # Model c has 6 broken texts, too few; nothing breaks at 1.
    assert table[["model_a", "model_b", "relative"]].to_numpy().tolist() == [["a", "b", 4.0]]
    row = table.iloc[0]
    assert row["value"] == pytest.approx(1.0 - 0.25)
    assert (row["n_a"], row["n_b"], row["size_ratio"], row["same_family"]) == (12, 24, 3.0, False)
    assert row["p"] < 1e-4


# -- claims and rules ---------------------------------------------------------------------------------------------------


def wins(value: float, n: int) -> dict[str, pd.DataFrame]:
    row = {
        "group": "all",
        "sample": "pairs_chosen",
        "pooling": "last",
        "metric": "wins",
        "value": value,
        "n": n,
        "p": 0.5,
    }
    return {"method_comparison_models": pd.DataFrame([{**row, "low": 0.1, "high": 1.0}])}


@pytest.mark.parametrize(
    ("value", "n", "verdict"),
    [(1.0, 7, "reproduced"), (1.0, 2, "not testable on this model"), (0.5, 2, "not reproduced"), (6 / 7, 7, "not reproduced")],
)  # fmt: skip
def test_every_model_is_a_claim_that_one_model_refutes_and_two_do_not_establish(value, n, verdict):
    row = claims_across.claims(wins(value, n)).iloc[0]
    assert (row["verdict"], row["model"], row["n"]) == (verdict, "all", n)


@pytest.mark.parametrize("gemma_first", [True, False])
@pytest.mark.parametrize(("raw", "verdict"), [(100.0, "reproduced"), (5.0, "not reproduced")])
def test_gemmas_ratio_counts_whichever_way_round_the_pair_stands(gemma_first, raw, verdict):
    names = ("b", "a") if gemma_first else ("a", "b")
    sizes = {"b": 4.0 * raw, "a": 4.0}
    scales = {name: scale(sizes[name]) for name in names}
    values = across_steering.emotion_deltas(dose(**{name: [0.3, 0.2, 0.6] for name in names}), scales)
    tables = {
        "across_steering": across_models._labelled(across_steering.steering_deltas(values, scales), FACTS),
        "across_steering_contrasts": across_steering.steering_contrasts(values, scales, 50, 0),
    }
    rows = claims_across.claims(tables)
    row = rows[rows["claim"].str.contains("matter of units")].iloc[0]
    assert row["measured"] == pytest.approx(raw)
    assert row["verdict"] == verdict
    explains = rows[rows["claim"].str.contains("anisotropy explains")].iloc[0]
    assert explains["verdict"] == "not testable on this model"  # two models


# -- whole runs ---------------------------------------------------------------------------------------------------------

FACTOR = 64.0


@pytest.fixture(scope="module")
def rescaled(tiny_folder, tmp_path_factory) -> Path:
    """A quick run of a tiny llama and of the same one with its whole residual stream 64 times as large.

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
    assert set(across_models.TABLES) <= set(tables)
    contrasts = select(tables["across_steering_contrasts"], metric="ratio").set_index("measure")
    assert contrasts.loc["raw_delta", "value"] == pytest.approx(1 / FACTOR, rel=1e-3)
    assert contrasts.loc["delta", "value"] == pytest.approx(1, rel=1e-3)
    assert contrasts.loc["delta_in_gaps", "value"] == pytest.approx(1, rel=1e-3)
    rdm = tables["across_rdm"]
    twins = rdm[~rdm["same_model"] & rdm["same_method"] & rdm["same_pooling"] & (rdm["method_a"] == "comprehension")]
    assert len(twins) == 2
    np.testing.assert_allclose(twins["value"], 1, atol=1e-3)
    assert (twins["disjoint"] <= twins["ceiling"] + 1e-3).all()
    assert (twins["n_topics"] == 6).all()
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
    assert len(list((rescaled / "vectors").glob("*-topics.npz"))) == 4


@pytest.mark.slow
def test_the_report_has_a_section_over_models_and_is_made_again_the_same(rescaled):
    page = (rescaled / "report.html").read_text()
    assert 'id="across"' in page
    for name in FIGURES:
        assert (rescaled / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f'id="{name}"' in page
        assert name in CAPTIONS
    claims = read_tables(rescaled)["claims"]
    rows = select(claims, model="all")
    assert {claim.split()[0] for claim in rows["claim"]} >= {"C1", "C5", "C6", "C7"}
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
    assert found[0]["rule"] != found[1]["rule"]


@pytest.mark.slow
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


# -- failures -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(tiny_folder, tmp_path) -> dict[str, Path]:
    """Two good models, one whose weights file is cut short, one whose weights are not numbers."""
    made = {"good": tiny_folder("llama", n_layers=6), "other": tiny_folder("gpt2", n_layers=6)}
    for name in ("cut", "nan"):
        made[name] = tmp_path / f"weights-{name}"  # a model called nan would be read back from a table as no model
        shutil.copytree(made["other"], made[name])
    file = made["cut"] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])
    file = made["nan"] / "model.safetensors"
    weights = {name: torch.full_like(value, torch.nan) for name, value in safetensors.torch.load_file(file).items()}
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    return made


def test_models_that_fail_do_not_lose_the_others(broken, tmp_path, capsys):
    names = [str(broken[name]) for name in ("cut", "good", "nan")]
    out = tmp_path / "run"
    pipeline.run(names, out, chosen="separation", quick=True)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("emotrace: ")]
    assert len(told) == 2
    manifest = read_manifest(out)
    assert list(manifest["failures"]) == [names[0], names[2]]
    assert "cannot be loaded" in manifest["failures"][names[0]]
    assert "NaN" in manifest["failures"][names[2]]
    assert all("\n" not in reason for reason in manifest["failures"].values())
    assert told == [
        f"emotrace: {name} failed, the other models go on: {why}" for name, why in manifest["failures"].items()
    ]
    assert not manifest["complete"]
    tables, page = read_tables(out), (out / "report.html").read_text()
    assert set(tables["separation"]["model"]) == {Path(names[1]).name}
    assert "across_depth" not in tables  # one model is left
    assert page.count("failed</strong> and is not in this report") == 2
    assert all(why in page for why in (names[0], "NaN", "--resume"))
    # Mended and resumed, both are there and nothing is said to have failed.
    kept = {file: file.stat().st_mtime_ns for file in (out / ".cache").glob("[0-9a-f]*")}
    for name in ("cut", "nan"):
        shutil.copy(broken["other"] / "model.safetensors", broken[name] / "model.safetensors")
    pipeline.run(names, out, chosen="separation", quick=True, resume=True)
    manifest = read_manifest(out)
    assert manifest["complete"]
    assert "failures" not in manifest
    finished = [Path(name).name for name in names]
    assert list(dict.fromkeys(read_tables(out)["separation"]["model"])) == finished
    assert set(read_tables(out)["across_depth"]["model"]) == set(finished)
    assert all(file.stat().st_mtime_ns == written for file, written in kept.items())


def test_a_failure_of_several_exits_with_1_of_one_or_all_with_2(broken, tmp_path, monkeypatch, capsys):
    def call(*names: str) -> int:
        arguments = [str(broken[name]) for name in names]
        out = str(tmp_path / "-".join(names))
        command = ["emotrace", "run", *arguments, "--out", out, "--quick", "--experiments", "anisotropy"]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0

    assert call("good", "cut") == 1
    assert "--resume tries again" in capsys.readouterr().err
    assert call("cut") == 2
    assert call("cut", "nan") in (1, 2)
    assert call("good", "other") == 0


def test_if_every_model_fails_all_reasons_are_in_one_line(broken, tmp_path):
    second = tmp_path / "second"
    shutil.copytree(broken["cut"], second)
    with pytest.raises(EmotraceError) as raised:
        pipeline.run([str(broken["cut"]), str(second)], tmp_path / "run", chosen="separation", quick=True)
    assert str(raised.value).count("failed: ") == 2
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "error", [WriteError("disk full"), OSError(28, "No space left on device"), KeyboardInterrupt()]
)
def test_a_full_disk_and_the_keyboard_stop_the_run(tiny_folder, tmp_path, monkeypatch, error):
    tried = []

    def fail(name, *_):
        tried.append(name)
        raise error

    monkeypatch.setattr(pipeline, "_run_model", fail)
    with pytest.raises(type(error)):
        pipeline.run(["first", "second"], tmp_path / "run", quick=True)
    assert tried == ["first"]


@pytest.mark.slow
def test_killed_in_the_second_model_and_resumed_nothing_of_the_first_is_lost(tiny_folder, tmp_path):
    folders = [str(tiny_folder("llama", n_layers=6)), str(tiny_folder("gpt2", n_layers=6))]

    def command(out: Path, *more: str) -> list[str]:
        wanted = "separation,anisotropy,localisation"
        words = ["run", *folders, "--out", str(out), "--quick", "--experiments", wanted, *more]
        return [sys.executable, "-m", "emotrace", *words]

    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    killed = tmp_path / "killed"
    process = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        manifest = killed / "manifest.json"
        if manifest.exists() and f"{folders[1]}: load" in json.loads(manifest.read_text())["seconds"]:
            break
        time.sleep(0.01)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    tables = read_tables(killed)
    assert set(tables["localisation"]["model"]) == {Path(folders[0]).name}  # the first model's are on disk already
    pipeline.report(killed)  # a report of what there is
    kept = {file: file.stat().st_mtime_ns for file in (killed / ".cache").glob("[0-9a-f]*")}
    assert len(kept) > 20
    subprocess.run(command(killed, "--resume"), check=True, capture_output=True)
    assert all(file.stat().st_mtime_ns == written for file, written in kept.items())
    files = [
        {file.name: file.read_bytes() for file in (out / "tables").iterdir()} for out in (tmp_path / "whole", killed)
    ]
    assert files[0] == files[1]
    assert {"across_depth.csv", "across_rdm.csv"} <= set(files[0])
