"""Every rule answers three ways, none jumps from one verdict to the other, and multiplicity is corrected."""

import itertools

import numpy as np
import pytest

from emotrace.study.verdicts import (
    COLUMNS,
    INCONCLUSIVE,
    NOT_REPRODUCED,
    NOT_TESTABLE,
    REPRODUCED,
    Claim,
    Estimate,
    at_least,
    claims_table,
    decided,
    equals,
    exceeds,
    holm,
    least,
    significant,
    together,
)

NAN = float("nan")


def claim(rule, estimate=None, id="C0.x", instrument=""):
    return Claim(id, "C0 x", "1", estimate or Estimate(1, 0.5, 1.5, 20), rule, "by looking", instrument)


@pytest.mark.parametrize(
    ("rule", "interval", "expected"),
    [
        # An effect of at least 0.2: above zero and large enough; excluded; or neither.
        (exceeds(0.2), (0.5, 0.1, 0.9), REPRODUCED),
        (exceeds(0.2), (0.5, -0.1, 1.1), INCONCLUSIVE),
        (exceeds(0.2), (0.02, -0.1, 0.14), NOT_REPRODUCED),
        (exceeds(0.2), (0.1, 0.05, 0.15), NOT_REPRODUCED),  # there, but too small to matter
        (exceeds(0.2), (0.1, 0.01, 0.3), INCONCLUSIVE),  # there, and perhaps large enough
        (exceeds(0.2), (-0.5, -0.9, -0.1), NOT_REPRODUCED),
        (exceeds(0.2), (0.5, NAN, NAN), INCONCLUSIVE),
        # The same with the sign and the chance level of the claim.
        (exceeds(-0.2), (-0.5, -0.9, -0.1), REPRODUCED),
        (exceeds(-0.2), (0.5, 0.1, 0.9), NOT_REPRODUCED),
        (exceeds(0.2, chance=1.0), (1.5, 1.1, 1.9), REPRODUCED),
        (exceeds(0.2, chance=1.0), (1.02, 0.9, 1.14), NOT_REPRODUCED),
        # At least 0.9, or less by no more than 0.1.
        (at_least(0.9, 0.1), (0.95, 0.85, 1.0), REPRODUCED),
        (at_least(0.9, 0.1), (0.85, 0.7, 0.95), INCONCLUSIVE),
        (at_least(0.9, 0.1), (0.6, 0.5, 0.7), NOT_REPRODUCED),
        (at_least(0.9, 0.1), (0.9, NAN, NAN), INCONCLUSIVE),
        # 0.5 to within 0.1.
        (equals(0.5, 0.1), (0.5, 0.45, 0.55), REPRODUCED),
        (equals(0.5, 0.1), (0.5, 0.35, 0.65), INCONCLUSIVE),
        (equals(0.5, 0.1), (0.8, 0.75, 0.85), NOT_REPRODUCED),
        (equals(0.5, 0.1), (0.2, 0.15, 0.25), NOT_REPRODUCED),
    ],
)
def test_a_rule_answers_by_the_interval(rule, interval, expected):
    assert claim(rule, Estimate(*interval)).verdict() == expected


@pytest.mark.parametrize("rule", [exceeds(0.2), at_least(0.9, 0.1), equals(0.5, 0.1), exceeds(-0.3, chance=0.4)])
@pytest.mark.parametrize("width", [0.01, 0.05, 0.2, 0.6])
def test_between_the_two_answers_there_is_always_a_third(rule, width):
    verdicts = [claim(rule, Estimate(v, v - width, v + width)).verdict() for v in np.linspace(-1, 2, 3001)]
    changes = {pair for pair in itertools.pairwise(verdicts) if pair[0] != pair[1]}
    assert changes, "one verdict whatever was measured"
    assert (REPRODUCED, NOT_REPRODUCED) not in changes
    assert (NOT_REPRODUCED, REPRODUCED) not in changes


