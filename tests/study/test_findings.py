"""The sentences that a report opens with say what the tables say; claims stand under their numbers."""

import pandas as pd
import pytest

from emotrace.study import claim_groups
from emotrace.study.findings import Claims, _raw_cosines, findings
from emotrace.study.verdicts import COLUMNS


def claim(id: str, measured: float, verdict: str, instrument: str = "scenes", low=None, high=None) -> dict[str, object]:
    row = dict.fromkeys(COLUMNS)
    return row | {
        "model": "m",
        "instrument": instrument,
        "id": id,
        "claim": f"{id.partition('.')[0]} what is claimed (last token, the paper's pooling)",
        "paper": "its value",
        "measured": measured,
        "low": measured - 0.1 if low is None else low,
        "high": measured + 0.1 if high is None else high,
        "n": 12,
        "verdict": verdict,
        "how": "by a rule",
    }


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    rows = [
        claim("C6.depth.last", 0.5, "reproduced"),
        claim("C6.depth.last", 0.8, "not reproduced", "accounts"),
        claim("C6.u.last", 0.3, "inconclusive"),
        claim("C6.space.last", 0.25, "reproduced"),
        claim("C8.towards.kin_log_probability", 1.5, "reproduced"),
        claim("C8.towards.classifier", 0.04, "inconclusive"),
        claim("C8.towards.kin_share", 0.0, "not reproduced"),
    ]
    return {"claims": pd.DataFrame(rows, columns=COLUMNS)}


def test_each_sentence_has_the_values_intervals_and_verdicts_of_its_claims(tables):
    said = {finding.title: finding.sentence for finding in findings(tables)}
    assert len(said) == 5
    assert "at depth 0.5 (0.4 to 0.6; accounts: 0.8), where the paper says about half" in said["Depth"]
    assert "(*reproduced* on scenes, *not reproduced* on accounts); its U over depth: *inconclusive*" in said["Depth"]
    parts = [
        "1.5 (1.4 to 1.6) nats",
        "(*reproduced*), 0.04 (-0.06 to 0.14) to an outside",
        "and 0 (-0.1 to 0.1) to the share of its words in the text (*not reproduced*).",
    ]
    places = [said["Steering"].index(part) for part in parts]
    assert places == sorted(places)


def test_what_was_not_measured_has_no_sentence(tables):
    missing = {finding.title: finding.experiment for finding in findings(tables) if finding.sentence is None}
    assert missing == {"Reading": "localisation", "Writing": "method_comparison", "The outside judge": "verification"}
    assert all(finding.sentence is None for finding in findings({}))


def test_figures_say_their_pooling_and_how_many_topics_they_rest_on():
    """Two poolings may have two verdicts: both are told, each beside its own figure."""
    rows = [
        claim("C5.separation.last", -0.1, "inconclusive"),
        claim("C5.separation.mean", -0.2, "not reproduced"),
        claim("neighbour.probe.mean", 0.6, "inconclusive") | {"n": 6},
    ]
    words = {"model": "m", "instrument": "scenes", "pooling": "mean", "metric": "logistic_regression", "layer": 0}
    cell = {"model": "m", "instrument": "scenes", "centre": "train", "value": 0.03, "low": 0.01, "high": 0.05}
    cell |= {
        f"{side}_{name}": of for side in ("train", "test") for name, of in (("author", "self"), ("frame", "plain"))
    }
    tables = {
        "claims": pd.DataFrame(rows, columns=COLUMNS),
        "separation": pd.DataFrame([words | {"value": 0.3, "null": 0.05, "n": 12}]),
        "factorial_decoding": pd.DataFrame(
            [cell | {"pooling": "last", "value": 0.9, "chance": 0.05}, cell | {"pooling": "mean", "chance": 0.05}]
        ),
    }
    said = {finding.title: finding.sentence for finding in findings(tables)}
    assert "probe of the mean over tokens" in said["Reading"]
    assert "0.6 (0.5 to 0.7) of texts on 6 topics" in said["Reading"]
    assert "reach 0.3 over all 12 topics, chance 0.05" in said["Reading"]
    assert "-0.1 (-0.2 to 0) at the last token and -0.2 (-0.3 to -0.1) in the mean over tokens" in said["Writing"]
    assert "at the last token *inconclusive*, in the mean over tokens *not reproduced*" in said["Writing"]
    assert "decoded in 0.03 (0.01 to 0.05; chance 0.05) by the mean over tokens" in said["Writing"]


def test_an_interval_that_is_none_is_said_to_be_none():
    rows = [claim("C5.separation.last", -0.042, "inconclusive", low=float("nan"), high=float("nan"))]
    assert Claims({"claims": pd.DataFrame(rows)}).value("C5.separation.last") == "-0.042 (no interval)"


def test_claims_stand_under_their_numbers_one_line_each_with_what_is_still_to_come(tables):
    groups = claim_groups.groups(tables["claims"].to_dict("records"), ["C8.towards.classifier", "C9.strict"])
    by_number = {group["number"]: group for group in groups}
    assert list(by_number) == [f"C{number}" for number in range(1, 13)]
    assert [line["id"] for line in by_number["C6"]["lines"]] == ["C6.depth.last", "C6.u.last", "C6.space.last"]
    depth = by_number["C6"]["lines"][0]
    assert [row["instrument"] for row in depth["measures"]] == ["scenes", "accounts"]
    assert depth["claim"] == "what is claimed (last token)"
    assert by_number["C8"]["missing"] == []  # it is there
    assert by_number["C9"]["missing"] == ["C9.strict"]
    assert by_number["C7"]["note"] == "Not part of this run."


def test_error_rates_are_those_of_the_claims_own_rule():
    assert {rate["effect"] for rate in claim_groups.rates("C6.depth.mean")} == {True, False}
    assert {rate["claim"] for rate in claim_groups.rates("C6.u.last")} == {"C6.u.*"}
    assert claim_groups.rates("C8.all_layers") == []  # never tested, so never simulated
    for rate in claim_groups.rates("C6.depth.last"):
        assert rate["reproduced"] + rate["not_reproduced"] + rate["inconclusive"] == pytest.approx(1, abs=0.002)


def test_the_papers_own_measure_stands_beside_the_comparison_of_methods_where_it_has_a_p():
    row = {"instrument": "scenes", "sample": "pairs_chosen", "metric": "difference", "pooling": "last"}
    rows = [
        {**row, "value": -0.25, "low": -0.5, "high": -0.125, "p": 0.03},
        {**row, "value": 0.75, "low": 0.5, "high": 1.0, "p": float("nan")},
        {**row, "metric": "cohens_d", "value": 9.0, "low": 8.0, "high": 10.0, "p": 0.5},
        {**row, "instrument": "accounts", "value": 7.0, "low": 6.0, "high": 8.0, "p": 0.5},
    ]
    told = _raw_cosines({"method_comparison": pd.DataFrame(rows)})
    assert told.endswith("further apart: -0.25 (-0.5 to -0.125), p = 0.03)")
    assert _raw_cosines({"method_comparison": pd.DataFrame(rows[1:2])}) == ""
