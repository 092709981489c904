"""The experiments on activations whose truth is known: planted emotions are found, shuffled labels are not."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from emotrace.instrument import corpus
from emotrace.measures import geometry
from emotrace.readings import Reading
from emotrace.study import experiments
from emotrace.study.experiment import Results
from emotrace.study.folder import RunFolder, select
from emotrace.study.separation import axes, claims, localisation, measure, spreads
from emotrace.study.separation.experiments import EXPERIMENTS
from emotrace.study.settings import Settings
from emotrace.study.study import Study
from emotrace.study.verdicts import COLUMNS, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, VERDICTS, claims_table

L, D = 12, 48
SETTINGS = replace(Settings.quick(), topics=12, bootstrap=100, permutations=99, decoder_permutations=49)


def study(tmp_path, activations: np.ndarray, labels: pd.DataFrame) -> Study:
    """A study whose model read ``activations [text, layer, d_model]``; both poolings see the same."""
    pooled = {"last": activations.astype(np.float32), "mean": activations.astype(np.float32)}
    reading = Reading(labels, pooled, list(range(L + 1)), {"model": "planted"})
    noise = np.random.default_rng(5).normal(size=(60, L + 1, D)) + OFFSET
    baseline = {name: noise.astype(np.float32) for name in pooled}
    run = RunFolder(tmp_path / "run", {"models": ["planted"]})
    return Study("planted", "llama", L, True, reading, baseline, SETTINGS, run, lambda what, done, of: None)


OFFSET = 3.0  # a common mean, which makes every cosine high, as in a real model
LABELS = pd.DataFrame(
    [
        {"topic": topic, "emotion": emotion, "text": f"{topic} {emotion} text"}
        for topic in corpus.topics().index
        for emotion in corpus.emotions().index
    ]
)


def planted(strength_over_layers: np.ndarray, seed: int = 0, axes: bool = False) -> np.ndarray:
    """Noise + a topic's direction + an emotion's, as strong as given at each layer: ``[text, layer, d_model]``."""
    rng = np.random.default_rng(seed)
    of_topic = {name: rng.normal(size=D) for name in LABELS["topic"].unique()}
    of_emotion = {name: rng.normal(size=D) for name in LABELS["emotion"].unique()}
    if axes:  # valence is the first axis, arousal the second
        basis, norms = np.linalg.qr(rng.normal(size=(D, 2)))[0], corpus.emotions()
        for name in of_emotion:
            valence, arousal = np.nan_to_num(norms.loc[name, ["valence", "arousal"]].to_numpy(dtype=float), nan=4.5)
            of_emotion[name] = basis @ [3 * (valence - 5), 1.5 * (arousal - 4.5)]
    rows = [
        OFFSET
        + rng.normal(size=(L + 1, D))
        + of_topic[row.topic]
        + strength_over_layers[:, None] * of_emotion[row.emotion]
        for row in LABELS.itertuples()
    ]
    return np.stack(rows)


U = 1.6 * np.sin(np.pi * np.arange(L + 1) / L)  # strongest at layer 6 of 12


def run(study: Study, *names: str) -> dict[str, pd.DataFrame]:
    """The tables of these experiments (all, by default) and their claims."""
    results = Results()
    experiments.measure([one for one in EXPERIMENTS if not names or one.name in names], study, results)
    claims = claims_table("planted", experiments.claims(results.tables, study.family))
    return results.tables | {"claims": claims}


@pytest.fixture(scope="module")
def planted_study(tmp_path_factory):
    return study(tmp_path_factory.mktemp("planted"), planted(U), LABELS)


@pytest.fixture(scope="module")
def tables(planted_study):
    return run(planted_study)


@pytest.fixture(scope="module")
def null_tables(tmp_path_factory):
    """The same activations, the labels shuffled within topics: no emotion is left, every topic is."""
    rng = np.random.default_rng(3)
    shuffled = LABELS.assign(emotion=geometry.shuffle_within_topics(LABELS["emotion"], LABELS["topic"], rng))
    return run(study(tmp_path_factory.mktemp("null"), planted(U), shuffled))


def test_the_planted_depth_is_found_by_every_criterion_and_pooling(tables):
    table = tables["localisation"]
    assert len(table) == 2 * len(localisation.CRITERIA)
    cosines = table[table["criterion"].isin(["cosine", "shuffle_excess", "ratio", "intraclass"])]
    assert set(cosines["layer"]) == {6}
    assert set(cosines["chosen_layer"]) <= {5, 6, 7}
    assert ((cosines["low"] <= 0.5) & (cosines["high"] >= 0.5)).all()
    apart = table[table["criterion"] != "noise_cosine"]  # which has no best layer here
    assert apart["depth"].between(0.3, 0.7).all()  # accuracies reach 1 before the middle, and the first layer counts
    assert (cosines["u_opposed"] == 1).all()
    assert (cosines["u"] > 0.4).all()  # R and the share of variance level off where emotions are strong
    assert (cosines.query("criterion in ['cosine', 'shuffle_excess']")["u_p"] < 0.01).all()
    assert np.allclose(cosines["turn"], 0.5, atol=0.09)


def test_planted_emotions_are_decoded_on_held_out_topics_and_the_null_is_at_chance(tables):
    decoders = tables["localisation"].query("criterion in ['nearest_centroid', 'logistic_regression']")
    assert (decoders["held_out"] > 0.9).all()
    assert np.allclose(decoders["p"], 1 / 50)  # the floor of 49 permutations
    assert np.allclose(decoders["null_mean"], 0.05, atol=0.02)


def test_shuffled_labels_give_chance_and_a_null_verdict(null_tables):
    decoders = null_tables["localisation"].query("criterion in ['nearest_centroid', 'logistic_regression']")
    assert (decoders["held_out"] < 0.15).all()  # 120 held-out texts at 5%
    assert decoders["p"].min() > 0.02  # four tests, none at the floor
    assert decoders["p"].median() > 0.05
    separation = select(null_tables["separation"], metric="cosine")
    assert (separation["p"] < 0.05).mean() < 0.3
    verdicts = null_tables["claims"].set_index("id")["verdict"]
    assert (verdicts[["neighbour.probe.last", "neighbour.probe.mean"]] == NOT_REPRODUCED).all()
    for name in ("C7.baseline", "C6.u_ratio", "neighbour.valence"):
        assert REPRODUCED not in set(verdicts[[f"{name}.last", f"{name}.mean"]])
    ratio = select(null_tables["separation"], metric="ratio").query("layer > 0")
    assert ((ratio["low"] < 1) & (ratio["high"] > 1)).mean() > 0.8
    assert ratio["value"].mean() == pytest.approx(1, abs=0.1)
    share = select(null_tables["separation"], metric="intraclass").query("layer > 0")
    assert share["value"].mean() == pytest.approx(0, abs=0.01)


def test_the_planted_emotions_are_reported_as_beyond_the_shuffled_baseline(tables):
    verdicts = tables["claims"].set_index("id")["verdict"]
    for name in ("C7.baseline", "C6.u", "C6.u_null", "C6.space", "C6.depth", "neighbour.probe"):
        assert (verdicts[[f"{name}.last", f"{name}.mean"]] == REPRODUCED).all(), name
    rows = select(tables["separation"], pooling="last", layer=2).set_index("metric")
    strength = U[2] ** 2
    assert rows.loc["ratio", "value"] == pytest.approx(1 + 11 * strength / (1 + strength), rel=0.15)
    assert rows.loc["intraclass", "value"] == pytest.approx(strength / (1 + strength), rel=0.1)
    assert rows.loc["cosine", "null"] == rows.loc["shuffled_cosine", "value"]


def test_emotions_that_stand_out_most_in_the_middle_are_a_u_of_r(tmp_path):
    row = localisation._locate(study(tmp_path, planted(U / 2), LABELS), {}, "last", "ratio")[0]
    assert row["layer"] in (5, 6, 7)
    assert claims._u_ratio(pd.Series(row), pd.Series(row), "last").verdict() == REPRODUCED


def cone(offsets: np.ndarray, emotion: float, seed: int = 0) -> np.ndarray:
    """Texts whose common offset alone changes over layers, not emotion, topic or noise: ``[text, layer, d_model]``."""
    rng = np.random.default_rng(seed)
    of_emotion = {name: emotion * rng.normal(size=D) for name in LABELS["emotion"].unique()}
    of_topic = {name: rng.normal(size=D) for name in LABELS["topic"].unique()}
    fixed = np.stack(
        [of_emotion[row.emotion] + of_topic[row.topic] + rng.normal(size=D) for row in LABELS.itertuples()]
    )
    wobble = 0.15 * rng.normal(size=(len(LABELS), L + 1, D))
    return fixed[:, None] + wobble + offsets[None, :, None]


def test_a_u_that_is_the_spaces_alone_is_told_as_such(tmp_path):
    """The rule of before, cosine minus shuffled cosine, calls this U the emotions': both scale with 1 − cosine."""
    widening = 3 + 9 * np.abs(np.arange(L + 1) / L - 0.5) ** 1.3  # narrow at both ends: a U for any labels
    tables = run(study(tmp_path, cone(widening, 0.7), LABELS), "separation", "anisotropy", "localisation")
    verdicts = tables["claims"].set_index("id")["verdict"]
    located = select(tables["localisation"], pooling="last").set_index("criterion")
    assert located.loc["shuffle_excess", "u"] > 0.8
    assert located.loc["shuffle_excess", "u_p"] < 0.01
    assert located.loc["noise_cosine", "layer"] == located.loc["cosine", "layer"] == L // 2
    expected = {"C6.u": REPRODUCED, "C6.u_null": NOT_REPRODUCED, "C6.space": NOT_REPRODUCED}
    for name, verdict in expected.items():
        assert verdicts[f"{name}.last"] == verdict, name
    assert verdicts["C6.u_ratio.last"] != REPRODUCED
    assert tables["space"]["r"].min() > 0.98


