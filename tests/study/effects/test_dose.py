"""Dose response: planted slopes are found, on their own emotion only and beyond controls; flat readings are not."""

from itertools import product

import numpy as np
import pytest
from planted_sweeps import EMOTIONS, PERMUTEDS, PROMPTS, RANDOMS, SOURCES, STRENGTHS, UNIT, noisy, own_slope, planted
from scipy import stats

from emotrace.measures.statistics import mean_interval
from emotrace.study.effects import contrasts, dose
from emotrace.study.effects.sweep import EMOTION_METRICS, TEXT_METRICS, Sweep
from emotrace.study.folder import select

# -- trends -----------------------------------------------------------------------------------------------------------


def test_a_planted_slope_has_rho_one_and_a_small_p_beyond_controls():
    table = dose.trends(planted(noisy(own_slope)))
    assert set(table["metric"]) == set(dose.READINGS)
    assert len(table) == len(EMOTIONS) * len(dose.READINGS)
    np.testing.assert_allclose(table["rho"], 1)
    # Five prompts, each with ρ = 1 over four doses, whose ρ has the variance 1/3 by chance.
    np.testing.assert_allclose(table["p"], stats.norm.sf(5 * np.sqrt(3 / 5)))
    np.testing.assert_allclose(table["p_holm"], 3 * table["p"])
    np.testing.assert_allclose(table["slope"], 2.0 * UNIT)  # a unit of strength is UNIT
    np.testing.assert_allclose(table["up"], 0.8)
    np.testing.assert_allclose(table["down"], -0.8)
    np.testing.assert_allclose(table[["permuted_slope", "permuted_up", "random_up", "others_up"]], 0, atol=1e-12)
    assert (table["n"] == len(PROMPTS)).all()


def test_page_agrees_with_scipy_where_there_are_no_ties():
    for seed in range(5):
        curve = np.random.default_rng(seed).normal(size=(4, 8)) + 0.3 * np.arange(4)[:, None]
        rho, p = dose.page(curve)
        expected = stats.page_trend_test(curve.T, method="asymptotic")
        assert p == pytest.approx(expected.pvalue, rel=1e-9)
        assert rho == pytest.approx(np.mean([stats.spearmanr(range(4), column).statistic for column in curve.T]))


def test_page_with_ties_and_flat_prompts_is_still_right_under_the_null():
    """Counts of kin words are mostly 0: a prompt that never varies says nothing, and is not taken for evidence."""
    assert dose.page(np.zeros((4, 6))) == (0.0, 1.0)
    curve = np.zeros((4, 6))
    curve[:, 0] = [0, 0, 0, 1]
    rho, p = dose.page(curve)
    own = stats.spearmanr(range(4), curve[:, 0]).statistic
    assert rho == pytest.approx(own / 6)
    assert p == pytest.approx(stats.norm.sf(own * np.sqrt(3)))
    rng = np.random.default_rng(0)
    ps = [dose.page((rng.random((4, 8)) < 0.3).astype(float))[1] for _ in range(500)]
    assert 0.02 < np.mean(np.array(ps) < 0.05) < 0.08


def test_a_rise_that_controls_share_is_no_trend():
    """Every direction raises the reading: the curve under the own vector is steep, and nothing is beyond controls."""
    table = dose.trends(planted(noisy(lambda direction, emotion: 2.0, spread=0.2)))
    assert (table["slope"] > 0.5).all()
    assert table["rho"].abs().max() < 0.6
    assert table["p_holm"].min() > 0.05
    assert table["beyond"].min() > 0.05 / len(EMOTIONS)


def test_control_directions_of_either_sign_do_not_cancel():
    """Half of them rise and half fall: their mean is flat, the size of their ρ and p of one more direction say so."""
    signs = dict(zip(PERMUTEDS, (3, -3, 3, -3, 3), strict=True))
    table = dose.trends(planted(noisy(lambda direction, emotion: signs.get(direction, own_slope(direction, emotion)))))
    np.testing.assert_allclose(table["permuted_abs_rho"], 1)
    assert (table["beyond"] > 0.2).all()
    spread = np.std([3, -3, 3, -3, 3], ddof=1) * UNIT
    expected = stats.t.sf((2 * UNIT - 0.6 * UNIT) / (spread * np.sqrt(1 + 1 / 5)), 4)
    np.testing.assert_allclose(table["beyond"], expected)


def test_holm_is_the_step_down_rule():
    assert dose.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert dose.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_strengths_beyond_the_unit_are_no_part_of_a_trend():
    def reading(direction: str, emotion: str, strength: float, prompt: int) -> float:
        return -5.0 if strength > 0.5 else strength * (direction == emotion)

    np.testing.assert_allclose(dose.trends(planted(reading))["rho"], 1)


def test_an_emotion_without_a_reading_is_left_out():
    found = planted(noisy(own_slope))
    found.values["kin_log_probability"][:, 1] = np.nan
    assert set(select(dose.trends(found), metric="kin_log_probability")["emotion"]) == {"happy", "calm"}
    response = select(dose.response(found), metric="kin_log_probability")
    assert set(response["emotion"]) == {"happy", "calm", "all"}
    assert (select(response, emotion="all")["n"] == 2).all()
    assert select(contrasts.effects(found), metric="kin_log_probability")["n"].eq(2).all()
    assert set(select(dose.steerability(found), metric="kin_log_probability")["emotion"]) == {"happy", "calm", "all"}


