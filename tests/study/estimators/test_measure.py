"""Estimators and precision on activations whose truth is known: what is planted is found, and nothing leaks."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.measures import geometry
from emotrace.measures.estimators import ESTIMATORS, Texts
from emotrace.readings import Reading
from emotrace.study.estimators import changes, claims, figures, measure, precision
from emotrace.study.experiment import Results, of_instrument
from emotrace.study.experiments import by_name
from emotrace.study.experiments import measure as run_experiments
from emotrace.study.folder import RunFolder, select
from emotrace.study.settings import Settings
from emotrace.study.study import Study
from emotrace.study.verdicts import NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, VERDICTS, claims_table

L, D, LOUD = 2, 40, 6
SETTINGS = replace(Settings.quick(), topics=12, bootstrap=50, permutations=49, decoder_permutations=60)
NAMES = list(corpus.emotions().index)
LABELS = pd.DataFrame([{"topic": t, "emotion": e, "text": f"{t} {e}"} for t in corpus.topics().index for e in NAMES])
CHOSEN = {"choice": "chosen", "pooling": "mean"}


def planted(seed, signal=0.5, loud=3.0):
    """Layers 1 … L hold topic, emotion and noise, louder in a few dimensions; layer 0 a weaker emotion, the words'."""
    truth = np.random.default_rng(99).normal(size=(len(NAMES), D))
    rng = np.random.default_rng(seed)
    rows = np.array([NAMES.index(name) for name in LABELS["emotion"]])
    topics = rng.normal(size=(12, D))[pd.factorize(LABELS["topic"])[0]]
    layers = []
    for layer in range(L + 1):
        noise = rng.normal(size=(len(rows), D))
        noise[:, :LOUD] *= loud
        layers.append(2 + topics + (signal / 4 if layer == 0 else signal) * truth[rows] + noise)
    return np.stack(layers, axis=1).astype(np.float32)


def study(tmp_path, first=1, second=2, **planting):
    parts = {}
    run = RunFolder(tmp_path / "run", {"models": ["planted"]})
    unrelated = np.random.default_rng(5).normal(size=(60, L + 1, D)).astype(np.float32)
    for name, seed in (("one", first), ("two", second)):
        pooled = {"mean": planted(seed, **planting)}
        reading = Reading(LABELS, pooled, list(range(L + 1)), {"model": "planted", "texts": name})
        baseline = dict.fromkeys(pooled, unrelated)
        parts[name] = Study(
            "planted", "llama", L, True, reading, baseline, SETTINGS, run, lambda *of: None, object(), instrument=name
        )
    parts["one"].instruments["two"] = parts["two"]
    return parts["one"]


@pytest.fixture(scope="module")
def names():
    rng = np.random.default_rng(3)
    return {name: rng.normal(size=D) for name in NAMES}


@pytest.fixture(scope="module")
def table(tmp_path_factory, names):
    patch = pytest.MonkeyPatch()
    patch.setattr(measure, "name_embeddings", lambda model, asked: {name: names[name] for name in asked})
    results = Results()
    run_experiments([by_name("estimators")], study(tmp_path_factory.mktemp("estimators")), results)
    patch.undo()
    return results.tables["estimators"]


def value(table, estimator, metric, **of):
    rows = select(table, estimator=estimator, metric=metric, **{"instrument": "one", **CHOSEN, **of})
    assert len(rows) == 1
    return rows.iloc[0]


def test_every_estimator_has_its_rows_on_both_sets_poolings_and_kinds_of_layer(table):
    assert set(table["estimator"]) == set(ESTIMATORS)
    assert set(table["instrument"]) == {"one", "two"}
    counts = select(table, metric="ranking").groupby(["instrument", "pooling", "choice", "layer"]).size()
    assert (counts == len(ESTIMATORS)).all()
    assert len(select(table, metric="cosine", instrument="one", **CHOSEN)) == len(ESTIMATORS) * (len(ESTIMATORS) - 1)
    assert not table.duplicated(["instrument", "pooling", "choice", "layer", "estimator", "metric", "other"]).any()


def test_under_correlated_noise_the_whitened_gains_and_the_mean_stands_above_its_words(table):
    assert value(table, "mean_difference", "ranking")["low"] > 0.6
    gain = value(table, "whitened", "ranking_gain")
    assert gain["low"] > 0.02
    assert gain["p"] < 0.01
    expected = value(table, "whitened", "ranking")["value"] - value(table, "mean_difference", "ranking")["value"]
    assert gain["value"] == pytest.approx(expected)
    assert value(table, "embedding_bag", "ranking_gain")["high"] < -0.05
    assert abs(value(table, "name_token", "ranking")["value"] - 0.5) < 0.06
    assert value(table, "whitened", "in_texts")["value"] < value(table, "mean_difference", "in_texts")["value"]