@pytest.mark.parametrize(
    "rule", [lambda m: exceeds(0.2 * m), lambda m: at_least(0.9, 0.1 * m), lambda m: equals(0.5, 0.1 * m)]
)
def test_a_threshold_moved_by_a_tenth_never_turns_a_verdict_round(rule):
    rng = np.random.default_rng(0)
    for _ in range(500):
        value, width = rng.uniform(0, 1), rng.uniform(0.01, 0.3)
        estimate = Estimate(value, value - width, value + width)
        assert {claim(rule(move), estimate).verdict() for move in (0.9, 1, 1.1)} != {REPRODUCED, NOT_REPRODUCED}
        if claim(rule(1), estimate).verdict() != INCONCLUSIVE:  # the exact rule at both moved thresholds agrees
            assert {rule(1).decide(estimate, move) for move in (0.9, 1, 1.1)} == {claim(rule(1), estimate).verdict()}


def test_exceeds_errs_no_more_often_than_it_says():
    rng = np.random.default_rng(1)
    verdicts = {0.0: [], 0.5: []}
    for effect, made in verdicts.items():
        for _ in range(2000):
            sample = rng.normal(effect, 1, 40)
            mean, error = sample.mean(), sample.std(ddof=1) / 40**0.5
            made.append(claim(exceeds(0.25), Estimate(mean, mean - 2.02 * error, mean + 2.02 * error)).verdict())
    assert np.mean([verdict == REPRODUCED for verdict in verdicts[0.0]]) <= 0.04  # one-sided, 2.5%
    assert np.mean([verdict == REPRODUCED for verdict in verdicts[0.5]]) > 0.8
    assert np.mean([verdict == NOT_REPRODUCED for verdict in verdicts[0.5]]) < 0.03


def test_conditions_together():
    yes, no, open_ = (
        decided("", lambda move, verdict=verdict: verdict) for verdict in (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE)
    )
    any_estimate = Estimate(1)
    assert claim(together(yes, [(yes, any_estimate)], "both")).verdict() == REPRODUCED
    assert claim(together(yes, [(open_, any_estimate)], "both")).verdict() == INCONCLUSIVE
    assert claim(together(yes, [(open_, any_estimate), (no, any_estimate)], "all")).verdict() == NOT_REPRODUCED
    knife_edge = decided("", lambda move: REPRODUCED if move < 1.05 else NOT_REPRODUCED)
    assert claim(knife_edge).verdict() == INCONCLUSIVE


def test_a_p_that_is_not_small_leaves_it_open():
    assert claim(significant(exceeds(0.2)), Estimate(1, 0.5, 1.5, p=0.01)).verdict() == REPRODUCED
    assert claim(significant(exceeds(0.2)), Estimate(1, 0.5, 1.5, p=0.2)).verdict() == INCONCLUSIVE
    assert claim(significant(exceeds(0.2)), Estimate(1, 0.5, 1.5)).verdict() == INCONCLUSIVE  # no p at all
    assert claim(significant(exceeds(0.2)), Estimate(0, -0.1, 0.1, p=0.2)).verdict() == NOT_REPRODUCED


def test_the_words_of_a_rule_say_that_a_small_p_is_asked_for_wherever_it_is():
    with_p = Estimate(1, 0.5, 1.5, 20, 0.2)
    assert claim(exceeds(0.2), with_p).verdict() == INCONCLUSIVE
    for one in (
        claim(exceeds(0.2), with_p),
        claim(significant(exceeds(0.2)), with_p),
        claim(at_least(0.9, 0.1), with_p),
    ):
        assert one.words.count("p < 0.05 for reproduced") == 1
        assert one.row("m")["how"] == f"by looking; {one.words}"
    without = claim(exceeds(0.2))
    assert without.verdict() == REPRODUCED
    assert without.words == exceeds(0.2).words
    assert "p <" not in without.row("m")["how"]
    assert claim(None, with_p).words == ""


def test_holm_within_a_number_and_an_instrument():
    def with_p(id, p, instrument="scenes"):
        return claim(exceeds(0.2), Estimate(1, 0.5, 1.5, 20, p), id, instrument)

    claims = [with_p("C6.a", 0.01), with_p("C6.b", 0.04), with_p("C6.c", 0.03), with_p("C7.a", 0.04)]
    claims += [with_p("C6.a", 0.04, "accounts"), with_p("C6.d", NAN)]
    np.testing.assert_allclose(holm(claims), [0.03, 0.06, 0.06, 0.04, 0.04, NAN])
    table = claims_table("m", claims)
    assert list(table["verdict"]) == [REPRODUCED, INCONCLUSIVE, INCONCLUSIVE, REPRODUCED, REPRODUCED, REPRODUCED]


