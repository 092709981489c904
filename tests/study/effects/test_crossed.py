"""Intervals over emotions and prompts: closed forms, and how often they hold the truth when both are random."""

import numpy as np
import pytest
from scipy import stats

from emotrace.measures.statistics import mean_interval, wilson
from emotrace.study.effects.crossed import crossed, crossed_mean, crossed_rate
from emotrace.study.verdicts import INCONCLUSIVE, Estimate, exceeds


def test_one_column_is_students_interval_over_emotions():
    values = np.random.default_rng(0).normal(0.3, 1, 20)
    found, student = crossed_mean(values[:, None]), mean_interval(values)
    assert (found.value, found.low, found.high) == pytest.approx(tuple(student))
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_prompts_that_differ_widen_the_interval_with_their_own_degrees_of_freedom():
    """No emotion differs from another: all there is are eight prompts, and Student's interval over them."""
    prompts = np.random.default_rng(1).normal(0.2, 1, 8)
    found = crossed_mean(np.tile(prompts, (20, 1)))
    assert (found.value, found.low, found.high) == pytest.approx(tuple(mean_interval(prompts)))
    assert found.p == pytest.approx(stats.ttest_1samp(prompts, 0).pvalue)


def test_few_control_directions_are_part_of_the_error():
    control = np.random.default_rng(2).normal(0, 1, 6)
    found = crossed_mean(np.full((20, 8), 0.5), np.tile(control[:, None, None], (1, 20, 8)))
    value, low, high = mean_interval(0.5 - control)
    assert (found.value, found.low, found.high) == pytest.approx((value, low, high))


def test_what_does_not_vary_has_no_interval():
    assert np.isnan(crossed_mean(np.array([[0.4]])).low)
    assert np.isnan(crossed_mean(np.full((5, 4), np.nan)).p)
    never = crossed_mean(np.zeros((20, 8)), np.zeros((12, 20, 8)))  # a kin word in no text: not an effect below 0.005
    assert never.value == 0
    assert np.isnan([never.low, never.high, never.p]).all()
    assert exceeds(0.005).verdict(Estimate(*never[:3], p=never.p)) == INCONCLUSIVE
    once = np.zeros((20, 8))
    once[3, 5] = 0.2
    assert crossed_mean(once).low < 0 < crossed_mean(once).high


@pytest.mark.parametrize(("emotion", "prompt", "text"), [(1, 0, 1), (0, 1, 1), (0.5, 0.5, 1), (0, 0, 1)])
def test_the_interval_holds_the_truth_as_often_as_it_says(emotion, prompt, text):
    """Twenty emotions and eight prompts, whichever of them varies; texts alone as well (then it is too wide, if
    anything)."""
    rng, held = np.random.default_rng(3), 0
    for _ in range(300):
        cells = emotion * rng.normal(size=(20, 1)) + prompt * rng.normal(size=(1, 8)) + text * rng.normal(size=(20, 8))
        held += crossed_mean(cells).low <= 0 <= crossed_mean(cells).high
    assert held / 300 > 0.91
    assert held / 300 <= 1


def test_ignoring_prompts_would_not():
    """The interval that is over emotions alone misses the truth in most cases where prompts vary: why they count."""
    rng, crossed_held, naive_held = np.random.default_rng(4), 0, 0
    for _ in range(200):
        cells = rng.normal(size=(1, 8)) + rng.normal(size=(20, 8))
        _, low, high = mean_interval(cells.mean(axis=1))
        naive_held += low <= 0 <= high
        crossed_held += crossed_mean(cells).low <= 0 <= crossed_mean(cells).high
    assert naive_held / 200 < 0.6
    assert crossed_held / 200 > 0.9


def test_any_statistic_is_asked_with_weights():
    """Of the largest emotion's mean, leaving each out in turn: against the jackknife by hand."""
    cells = np.array([[1.0, 2.0], [3.0, 5.0], [4.0, 4.5]])
    means = cells.mean(axis=1)

    def largest(weights: np.ndarray, directions: np.ndarray) -> float:
        kept = weights.sum(axis=1) > 0
        return float(((cells * weights).sum(axis=1)[kept] / weights.sum(axis=1)[kept]).max())

    found = crossed(largest, 3, 2)
    rows = [np.delete(means, row).max() for row in range(3)]
    columns = [4.5, 5.0]
    spread = [(n - 1) * np.var(values) for n, values in ((3, rows), (2, columns))]
    assert found.value == means.max()
    assert found.high - found.low > 2 * 1.96 * np.sqrt(max(spread))


# -- rates ------------------------------------------------------------------------------------------------------------


def test_a_rate_of_independent_scenarios_is_wilsons():
    """With one scenario an emotion there is nothing to cluster."""
    cells = np.repeat([1.0, 0.0], [8, 12])[:, None]
    expected = wilson(8, 20)
    found = crossed_rate(cells, 20)
    assert found.value == 0.4
    assert (found.low, found.high) == pytest.approx(expected[1:], abs=0.02)


def test_scenarios_that_go_together_count_once():
    together = np.repeat([1.0, 0.0], [10, 10])[:, None]  # both scenarios of an emotion succeed, or neither
    apart = np.full((20, 1), 0.5)
    apart[::2] = [0.0]
    apart[1::4] = [1.0]
    wide, narrow = crossed_rate(together, 40), crossed_rate(apart, 40)
    assert wide.high - wide.low > narrow.high - narrow.low
    assert (wide.low, wide.high) == pytest.approx(wilson(10, 20)[1:], abs=0.02)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_rate_without_spread_keeps_wilsons_interval_over_the_emotions(share):
    found = crossed_rate(np.full((20, 1), share), 40)
    assert (found.low, found.high) == pytest.approx(wilson(int(20 * share), 20)[1:])
    assert 0 <= found.low <= found.high <= 1
