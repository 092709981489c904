"""Rules for practice: each verdict follows the tables, and takes all of its four values."""

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from emotrace.errors import EmotraceError
from emotrace.measures import statistics
from emotrace.study import guidelines
from emotrace.study.guideline_list import difference
from emotrace.study.guidelines import NO, UNTESTED, YES
from emotrace.study.verdicts import INCONCLUSIVE


def verdicts(start: str, **tables: pd.DataFrame) -> list[str]:
    """Of each model, of the rule that starts so, then the one over models."""
    claims = pd.DataFrame({"model": list(dict.fromkeys(name for table in tables.values() for name in table["model"]))})
    (rule,) = [rule for rule in guidelines.rules({"claims": claims, **tables}) if rule["rule"].startswith(start)]
    return [*(finding["verdict"] for finding in rule["findings"]), rule["verdict"]]


def told(start: str, **tables: pd.DataFrame) -> str:
    """What the rule that starts so says was measured, of the one model."""
    claims = pd.DataFrame({"model": ["m"]})
    (rule,) = [rule for rule in guidelines.rules({"claims": claims, **tables}) if rule["rule"].startswith(start)]
    return rule["findings"][0]["measured"]


SOURCES = [("self", "plain"), ("self", "unnamed"), ("self", "chat"), ("ours", "plain")]


def factorial(*accuracies: float, gap: float = 0.0, width: float = 0.02, model: str = "m") -> dict[str, pd.DataFrame]:
    """Accuracies of self plain, unnamed and chat, and of ours plain, and one paired effect of author and frame."""
    cells = pd.DataFrame(
        [
            {f"{side}_{name}": of for side in ("train", "test") for name, of in (("author", author), ("frame", frame))}
            | {"value": value, "low": value - 0.2, "high": value + 0.2}
            for (author, frame), value in zip(SOURCES, accuracies, strict=False)
        ]
    ).assign(model=model, pooling="mean", centre="train", chance=0.05, n=8)
    named = [("author", "self", "ours"), ("frame", "chat", "unnamed"), ("pooling", "mean", "last")]
    effects = pd.DataFrame(named, columns=["factor", "level", "reference"]).assign(
        model=model, kind="marginal", metric="nearest_centroid", value=gap, low=gap - width, high=gap + width
    )
    return {"factorial_decoding": cells, "factorial_effects": effects}


BASE = {"factorial_decoding": factorial(0, 0, 0, 0.6)["factorial_decoding"].query("train_author == 'ours'")}


@pytest.mark.parametrize(("gap", "verdict"), [(-0.1, YES), (0.1, NO), (0.01, INCONCLUSIVE)])
def test_stories_that_carry_the_feeling_as_passages_do_need_no_check(gap, verdict):
    """Decided by the difference, paired by topic: the accuracies' own intervals overlap throughout."""
    rule = "Decode the model's own stories"
    tables = factorial(0.5, 0.5, 0.5, 0.6, gap=gap)
    assert verdicts(rule, **tables) == [verdict] * 2
    assert verdicts(rule, **(tables | BASE)) == [UNTESTED] * 2  # a base model writes none
    assert "stories 0.5 (0.3 to 0.7), passages 0.6" in told(rule, **tables)


@pytest.mark.parametrize(("gap", "verdict"), [(0.1, YES), (-0.1, NO), (0.01, INCONCLUSIVE)])
def test_a_request_leaks_the_label_where_texts_after_it_are_decoded_better(gap, verdict):
    tables = factorial(0.1, 0.1, 0.2, 0.6, gap=gap)
    assert verdicts("Read texts, generated ones too", **tables) == [verdict] * 2
    assert verdicts("Read texts, generated ones too", **(tables | BASE)) == [UNTESTED] * 2


def test_the_verdict_over_models_counts_those_that_were_tested():
    parts = [
        factorial(0.05, 0.05, 0.2, 0.6, gap=-0.3),
        factorial(0.7, 0.7, 0.8, 0.6, gap=0.1, model="n"),
        factorial(0, 0, 0, 0.6, gap=-0.3, model="base"),
    ]
    parts[2]["factorial_decoding"] = parts[2]["factorial_decoding"].query("train_author == 'ours'")
    several = {name: pd.concat([part[name] for part in parts]) for name in parts[0]}
    assert verdicts("Decode the model's own stories", **several) == [YES, NO, UNTESTED, "yes in 1, no in 1 of 2 models"]
    parts[0] = factorial(0.5, 0.5, 0.5, 0.6, gap=0.01)
    several = {name: pd.concat([part[name] for part in parts]) for name in parts[0]}
    found = verdicts("Decode the model's own stories", **several)
    assert found == [INCONCLUSIVE, NO, UNTESTED, "no in 1 of 2 models"]


