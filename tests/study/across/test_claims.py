"""Claims about several models: what one model refutes and a few cannot establish."""

import numpy as np
import pandas as pd
import pytest
from planted_streams import FACTS, dose, scale

from emotrace.study.across import claims as across_claims
from emotrace.study.across import steering as across_steering
from emotrace.study.across.facts import with_facts
from emotrace.study.verdicts import INCONCLUSIVE, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, Estimate


def of_each(id: str, *verdicts: str) -> dict[str, pd.DataFrame]:
    rows = [{"model": f"m{number}", "id": id, "verdict": verdict} for number, verdict in enumerate(verdicts)]
    return {"claims": pd.DataFrame([*rows, {"model": "all", "id": "C1.models", "verdict": NOT_TESTABLE}])}


@pytest.mark.parametrize(
    ("id", "each", "least"), [("C5.models", "C5.separation.last", 7), ("C6.u.models", "C6.u.last", 5)]
)
@pytest.mark.parametrize(
    ("verdicts", "missing", "verdict"),
    [
        ([REPRODUCED], 0, REPRODUCED),
        ([REPRODUCED], 1, NOT_TESTABLE),  # too few to establish it
        ([NOT_REPRODUCED, NOT_REPRODUCED], 3, NOT_REPRODUCED),  # and enough to refute it
        ([REPRODUCED, NOT_REPRODUCED], 3, NOT_TESTABLE),  # one model may err
        ([REPRODUCED, NOT_REPRODUCED], 0, INCONCLUSIVE),
        ([REPRODUCED, INCONCLUSIVE], 0, INCONCLUSIVE),
        ([REPRODUCED, INCONCLUSIVE], 1, NOT_TESTABLE),
        ([NOT_TESTABLE, REPRODUCED], 1, NOT_TESTABLE),
    ],
)
def test_every_model_is_a_claim_that_two_models_refute_and_do_not_establish(
    id, each, least, verdicts, missing, verdict
):
    tables = of_each(each, *verdicts, *[REPRODUCED] * (least - missing - len(verdicts)))
    made = {claim.id: claim.verdict() for claim in across_claims.claims(tables)}
    assert made == {id: verdict}


def test_the_share_of_models_is_beside_it():
    (claim,) = across_claims.claims(of_each("C6.u.last", REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE, INCONCLUSIVE))
    assert (claim.estimate.value, claim.estimate.n) == (pytest.approx(1 / 3), 3)
    assert "m1 not reproduced" in claim.how


@pytest.mark.parametrize("gemma_first", [True, False])
def test_gemmas_ratio_counts_whichever_way_round_the_pair_stands_and_decides_nothing(gemma_first):
    names = ("b", "a") if gemma_first else ("a", "b")
    scales = {name: scale({"b": 400.0, "a": 4.0}[name]) for name in names}
    values = across_steering.emotion_deltas(dose(**{name: [0.3, 0.2, 0.6] for name in names}), scales)
    tables = {
        "across_steering": with_facts(across_steering.steering_deltas(values, scales), FACTS),
        "across_steering_contrasts": across_steering.steering_contrasts(values, scales, 50, 0),
    }
    claims = {claim.id: claim for claim in across_claims.claims(tables)}
    assert claims["C7.gemma_deltas"].estimate.value == pytest.approx(100)
    assert "in residual norms 1," in claims["C7.gemma_deltas"].how
    # A strength is given in norms: the ratio of raw deltas is that of the norms by arithmetic.
    assert claims["C7.gemma_deltas"].verdict() == NOT_TESTABLE
    assert claims["C7.anisotropy.models"].verdict() == NOT_TESTABLE  # two models


@pytest.mark.parametrize(
    ("rho", "n", "p", "verdict"),
    [
        (0.95, 9, 0.001, REPRODUCED),
        (0.75, 9, 0.02, INCONCLUSIVE),  # within a tenth of the smallest effect
        (0.95, 5, 0.04, REPRODUCED),
        (0.0, 9, 0.5, INCONCLUSIVE),  # nine models do not exclude 0.71
        (-0.6, 9, 0.97, NOT_REPRODUCED),
    ],
)
def test_most_of_the_variation_is_more_than_an_order_that_is_not_chance(rho, n, p, verdict):
    estimate = across_claims.rank_correlation(rho, n, p)
    assert estimate.low < rho < estimate.high
    assert across_claims.ANISOTROPY.verdict(estimate) == verdict


