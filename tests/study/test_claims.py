"""Verdicts follow their stated rules: each flips when the measurement does."""

import numpy as np
import pandas as pd
import pytest

from emotrace.study import experiments
from emotrace.study.verdicts import Claim, Estimate, above, below, claims_table, given, holds, reaches, within

NAMES = [f"emotion {number}" for number in range(20)]


def claims(**tables: pd.DataFrame) -> list[Claim]:
    return experiments.claims(tables, "llama")


def verdicts(**tables: pd.DataFrame) -> list[str]:
    return [claim.verdict() for claim in claims(**tables)]


@pytest.mark.parametrize(
    ("rule", "estimate", "holds_on_it"),
    [
        (above(0), Estimate(1, 0.1, 2), True),
        (above(0), Estimate(1, 0.0, 2), False),
        (above(0), Estimate(1), False),  # no interval
        (below(0), Estimate(-1, -2, -0.1), True),
        (below(0), Estimate(-1, -2, 0.0), False),
        (reaches(0.9), Estimate(0.8, 0.7, 0.9), True),
        (reaches(0.9), Estimate(0.8, 0.7, 0.89), False),
        (within(0.4, 0.6), Estimate(0.5, 0.4, 0.6000000001), True),
        (within(0.4, 0.6), Estimate(0.5, 0.4, 0.61), False),
        (holds(0.81), Estimate(0.7, 0.6, 0.81), True),
        (holds(0.81), Estimate(0.7, 0.6, 0.8), False),
        (given(True), Estimate(1), True),
        (given(False, above(0)), Estimate(1, 0.1, 2), False),
        (given(True, above(0)), Estimate(1, -0.1, 2), False),
    ],
)
def test_a_rule_decides_by_the_interval(rule, estimate, holds_on_it):
    verdict = Claim("C0.x", "C0 x", "1", estimate, rule, "by looking").verdict()
    assert verdict == ("reproduced" if holds_on_it else "not reproduced")


def test_a_claim_without_a_rule_is_not_testable_and_is_a_row_of_the_table():
    claim = Claim("C0.x", "C0 x", "1", Estimate(1, n=20), None, "by looking")
    table = claims_table("a model", [claim])
    assert list(table.columns) == ["model", "id", "claim", "paper", "measured", "low", "high", "n", "verdict", "how"]
    (row,) = table.to_dict("records")
    assert (row["model"], row["id"], row["measured"], row["n"]) == ("a model", "C0.x", 1, 20)
    assert row["verdict"] == "not testable on this model"
    assert np.isnan([row["low"], row["high"]]).all()


def monotonicity(rho: float, random_rho: float, up: float, down: float) -> pd.DataFrame:
    noise = np.random.default_rng(0).normal(0, 0.01, len(NAMES))
    return pd.DataFrame(
        {
            "metric": "classifier",
            "emotion": NAMES,
            "rho": rho + noise,
            "random_rho": random_rho,
            "p": 0.01,
            "m": 999,
            "up": up + noise,
            "down": down + noise,
            "random_up": 0.1,
            "random_down": -0.1,
        }
    )


@pytest.mark.parametrize(
    ("rho", "up", "down", "expected"),
    [
        (0.9, 0.5, -0.5, ["reproduced"] * 3),
        (0.3, 0.5, -0.5, ["not reproduced", "reproduced", "reproduced"]),  # random directions rise as much
        (0.9, 0.1, -0.5, ["reproduced", "not reproduced", "reproduced"]),  # no more than random directions do
        (0.9, 0.5, 0.3, ["reproduced", "reproduced", "not reproduced"]),  # both signs push upwards
    ],
)
def test_a_dose_response_must_exceed_random_directions_on_both_sides(rho, up, down, expected):
    stated = claims(monotonicity=monotonicity(rho, 0.3, up, down))
    assert [claim.id for claim in stated] == ["C8.monotonic.classifier", "C8.towards.classifier", "C8.away.classifier"]
    assert [claim.verdict() for claim in stated] == expected
    assert all(claim.estimate.n == 20 for claim in stated)
    assert stated[1].estimate.value == pytest.approx(up - 0.1, abs=0.01)


