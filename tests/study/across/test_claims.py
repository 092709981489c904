"""Claims about several models: what one model refutes and a few cannot establish, whichever way round a pair stands."""

import pandas as pd
import pytest
from planted_streams import FACTS, dose, scale

from emotrace.study.across import claims as across_claims
from emotrace.study.across import steering as across_steering
from emotrace.study.across.facts import with_facts


def wins(value: float, n: int) -> dict[str, pd.DataFrame]:
    row = {
        "group": "all",
        "sample": "pairs_chosen",
        "pooling": "last",
        "metric": "wins",
        "value": value,
        "n": n,
        "p": 0.5,
    }
    return {"method_comparison_models": pd.DataFrame([{**row, "low": 0.1, "high": 1.0}])}


@pytest.mark.parametrize(
    ("value", "n", "verdict"),
    [
        (1.0, 7, "reproduced"),
        (1.0, 2, "not testable on this model"),
        (0.5, 2, "not reproduced"),
        (6 / 7, 7, "not reproduced"),
    ],
)
def test_every_model_is_a_claim_that_one_model_refutes_and_two_do_not_establish(value, n, verdict):
    (claim,) = across_claims.claims(wins(value, n))
    assert (claim.id, claim.verdict(), claim.estimate.n) == ("C5.models", verdict, n)


@pytest.mark.parametrize("gemma_first", [True, False])
@pytest.mark.parametrize(("raw", "verdict"), [(100.0, "reproduced"), (5.0, "not reproduced")])
def test_gemmas_ratio_counts_whichever_way_round_the_pair_stands(gemma_first, raw, verdict):
    names = ("b", "a") if gemma_first else ("a", "b")
    sizes = {"b": 4.0 * raw, "a": 4.0}
    scales = {name: scale(sizes[name]) for name in names}
    values = across_steering.emotion_deltas(dose(**{name: [0.3, 0.2, 0.6] for name in names}), scales)
    tables = {
        "across_steering": with_facts(across_steering.steering_deltas(values, scales), FACTS),
        "across_steering_contrasts": across_steering.steering_contrasts(values, scales, 50, 0),
    }
    claims = {claim.id: claim for claim in across_claims.claims(tables)}
    assert claims["C7.gemma_deltas"].estimate.value == pytest.approx(raw)
    assert claims["C7.gemma_deltas"].verdict() == verdict
    assert claims["C7.anisotropy.models"].verdict() == "not testable on this model"  # two models