def test_the_interval_of_an_excess_is_paired(tmp_path):
    """Topics of unlike spread move cosine and null together; with the null held fixed the excess seems uncertain."""
    activations = planted(np.full(L + 1, 0.8))
    loud = LABELS["topic"].isin(list(LABELS["topic"].unique())[:3]).to_numpy()
    middle = activations.mean(axis=0)
    activations[loud] = middle + 2.5 * (activations[loud] - middle)
    rows = select(measure.separation(study(tmp_path, activations, LABELS)), pooling="last", layer=6).set_index("metric")
    widths = rows["high"] - rows["low"]
    assert widths["shuffle_excess"] < 0.75 * widths["cosine"]
    assert rows.loc["shuffle_excess", "value"] == pytest.approx(
        rows.loc["cosine", "value"] - rows.loc["cosine", "null"]
    )
    assert rows.loc["shuffle_excess", "high"] < 0
    assert rows.loc["ratio", "low"] > 1


def test_the_p_of_the_reporting_half_is_its_own(tmp_path):
    """Emotions on the half that chooses alone: the other half must not find any."""
    first = study(tmp_path / "a", planted(U), LABELS).halves[0]
    topics = list(LABELS["topic"].unique())
    chosen = LABELS["topic"].isin([topic for topic, inside in zip(topics, first, strict=True) if inside]).to_numpy()
    rng = np.random.default_rng(6)
    emotions = LABELS["emotion"].to_numpy().copy()
    emotions[~chosen] = geometry.shuffle_within_topics(emotions[~chosen], LABELS["topic"].to_numpy()[~chosen], rng)
    half = study(tmp_path / "b", planted(U), LABELS.assign(emotion=emotions))
    row = localisation._locate(half, {}, "last", "ratio")[0]
    assert row["p"] > 0.05
    assert row["held_low"] < 1.2
    assert spreads.spreads(half, "last", row["chosen_layer"]).p == pytest.approx(1 / 100)


