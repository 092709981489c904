"""The rules on the U, the best depth and valence at and around their limits."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from emotrace.study.separation import claims
from emotrace.study.separation.localisation import unexplained
from emotrace.study.verdicts import INCONCLUSIVE, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, Estimate, claims_table


@pytest.mark.parametrize(
    ("net", "low", "high", "p", "opposed", "verdict"),
    [
        (0.6, 0.5, 0.7, 0.001, 1.0, REPRODUCED),
        (0.6, 0.5, 0.7, 0.02, 1.0, INCONCLUSIVE),  # a walk might do it
        (0.5, 0.4, 0.6, 0.001, 1.0, INCONCLUSIVE),  # a smooth walk might
        (0.6, 0.5, 0.7, 0.001, 0.9, INCONCLUSIVE),  # two lines do not
        (0.6, -0.1, 0.9, 0.001, 1.0, INCONCLUSIVE),
        (0.26, 0.2, 0.3, 0.001, 1.0, INCONCLUSIVE),  # within a tenth of the smallest of interest
        (0.1, 0.0, 0.2, 0.001, 1.0, NOT_REPRODUCED),
        (-0.4, -0.5, -0.3, 1.0, 0.0, NOT_REPRODUCED),
        (np.nan, np.nan, np.nan, np.nan, np.nan, INCONCLUSIVE),
    ],
)
def test_the_rule_of_the_u_and_its_exchange(net, low, high, p, opposed, verdict):
    estimate = Estimate(net, low, high, 12, p)
    assert claims.u_rule(opposed, 0.58).verdict(estimate) == verdict
    exchanged = {REPRODUCED: NOT_REPRODUCED, NOT_REPRODUCED: REPRODUCED}.get(verdict, verdict)
    assert claims.no_u_rule(opposed, 0.58, p).verdict(replace(estimate, p=np.nan)) == exchanged


def test_smollm2_at_0_6_is_no_knife_edge():
    """0.6 to 0.6 was reproduced against a limit of 0.6 with a slack of 1e-9."""
    assert claims.DEPTH.verdict(Estimate(0.6, 0.6, 0.6)) == REPRODUCED
    assert claims.DEPTH.verdict(Estimate(0.65, 0.64, 0.66)) == INCONCLUSIVE
    assert claims.DEPTH.verdict(Estimate(0.75, 0.7, 0.8)) == NOT_REPRODUCED


def test_stronger_correlations_than_the_neighbours_are_not_refused():
    """r = 0.95 (0.87 to 0.98) failed the rule of before, since its interval does not hold 0.81."""
    assert claims.VALENCE.verdict(Estimate(0.95, 0.87, 0.98)) == REPRODUCED
    assert claims.VALENCE.verdict(Estimate(0.17, -0.3, 0.4)) == NOT_REPRODUCED
    assert claims.VALENCE.verdict(Estimate(0.5, 0.1, 0.8)) == INCONCLUSIVE


def test_the_rule_of_the_spread_asks_for_the_same_share_of_variance_on_any_number_of_topics():
    for topics in (3, 6, 12):
        rule, expected = claims.baseline_rule(topics), 1 + 0.04 * (topics - 1)
        assert rule.verdict(Estimate(1.2 * expected, 1.05, 1.5 * expected, topics, 0.01)) == REPRODUCED
        assert rule.verdict(Estimate(1.2 * expected, 1.05, 1.5 * expected, topics, 0.2)) == INCONCLUSIVE
        assert rule.verdict(Estimate(1.0, 0.9, 1 + 0.03 * (topics - 1), topics, 0.5)) == NOT_REPRODUCED


def test_what_is_left_unexplained_is_centred_as_fishers_z_and_knows_no_shift_of_the_resamples():
    z = np.arctanh(0.9) + np.random.default_rng(0).normal(0, 0.2, 4000)
    draws = np.tanh(z - z.mean() + np.arctanh(0.9))
    found = unexplained(np.array([0.9, *draws]))
    expected = 1 - np.tanh(np.arctanh(0.9) + np.array([1.96, -1.96]) * 0.2) ** 2
    assert found.value == pytest.approx(0.19)
    np.testing.assert_allclose([found.low, found.high], expected, rtol=0.05)
    # Repeated topics raise every resample's correlation: that is no evidence.
    shifted = unexplained(np.array([0.9, *np.tanh(np.arctanh(draws) + 0.5)]))
    np.testing.assert_allclose(shifted, found, rtol=1e-9)
    opposed = unexplained(np.array([-0.1, *np.tanh(np.linspace(-1, 1, 99) - 0.3)]))
    assert opposed.high == 1
    assert opposed.low == pytest.approx(1 - np.tanh(np.arctanh(0.1) + 0.95) ** 2, abs=0.01)


@pytest.mark.parametrize(("emotions", "verdict"), [(4, NOT_TESTABLE), (5, REPRODUCED), (20, REPRODUCED)])
def test_of_four_emotions_no_order_is_rare_enough_for_valence(emotions, verdict):
    row = {"split": "held_out", "layer": 3, "n": emotions, "m": 999, "low": 0.9, "high": 1.0}
    # the least p that so many emotions can have
    best = {**row, "metric": "pc1_valence_r", "value": 0.998, "p": max(1 / 1000, 1 / math.factorial(emotions))}
    others = ("pc1_dialogue_r", "pc1_length_r", "pc1_valence_given_dialogue_r")
    rest = [{**row, "metric": name, "value": 0.1} for name in others]
    table = pd.DataFrame([{**one, "pooling": pooling} for pooling in ("last", "mean") for one in (best, *rest)])
    assert claims_table("m", claims.geometry_claims({"geometry": table}, "llama"))["verdict"].tolist() == [verdict] * 2
