"""Verdicts follow their stated rules: each flips when the measurement does."""

import numpy as np
import pandas as pd
import pytest

from emotrace.study.separation import claims
from emotrace.study.effects import claims as claims_steering
from emotrace.study.methods import claims as claims_methods

NAMES = [f"emotion {number}" for number in range(20)]


def verdicts(rows: list[dict]) -> dict[str, str]:
    return {row["claim"]: row["verdict"] for row in rows}


def steering(tables: dict[str, pd.DataFrame]) -> list[dict]:
    return claims_steering.rows(tables, claims._verdict, claims.NOT_TESTABLE)


def monotonicity(rho: float, random_rho: float, up: float, down: float) -> pd.DataFrame:
    noise = np.random.default_rng(0).normal(0, 0.01, len(NAMES))
    return pd.DataFrame(
        {
            "metric": "classifier", "emotion": NAMES, "rho": rho + noise, "random_rho": random_rho, "p": 0.01, "m": 999,
            "up": up + noise, "down": down + noise, "random_up": 0.1, "random_down": -0.1,
        }
    )  # fmt: skip


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
    rows = steering({"monotonicity": monotonicity(rho, 0.3, up, down)})
    assert [row["verdict"] for row in rows] == expected
    assert all(row["n"] == 20 for row in rows)
    assert rows[1]["measured"] == pytest.approx(up - 0.1, abs=0.01)


def verification(successes: int, rising: int = 40) -> pd.DataFrame:
    count = np.arange(40)
    return pd.DataFrame(
        {
            "success": count < successes, "rise": np.where(count < rising, 0.1, -0.1), "m": 19, "n": 2, "rank": 4.0, "ranked": 20,
            "coherent": 1.0, "random_positive": 0.5, "held_out_successes": 0, "held_out": 1, "wrong_successes": 0, "wrong": 2,
        }
    )  # fmt: skip


def test_success_is_compared_with_the_papers_rate_by_its_interval():
    strict, lenient = steering({"verification": verification(37)})
    assert (strict["verdict"], lenient["verdict"]) == ("reproduced", "reproduced")
    assert strict["measured"] == 37 / 40
    assert (strict["low"], strict["high"]) == pytest.approx((0.8014, 0.9742), abs=1e-4)  # Wilson
    strict, lenient = steering({"verification": verification(20, rising=38)})
    assert (strict["verdict"], lenient["verdict"]) == ("not reproduced", "reproduced")
    assert steering({"verification": verification(20, rising=22)})[1]["verdict"] == "not reproduced"


def regimes(at_window: float, far: float) -> pd.DataFrame:
    rows = []
    for name in ("all", "random", "unsteered"):
        for relative, share in ((0.0, 1.0), (1.0, at_window), (4.0, far)):
            half = 0.05
            rows.append(
                {"emotion": name, "relative": relative, "strength": 0.3 * relative, "value": share, "low": share - half,
                 "high": share + half, "n": 80, "repetitive_collapse": 0.75 * (1 - share), "explosive": 0.25 * (1 - share)}
            )  # fmt: skip
    return pd.DataFrame(rows)


def test_regimes_need_coherence_inside_the_window_and_none_far_beyond():
    def first(*shares: float) -> str:
        return steering({"regimes": regimes(*shares)})[0]["verdict"]

    assert first(0.92, 0.1) == "reproduced"
    assert first(0.80, 0.1) == "not reproduced"  # the window does not carry over to new prompts
    assert first(0.92, 0.88) == "not reproduced"  # nothing ever breaks
    beyond = steering({"regimes": regimes(0.92, 0.1)})[1]
    assert beyond["verdict"] == "not testable on this model"
    assert beyond["measured"] == pytest.approx(0.75, abs=0.01)


def comparison(difference: float, half_width: float, p: float) -> pd.DataFrame:
    rows = []
    for pooling in ("last", "mean"):
        shared = {
            "sample": "pairs_chosen",
            "pooling": pooling,
            "n": 8,
            "n_generation": 190,
            "n_comprehension": 190,
            "m": 999,
        }
        rows += [
            {**shared, "metric": "difference", "value": difference, "low": difference - half_width, "high": difference + half_width, "p": p},
            {**shared, "sample": "pairs_half_depth", "metric": "difference", "value": 0.01, "low": 0.0, "high": 0.02, "p": 0.5},
            {**shared, "metric": "cohens_d", "value": -1.2}, {**shared, "metric": "mann_whitney_u", "value": 9.0, "p": 0.2},
        ]  # fmt: skip
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
    rows = claims_methods.rows({"method_comparison": comparison(difference, half_width, p)}, claims._verdict)
    assert [row["verdict"] for row in rows] == [verdict] * 2


def test_a_model_that_wrote_nothing_has_no_row_on_generation():
    assert claims_methods.rows({"method_comparison": pd.DataFrame()}, claims._verdict) == []