def located(held_out: float, last: float = 0.3, half: float = 0.04) -> pd.DataFrame:
    """Decoding chose layer 5, the raw cosine layer 2; accuracies on the half that did not choose."""
    rows = [
        ("cosine", "mean", 2, 0.9),
        ("nearest_centroid", "mean", 5, held_out),
        ("nearest_centroid", "last", 4, last),
    ]
    table = pd.DataFrame(rows, columns=["criterion", "pooling", "chosen_layer", "held_out"])
    table = table.assign(held_low=table["held_out"] - half, held_high=table["held_out"] + half)
    return table.assign(model="m", chosen_depth=table["chosen_layer"] / 10, n=12)


def over_layers(raw: float, best: float, half: float = 0.03) -> pd.DataFrame:
    """Accuracy on all topics at layers 2 and 5, the latter raised by the choice."""
    nearest = pd.DataFrame({"layer": [2, 5], "value": [raw, best]}).assign(metric="nearest_centroid", pooling="mean")
    words = pd.DataFrame({"layer": [0], "value": [0.3]}).assign(metric="logistic_regression", pooling="mean")
    ratio = pd.DataFrame({"layer": [1], "value": [2.0]}).assign(metric="ratio", pooling="last")
    table = pd.concat([nearest, words, ratio])
    return table.assign(model="m", low=table["value"] - half, high=table["value"] + half, null=0.05)


@pytest.mark.parametrize(("held_out", "verdict"), [(0.46, YES), (0.34, NO), (0.44, INCONCLUSIVE)])
def test_the_chosen_layer_is_judged_on_topics_that_did_not_choose_it(held_out, verdict):
    """On all topics it is far ahead, 0.6 to 0.4; 0.46 and 0.4 differ by more than √(0.04² + 0.03²) = 0.05.

    Their intervals overlap all the same, and decide nothing.
    """
    tables = {"localisation": located(held_out), "separation": over_layers(0.4, 0.6)}
    assert verdicts("Choose the layer by decoding", **tables) == [verdict] * 2


def test_poolings_are_compared_by_their_difference():
    apart, level = located(0.36, last=0.3), located(0.35, last=0.3)  # √2 · 0.04 = 0.057
    assert verdicts("Pool over the text", localisation=apart) == [YES] * 2
    assert verdicts("Pool over the text", localisation=level) == [INCONCLUSIVE] * 2
    for gap, verdict in ((0.05, YES), (-0.05, NO), (0.01, INCONCLUSIVE)):
        paired = factorial(0.5, 0.5, 0.5, 0.6, gap=gap)["factorial_effects"]
        assert verdicts("Pool over the text", localisation=level, factorial_effects=paired) == [verdict] * 2


def test_a_difference_keeps_the_skew_of_either_interval():
    first, second = {"value": 0.5, "low": 0.47, "high": 0.56}, {"value": 0.2, "low": 0.12, "high": 0.24}
    assert difference(first, second) == pytest.approx((0.3, 0.3 - 0.05, 0.3 + 0.1))


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


def test_the_strength_is_judged_by_what_each_emotion_loses():
    """Rates that spread from 0.5 to 0.9 over emotions, and a loss of a tenth of the texts in each."""
    rates, losses = np.linspace(0.5, 0.9, 10), np.linspace(0.08, 0.12, 10)
    rows = [
        {"emotion": f"e{index}", "relative": relative, "value": rates[index] - (losses[index] if relative > 1 else 0)}
        for index in range(10)
        for relative in (1.0, 4.0)
    ]
    together = [{"emotion": "all", "relative": relative, "value": 0.7} for relative in (1.0, 4.0)]
    table = pd.DataFrame(rows + together).assign(
        model="m", arm="calibrated", regime="surgical", perplexity_ratio=1.0, low=0.5, high=0.9, n=80
    )
    controls = [{"emotion": f"permuted-{n}", "relative": 4.0, "value": 5.0 * n} for n in range(2)]  # of no emotion
    table = pd.concat([table, pd.DataFrame(controls).assign(model="m", arm="calibrated", regime="surgical")])
    assert verdicts("Calibrate the strength", regimes=table) == [YES] * 2
    assert "lost, paired by emotion, 0.1 (0.0904 to 0.11)" in told("Calibrate the strength", regimes=table)
    gained = table.assign(value=np.where(table["relative"] > 1, table["value"] + 0.3, table["value"]))
    assert verdicts("Calibrate the strength", regimes=gained) == [NO] * 2


