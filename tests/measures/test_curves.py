"""A U is one; what falls, rises, steps, levels off, wobbles or wanders is none."""

import numpy as np
import pytest
import scipy.signal

from emotrace.errors import EmotraceError
from emotrace.measures import curves

LAYERS = (12, 18, 24, 30)


def x(layers):
    return np.linspace(0, 1, layers)


NO_U = {
    "exp(−5x)": lambda x: np.exp(-5 * x),
    "exp(−3x)": lambda x: np.exp(-3 * x),
    "1/x": lambda x: 1 / (1 + np.arange(len(x))),
    "tanh": lambda x: -np.tanh(4 * x),
    "step": lambda x: np.where(x < 0.4, 1.0, 0.0),
    "drop, then flat": lambda x: np.maximum(1 - x / 0.4, 0),
    "line": lambda x: -x,
    "arch": lambda x: np.sin(np.pi * x),
    "rise": lambda x: x**2,
    "constant": lambda x: np.full(len(x), 0.95),
    "one low layer": lambda x: np.where(np.arange(len(x)) == len(x) // 2, 0.0, 1.0),
}


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("name", NO_U)
def test_a_curve_that_does_not_fall_and_rise_has_no_net_depth(name, layers):
    curve = NO_U[name](x(layers))
    found = curves.shape(curve, np.tile(curve, (5, 1)), np.random.default_rng(0), 199)
    assert found.net <= 1e-9
    assert found.p > 0.2
    assert found.opposed == 0


@pytest.mark.parametrize("layers", LAYERS)
def test_a_u_as_deep_as_the_papers_curve_is_one(layers):
    """0.999 → 0.950 → 0.982: the lower end stands 0.032 of 0.049 above the lowest."""
    curve = np.interp(x(layers), [0, 0.46, 1], [0.999, 0.950, 0.982])
    found = curves.shape(curve, np.tile(curve, (5, 1)), np.random.default_rng(0), 1999)
    assert found.net == pytest.approx(0.65, abs=0.1)  # medians of three cut the corners
    assert (found.opposed, found.low, found.high) == (1, found.net, found.net)
    assert found.p < 0.02
    assert found.lowest / (layers - 1) == pytest.approx(0.46, abs=0.06)


def test_net_depth_by_hand():
    #                  fall, rise by 2 against it, fall to 1, rise to 6, fall by 3 against it, rise to 5
    curve = np.array([[9.0, 4, 6, 1, 6, 3, 5], [5, 1, 1, 1, 1, 1, 9], [5, 4, 3, 2, 1, 0, 0]])
    assert curves.net_depth(curve).tolist() == [5 - 1 - 3, 4, 0]
    assert curves.net_depth(curve[:, ::-1]).tolist() == [5 - 1 - 3, 4, 0]


def test_a_w_loses_by_its_middle():
    for layers in LAYERS:
        w = np.abs(np.abs(x(layers) - 0.5) - 0.25)
        assert curves.shape(w, np.tile(w, (3, 1)), np.random.default_rng(0), 199).net < 0.1


def test_two_lines_are_the_best_of_all_breaks():
    rng = np.random.default_rng(1)
    sample = rng.normal(size=(4, 11)).cumsum(axis=1)
    falls, rises = curves.two_lines(sample)
    for curve, fall, rise in zip(sample, falls, rises, strict=True):
        losses = {}
        for middle in range(2, 9):
            fits = [
                np.polyfit(part, curve[part], 1, full=True) for part in (np.arange(middle + 1), np.arange(middle, 11))
            ]
            losses[sum(float(fit[1][0]) for fit in fits)] = [fit[0][0] for fit in fits]
        np.testing.assert_allclose([fall, rise], losses[min(losses)])


@pytest.mark.parametrize("drift", [0.0, -0.4])
@pytest.mark.parametrize("layers", LAYERS)
def test_random_walks_have_a_p_below_a_twentieth_in_a_twentieth(layers, drift):
    rng = np.random.default_rng([layers, int(-10 * drift)])
    p = [curves.walk_p(np.cumsum(rng.normal(drift, 1, layers)), 99, rng) for _ in range(600)]
    assert np.mean(np.array(p) <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 600)
    if not drift:
        assert np.mean(np.array(p) <= 0.2) > 0.1  # it is a p, not just a large number


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("layers", LAYERS)
def test_one_in_twenty_smooth_walks_reaches_what_a_u_has_to_outdo(layers, memory):
    """Drawn with another library than the null: each increment is a filtered noise."""
    rng = np.random.default_rng([1, layers, int(100 * memory)])
    steps = scipy.signal.lfilter([1], [1, -memory], rng.normal(size=(20_000, layers - 1)), axis=1)
    walks = curves.running_median(np.pad(steps.cumsum(axis=1), ((0, 0), (1, 0))))
    reached = np.mean(curves.net_depth(walks) / np.ptp(walks, axis=1) > curves.smooth_walk_depth(layers))
    assert reached < 0.055
    if memory == 0.8 and layers > 12:
        assert reached > 0.03
    assert 0.5 < curves.smooth_walk_depth(layers) < 0.7


def test_shape_ignores_the_curves_units():
    rng = np.random.default_rng(2)
    curve = np.sin(np.pi * x(20)) * -1 + rng.normal(0, 0.05, 20)
    draws = curve + rng.normal(0, 0.05, (50, 20))
    first = curves.shape(curve, draws, np.random.default_rng(0), 199)
    again = curves.shape(7 + 1e-6 * curve, 7 + 1e-6 * draws, np.random.default_rng(0), 199)
    np.testing.assert_allclose(again, first, atol=1e-6)


def test_noise_widens_the_interval_of_the_net_depth():
    rng = np.random.default_rng(3)
    curve = -np.sin(np.pi * x(24))
    spans = []
    for noise in (0.02, 0.2):
        found = curves.shape(curve, curve + rng.normal(0, noise, (300, 24)), rng, 99)
        assert found.low <= found.net <= found.high
        spans.append(found.high - found.low)
    assert spans[1] > 3 * spans[0]


def test_too_few_layers_are_refused():
    with pytest.raises(EmotraceError, match="at least 9 layers, not 8"):
        curves.shape(np.arange(8.0), np.zeros((0, 8)), np.random.default_rng(0))
