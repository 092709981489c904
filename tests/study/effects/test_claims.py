"""The rules of C8, C9 and C10: each can be reproduced, refuted and left open, and the rows say on which control."""

import numpy as np
import pandas as pd
import pytest

from emotrace.measures.statistics import Interval
from emotrace.study.effects import breaking, claims, contrasts, dose, success
from emotrace.study.experiment import Tables
from emotrace.study.verdicts import INCONCLUSIVE, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, Claim

NAMES = [f"emotion {number}" for number in range(20)]


def effect(contrast: str, value: float, half: float, **columns) -> dict:
    row = {"arm": "calibrated", "metric": "classifier", "contrast": contrast, "control": "permuted", "match": "norm"}
    row |= {
        "value": value,
        "low": value - half,
        "high": value + half,
        "p": 0.001 if half < abs(value) else 0.4,
        "n": 20,
    }
    row |= {"prompts": 8, "directions": 12, "coherent": 0.9, "control_coherent": 0.95, "control_breaks": False}
    return {**row, "relative": 1.0, **columns}


def dose_tables(
    rho: float = 0.9, towards: float = 0.2, away: float = -0.2, rising: int = 20, half: float = 0.04
) -> Tables:
    rows = [effect("rho", rho, 3 * half), effect("slope", towards, half), effect("towards", towards, half)]
    rows += [effect("away", away, half)]
    rows += [effect("towards", towards / 2, half, match=match, relative=0.8) for match in ("perplexity", "coherence")]
    trends = {"arm": "calibrated", "metric": "classifier", "emotion": NAMES, "beyond": 0.01, "permuted_abs_rho": 0.5}
    p = np.where(np.arange(20) < rising, 0.01, 0.5)
    doses = [
        # Of the first 13 emotions the reading minus the controls' rises at each step within ±1, of the others once not.
        {"emotion": name, "relative": dose, "value": dose + 0.4, "permuted": 0.4 + (number > 12) * (dose == 0.5)}
        for number, name in enumerate([*NAMES, "all"])
        for dose in (2.0, -1.0, -0.5, 0.0, 0.5, 1.0)
    ]
    doses = [{**row, "value": row["value"] - 9 * (row["relative"] == 2)} for row in doses]  # beyond the window
    table = pd.DataFrame(doses).assign(arm="calibrated", metric="classifier")
    effects, trends = pd.DataFrame(rows), pd.DataFrame({**trends, "p_holm": p})
    return {"steering_effects": effects, "monotonicity": trends, "dose_response": table}


def by_id(made) -> dict[str, Claim]:
    return {claim.id: claim for claim in made}


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, REPRODUCED),
        ({"rho": 0.2}, NOT_REPRODUCED),  # a curve, but no monotonic one
        ({"rho": 0.45, "half": 0.1}, INCONCLUSIVE),
        ({"rising": 5}, REPRODUCED),  # Page's test counts prompts, which share a direction's slope: it decides nothing
        ({"rho": 0.52}, INCONCLUSIVE),  # a threshold a tenth higher would say otherwise
    ],
)
def test_a_monotonic_response_is_of_the_mean_over_emotions(changed, verdict):
    found = by_id(claims.dose_claims(dose_tables(**changed), "llama"))
    assert found["C8.monotonic.classifier"].verdict() == verdict


def test_single_emotions_are_counted_by_what_a_random_direction_does_not_pass_and_by_what_it_may():
    tables = dose_tables(rising=13)
    tables["monotonicity"]["beyond"] = [0.001, 0.002, 0.003, *[0.04] * 4, *[0.5] * 13]
    claim = by_id(claims.dose_claims(tables, "llama"))["C8.monotonic.classifier"]
    # Holm among 20: 0.001 × 20, 0.002 × 19, 0.003 × 18 = 0.054
    assert "7 have a slope that one more permuted-label direction would have with p < 0.05, 2 after Holm" in claim.how
    assert "13 rise by Page's test over prompts (Holm), which a random direction" in claim.how
    assert "13 of 20 emotions rise at every step" in claim.how
    assert "rise" not in claim.words