def loops(hidden: list[list[bool]], arm: str = "calibrated") -> pd.DataFrame:
    """One list a direction: whether the perplexity ratio misses the loop at each of its strengths."""
    rows = [
        {"emotion": f"e{index}", "perplexity_ratio": 1.0 if missed else 9.0}
        for index, cells in enumerate(hidden)
        for missed in cells
    ]
    return pd.DataFrame(rows).assign(regime="repetitive collapse", arm=arm, model="m")


@pytest.mark.parametrize(("low", "verdict"), [(10, NO), (55, YES), (30, INCONCLUSIVE)])
def test_loops_that_perplexity_calls_coherent_decide_whether_to_measure_repetition(low, verdict):
    table = loops([[index < low] for index in range(100)])
    assert verdicts("Measure repetition", regimes=pd.concat([table, directions(0.9, 0.9)])) == [verdict] * 2
    # The author's arm is another question.
    other = loops([[index >= low] for index in range(100)] * 3, arm="published")
    both = pd.concat([table, other, directions(0.9, 0.9)])
    assert verdicts("Measure repetition", regimes=both) == [verdict] * 2


def test_a_direction_at_many_strengths_is_one_direction():
    """Forty cells, of which half would be enough; of four directions two say nothing."""
    table = pd.concat([loops([[True] * 10, [True] * 10, [False] * 10, [False] * 10]), directions(0.9, 0.9)])
    assert verdicts("Measure repetition", regimes=table) == [INCONCLUSIVE] * 2
    assert "40 directions × strengths (4 directions)" in told("Measure repetition", regimes=table)


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


def judged(positive: float, successes: int = 0) -> pd.DataFrame:
    """Twenty emotions of two scenarios that share what their vector does."""
    shares = np.repeat(positive + 0.05 * np.random.default_rng(0).normal(size=20), 2)
    names = np.repeat([f"e{index}" for index in range(20)], 2)
    success = np.repeat(np.arange(20) < successes, 2)
    rows = {"model": "m", "arm": "calibrated", "rise": 0.1, "m": 19, "success": success, "permuted_positive": shares}
    return pd.DataFrame({"emotion": names, **rows})


def test_a_score_that_rises_without_a_feeling_in_the_vector_says_little():
    assert verdicts("Count a success against controls", verification=judged(0.45)) == [YES] * 2
    assert verdicts("Count a success against controls", verification=judged(0.05)) == [NO] * 2
    assert verdicts("Count a success against controls", verification=judged(0.2)) == [INCONCLUSIVE] * 2
    old = judged(0.4).drop(columns="permuted_positive")
    assert verdicts("Count a success against controls", verification=old) == [UNTESTED] * 2


def test_the_judges_intervals_are_over_emotions():
    """Five of twenty emotions, so ten of forty scenarios: those of an emotion go together.

    Student's variance of the mean of twenty zeros and ones is 0.01125, as of 16.7 independent texts, hence Wilson.
    """
    table = judged(0.45, successes=5)
    n = 0.25 * 0.75 / (stats.t.ppf(0.975, 19) / 1.95996 * np.sqrt(0.25 * 0.75 / 19)) ** 2
    centre, half = (0.25 + 1.9208 / n) / (1 + 3.8415 / n), 1.95996 * np.sqrt(0.1875 / n + 0.9604 / n**2)
    low, high = centre - half / (1 + 3.8415 / n), centre + half / (1 + 3.8415 / n)
    assert f"above all of these in 0.25 ({low:.3g} to {high:.3g})" in told("Count a success", verification=table)
    assert high - low > 1.4 * np.subtract(*statistics.wilson(10, 40)[:0:-1])


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