def test_what_is_planted_alike_in_both_sets_transfers_and_shuffled_labels_give_chance(table):
    for name in ("mean_difference", "whitened", "logistic"):
        own, other = value(table, name, "ranking"), value(table, name, "transfer_ranking")
        assert abs(own["value"] - other["value"]) < 0.08
        assert own["null"] == pytest.approx(0.5, abs=0.06)
        assert value(table, name, "decoding")["null"] == pytest.approx(1 / 20, abs=0.06)
        assert (own["m"], own["null_p"]) == (3, 0.25)
        halves = value(table, name, "split_half")
        assert abs(halves["null"]) < 0.15 < halves["value"]


def test_held_out_readings_are_those_of_a_loop_over_folds():
    texts = Texts(planted(1)[:, 2], LABELS["emotion"].to_numpy(str), LABELS["topic"].to_numpy(str))
    others = replace(texts, activations=planted(2)[:, 2])
    emotions = NAMES[:20]
    found = measure.held_out(partial(measure.fit, "mean_difference", names=emotions), texts, others, emotions)
    order = list(dict.fromkeys(texts.topics))
    for train, test in geometry.topic_folds(texts.topics):
        known, labels = texts.activations[train], texts.emotions[train]
        means = np.stack([known[labels == name].mean(axis=0) for name in NAMES])
        units = geometry.unit(means - means.mean(axis=0))[:20]
        for topic in set(texts.topics[test]):
            for kind, of in (("ranking", texts), ("transfer_ranking", others)):
                rows = [np.flatnonzero((of.topics == topic) & (of.emotions == name))[0] for name in emotions]
                scores = of.activations[rows] @ units.T
                expected = np.mean([(scores[i, i] > np.delete(scores[:, i], i)).mean() for i in range(20)])
                assert found[kind][order.index(topic)] == pytest.approx(expected, abs=1e-6)


def test_directions_that_hold_on_one_topic_alone_gain_nothing_on_others():
    """Each topic has emotion directions of its own: texts of a topic in the training folds would show."""
    rng = np.random.default_rng(4)
    own = rng.normal(size=(12, len(NAMES), D))
    topics, rows = pd.factorize(LABELS["topic"])[0], np.array([NAMES.index(name) for name in LABELS["emotion"]])
    activations = 5 * own[topics, rows] + rng.normal(size=(len(rows), D))
    texts = Texts(activations, LABELS["emotion"].to_numpy(str), LABELS["topic"].to_numpy(str))
    for name in ("mean_difference", "logistic", "whitened"):
        found = measure.held_out(partial(measure.fit, name, names=NAMES[:20]), texts, None, NAMES[:20])
        assert found["ranking"].mean() == pytest.approx(0.5, abs=0.06)
        assert set(found) == {"decoding", "ranking"}


def test_an_estimator_without_what_it_needs_has_no_rows_and_its_claim_is_not_testable(tmp_path, names, monkeypatch):
    one = study(tmp_path)
    lone = one.reading.labels["emotion"] == corpus.NEUTRAL
    one.reading.labels = one.reading.labels.assign(topic=np.where(lone, "elsewhere", one.reading.labels["topic"]))
    assert measure.score(one, None, "mean", 2, "contrast_pairs", names, 0) is None
    assert measure.score(one, None, "mean", 2, "mean_difference", names, 0) is not None
    with pytest.raises(EmotraceError):
        measure.fit("contrast_pairs", measure.texts_of(one, "mean", 2, names), NAMES)


def test_claims_follow_the_rows_and_figures_are_drawn(table):
    tables = of_instrument({"estimators": table}, "one")
    judged = claims_table("planted", claims.gain_claims(tables, "llama")).set_index("id")
    assert tuple(judged.index) == claims.GAIN_IDS
    assert judged.loc["estimator.whitened.mean", "verdict"] == REPRODUCED
    assert judged.loc["estimator.words.mean", "verdict"] == REPRODUCED
    assert judged.loc["estimator.contrast_pairs.mean", "verdict"] == NOT_REPRODUCED
    last = judged.loc["estimator.whitened.last", "verdict"]  # a pooling that was not read
    assert last == NOT_TESTABLE
    without = {"estimators": tables["estimators"][tables["estimators"]["estimator"] != "contrast_pairs"]}
    lost = claims_table("planted", claims.gain_claims(without, "llama")).set_index("id")
    assert lost.loc["estimator.contrast_pairs.mean", "verdict"] == NOT_TESTABLE
    for picture in figures.ESTIMATED:
        assert picture.draw(tables).axes
        assert picture.draw(without).axes


# -- precision --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rounded(tmp_path_factory):
    """``precision`` of a study whose readings at other precisions are its own plus noise of known size."""
    part = study(tmp_path_factory.mktemp("precision"))
    part.loaded = SimpleNamespace(provenance={"dtype": "float32"}, remote=None)
    noise = {"bfloat16": 0.01, "int8": 0.3, "int4": 2.0}

    def read(one, name, labels):
        if name.startswith("float16"):
            return None
        rng, size, rows = np.random.default_rng(len(name)), noise[name.split()[0]], labels.index
        held = {p: v[rows] for p, v in one.reading.pooled.items()}
        return {p: v + size * rng.normal(size=v.shape).astype(np.float32) for p, v in held.items()}

    effects, bumps = np.random.default_rng(8).normal(1, 0.1, size=(2, 5, 4))
    lost = 0.4 + bumps - bumps.mean()
    patch = pytest.MonkeyPatch()
    patch.setattr(precision, "_read", read)
    patch.setattr(precision, "_steered", lambda one, name, pooled: effects - lost * (name == "int4"))
    table = precision.precision_table(part)
    patch.undo()
    return part, table


