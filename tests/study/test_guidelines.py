"""Rules for practice: each verdict follows the tables, and takes all of its four values."""

import numpy as np
import pandas as pd
import pytest

from emotrace.study import guidelines
from emotrace.study.guidelines import NO, UNTESTED, YES
from emotrace.study.verdicts import INCONCLUSIVE


def verdicts(start: str, **tables: pd.DataFrame) -> list[str]:
    """Of each model, of the rule that starts so, then the one over models."""
    claims = pd.DataFrame({"model": list(dict.fromkeys(name for table in tables.values() for name in table["model"]))})
    (rule,) = [rule for rule in guidelines.rules({"claims": claims, **tables}) if rule["rule"].startswith(start)]
    return [*(finding["verdict"] for finding in rule["findings"]), rule["verdict"]]


def cells(*accuracies: float, width: float = 0.02) -> pd.DataFrame:
    """The factorial's accuracies of self plain, unnamed and chat, and of ours plain."""
    sources = [("self", "plain"), ("self", "unnamed"), ("self", "chat"), ("ours", "plain")]
    rows = [
        {"author": author, "frame": frame, "value": value, "low": value - width, "high": value + width}
        for (author, frame), value in zip(sources, accuracies, strict=False)
    ]
    shared = {"model": "m", "pooling": "mean", "components": "kept", "metric": "nearest_centroid", "texts": 8, "n": 8}
    return pd.DataFrame(rows).assign(**shared)


def test_stories_that_carry_the_feeling_as_passages_do_need_no_check():
    rule = "Decode the model's own stories"
    assert verdicts(rule, factorial=cells(0.05, 0.05, 0.2, 0.6)) == [YES, YES]
    assert verdicts(rule, factorial=cells(0.7, 0.7, 0.8, 0.6)) == [NO, NO]
    assert verdicts(rule, factorial=cells(0.58, 0.6, 0.7, 0.6)) == [INCONCLUSIVE, INCONCLUSIVE]
    base = cells(0, 0, 0, 0.6).query("author == 'ours'")  # a base model writes none
    assert verdicts(rule, factorial=base) == [UNTESTED, UNTESTED]


def test_the_verdict_over_models_counts_those_that_were_tested():
    several = pd.concat(
        [
            cells(0.05, 0.05, 0.2, 0.6),
            cells(0.7, 0.7, 0.8, 0.6).assign(model="n"),
            cells(0, 0, 0, 0.6).query("author == 'ours'").assign(model="base"),
        ]
    )
    assert verdicts("Decode the model's own stories", factorial=several) == [YES, NO, UNTESTED, "yes in 1 of 2 models"]


def directions(permuted: float, random: float, width: float = 0.02) -> pd.DataFrame:
    rows = [
        {"emotion": name, "relative": 1.0, "value": value, "low": value - width, "high": value + width, "n": 80}
        for name, value in (("all", 0.9), ("permuted", permuted), ("random", random))
    ]
    return pd.DataFrame(rows).assign(model="m", arm="calibrated", regime="surgical", perplexity_ratio=1.0)


@pytest.mark.parametrize(
    ("permuted", "random", "width", "verdict"),
    [(0.95, 0.05, 0.02, YES), (0.95, 0.95, 0.02, NO), (0.9, 0.8, 0.1, INCONCLUSIVE)],
)
def test_gaussian_directions_are_no_worse_a_control_where_they_break_no_text(permuted, random, width, verdict):
    table = directions(permuted, random, width)
    assert verdicts("Take permuted-label vectors", regimes=table) == [verdict] * 2
    other_arm = pd.concat([table, directions(0.1, 0.9).assign(arm="published")])
    assert verdicts("Take permuted-label vectors", regimes=other_arm) == [verdict] * 2


@pytest.mark.parametrize(("low", "verdict"), [(10, NO), (55, YES), (30, INCONCLUSIVE)])
def test_loops_that_perplexity_calls_coherent_decide_whether_to_measure_repetition(low, verdict):
    ratios = np.where(np.arange(100) < low, 1.0, 9.0)
    table = pd.DataFrame({"emotion": "sad", "regime": "repetitive collapse", "perplexity_ratio": ratios})
    table = pd.concat([table, directions(0.9, 0.9)]).assign(model="m")
    assert verdicts("Measure repetition", regimes=table) == [verdict] * 2


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.6, -0.1, YES), (0.1, 0.4, NO), (-0.2, 0.1, INCONCLUSIVE), (np.nan,) * 2 + (INCONCLUSIVE,)],
)
def test_asking_comes_first_where_it_is_confirmed_more_often(low, high, verdict):
    row = {
        "where": "scenarios",
        "metric": "success",
        "emotion": "all",
        "steering": 0.2,
        "prompting": 0.5,
        "value": -0.3,
    }
    table = pd.DataFrame([{**row, "low": low, "high": high, "n": 20, "model": "m"}])
    assert verdicts("Ask the model", prompting=table) == [verdict] * 2


def test_a_score_that_rises_without_a_feeling_in_the_vector_says_little():
    def table(positive: float) -> pd.DataFrame:
        shares = positive + 0.05 * np.random.default_rng(0).normal(size=40)
        return pd.DataFrame(
            {"model": "m", "arm": "calibrated", "rise": 0.1, "success": False, "permuted_positive": shares}
        )

    assert verdicts("Count a success against controls", verification=table(0.45)) == [YES] * 2
    assert verdicts("Count a success against controls", verification=table(0.05)) == [NO] * 2
    assert verdicts("Count a success against controls", verification=table(0.2)) == [INCONCLUSIVE] * 2
    old = table(0.4).drop(columns="permuted_positive")
    assert verdicts("Count a success against controls", verification=old) == [UNTESTED] * 2


@pytest.mark.parametrize(("ratio", "verdict"), [(2.4, YES), (5.0, NO), (3.9, INCONCLUSIVE)])
def test_a_quarter_of_the_spread_without_the_emotion_is_a_good_part_of_it(ratio, verdict):
    table = pd.DataFrame(
        {"model": "m", "pooling": "last", "metric": "ratio", "layer": [0, 1, 2], "value": [99, 1.1, ratio]}
    )
    table = table.assign(low=table["value"] - 0.2, high=table["value"] + 0.2)
    words = pd.DataFrame({"model": ["m"], "pooling": "mean", "metric": "logistic_regression", "layer": 0, "value": 0.4})
    words = words.assign(low=0.35, high=0.45, null=0.05)
    separation = pd.concat([table, words])
    assert verdicts("Put shuffled labels", separation=separation) == [verdict] * 2
    assert verdicts("Put a bag-of-embeddings", separation=separation) == [YES] * 2


@pytest.mark.parametrize(("strengths", "verdict"), [((0.1, 0.3), YES), ((0.1, 0.12), NO), ((0.1, 0.2), INCONCLUSIVE)])
def test_strengths_count_as_unlike_beyond_what_one_search_differs_from_another(strengths, verdict):
    table = pd.DataFrame({"model": ["a", "b"], "relative": 1.0, "strength": strengths})
    assert verdicts("Do not carry a strength", across_steering=table) == [verdict] * 2