@pytest.mark.parametrize(
    ("m", "verdict"), [(15, NOT_TESTABLE), (19, NOT_TESTABLE), (20, REPRODUCED), (NAN, REPRODUCED)]
)
def test_units_too_few_for_a_small_p_are_not_testable_whatever_they_say(m, verdict):
    least = 0.02 if np.isnan(m) else 1 / (m + 1)
    (row,) = claims_table("m", [claim(exceeds(0.2), Estimate(1, 0.5, 1.5, 4, least, m))]).to_dict("records")
    assert row["verdict"] == verdict
    assert ("at least, whatever is measured" in row["how"]) == (verdict == NOT_TESTABLE)
    refuted = claim(exceeds(0.2), Estimate(0, -0.1, 0.1, 4, 1.0, m)).verdict()
    assert refuted == (NOT_TESTABLE if verdict == NOT_TESTABLE else NOT_REPRODUCED)
    assert claim(exceeds(0.2), Estimate(0, -0.1, 0.1, 4, NAN, -1)).verdict() == NOT_REPRODUCED  # there is no p


def test_what_cannot_be_tested_takes_nothing_from_the_others_in_holms_correction():
    few, enough = Estimate(1, 0.5, 1.5, 4, 1 / 16, 15), Estimate(1, 0.5, 1.5, 12, 0.04, 4095)
    np.testing.assert_allclose(
        holm([claim(exceeds(0.2), few, "C5.a"), claim(exceeds(0.2), enough, "C5.b")]), [NAN, 0.04]
    )


def test_what_holms_correction_makes_impossible_is_not_testable():
    def family(size, m, p):
        return [claim(exceeds(0.2), Estimate(1, 0.5, 1.5, 6, p, m), f"C5.{index}") for index in range(size)]

    # Six topics, two-sided: 32 pairs of opposite signs. One claim can be borne out, twelve together never.
    for size, verdict in ((1, REPRODUCED), (12, NOT_TESTABLE)):
        table = claims_table("m", family(size, 31, 1 / 32))
        assert set(table["verdict"]) == {verdict}
    assert least(family(12, 31, 1 / 32)) == pytest.approx([12 / 32] * 12)
    # the same claims beside eleven whose p may be anything: then the correction may ask for 1 alone
    others = [claim(exceeds(0.2), Estimate(1, 0.5, 1.5, 6, 1e-9), f"C5.other{index}") for index in range(11)]
    assert list(claims_table("m", [*family(1, 31, 1 / 32), *others])["verdict"]) == [REPRODUCED] * 12
    # and no claim that the best outcome would bear out is called not testable
    for size in range(1, 13):
        for m in (20, 31, 63, 127, 511):
            best = claims_table("m", family(size, m, 1 / (m + 1)))
            expected = REPRODUCED if size / (m + 1) < 0.05 else NOT_TESTABLE
            assert set(best["verdict"]) == {expected}


def test_ranking_texts_and_steering_are_two_questions_of_an_estimator():
    ids = ("estimator.whitened.last", "estimator.steering.whitened", "neighbour.valence.last", "C6.u.mean")
    numbers = [claim(exceeds(0.2), id=id).number for id in ids]
    assert numbers == ["estimator", "estimator.steering", "neighbour.valence", "C6"]


def test_a_claim_without_a_rule_is_not_testable_and_is_a_row_of_the_table():
    table = claims_table("a model", [claim(None, Estimate(1, n=20)), claim(exceeds(0.2))])
    assert list(table.columns) == COLUMNS
    row, other = table.to_dict("records")
    assert (row["model"], row["id"], row["measured"], row["n"]) == ("a model", "C0.x", 1, 20)
    assert (row["verdict"], row["how"]) == (NOT_TESTABLE, "by looking")
    assert np.isnan([row["low"], row["high"], row["p"]]).all()
    assert other["how"].startswith("by looking; reproduced if the interval lies above 0")
