"""The verdicts on generation against comprehension: each flips when the measurement does."""

import pandas as pd
import pytest

from emotrace.study.methods.claims import comparison_claims, factorial_claims
from emotrace.study.verdicts import INCONCLUSIVE, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, claims_table


def comparison(difference: float, half_width: float, p: float, cosine: float = 0.01) -> pd.DataFrame:
    rows = []
    for pooling in ("last", "mean"):
        for sample in ("intraclass_chosen", "intraclass_half_depth"):
            ours = {"pooling": pooling, "sample": sample, "n": 8, "m": 256}
            low, high = difference - half_width, difference + half_width
            rows += [
                {**ours, "metric": "intraclass_difference", "value": difference, "low": low, "high": high, "p": p},
                {**ours, "metric": "ratio_comprehension", "value": 1.5},
                {**ours, "metric": "ratio_generation", "value": 2.5},
            ]
        paper = {"pooling": pooling, "sample": "pairs_chosen", "n": 8, "m": 256, "n_generation": 190}
        rows += [
            {
                **paper,
                "metric": "difference",
                "value": cosine,
                "low": cosine - 0.001,
                "high": cosine + 0.001,
                "p": 0.01,
            },
            {**paper, "metric": "cohens_d", "value": -1.2},
            {**paper, "metric": "mann_whitney_u", "value": 9.0, "p": 0.2},
        ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("difference", "half_width", "p", "verdict"),
    [
        (0.1, 0.04, 0.004, REPRODUCED),
        (0.1, 0.2, 0.004, INCONCLUSIVE),  # too wide to tell
        (0.1, 0.04, 0.3, INCONCLUSIVE),  # the methods exchanged do as much
        (0.021, 0.02, 0.004, INCONCLUSIVE),  # a tenth from the smallest effect of interest
        (0.0, 0.01, 0.5, NOT_REPRODUCED),  # as good as the same
        (-0.1, 0.04, 1.0, NOT_REPRODUCED),
    ],
)
@pytest.mark.parametrize("cosine", [-0.05, 0.05])
def test_generation_is_better_by_the_emotions_share_whatever_the_raw_cosine(difference, half_width, p, verdict, cosine):
    tables = {"method_comparison": comparison(difference, half_width, p, cosine)}
    made = comparison_claims(tables, "llama")
    assert [claim.id for claim in made] == ["C5.separation.last", "C5.separation.mean"]
    assert [claim.verdict() for claim in made] == [verdict] * 2
    assert f"{cosine:+.4f}" in made[0].how


def test_p_is_corrected_for_the_other_claims_of_the_number():
    rows = claims_table("m", comparison_claims({"method_comparison": comparison(0.1, 0.04, 0.03)}, "llama"))
    assert rows["p"].tolist() == [0.06, 0.06]
    assert rows["verdict"].tolist() == [INCONCLUSIVE] * 2


@pytest.mark.parametrize(("p", "m", "verdict"), [(float("nan"), 0, NOT_TESTABLE), (1 / 64, 64, REPRODUCED)])
def test_on_topics_too_few_for_the_test_it_is_not_testable_however_large_the_difference(p, m, verdict):
    table = comparison(0.8, 0.04, p).assign(m=m)
    rows = claims_table("m", comparison_claims({"method_comparison": table}, "llama"))
    assert rows["verdict"].tolist() == [verdict] * 2
    assert rows["how"].str.contains("too few topics").tolist() == [verdict == NOT_TESTABLE] * 2


def effects(author: float, half_width: float) -> pd.DataFrame:
    rows = [
        {"factor": factor, "value": value, "low": value - half_width, "high": value + half_width}
        for factor, value in (("whole", 0.3), ("author", author), ("frame", 0.2), ("pooling", 0.1))
    ]
    return pd.DataFrame(rows).assign(kind="decomposition", metric="nearest_centroid", n=8)


@pytest.mark.parametrize(
    ("author", "half_width", "verdict"),
    [
        (0.2, 0.1, REPRODUCED),
        (0.2, 0.3, INCONCLUSIVE),
        (0.0, 0.03, NOT_REPRODUCED),
        (-0.45, 0.1, NOT_REPRODUCED),
        (0.052, 0.01, INCONCLUSIVE),
    ],
)
def test_authorship_must_add_to_accuracy_and_its_row_says_what_it_is_confounded_with(author, half_width, verdict):
    (claim,) = factorial_claims({"factorial_effects": effects(author, half_width)}, "llama")
    assert claim.verdict() == verdict
    for confound in ("length", "person", "tense", "filter", "definition"):
        assert confound in claim.how


def test_a_model_that_wrote_nothing_has_no_row_on_generation():
    assert comparison_claims({"method_comparison": pd.DataFrame()}, "gpt2") == ()
    assert comparison_claims({}, "gpt2") == ()
    assert factorial_claims({"factorial_effects": effects(0, 1).assign(kind="marginal")}, "gpt2") == ()