def geometries(methods: float, models: float, width: float = 0.05, **columns: float) -> pd.DataFrame:
    """A pair of methods in one model, and a pair of models read the same way."""
    rows = [("a", "a", "generation", methods), ("a", "b", "comprehension", models)]
    table = pd.DataFrame(rows, columns=["model_a", "model_b", "method_b", "value"])
    return table.assign(
        model="a",
        method_a="comprehension",
        pooling_a="mean",
        same_pooling=True,
        same_model=table["model_a"] == table["model_b"],
        same_method=table["method_b"] == "comprehension",
        low=table["value"] - width,
        high=table["value"] + width,
        n=20,
        **columns,
    )


def test_geometries_are_compared_where_they_are_more_than_noise():
    """Stories whose feeling is decoded at chance have a geometry of noise, which agrees with none."""
    rule, low = "Name the method", geometries(0.05, 0.8)
    at_chance = factorial(0.1, 0.1, 0.2, 0.6, model="a")["factorial_decoding"]  # 0.1 (-0.1 to 0.3)
    decoded = factorial(0.5, 0.5, 0.5, 0.6, model="a")["factorial_decoding"]
    assert verdicts(rule, across_rdm=low)[-1] == UNTESTED
    assert verdicts(rule, across_rdm=low, factorial_decoding=at_chance)[-1] == UNTESTED
    # Noise lowers the agreement of methods alone, so that a low one shows nothing while no ceiling is known.
    assert verdicts(rule, across_rdm=low, factorial_decoding=decoded)[-1] == INCONCLUSIVE
    assert verdicts(rule, across_rdm=geometries(0.8, 0.5), factorial_decoding=decoded)[-1] == NO
    assert verdicts(rule, across_rdm=geometries(0.8, 0.5), factorial_decoding=at_chance)[-1] == UNTESTED


def test_geometries_are_compared_by_their_share_of_what_noise_allows():
    rule, pairs = "Name the method", geometries(0.3, 0.6)
    methods, models = [0.3, 0.6], [0.15, 0.6]
    ceilings = {"of noise": [0.3, 0.6], "real": [0.9, 0.6], "turned": [0.16, 0.9]}
    found = {
        name: verdicts(rule, across_rdm=pairs.assign(disjoint=methods, ceiling=ceiling))[-1]
        for name, ceiling in ceilings.items()
    }
    # 0.3 of 0.3 and 0.6 of 0.6 are both all of it; 0.3 of 0.9 is a third; 0.3 of 0.16 beside 0.6 of 0.9.
    assert found == {"of noise": INCONCLUSIVE, "real": YES, "turned": NO}
    assert verdicts(rule, across_rdm=pairs.assign(disjoint=models, ceiling=[0.16, 0.6]))[-1] == INCONCLUSIVE
    unknown = pairs.assign(disjoint=methods, ceiling=[np.nan, 0.6])
    assert verdicts(rule, across_rdm=unknown)[-1] == UNTESTED


def test_a_verdict_over_models_is_not_counted_with_those_it_is_made_of(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    pages = importlib.import_module("published_pages")
    rows = [
        ("m", "C6.u.last"),
        ("n", "C6.u.last"),
        ("m", "C6.u.mean"),
        ("all", "C6.u.models"),
        ("m", "C6.u_ratio.last"),
    ]
    claims = pd.DataFrame(rows, columns=["model", "id"]).assign(verdict="not reproduced")
    (line,) = [line for line in pages.advice_table(claims).splitlines() if "expect a U" in line]
    parts = line.split(" | ")[1].removesuffix(" |").split("; ")
    assert parts == [
        "`C6.u` 3 not reproduced",
        "over all models `C6.u.models` not reproduced",
        "`C6.u_ratio` 1 not reproduced",
    ]


def test_verdicts_that_a_change_of_rule_turned_are_those_that_stand_and_are_marked(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    pages, results = importlib.import_module("published_pages"), Path(__file__).parents[2] / "docs" / "results"
    changes, claims = pd.read_csv(results / "rule_changes.csv"), pd.read_csv(results / "tables" / "claims.csv")
    table = pages.changes_table(changes, claims)
    assert table in (results / "README.md").read_text(encoding="utf-8")
    assert len(table.splitlines()) == 2 + len(changes)
    listed = pages.what_holds(claims, set(changes["id"])).splitlines()
    assert {line.split("`")[1] for line in listed if "‡" in line} == {*changes["id"]}
    wrong = changes.assign(after="reproduced")
    with pytest.raises(EmotraceError, match=r"rule_changes\.csv ends with reproduced for C6\.u\.last"):
        pages.changes_table(wrong, claims)