def test_a_random_direction_passes_pages_test_far_more_often_than_it_lies_beyond_its_kind():
    """Why the former decides nothing: all prompts share the slope that a direction happens to have."""
    rng = np.random.default_rng(0)
    passed = {"p": 0, "beyond": 0}
    strengths = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    for _ in range(150):
        slopes = rng.normal(0, 1, (13, 1, 1, 1)) + np.zeros((13, 1, 1, 8))
        read = slopes * strengths[:, None] + rng.normal(0, 0.1, (13, 1, 5, 8))
        under = {"emotion": read[:1], "permuted": read[1:], "gaussian": read[:0]}
        row = dose.tested(dose.Curves(strengths, 1.0, under, ("one",)))[0]
        for name in passed:
            passed[name] += row[name] < 0.05
    assert passed["p"] > 0.35 * 150
    assert passed["beyond"] < 0.1 * 150


@pytest.mark.parametrize(
    ("changed", "towards", "away"),
    [
        ({}, REPRODUCED, REPRODUCED),
        ({"towards": 0.01, "half": 0.02}, NOT_REPRODUCED, REPRODUCED),
        ({"towards": 0.01, "half": 0.1}, INCONCLUSIVE, REPRODUCED),
        ({"away": 0.2}, REPRODUCED, NOT_REPRODUCED),  # both signs push upwards
        ({"away": -0.02, "half": 0.015}, REPRODUCED, NOT_REPRODUCED),  # surely there, and too small to matter
    ],
)
def test_either_sign_has_to_move_the_reading_its_way_by_as_much_as_matters(changed, towards, away):
    found = by_id(claims.dose_claims(dose_tables(**changed), "llama"))
    assert found["C8.towards.classifier"].verdict() == towards
    assert found["C8.away.classifier"].verdict() == away


def test_an_effect_is_only_reproduced_with_a_small_p_of_its_own():
    tables = dose_tables()
    tables["steering_effects"]["p"] = 0.2
    assert by_id(claims.dose_claims(tables, "llama"))["C8.towards.classifier"].verdict() == INCONCLUSIVE


def test_a_control_that_breaks_the_text_is_named_in_the_row():
    tables = dose_tables()
    extra = effect("towards", 0.3, 0.04, control="gaussian", control_coherent=0.03, control_breaks=True)
    tables["steering_effects"] = pd.concat([tables["steering_effects"], pd.DataFrame([extra])], ignore_index=True)
    how = by_id(claims.dose_claims(tables, "llama"))["C8.towards.classifier"].how
    assert "Gaussian directions 0.3 (0.26 to 0.34) [this control breaks the text otherwise: 3% of its" in how
    tables["steering_effects"]["control_breaks"] = False
    assert "breaks" not in by_id(claims.dose_claims(tables, "llama"))["C8.towards.classifier"].how


def test_either_arm_has_claims_of_its_own():
    tables = dose_tables()
    both = {name: pd.concat([table, table.assign(arm="published")]) for name, table in tables.items()}
    found = by_id(claims.dose_claims(both, "llama"))
    assert set(found) <= set(claims.DOSE_IDS)
    assert {"C8.towards.classifier", "C8.published.towards.classifier", "C8.equal_harm.classifier"} <= set(found)
    assert "C8.published.equal_harm.classifier" not in found
    assert set(claims.SMALLEST) == set(claims.READINGS) == set(dose.READINGS)


# -- C9 ---------------------------------------------------------------------------------------------------------------


def verification(successes: int, rise: float = 0.2, arm: str = "calibrated") -> pd.DataFrame:
    """40 scenarios, two an emotion; those of one emotion succeed together."""
    rng, count = np.random.default_rng(0), np.arange(40)
    return pd.DataFrame(
        {
            "arm": arm,
            "emotion": np.repeat(NAMES, 2),
            "success": count < successes,
            "rise": rise + rng.normal(0, 0.05, 40),
            "permuted_mean": 0.02,
            "permuted_positive": 0.5,
            "random_mean": np.nan,
            "wrong_mean": 0.0,
            "m": 19,
            "n": 2,
            "rank": 4.0,
            "ranked": 20,
            "coherent": 0.9,
            "control_coherent": 0.95,
            "prompted_success": count < 20,
            "held_out_successes": count < 2,
            "held_out": 1,
            "wrong_successes": 0,
            "wrong": 2,
        }
    )