# -- steerability -----------------------------------------------------------------------------------------------------


def test_samples_that_move_the_wrong_way_are_counted():
    """On two of five prompts the vector works backwards; the mean over them hides it, the shares do not."""

    def reading(direction: str, emotion: str, strength: float, prompt: int) -> float:
        if direction.startswith("permuted"):
            return strength * (1 if int(direction[-1]) % 2 else -1)
        return (-1.0 if prompt < 2 else 2.0) * strength * (direction == emotion)

    table = dose.steerability(planted(reading))
    assert set(table["emotion"]) == {*EMOTIONS, "all"}
    np.testing.assert_allclose(table["wrong_way"], 2 / 5)
    np.testing.assert_allclose(table["right_way"], 3 / 5)
    np.testing.assert_allclose(table["permuted_wrong_way"], 2 / 5)
    np.testing.assert_allclose(table["slope"], UNIT * (2 * -1 + 3 * 2) / 5)
    assert (select(table, emotion="sad")["n"] == 10).all()  # prompts × seeds
    assert (select(table, emotion="all")["n"] == 30).all()


# -- response ---------------------------------------------------------------------------------------------------------


def test_each_emotion_stands_beside_control_directions_and_other_emotions():
    """Against means worked out from the readings one by one."""
    slopes = {direction: 0.3 * place + 0.1 for place, direction in enumerate(SOURCES)}
    reading = noisy(lambda direction, emotion: slopes[direction] + len(emotion), spread=1.0)
    table = dose.response(planted(lambda *what: reading(*what) if what[0] else 0.0))
    assert len(table) == (len(STRENGTHS) + 1) * (len(EMOTIONS) + 1) * len(EMOTION_METRICS + TEXT_METRICS)
    for strength, name in product(STRENGTHS, EMOTIONS):
        row = select(table, emotion=name, strength=strength, metric="classifier").iloc[0]
        means = {
            direction: np.mean([reading(direction, name, strength, prompt) for prompt in range(5)])
            for direction in SOURCES
        }
        own = [reading(name, name, strength, prompt) for prompt in range(5)]
        assert row[["value", "low", "high"]].to_list() == pytest.approx(list(mean_interval(np.array(own))))
        for column, names in (("permuted", PERMUTEDS), ("random", RANDOMS)):
            of = [means[direction] for direction in names]
            expected = (np.mean(of), min(of), max(of))
            assert row[[column, f"{column}_low", f"{column}_high"]].to_list() == pytest.approx(expected)
        assert row["others"] == pytest.approx(np.mean([means[other] for other in EMOTIONS if other != name]))
        assert row["n"] == 5


def test_all_emotions_together_have_an_interval_over_prompts_too():
    """No emotion differs, the prompts do: an interval over emotions alone would have no width."""
    table = dose.response(planted(noisy(own_slope)))
    row = select(table, emotion="all", strength=0.2, metric="classifier").iloc[0]
    expected = mean_interval(np.array([3 * prompt + 0.4 for prompt in range(5)]))
    assert row[["value", "low", "high"]].to_list() == pytest.approx(list(expected))


def test_at_strength_zero_all_directions_read_the_unsteered_texts():
    table = select(dose.response(planted(noisy(own_slope, spread=1.0))), strength=0.0, metric="classifier")
    reading = noisy(own_slope, spread=1.0)
    for name in EMOTIONS:
        row = select(table, emotion=name).iloc[0]
        plain = np.mean([reading("", name, 0.0, prompt) for prompt in range(5)])
        assert row[["value", "permuted", "random", "random_low", "others"]].to_list() == pytest.approx([plain] * 5)


def test_a_projection_is_a_change_from_the_same_prompt_unsteered():
    """The prompts' own offsets, which make up most of the reading, are gone; the other metrics keep them."""
    table = dose.response(planted(noisy(own_slope)))
    for strength in STRENGTHS:
        rows = select(table, strength=strength, metric="beyond_skip")
        np.testing.assert_allclose(rows["value"], 2.0 * strength)
        np.testing.assert_allclose(rows[["permuted", "random", "random_low", "others"]], 0, atol=1e-9)
        classifier = select(table, strength=strength, metric="classifier", emotion="sad").iloc[0]
        assert classifier["value"] == pytest.approx(2.0 * strength + 3 * 2)


def test_a_text_without_a_dictionary_is_left_out_of_the_share_of_real_words():
    swept, rng = planted(noisy(own_slope)), np.random.default_rng(7)
    texts = swept.texts.assign(real_words=rng.random(len(swept.texts)))
    untested = (texts["emotion"] == "sad") & texts["prompt"].isin(["one", "two"])
    untested |= texts["emotion"].isin(["calm", "permuted-2"])
    blank = Sweep(texts.assign(real_words=texts["real_words"].mask(untested)), swept.values, EMOTIONS, UNIT)
    table = select(dose.response(blank), metric="real_words", strength=0.8).set_index("emotion")

    def shares(name: str) -> np.ndarray:
        return texts[(texts["emotion"] == name) & (texts["strength"] == 0.8)]["real_words"].to_numpy()

    assert table.loc["sad", "value"] == pytest.approx(shares("sad")[2:].mean())
    assert table.loc["sad", "n"] == 3
    assert np.isnan(table.loc["calm", "value"])
    controls = [shares(name).mean() for name in PERMUTEDS if name != "permuted-2"]
    assert table.loc["happy", "permuted"] == pytest.approx(np.mean(controls))
