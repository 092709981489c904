"""Doses in features whose truth is known: each control takes away what it is there to take away."""

import math

import numpy as np
import pandas as pd
import pytest
from planted_messages import DIRECTIONS, NAMES, doses, passages

from emotrace.instrument import corpus
from emotrace.study.reading import graded

TABLE = corpus.graded_prompts()


def scales(states: np.ndarray, permutations: int = 99) -> pd.DataFrame:
    return pd.DataFrame(graded.scales(TABLE, passages(), states, permutations, np.random.default_rng(3)))


def over_scales(states: np.ndarray, permutations: int = 99) -> pd.DataFrame:
    table = scales(states, permutations)
    return table[table["scale"] == "all"].set_index("metric")


def test_a_dose_that_moves_its_emotion_has_rho_1_with_the_sign_that_is_expected():
    table = scales(doses(TABLE, own=3.0, noise=0.05))
    own = table[(table["metric"] == "own") & (table["scale"] != "all")]
    assert len(own) == 6
    assert np.allclose(own["value"], 1)
    assert np.allclose(own["p"], 1 / math.factorial(8))
    assert (own["n"] == 8).all()
    assert (own["span"] > 1).all()
    rows = table[table["scale"] == "all"].set_index("metric")
    assert rows.loc["own", "value"] == 1
    assert rows.loc["own", "span"] == pytest.approx(own["span"].median())
    # Along a vector of shuffled labels a smooth course has ρ near ±1 too: on six scales all signs fit 1 time in 64.
    assert rows.loc["own", "p"] < 0.06
    assert rows.loc["own", "m"] == 99
    assert abs(rows.loc["own", "null"]) < 0.15
    assert rows.loc["own_minus_control_number", "low"] > 0
    assert 0 < rows.loc["own_minus_control_number", "t_p"] < 0.05
    assert rows.loc["significant", ["value", "n"]].tolist() == [6, 6]
    assert rows.loc["significant", "null"] == pytest.approx(0.3)
    assert rows.loc["significant", "p"] == pytest.approx(0.05**6)


def test_a_dose_that_moves_the_wrong_way_has_rho_minus_1():
    rows = over_scales(doses(TABLE, own=-3.0, noise=0.05))
    assert rows.loc["own", "value"] == pytest.approx(-1)
    assert rows.loc["significant", "value"] == 0
    assert rows.loc["own", "p"] == 1


def test_a_number_that_does_as_much_leaves_nothing_over_it():
    rows = over_scales(doses(TABLE, own=3.0, number=3.0, noise=0.05))
    assert rows.loc["own", "value"] == rows.loc["control_number", "value"] == 1
    assert rows.loc["own_minus_control_number", "value"] == 0
    assert rows.loc["own_minus_control_emotion", "value"] > 0.5


def test_an_unrelated_emotion_that_does_as_much_leaves_nothing_over_it():
    rows = over_scales(doses(TABLE, own=3.0, other=3.0, noise=0.05))
    assert rows.loc["own", "value"] == rows.loc["control_emotion", "value"] == 1
    assert rows.loc["own_minus_control_emotion", "value"] == 0
    assert rows.loc["own_minus_control_number", "value"] > 0.5


def test_messages_without_a_dose_are_at_chance():
    rows = [over_scales(doses(TABLE, noise=1.0, seed=seed), 1) for seed in range(30)]
    assert abs(np.mean([row.loc["own", "value"] for row in rows])) < 0.1
    assert np.mean([row.loc["significant", "value"] for row in rows]) == pytest.approx(0.3, abs=0.3)
    for metric in ("own_minus_control_number", "own_minus_control_emotion"):
        found = np.array([row.loc[metric, "low"] > 0 for row in rows])
        assert found.mean() < 0.15  # 2.5% expected


def test_levels_are_projections_in_standard_deviations_of_the_passages():
    texts, states = passages(), doses(TABLE, own=3.0, noise=0.05)
    rows = pd.DataFrame(graded.levels(TABLE, texts, states))
    assert len(rows) == 6 * 3 * 8
    ledge = rows[(rows["scale"] == "ledge") & (rows["reading"] == "own")]
    assert list(ledge["emotion"].unique()) == ["afraid"]
    assert list(ledge["level"]) == sorted(ledge["level"])
    centroids = np.array([texts.features[texts.emotions == name].mean(axis=0) for name in NAMES])
    vector = centroids[NAMES.index("afraid")] - centroids.mean(axis=0)
    messages = (TABLE["scale"] == "ledge").to_numpy()
    along = states @ vector - (states[messages] @ vector).mean()
    dose = messages & (TABLE["kind"] == "dose").to_numpy()
    assert np.allclose(ledge["value"], along[dose] / (texts.features @ vector).std())
    span = scales(states, 9).query("scale == 'ledge' and metric == 'own'")["span"].iloc[0]
    assert span == pytest.approx(ledge["value"].iloc[-1] - ledge["value"].iloc[0])
    assert len(DIRECTIONS) == len(NAMES)


def test_the_order_of_the_rows_does_not_matter():
    order = np.random.default_rng(0).permutation(len(TABLE))
    states = doses(TABLE, own=1.0, noise=0.5)
    shuffled = graded.scales(
        TABLE.iloc[order].reset_index(drop=True), passages(), states[order], 9, np.random.default_rng(3)
    )
    given = scales(states, 9).set_index(["scale", "metric"])["value"]
    found = pd.DataFrame(shuffled).set_index(["scale", "metric"])["value"]
    assert np.allclose(found[given.index], given)
