"""Intervals and nulls against closed forms, scipy and slow loops."""

import itertools

import numpy as np
import pytest
from scipy import stats

from emotrace.errors import EmotraceError
from emotrace.measures.statistics import (
    centred_interval,
    cohens_d,
    mantel,
    mean_interval,
    pearson,
    percentile_interval,
    permutation_p,
    topic_draws,
    wilson,
)


def distances(n, rng):
    points = rng.normal(size=(n, 3))
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


@pytest.mark.parametrize(("alternative", "value"), [("greater", 1000), ("less", -1000), ("two-sided", -1000)])
def test_permutation_p_never_falls_below_one_over_m_plus_one(alternative, value):
    assert permutation_p(value, np.arange(99), alternative) == 1 / 100


@pytest.mark.parametrize(
    ("alternative", "value", "extreme"),
    [
        ("greater", 46, 4),
        ("greater", 46.5, 3),
        ("greater", -49, 99),
        ("less", -46, 4),
        ("less", -46.5, 3),
        ("less", 49, 99),
        ("two-sided", 46, 8),
        ("two-sided", -46, 8),
        ("two-sided", -46.5, 6),
        ("two-sided", 0, 99),
    ],
)
def test_permutation_p_counts_the_draws_at_least_as_extreme(alternative, value, extreme):
    assert permutation_p(value, np.arange(-49, 50), alternative) == pytest.approx((extreme + 1) / 100)


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_permutation_p_counts_ties_up_to_rounding_as_extreme(alternative):
    assert permutation_p(0.3, np.full(9, 0.1 + 0.2), alternative) == 1
    assert permutation_p(0.1 + 0.2, np.full(9, 0.3), alternative) == 1


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize("unit", [1e-13, 1.0, 1e13])
def test_permutation_p_does_not_depend_on_the_unit(alternative, unit):
    value = -5 if alternative == "less" else 5
    assert permutation_p(value * unit, np.linspace(-1, 1, 99) * unit, alternative) == 1 / 100
    assert permutation_p(0.3 * unit, np.full(9, (0.1 + 0.2) * unit), alternative) == 1
    assert permutation_p(1e-17 * unit, np.array([-1e-17, 1.0, -1.0]) * unit, alternative) > 1 / 2  # rounding of 0


def test_cohens_d_without_any_spread_is_infinite_and_unknown_without_a_difference():
    assert cohens_d([0.1] * 3, [0.2] * 3) == -np.inf
    assert np.isnan(cohens_d([0.1] * 3, [0.1] * 4))  # whose means differ by rounding
    np.testing.assert_array_equal(cohens_d([[0.3] * 3, [1, 2, 3]], [[0.1] * 3, [2, 3, 4]]), [np.inf, -1.0])


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_what_is_unknown_is_never_significant(alternative):
    assert not permutation_p(np.nan, np.arange(99), alternative) < 0.05
    assert not permutation_p(5, np.full(99, np.nan), alternative) < 0.05


def test_topic_draws_are_multinomial_counts():
    draws = topic_draws(12, 20_000, np.random.default_rng(0))
    assert draws.shape == (20_000, 12)
    assert (draws.sum(axis=1) == 12).all()
    assert (draws == draws.round()).all()
    assert (draws >= 0).all()
    np.testing.assert_allclose(draws.mean(axis=0), 1, atol=0.04)
    np.testing.assert_allclose(draws.var(axis=0), 11 / 12, atol=0.06)
    np.testing.assert_allclose((draws == 0).mean(), (11 / 12) ** 12, atol=0.01)


def test_topic_draws_needs_two_topics():
    with pytest.raises(EmotraceError, match="at least two"):
        topic_draws(1, 5, np.random.default_rng(0))


def test_centred_interval_of_evenly_spread_draws_is_symmetric_about_the_value():
    assert centred_interval(10, np.arange(101)) == pytest.approx((10, 10 - 47.5, 10 + 47.5))


def test_centred_interval_keeps_the_skew_and_puts_the_mean_of_the_draws_at_the_value():
    draws = np.arange(101.0) ** 2
    low, high = 2.5**2 + 0.25, 97.5**2 + 0.25  # halfway between the squares of 2 and 3, and of 97 and 98
    assert centred_interval(7, draws) == pytest.approx((7, 7 + low - 3350, 7 + high - 3350))


def test_centred_interval_ignores_a_shift_of_the_draws_and_draws_that_are_not_finite():
    draws = np.random.default_rng(1).gamma(2, size=500)
    holes = np.concatenate([draws + 1000, [np.nan, np.inf]])
    assert centred_interval(3, holes) == pytest.approx(centred_interval(3, draws))


