"""Dose response: planted slopes are found, on their own emotion only, and flat readings are not."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from emotrace.measures.statistics import mean_interval
from emotrace.study.effects import dose
from emotrace.study.effects.sweep import EMOTION_METRICS, TEXT_METRICS, Sweep
from emotrace.study.folder import select

EMOTIONS = ("happy", "sad", "calm")
RANDOMS = ("random-1", "random-2", "random-3", "random-4")
STRENGTHS = (-0.4, -0.2, 0.2, 0.4, 0.8)
PROMPTS = ("one", "two", "three", "four", "five")

Reading = Callable[[str, str, float, int], float]
"""(direction added, emotion read, strength, number of the prompt) → a reading."""


def constructed(reading: Reading, order: np.random.Generator | None = None) -> Sweep:
    """A sweep in which every metric of emotions reads ``reading``; ``n_tokens`` counts the prompt's letters."""
    rows = [(prompt, EMOTIONS[0], False, 0.0) for prompt in PROMPTS]
    for name in (*EMOTIONS, *RANDOMS):
        rows += [(prompt, name, name in RANDOMS, strength) for strength in STRENGTHS for prompt in PROMPTS]
    texts = pd.DataFrame(rows, columns=["prompt", "emotion", "control", "strength"]).assign(
        perplexity_ratio=1.0, distinct_2=1.0, longest_loop=0.0, real_words=1.0
    )
    texts["n_tokens"] = texts["prompt"].str.len() + 10 * texts["control"]
    values = np.array(
        [
            [reading(row.emotion, name, row.strength, PROMPTS.index(row.prompt)) for name in EMOTIONS]
            for row in texts.itertuples()
        ]
    )
    return Sweep(texts, {metric: values.copy() for metric in EMOTION_METRICS}, EMOTIONS)


def noisy(slope_of: Callable[[str, str], float], spread: float = 0.0) -> Reading:
    """A slope for each direction and emotion, an offset for each prompt, and noise that depends on all four."""

    def reading(direction: str, emotion: str, strength: float, prompt: int) -> float:
        what = [*(direction if strength else "").encode(), *emotion.encode(), int(1000 + 100 * strength), prompt]
        return 3 * prompt + slope_of(direction, emotion) * strength + spread * np.random.default_rng(what).normal()

    return reading


def own_slope(direction: str, emotion: str) -> float:
    return 2.0 if direction == emotion else 0.0


def monotone(found: Sweep, within: float = 1.0, permutations: int = 199) -> pd.DataFrame:
    return dose.monotonicity(found, within, permutations, np.random.default_rng(0))


# -- monotonicity -----------------------------------------------------------------------------------------------------


def test_a_planted_slope_has_rho_one_and_the_smallest_p_beside_random_directions():
    table = monotone(constructed(noisy(own_slope)))
    assert set(table["metric"]) == set(dose.MONOTONE_METRICS)
    assert len(table) == len(EMOTIONS) * len(dose.MONOTONE_METRICS)
    np.testing.assert_allclose(table["rho"], 1)
    np.testing.assert_allclose(table["p"], 1 / 200)
    assert (table["m"] == 199).all()
    assert (table["n"] == len(PROMPTS)).all()
    np.testing.assert_allclose(table["up"], 2.0 * 0.8)
    np.testing.assert_allclose(table["down"], -2.0 * 0.4)
    # Random directions read flat: constant curves, which count 0.
    np.testing.assert_allclose(table[["random_rho", "random_high", "random_up", "random_down"]], 0, atol=1e-12)
    np.testing.assert_allclose(table["beyond"], 1 / (len(RANDOMS) + 1))


def test_a_slope_is_found_on_its_own_emotion_only():
    def slope(direction: str, emotion: str) -> float:
        return 2.0 if direction == emotion == "sad" else 0.0

    table = monotone(constructed(noisy(slope, spread=0.1)))
    found = select(table, emotion="sad")
    assert (found["rho"] > 0.8).all()
    assert (found["p"] == 1 / 200).all()
    assert (found["beyond"] == 1 / 5).all()
    for name in ("happy", "calm"):
        assert (select(table, emotion=name)["p"] > 0.05).all()
        assert (select(table, emotion=name)["rho"] < 0.5).all()


def test_p_is_uniform_where_nothing_grows():
    ps = []
    for number in range(150):
        rng = np.random.default_rng(number)
        own, *random = (rng.normal(size=(6, 5)) for _ in range(5))
        ps.append(dose._monotone(own, random, 2, 99, rng)["p"])
    assert stats.kstest(ps, "uniform").pvalue > 0.001
    assert 0.35 < np.mean(ps) < 0.65


def test_a_reading_that_falls_has_rho_minus_one_and_a_p_near_one():
    table = monotone(constructed(noisy(lambda direction, emotion: -own_slope(direction, emotion))))
    np.testing.assert_allclose(table["rho"], -1)
    assert (table["p"] == 1).all()
    assert (table["up"] < 0).all()
    assert (table["down"] > 0).all()