def test_the_unrelated_baseline_is_the_closed_form_on_three_topics_too(tmp_path):
    """Groups of three texts of noise: 1 − cosine of 1/3; emotions of strength s on three topics: s² + 1/3."""
    few = LABELS["topic"].isin(list(LABELS["topic"].unique())[:6]).to_numpy()
    small = study(tmp_path, planted(np.full(L + 1, 0.8))[few], LABELS[few].reset_index(drop=True))
    found = spreads.against_unrelated(small, "last", 6, small.halves[1])
    assert found.value == pytest.approx((0.8**2 + 1 / 3) * 3, rel=0.2)
    assert 1 < found.low < found.value < found.high


def test_a_learning_curve_rises_with_topics_and_names_its_floor(tables):
    curve = select(tables["learning_curve"], pooling="last", metric="logistic_regression").sort_values("topics")
    assert curve["topics"].tolist() == [1, 2, 3, 5, 8, 11]
    assert curve["texts"].tolist() == [20, 40, 60, 100, 160, 220]
    assert curve["value"].iloc[0] < curve["value"].iloc[-1]
    assert curve["value"].iloc[-1] > 0.95


def test_reliability_has_a_row_for_each_emotion_and_one_of_their_mean(tables):
    rows = select(tables["reliability"], pooling="mean")
    assert len(rows) == 21
    each, mean = rows[rows["emotion"] != "all"], rows[rows["emotion"] == "all"].iloc[0]
    assert mean["split_half"] == pytest.approx(each["split_half"].mean())
    assert (each["split_half"] > 0.6).all()
    assert (each["p"] <= 0.02).all()
    assert (each["n"] == 12).all()


def test_what_the_words_give_away_stands_beside_the_decoders(tmp_path):
    """Texts that name their emotion in words, or in the number of their commas alone."""
    named = LABELS.assign(text=[f"On {row.topic} it felt {row.emotion} indeed" for row in LABELS.itertuples()])
    order = list(LABELS["emotion"].unique())
    marked = LABELS.assign(text=["word word" + "," * order.index(row.emotion) for row in LABELS.itertuples()])
    found = {}
    for name, labels in (("named", named), ("marked", marked)):
        table = measure.separation(study(tmp_path / name, planted(U), labels))
        rows = select(table, pooling="words")
        assert rows["layer"].isna().all()
        found[name] = rows.set_index("metric")["value"]
    assert found["named"]["tfidf"] > 0.95
    assert found["marked"]["tfidf"] < 0.1
    assert found["marked"]["surface_counts"] > 0.2