def ceiling(rate: float, arm: str = "calibrated") -> pd.DataFrame:
    rows = [{"texts": kind, "emotion": name, "value": rate, "n": 12} for kind in ("whole", "cut") for name in NAMES]
    rows += [
        {"texts": kind, "emotion": "all", "value": rate, "low": rate - 0.05, "high": min(1, rate + 0.05)}
        for kind in ("whole", "cut")
    ]
    return pd.DataFrame(rows).assign(arm=arm)


def c9(successes: int, rate: float = 0.95, **more) -> dict[str, Claim]:
    tables = {"verification": verification(successes, **more), "judge_ceiling": ceiling(rate)}
    return by_id(success.verification_claims(tables, "llama"))


@pytest.mark.parametrize(("successes", "verdict"), [(40, REPRODUCED), (36, INCONCLUSIVE), (20, NOT_REPRODUCED)])
def test_a_judge_that_can_confirm_decides_by_the_papers_rate(successes, verdict):
    assert c9(successes)["C9.strict"].verdict() == verdict


def test_a_judge_that_confirms_half_of_what_is_there_decides_nothing_about_92_percent():
    found = c9(17, rate=0.45)
    assert found["C9.strict"].verdict() == NOT_TESTABLE
    assert found["C9.strict"].estimate.value == 17 / 40
    assert "not testable with this judge" in found["C9.strict"].how
    # As a share of what it can confirm, the same count is nearly all there is.
    assert found["C9.of_ceiling"].estimate.value == pytest.approx(17 / 40 / 0.45)
    assert found["C9.of_ceiling"].verdict() != NOT_REPRODUCED
    assert c9(4, rate=0.45)["C9.of_ceiling"].verdict() == NOT_REPRODUCED
    assert c9(38, rate=0.9)["C9.of_ceiling"].verdict() in (REPRODUCED, INCONCLUSIVE)


def test_scenarios_of_one_emotion_are_one_cluster():
    """Both scenarios of an emotion succeed or neither: as wide as for 20 emotions, wider than Wilson's of 40."""
    from emotrace.measures.statistics import wilson

    estimate = c9(20)["C9.strict"].estimate
    assert (estimate.low, estimate.high) == pytest.approx(wilson(10, 20)[1:], abs=0.02)
    naive = wilson(20, 40)
    assert estimate.high - estimate.low > 1.2 * (naive.high - naive.low)


def test_the_rise_counts_beyond_what_permuted_labels_give():
    assert c9(20, rise=0.2)["C9.contrast"].verdict() == REPRODUCED
    assert c9(20, rise=0.2)["C9.contrast"].estimate.value == pytest.approx(0.18, abs=0.03)
    assert c9(20, rise=0.02)["C9.contrast"].verdict() == NOT_REPRODUCED


@pytest.mark.parametrize(("value", "verdict"), [(0.3, REPRODUCED), (-0.2, NOT_REPRODUCED), (0.08, INCONCLUSIVE)])
def test_steering_has_to_beat_asking(value, verdict):
    row = {"where": "scenarios", "emotion": "all", "steering": 0.5, "prompting": 0.5 - value, "n": 20}
    row |= {"value": value, "low": value - 0.05, "high": value + 0.05, "p": 0.001}
    prompting = pd.DataFrame([{**row, "metric": "success"}, {**row, "metric": "classifier"}])
    tables = {"verification": verification(20), "judge_ceiling": ceiling(0.95), "prompting": prompting}
    assert by_id(success.verification_claims(tables, "llama"))["C9.over_prompting"].verdict() == verdict


# -- C10 --------------------------------------------------------------------------------------------------------------