def test_random_directions_that_grow_as_well_take_the_claim_back():
    """Two of four random directions rise, one falls: ρ is still 1 and its p small, but not beyond the controls."""
    slopes = {"random-1": 1.0, "random-2": 0.5, "random-3": -1.0}
    table = monotone(constructed(noisy(lambda d, e: slopes.get(d, own_slope(d, e)))))
    np.testing.assert_allclose(table["p"], 1 / 200)
    np.testing.assert_allclose(table["random_rho"], (1 + 1 - 1 + 0) / 4)
    np.testing.assert_allclose(table["random_high"], 1)
    np.testing.assert_allclose(table["beyond"], 3 / 5)
    np.testing.assert_allclose(table["random_up"], 0.8 * (1 + 0.5 - 1) / 4)
    np.testing.assert_allclose(table["random_down"], -0.4 * (1 + 0.5 - 1) / 4)


def test_rho_is_the_mean_over_prompts_of_spearmans():
    """Of readings with ties, one of them constant over strengths, which counts 0."""
    rng, noise = np.random.default_rng(4), {}

    def reading(direction: str, emotion: str, strength: float, prompt: int) -> float:
        drawn = 7 if prompt == 2 else rng.integers(4)
        return noise.setdefault((direction if strength else "", emotion, strength, prompt), drawn)

    table = monotone(constructed(reading), permutations=19)
    levels = sorted([*STRENGTHS, 0.0])
    for name in EMOTIONS:
        curves = [
            [noise[name if level else "", name, level, prompt] for level in levels] for prompt in range(len(PROMPTS))
        ]
        assert len(set(curves[2])) == 1
        rho = np.mean(
            [stats.spearmanr(levels, curve).statistic if place != 2 else 0.0 for place, curve in enumerate(curves)]
        )
        assert select(table, emotion=name, metric="classifier")["rho"].item() == pytest.approx(rho)


def test_strengths_beyond_the_window_are_left_out():
    def reading(direction: str, emotion: str, strength: float, prompt: int) -> float:
        return -5.0 if strength > 0.5 else strength * (direction == emotion)

    found = constructed(reading)
    inside = select(monotone(found, within=0.4), metric="classifier")
    np.testing.assert_allclose(inside["rho"], 1)
    np.testing.assert_allclose(inside["up"], 0.4)
    assert (select(monotone(found, within=0.8), metric="classifier")["rho"] < 0.5).all()
    # The limit itself is inside, whatever rounding has made of it.
    np.testing.assert_allclose(select(monotone(found, within=0.4 - 1e-12), metric="classifier")["up"], 0.4)


def test_an_unknown_reading_has_no_rho():
    found = constructed(noisy(own_slope))
    found.values["kin_log_probability"][:, 1] = np.nan
    table = monotone(found).set_index(["emotion", "metric"])
    assert np.isnan(table.loc[("sad", "kin_log_probability"), ["rho", "p"]].astype(float)).all()
    assert table.loc[("sad", "classifier"), "rho"] == pytest.approx(1)
    assert table.loc[("happy", "kin_log_probability"), "rho"] == pytest.approx(1)
    response = dose.response(found)
    assert np.isnan(select(response, emotion="sad", metric="kin_log_probability")["value"]).all()
    assert (select(response, emotion="all", metric="kin_log_probability")["n"] == 2).all()
    assert np.isfinite(select(response, emotion="all", metric="kin_log_probability")["value"]).all()


# -- response ---------------------------------------------------------------------------------------------------------


def test_each_emotion_stands_beside_random_directions_and_other_emotions():
    """Against means worked out from the readings one by one."""
    slopes = {direction: 0.3 * place + 0.1 for place, direction in enumerate((*EMOTIONS, *RANDOMS))}
    reading = noisy(lambda direction, emotion: slopes[direction] + len(emotion), spread=1.0)
    table = dose.response(constructed(reading))
    assert len(table) == (len(STRENGTHS) + 1) * (len(EMOTIONS) + 1) * len(EMOTION_METRICS + TEXT_METRICS)
    for strength in STRENGTHS:
        means = {
            (direction, name): np.mean([reading(direction, name, strength, prompt) for prompt in range(5)])
            for direction in (*EMOTIONS, *RANDOMS)
            for name in EMOTIONS
        }
        for name in EMOTIONS:
            row = select(table, emotion=name, strength=strength, metric="classifier").iloc[0]
            own = [reading(name, name, strength, prompt) for prompt in range(5)]
            random = [means[direction, name] for direction in RANDOMS]
            assert row[["value", "low", "high"]].to_list() == pytest.approx(list(mean_interval(np.array(own))))
            assert row["random"] == pytest.approx(np.mean(random))
            assert (row["random_low"], row["random_high"]) == pytest.approx((min(random), max(random)))
            assert row["others"] == pytest.approx(np.mean([means[other, name] for other in EMOTIONS if other != name]))
            assert row["n"] == 5
        row = select(table, emotion="all", strength=strength, metric="classifier").iloc[0]
        own = np.array([means[name, name] for name in EMOTIONS])
        random = [np.mean([means[direction, name] for name in EMOTIONS]) for direction in RANDOMS]
        assert row[["value", "low", "high"]].to_list() == pytest.approx(list(mean_interval(own)))
        assert (row["random"], row["random_low"]) == pytest.approx((np.mean(random), min(random)))
        assert row["random_high"] == pytest.approx(max(random))
        assert row["n"] == 3