def test_agreement_falls_with_the_noise_and_is_what_the_noise_makes_it(rounded):
    part, table = rounded
    rows = select(table, choice="chosen", pooling="mean", reference="float32").set_index(["precision", "metric"])
    layer = int(rows["layer"].iloc[0])
    texts = part.reading.pooled["mean"][:, layer]
    norm = np.linalg.norm(texts, axis=1)
    for name, size in (("bfloat16", 0.01), ("int8", 0.3), ("int4", 2.0)):
        expected = np.mean(norm / np.sqrt(norm**2 + size**2 * D))
        assert rows.loc[(name, "activations"), "value"] == pytest.approx(expected, rel=0.03)
    for metric in ("vectors", "rdm"):
        found = rows["value"].unstack()[metric]
        assert found["bfloat16"] > 0.999 > found["int8"] > found["int4"]
    assert rows.loc[("int8", "rdm_change"), "value"] == pytest.approx(1 - rows.loc[("int8", "rdm"), "value"])
    assert rows.loc[("int4", "decoding_change"), "value"] < -0.05
    assert rows.loc[("bfloat16", "decoding_change"), "value"] == pytest.approx(0, abs=0.02)
    assert rows.loc[("float32", "rdm_halves"), "value"] < rows.loc[("int8", "rdm"), "value"]


def test_what_is_not_finite_is_named_and_8_bits_are_then_compared_with_the_model_as_loaded(rounded):
    _, table = rounded
    finite = select(table, metric="finite").set_index("precision")["value"]
    stored = {"bfloat16": 1, "float16": 0, "int8": 1, "int4": 1}
    assert finite.to_dict() == {**stored, "bfloat16 arithmetic": 1, "float16 arithmetic": 0}
    assert table["value"].dtype == float  # a truth value among them would make text of the column
    judged = claims.precision_claims({"precision": table}, "llama")
    assert [one.id for one in judged] == ["sequel.precision.mean"]
    assert "int8 against float32" in judged[0].how
    assert judged[0].how.split(";")[-1] == " not finite: float16, float16 arithmetic"
    assert all(one.verdict() in VERDICTS for one in judged)
    assert figures.precisions({"precision": table}).axes


def test_few_texts_are_read_in_half_precision_arithmetic_and_steering_is_compared_with_the_references(rounded):
    part, table = rounded
    few = select(table, precision="bfloat16 arithmetic", metric="activations", choice="chosen").iloc[0]
    assert few["n"] == 2 * len(NAMES)
    texts = part.reading.pooled["mean"][(LABELS["topic"].isin(LABELS["topic"].unique()[:2])).to_numpy()]
    norm = np.linalg.norm(texts[:, int(few["layer"])], axis=1)
    assert few["value"] == pytest.approx(np.mean(norm / np.sqrt(norm**2 + 0.01**2 * D)), abs=1e-4)
    steered = select(table, metric="steering_change", reference="float32").set_index("precision")["value"]
    assert steered["int4"] == pytest.approx(-0.4)
    assert steered["int8"] == pytest.approx(0)
    found = changes.by_precision({"precision": of_instrument({"p": table}, "one")["p"]})
    assert [one.id for one in found] == ["by_precision.geometry", "by_precision.kin_log_probability"]
    assert found[0].depends == REPRODUCED  # int4 moves it by more than the margin
    assert "int4" in changes.named(found)
    assert found[1].verdicts["int4"] == found[1].verdicts["float32"] == REPRODUCED  # 0.6 and 1 nat
    assert found[1].depends == NOT_REPRODUCED
    assert found[1].p["int4"] < 0.05  # a difference alone turns no verdict


@pytest.mark.parametrize(("low", "high", "verdict"), [(0.06, 0.1, REPRODUCED), (0.001, 0.04, NOT_REPRODUCED)])
def test_any_rounding_changes_something_so_that_the_rule_asks_for_more_than_nothing(low, high, verdict):
    estimate = claims.Estimate((low + high) / 2, low, high, 12)
    assert claims.precision_rule().verdict(estimate) == verdict


def test_the_geometrys_change_is_spearmans_of_scipy(tmp_path):
    from scipy.stats import spearmanr

    part = study(tmp_path)
    texts, other = part.reading.pooled["mean"][:, 1], part.reading.pooled["mean"][:, 2]
    found = precision.rdm_change(part, texts, other)
    upper = np.triu_indices(len(NAMES), 1)
    rdms = []
    for values in (texts, other):
        means = np.stack([values[(LABELS["emotion"] == name).to_numpy()].mean(axis=0) for name in NAMES])
        rdms.append(geometry.rdm(means)[upper])
    assert found.value == pytest.approx(1 - spearmanr(*rdms).statistic)
    assert found.low < found.value < found.high
    assert precision.rdm_change(part, texts, texts).value == pytest.approx(0)