def rdm(*pairs: dict[str, object]) -> pd.DataFrame:
    base = {"instrument_a": "scenes", "instrument_b": "scenes", "same_instrument": True, "n": 20, "n_topics": 12}
    base |= {"method_a": "comprehension", "method_b": "comprehension", "pooling_a": "last", "pooling_b": "last"}
    return pd.DataFrame([base | pair for pair in pairs])


def pair(a: str, b: str, share: float, low: float, high: float) -> dict[str, object]:
    models = {"model_a": a, "model_b": b, "value": 0.9, "same_family": False}
    return models | {"shared": share, "shared_low": low, "shared_high": high}


@pytest.mark.parametrize(
    ("shares", "shown", "verdict"),
    [
        # the published last token: the lowest share is not the pair that leaves it open
        ([(0.81, 0.40, 1.18), (0.60, 0.22, 0.97), (0.62, -0.03, 1.02)], 0.62, INCONCLUSIVE),
        ([(0.3, 0.05, 0.9), (0.35, 0.2, 0.42)], 0.35, NOT_REPRODUCED),
        ([(0.9, 0.73, 1.06), (0.74, 0.47, 0.96), (0.92, 0.79, 1.01)], 0.74, REPRODUCED),
    ],
)
def test_the_pair_that_decides_is_the_one_that_is_shown(shares, shown, verdict):
    rows = [pair(f"a{number}", f"b{number}", *share) for number, share in enumerate(shares)]
    (claim,) = across_claims.claims({"across_rdm": rdm(*rows)})
    assert (claim.estimate.value, claim.verdict()) == (shown, verdict)
    assert across_claims.GEOMETRY.verdict(claim.estimate) == verdict
    place = [share for share, _, _ in shares].index(shown)
    assert f"shown: a{place} and b{place} {shown:g} (" in claim.how
    assert all(f"a{number} and b{number}" in claim.how for number in range(len(shares)))


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [
        ([(0.8, 0.6, 1.0), (0.7, 0.3, 0.9)], REPRODUCED),
        ([(0.8, 0.6, 1.0), (0.1, -0.2, 0.4)], NOT_REPRODUCED),  # one pair is enough
        ([(0.8, 0.6, 1.0), (0.4, 0.1, 0.9)], INCONCLUSIVE),
        ([(0.8, 0.6, 1.0), (np.nan, -2.0, 2.0)], INCONCLUSIVE),
        ([(0.8, 0.6, 1.0), (0.52, 0.3, 0.9)], INCONCLUSIVE),  # a threshold a tenth higher would turn it
    ],
)
def test_one_geometry_is_shared_if_every_pair_of_families_shares_it_beyond_the_words(shares, verdict):
    rows = [pair("a", "b", *share) for share in shares]
    same = {**pair("a", "b", -1.0, -1.1, -0.9), "same_family": True}
    other = {**same, "same_family": False, "instrument_a": "accounts", "instrument_b": "accounts"}
    (claim,) = across_claims.claims({"across_rdm": rdm(*rows, same, other)})
    assert (claim.id, claim.verdict()) == ("sequel.geometry.last", verdict)


@pytest.mark.parametrize(("value", "verdict"), [(0.95, NOT_TESTABLE), (0.6, NOT_REPRODUCED)])
def test_instruction_tuning_can_be_refuted_by_a_pair_of_one_family_and_size_alone(value, verdict):
    pair = {"model_a": "a", "model_b": "b", "same_family": True, "kinds": "base × instruct", "value": value}
    pair |= {"topics_low": value - 0.05, "topics_high": value + 0.05}
    depth = pd.DataFrame({"model": ["a", "b"], "family": "llama", "parameters": [1000.0, 1020.0]})
    made = across_claims.claims({"across_rdm": rdm(pair), "across_depth": depth})
    claims = {claim.id: claim for claim in made}
    assert claims["C5.instruction"].verdict() == verdict
    assert claims["C5.instruction"].estimate == Estimate(value, value - 0.05, value + 0.05, 12)
    depth["parameters"] = [1000.0, 3000.0]
    unlike = {claim.id: claim for claim in across_claims.claims({"across_rdm": rdm(pair), "across_depth": depth})}
    assert unlike["C5.instruction"].verdict() == NOT_TESTABLE
    assert "no base and instruct model" in unlike["C5.instruction"].how