def test_at_strength_zero_all_directions_read_the_unsteered_texts():
    reading = noisy(own_slope, spread=1.0)
    table = select(dose.response(constructed(reading)), strength=0.0, metric="classifier")
    for name in EMOTIONS:
        row = select(table, emotion=name).iloc[0]
        plain = np.mean([reading("", name, 0.0, prompt) for prompt in range(5)])
        assert row[["value", "random", "random_low", "random_high", "others"]].to_list() == pytest.approx([plain] * 5)


def test_a_projection_is_a_change_from_the_same_prompt_unsteered():
    """The prompts' own offsets, which make up most of the reading, are gone; the other metrics keep them."""
    table = dose.response(constructed(noisy(own_slope)))
    for strength in STRENGTHS:
        rows = select(table, strength=strength, metric="projection")
        named = rows[rows["emotion"] != "all"]
        np.testing.assert_allclose(named["value"], 2.0 * strength)
        np.testing.assert_allclose(named["high"] - named["low"], 0, atol=1e-9)
        np.testing.assert_allclose(named[["random", "random_low", "random_high", "others"]], 0, atol=1e-9)
        classifier = select(table, strength=strength, metric="classifier", emotion="sad").iloc[0]
        assert classifier["value"] == pytest.approx(2.0 * strength + 3 * 2)
        assert classifier["high"] - classifier["low"] > 5
    assert (select(table, strength=0.0, metric="projection")["value"] == 0).all()


def test_measures_of_a_text_are_the_same_whatever_emotion_is_read():
    table = select(dose.response(constructed(noisy(own_slope))), metric="n_tokens", strength=0.2)
    lengths = np.mean([len(prompt) for prompt in PROMPTS])
    np.testing.assert_allclose(table["value"], lengths)
    np.testing.assert_allclose(table["random"], lengths + 10)
    np.testing.assert_allclose(table["others"], lengths)


def test_opposite_strengths_of_a_linear_reading_mirror_each_other():
    table = select(dose.response(constructed(noisy(own_slope))), metric="projection")
    for strength in (0.2, 0.4):
        up, down = (select(table, strength=sign * strength)["value"].to_numpy() for sign in (1, -1))
        np.testing.assert_allclose(up, -down)


def test_a_text_without_a_dictionary_is_left_out_of_the_share_of_real_words():
    swept, rng = constructed(noisy(own_slope)), np.random.default_rng(7)
    texts = swept.texts.assign(real_words=rng.random(len(swept.texts)))

    def response(texts: pd.DataFrame) -> pd.DataFrame:
        table = dose.response(Sweep(texts, swept.values, swept.emotions))
        return select(table, metric="real_words", strength=0.4).set_index("emotion")

    def shares(texts: pd.DataFrame, name: str) -> np.ndarray:
        return texts[(texts["emotion"] == name) & (texts["strength"] == 0.4)]["real_words"].to_numpy()

    whole = response(texts)
    assert whole.loc["sad", "value"] == shares(texts, "sad").mean()
    assert whole.loc["sad", "random"] == np.mean([[shares(texts, name).mean()] * 3 for name in RANDOMS], axis=0)[0]
    untested = texts["emotion"].isin(["sad", "random-1"]) & texts["prompt"].isin(["one", "two"])
    untested |= texts["emotion"].isin(["calm", "random-2"])
    table = response(texts.assign(real_words=texts["real_words"].mask(untested)))
    assert table.loc["sad", "value"] == shares(texts, "sad")[2:].mean()
    assert table.loc["sad", "n"] == 3
    assert np.isnan(table.loc["calm", "value"])
    randoms = [shares(texts, "random-1")[2:].mean(), *(shares(texts, name).mean() for name in RANDOMS[2:])]
    assert table.loc["happy", "random"] == pytest.approx(np.mean(randoms))
    assert table.loc["happy", "random_low"] == min(randoms)
    assert table.loc["calm", "others"] == pytest.approx(
        np.mean([table.loc["happy", "value"], table.loc["sad", "value"]])
    )
    assert table.loc["all", "n"] == 2