def test_the_cosine_equals_a_naive_computation(planted_study, tables):
    layer = 6
    activations = planted_study.layer("last", layer)
    centroids = np.stack([activations[planted_study.emotions == name].mean(axis=0) for name in planted_study.names])
    unit = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
    naive = np.mean([unit[i] @ unit[j] for i in range(20) for j in range(20) if i != j])
    row = select(tables["separation"], pooling="last", layer=layer, metric="cosine").iloc[0]
    assert row["value"] == pytest.approx(naive, abs=1e-6)
    assert row["low"] < row["value"] < row["high"] < row["null"]


def test_valence_planted_as_the_first_axis_is_found_and_oriented(tmp_path):
    table = axes.geometry_table(study(tmp_path, planted(U, axes=True), LABELS))
    rows = select(table, pooling="mean", split="held_out").set_index("metric")
    assert rows.loc["pc1_valence_r", "value"] > 0.95
    assert rows.loc["pc1_valence_r", "p"] == pytest.approx(1 / 100)
    assert rows.loc["pc1_valence_r", "n"] == 19  # exasperated has no norm
    assert abs(rows.loc["pc2_arousal_r", "value"]) > 0.8
    assert rows.loc["rdm_rho", "value"] > 0.5
    assert rows.loc["rdm_rho", "p"] == pytest.approx(1 / 100)


def test_random_emotion_directions_hold_no_valence(tables):
    rows = select(tables["geometry"], split="all", metric="pc1_valence_r").query("layer > 0")
    assert (rows["low"] < 0).mean() > 0.7
    assert rows["value"].abs().max() < 0.75


def test_the_half_that_chooses_the_layer_never_reports(planted_study, tmp_path):
    """Changing the reporting half of the topics must not change the layer that is chosen."""
    first, second = planted_study.halves
    assert (first ^ second).all()
    assert first.sum() == second.sum() == 6
    disturbed = planted(U)
    reporting = ~np.isin(
        LABELS["topic"], [t for t, inside in zip(dict.fromkeys(planted_study.topics), first, strict=True) if inside]
    )
    disturbed[reporting] = np.random.default_rng(9).normal(size=disturbed[reporting].shape)
    other = study(tmp_path, disturbed, LABELS)
    for criterion in localisation.CRITERIA:
        assert localisation.chosen_layer(other, "last", criterion) == localisation.chosen_layer(
            planted_study, "last", criterion
        )


def test_nothing_depends_on_the_scale_of_the_activations(tables, tmp_path):
    """Magnitudes differ between models and layers; no table but the norms may follow them (the units artifact)."""
    scaled = run(study(tmp_path, planted(U) * 1000, LABELS), "geometry")["geometry"]
    ours = tables["geometry"]
    assert np.allclose(scaled["value"], ours["value"], atol=2e-3, equal_nan=True)


def test_the_same_seed_gives_the_same_tables_in_any_order(tables, tmp_path):
    again = study(tmp_path, planted(U), LABELS)
    backwards = {name: run(again, name)[name] for name in ("geometry", "separation")}
    for name, table in backwards.items():
        pd.testing.assert_frame_equal(table, tables[name])


def test_claims_have_ids_columns_and_verdicts_of_the_design(tables):
    table = tables["claims"]
    assert list(table.columns) == COLUMNS
    assert set(table["verdict"]) <= set(VERDICTS)
    assert sorted(table["id"]) == sorted(name for experiment in EXPERIMENTS for name in experiment.claim_ids)
    assert table.set_index("id").loc["C7.gemma", "verdict"] == NOT_TESTABLE
    assert (table["how"].str.len() > 60).all()


def test_figures_are_drawn_from_the_tables_alone(tables, planted_study):
    vectors = planted_study.reading.vectors("mean")
    for picture in (picture for experiment in EXPERIMENTS for picture in experiment.pictures):
        figure = picture.figure(tables, vectors)
        if picture.name == "transfer_over_depth":  # of one instrument there is none
            assert figure is None
            continue
        assert figure.axes[0].get_ylabel() or figure.axes[0].get_yticklabels()
        if picture.vectors:
            layer = select(tables["localisation"], pooling="mean", criterion="nearest_centroid")["chosen_layer"].item()
            assert figure.axes[0].get_title().startswith(f"layer {layer}, mean over tokens")