def test_centred_interval_covers_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        sample = rng.normal(5, 2, size=60)
        interval = centred_interval(sample.mean(), topic_draws(60, 400, rng) @ sample / 60)
        covered += interval.low <= 5 <= interval.high
    assert 0.92 <= covered / 400 <= 0.98


@pytest.mark.parametrize("interval", [centred_interval, percentile_interval])
def test_an_interval_without_finite_draws_is_unknown_but_keeps_the_value(interval):
    result = interval(0.5, np.full(3, np.nan))
    assert result.value == 0.5
    assert np.isnan([result.low, result.high]).all()


@pytest.mark.parametrize(("value", "low", "high"), [(50, 2.5, 97.5), (1, 1, 97.5), (99, 2.5, 99)])
def test_percentile_interval_is_widened_to_hold_the_value(value, low, high):
    assert percentile_interval(value, np.append(np.arange(101.0), np.nan)) == pytest.approx((value, low, high))


def test_the_mean_interval_is_students():
    values = np.array([0.3, 1.1, -0.4, 2.0, 0.9])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((values.mean(), expected.low, expected.high))
    assert mean_interval(np.array([4.0]))[0] == 4.0
    assert np.isnan(mean_interval(np.array([4.0]))[1:]).all()
    assert np.isnan(mean_interval(np.array([4.0, np.nan]))).all()
    assert np.isnan(mean_interval(np.array([]))).all()


def test_pearson_is_scipys_over_the_known_pairs_with_fishers_interval():
    rng = np.random.default_rng(3)
    x = rng.normal(size=20)
    y = x + rng.normal(size=20)
    r = stats.pearsonr(x, y).statistic
    z = stats.norm.ppf(0.975) / np.sqrt(17)
    expected = (r, np.tanh(np.arctanh(r) - z), np.tanh(np.arctanh(r) + z))
    assert pearson(x, y) == pytest.approx(expected)
    assert pearson([*x, np.nan, 99], [*y, -99, np.nan]) == pytest.approx(expected)


def test_pearson_refuses_fewer_than_four_known_pairs():
    with pytest.raises(EmotraceError, match="four pairs or more, not 3"):
        pearson([1, 2, 3, np.nan], [1, 3, 2, 4])


@pytest.mark.parametrize("ties", [False, True])
def test_mantel_rho_is_spearmans_over_the_upper_triangles(ties):
    rng = np.random.default_rng(4)
    first, second = distances(9, rng), distances(9, rng)
    if ties:
        first, second = first.round(), second.round()
    upper = np.triu_indices(9, 1)
    expected = stats.spearmanr(first[upper], second[upper]).statistic
    assert mantel(first, second, 1, rng)[0] == pytest.approx(expected)


def test_mantel_p_agrees_with_all_permutations_of_five_rows():
    rng = np.random.default_rng(5)
    first = distances(5, rng)
    second = distances(5, rng)
    upper = np.triu_indices(5, 1)
    rho = stats.spearmanr(first[upper], second[upper]).statistic
    every = [
        stats.spearmanr(first[np.ix_(order, order)][upper], second[upper]).statistic
        for order in map(list, itertools.permutations(range(5)))
    ]
    exact = np.mean(np.array(every) >= rho - 1e-9)
    assert 0.03 < exact < 0.7
    assert mantel(first, second, 5000, rng)[1] == pytest.approx(exact, abs=0.03)


def test_mantel_of_a_matrix_with_a_monotone_copy_is_one_at_the_smallest_p():
    rng = np.random.default_rng(6)
    first = distances(10, rng)
    assert mantel(first, first**3, 199, rng) == pytest.approx((1, 1 / 200))


def test_mantel_is_one_sided():
    first = distances(10, np.random.default_rng(7))
    rho, p = mantel(first, 10 - first, 199, np.random.default_rng(7))
    assert (rho, p) == pytest.approx((-1, 1))


def test_mantel_is_invariant_to_relabelling_both_matrices_but_not_one():
    rng = np.random.default_rng(8)
    first = distances(12, rng)
    second = first + 0.5 * distances(12, rng)
    order = rng.permutation(12)
    relabel = np.ix_(order, order)
    rho, p = mantel(first, second, 2000, rng)
    again, p_again = mantel(first[relabel], second[relabel], 2000, rng)
    assert again == pytest.approx(rho)
    assert p_again == pytest.approx(p, abs=0.01)
    assert mantel(first[relabel], second, 10, rng)[0] < rho - 0.2


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (37, 40), (10, 10), (500, 1000)])
def test_wilson_is_the_closed_form(successes, trials):
    z, rate = 1.959963984540054, successes / trials
    middle = (rate + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    assert wilson(successes, trials) == pytest.approx((rate, middle - half, middle + half), abs=1e-9)


def test_wilson_needs_a_trial():
    with pytest.raises(EmotraceError, match="at least one trial"):
        wilson(0, 0)