def regimes(at_window: float, far: float, collapse: float = 0.5, within_2: float = 0.7) -> pd.DataFrame:
    rows = []
    for name in ("all", "permuted", "random", "unsteered"):
        for relative, share in ((0.0, 1.0), (1.0, at_window), (4.0, far)):
            broken = {"repetitive_collapse": collapse * (1 - share), "explosive": (1 - collapse) * (1 - share)}
            row = {"arm": "calibrated", "emotion": name, "relative": relative, "strength": 0.3 * relative, "n": 160}
            for column, value in {
                "": share,
                "within_2_": within_2,
                **{f"{key}_": one for key, one in broken.items()},
            }.items():
                row |= {column[:-1] or "value": value, f"{column}low": value - 0.03, f"{column}high": value + 0.03}
            rows.append(row)
    names = [*NAMES, "permuted-1", "permuted-12", "random-4"]
    return pd.DataFrame([*rows, *({**rows[0], "emotion": name} for name in names)])


def c10(*shares: float, **more) -> dict[str, str]:
    made = breaking.regime_claims({"regimes": regimes(*shares, **more)}, "llama")
    return {claim.id.removeprefix("C10."): claim.verdict() for claim in made}


def test_the_window_has_to_hold_on_other_prompts():
    assert c10(0.92, 0.1)["window"] == REPRODUCED
    assert c10(0.82, 0.1)["window"] == INCONCLUSIVE
    assert c10(0.70, 0.1)["window"] == NOT_REPRODUCED
    assert c10(0.92, 0.1, within_2=0.9)["surgical"] == REPRODUCED
    assert c10(0.92, 0.1, within_2=0.6)["surgical"] == NOT_REPRODUCED


def test_three_regimes_need_both_ways_of_breaking():
    assert c10(0.92, 0.1)["three"] == REPRODUCED
    assert c10(0.92, 0.1, collapse=0.97)["three"] == NOT_REPRODUCED  # texts loop, none explodes
    assert c10(0.92, 0.95)["three"] == NOT_REPRODUCED  # nothing ever breaks
    assert c10(0.92, 0.1, collapse=0.885)["three"] == INCONCLUSIVE
    # 0.117 ± 0.03 is above 0 and above 0.1 by its value alone: the interval has to be, too.
    assert c10(0.92, 0.1, collapse=0.87)["three"] == INCONCLUSIVE
    assert c10(0.92, 0.1, collapse=0.84)["three"] == REPRODUCED
    assert c10(0.92, 0.1)["architecture"] == NOT_TESTABLE


@pytest.mark.parametrize(("rarer", "verdict"), [((0.156, 0.075, 0.296), INCONCLUSIVE), ((0.21, 0.12, 0.3), REPRODUCED)])
def test_a_regime_occurs_where_its_whole_interval_is_above_one_text_in_ten(rarer, verdict):
    estimate, rule = breaking.three_rule(Interval(0.76, 0.6, 0.85), Interval(*rarer))
    assert (estimate.value, rule.verdict(estimate)) == (rarer[0], verdict)
    assert breaking.three_rule(Interval(*rarer), Interval(0.76, 0.6, 0.85))[0] == estimate
    assert "lie above 0.1" in rule.words


def test_n_is_what_the_interval_resamples():
    """Scenarios of one emotion share its vector, texts of one emotion and prompt are alike: 20 emotions, 40, 160 …"""
    found = by_id(breaking.regime_claims({"regimes": regimes(0.92, 0.1)}, "llama")) | c9(20)
    for id in ("C9.strict", "C9.of_ceiling", "C9.contrast", "C10.window", "C10.surgical", "C10.three"):
        assert found[id].estimate.n == len(NAMES), id
    assert "of 160 texts" in found["C10.three"].how
    assert "(20 of 40)" in found["C9.strict"].how


def test_all_claims_have_rows_in_the_list():
    assert set(c10(0.9, 0.1)) == {name.removeprefix("C10.") for name in breaking.IDS}
    assert {name for name in c9(20) if "published" not in name} <= set(success.IDS)
    assert set(contrasts.MATCHES) == {"norm", "perplexity", "coherence"}
