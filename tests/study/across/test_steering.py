"""Deltas of several models: rescaled streams, closed forms, exact orders."""

import numpy as np
import pandas as pd
import pytest
from planted_streams import EMOTIONS, dose, scale

from emotrace.study.across import steering as across_steering
from emotrace.study.across.steering import Scale
from emotrace.study.folder import select


def test_a_rescaled_stream_changes_the_raw_delta_alone():
    readings = [0.3, 0.2, 0.6]
    scales = {"a": scale(1), "b": scale(1000)}
    readings_of = dose(a=readings, b=readings)
    published = readings_of.assign(arm="published", value=99.0)  # another arm's readings are no part of it
    values = across_steering.emotion_deltas(pd.concat([readings_of, published]), scales)
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
        assert at.loc[(model, "delta"), "permuted"] == pytest.approx(0.02)
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