def verification(successes: int, rising: int = 40) -> pd.DataFrame:
    count = np.arange(40)
    return pd.DataFrame(
        {
            "success": count < successes,
            "rise": np.where(count < rising, 0.1, -0.1),
            "m": 19,
            "n": 2,
            "rank": 4.0,
            "ranked": 20,
            "coherent": 1.0,
            "random_positive": 0.5,
            "held_out_successes": 0,
            "held_out": 1,
            "wrong_successes": 0,
            "wrong": 2,
        }
    )


def test_success_is_compared_with_the_papers_rate_by_its_interval():
    strict, lenient = claims(verification=verification(37))
    assert (strict.verdict(), lenient.verdict()) == ("reproduced", "reproduced")
    assert strict.estimate.value == 37 / 40
    assert (strict.estimate.low, strict.estimate.high) == pytest.approx((0.8014, 0.9742), abs=1e-4)  # Wilson
    assert verdicts(verification=verification(20, rising=38)) == ["not reproduced", "reproduced"]
    assert verdicts(verification=verification(20, rising=22))[1] == "not reproduced"


def regimes(at_window: float, far: float) -> pd.DataFrame:
    rows = []
    for name in ("all", "random", "unsteered"):
        for relative, share in ((0.0, 1.0), (1.0, at_window), (4.0, far)):
            rows.append(
                {
                    "emotion": name,
                    "relative": relative,
                    "strength": 0.3 * relative,
                    "value": share,
                    "low": share - 0.05,
                    "high": share + 0.05,
                    "n": 80,
                    "repetitive_collapse": 0.75 * (1 - share),
                    "explosive": 0.25 * (1 - share),
                }
            )
    return pd.DataFrame(rows)


def test_regimes_need_coherence_inside_the_window_and_none_far_beyond():
    window, beyond = claims(regimes=regimes(0.92, 0.1))
    assert window.verdict() == "reproduced"
    assert verdicts(regimes=regimes(0.80, 0.1))[0] == "not reproduced"  # the window does not carry over to new prompts
    assert verdicts(regimes=regimes(0.92, 0.88))[0] == "not reproduced"  # nothing ever breaks
    assert beyond.verdict() == "not testable on this model"
    assert beyond.estimate.value == pytest.approx(0.75, abs=0.01)


def comparison(difference: float, half_width: float, p: float) -> pd.DataFrame:
    rows = []
    for pooling in ("last", "mean"):
        shared = {"pooling": pooling, "n": 8, "n_generation": 190, "n_comprehension": 190, "m": 999}
        low, high = difference - half_width, difference + half_width
        chosen = {**shared, "sample": "pairs_chosen"}
        half_depth = {**shared, "sample": "pairs_half_depth"}
        rows += [
            {**chosen, "metric": "difference", "value": difference, "low": low, "high": high, "p": p},
            {**half_depth, "metric": "difference", "value": 0.01, "low": 0.0, "high": 0.02, "p": 0.5},
            {**chosen, "metric": "cohens_d", "value": -1.2},
            {**chosen, "metric": "mann_whitney_u", "value": 9.0, "p": 0.2},
        ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("difference", "half_width", "p", "verdict"),
    [
        (-0.1, 0.02, 0.001, "reproduced"),
        (-0.1, 0.2, 0.001, "not reproduced"),
        (-0.1, 0.02, 0.3, "not reproduced"),
        (0.1, 0.02, 0.001, "not reproduced"),
    ],
)
def test_generation_is_better_only_below_zero_and_beyond_swapped_texts(difference, half_width, p, verdict):
    assert verdicts(method_comparison=comparison(difference, half_width, p)) == [verdict] * 2


def test_a_model_that_wrote_nothing_has_no_row_on_generation():
    assert claims(method_comparison=pd.DataFrame()) == []
