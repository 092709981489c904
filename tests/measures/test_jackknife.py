"""The jackknife over topics: pseudo-values of means and of squares, and an exact test by signs."""

import itertools

import numpy as np
import pytest

from emotrace.measures import jackknife
from emotrace.measures.spread import Crossed, intraclass


def test_the_pseudo_values_of_a_mean_are_the_values():
    values = np.random.default_rng(0).normal(size=7)
    weights = jackknife.leave_one_out(7)
    np.testing.assert_allclose(jackknife.pseudo_values(weights @ values / weights.sum(axis=1)), values)


def test_pseudo_values_average_to_the_statistic_and_are_unknown_where_it_is():
    values = np.array([3.0, 2.0, 5.0, 4.5])
    assert jackknife.pseudo_values(values).mean() == pytest.approx(3.0)
    assert np.isnan(jackknife.pseudo_values(np.array([1.0, np.nan, 2.0]))).all()
    assert np.isnan(jackknife.flip_p(np.array([1.0, np.nan]))[0])


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_p_is_the_share_of_all_signs_that_reach_the_sum(alternative):
    pseudo = np.array([0.3, -0.1, 0.8, 0.2, 0.4])
    sums = np.array([np.dot(signs, pseudo) for signs in itertools.product((1, -1), repeat=5)])
    reached = {"greater": sums >= 1.6 - 1e-9, "less": sums <= 1.6 + 1e-9, "two-sided": abs(sums) >= 1.6 - 1e-9}
    assert jackknife.flip_p(pseudo, alternative) == (pytest.approx(reached[alternative].mean()), 32)
    assert jackknife.flip_p(pseudo * 1e-13, alternative) == jackknife.flip_p(pseudo, alternative)


def test_of_many_values_signs_are_drawn():
    pseudo = np.random.default_rng(1).normal(0.5, 1, size=20)
    p, patterns = jackknife.flip_p(pseudo)
    assert patterns == 10_000
    assert p < 0.05
    assert jackknife.flip_p(-pseudo)[0] > 0.95


def test_the_interval_of_an_intraclass_correlation_covers_the_planted_one():
    """150 data sets of 8 topics with a share of a fifth: 95% intervals hold it in nine of ten at least."""
    rng, held = np.random.default_rng(2), 0
    emotions = rng.normal(size=(10, 30))
    emotions -= emotions.mean(axis=0)
    emotions *= np.sqrt(0.25 * 270) / np.linalg.norm(emotions)  # nine free emotions of ten
    crossed = Crossed(np.arange(80), np.repeat(np.arange(8), 10), np.tile(np.arange(10), 8), (8, 10))
    for _ in range(150):
        texts = emotions + rng.normal(size=(8, 10, 30)) + 3 * rng.normal(size=(8, 1, 30))
        flat = texts.reshape(80, 30)
        shares = intraclass(flat @ flat.T, crossed, jackknife.leave_one_out(8))
        pseudo = jackknife.pseudo_values(shares)
        half = 2.365 * pseudo.std(ddof=1) / np.sqrt(8)
        held += abs(pseudo.mean() - 0.2) < half
    assert held / 150 >= 0.9
