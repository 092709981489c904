"""Effect sizes against closed forms and scipy; the comparison of methods against slow loops and planted effects."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from emotrace import EmotraceError
from emotrace.measures import geometry
from emotrace.measures.statistics import cohens_d, contrast, hedges_correction
from emotrace.study.methods import comparison, figures, intraclass
from emotrace.study.methods.comparison import METHODS
from emotrace.study.methods.design import Design

# -- two samples ------------------------------------------------------------------------------------------------------


def test_cohens_d_of_minus_107_needs_values_that_hardly_differ_within_a_method():
    """The paper's d, from six values: a difference of −0.1075 over a standard deviation of 0.001.

    Were these the cosines of pairs of emotions, which spread over hundredths, the same difference would be d ≈ −5.
    """
    generation, comprehension = [0.8625, 0.8635, 0.8645], [0.970, 0.971, 0.972]
    result = contrast(generation, comprehension)
    assert result.d == pytest.approx(-107.5, abs=1e-9)
    assert result.g == pytest.approx(-107.5 * 0.797885, abs=1e-3)
    assert (result.u, result.rank_biserial, result.p) == (0, -1, pytest.approx(2 / math.comb(6, 3)))
    spread = 0.02 * stats.norm.ppf((np.arange(190) + 0.5) / 190)  # 190 pairs with a standard deviation of 0.02
    ordinary = contrast(0.8635 + spread, 0.971 + spread)
    assert -5.6 < ordinary.d < -5.2
    # Cosines lie within −1 … 1: their means differ by 2 at most.
    assert 2 / 107.5 < 0.019


@pytest.mark.parametrize(("n", "m", "p"), [(5, 5, 0.0079), (3, 10, 0.0070)])
def test_complete_separation_has_the_papers_p_only_in_small_samples(n, m, p):
    result = contrast(np.arange(n), 100 + np.arange(m))
    assert result.p == pytest.approx(2 / math.comb(n + m, n))
    assert result.p == pytest.approx(p, abs=5e-5)
    assert contrast(np.arange(190), 1000 + np.arange(190)).p < 1e-60
    assert 2 / math.comb(380, 190) < 1e-100


def test_a_contrast_agrees_with_scipy_and_with_loops():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=9).round(1), rng.normal(0.7, 2, size=14).round(1)
    result = contrast(x, y)
    wins = np.mean([(a > b) + 0.5 * (a == b) for a, b in itertools.product(x, y)])
    assert result.u == pytest.approx(wins * 9 * 14)
    assert result.rank_biserial == pytest.approx(2 * wins - 1)
    assert result.p == stats.mannwhitneyu(x, y).pvalue
    t = stats.ttest_ind(x, y).statistic  # pooled variances
    assert result.d == pytest.approx(t * math.sqrt(1 / 9 + 1 / 14))
    assert result.g == pytest.approx(result.d * (1 - 3 / (4 * 21 - 1)), rel=1e-3)
    turned = contrast(y, x)
    assert (turned.d, turned.rank_biserial) == pytest.approx((-result.d, -result.rank_biserial))


def test_the_rank_biserial_of_resamples_is_that_of_each():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(5, 7)).round(1), rng.normal(0.5, 1, size=(5, 9)).round(1)
    expected = [contrast(a, b).rank_biserial for a, b in zip(x, y, strict=True)]
    assert comparison._rank_biserial(x, y) == pytest.approx(expected)


def test_hedges_correction_is_the_exact_one():
    for freedom in (2, 4, 21, 378):
        exact = (
            math.gamma(freedom / 2) / math.sqrt(freedom / 2) / math.gamma((freedom - 1) / 2)
            if freedom < 300
            else 1 - 3 / (4 * freedom - 1)
        )
        assert hedges_correction(freedom) == pytest.approx(exact, rel=1e-5)
    assert hedges_correction(1) == 0
    # It takes the bias out: the mean of g over samples of three is the true difference.
    rng = np.random.default_rng(1)
    d = cohens_d(rng.normal(1.5, 1, size=(200_000, 4)), rng.normal(0, 1, size=(200_000, 4)))
    assert d.mean() > 1.65
    assert (d * hedges_correction(6)).mean() == pytest.approx(1.5, abs=0.02)


def test_samples_without_spread_or_too_small():
    assert contrast([1, 1, 1], [2, 2, 2]).d == -np.inf
    assert np.isnan(contrast([2, 2], [2, 2]).d)
    for x, y in (([1.0], [1.0, 2.0]), ([1.0, np.nan], [1.0, 2.0])):
        with pytest.raises(EmotraceError, match="two known values"):
            contrast(x, y)


# -- two methods ------------------------------------------------------------------------------------------------------

TOPICS, EMOTIONS, LAYERS, WIDTH = 8, 6, 4, 16


def plant(gain, seed=0, shared=False, **more):
    """Comprehension and generation texts: common point + topic + gain × emotion + noise; ``gain`` is generation's."""
    rng = np.random.default_rng(seed)
    common, emotions = 10 * rng.normal(size=(LAYERS, WIDTH)), rng.normal(size=(EMOTIONS, LAYERS, WIDTH))
    topics, texts = rng.normal(size=(TOPICS, 1, LAYERS, WIDTH)), rng.normal(size=(2, TOPICS, EMOTIONS, LAYERS, WIDTH))
    if shared:
        texts[1] = texts[0]
    pooled = {
        (*key, pooling): (common + topics + strength * emotions + noise).astype(np.float32)
        for key, strength, noise in zip(METHODS.values(), (1.0, gain), texts, strict=True)
        for pooling in ("last", "mean")
    }
    present = np.ones((TOPICS, EMOTIONS), dtype=bool)
    return Design(
        "planted", LAYERS, tuple("abcdefgh"), tuple("uvwxyz"), (1, 2, 3, 4), pooled, present, bootstrap=200, **more
    )


def compare(design):
    table = comparison.compare_methods(design, family="llama", instruct=True)
    return table.set_index(["sample", "pooling", "metric"]).sort_index()


def cosines(reading, topics, layer):
    """The cosines of all pairs of centroids, by a loop."""
    means = reading[topics][:, :, layer].mean(axis=0)
    pairs = itertools.combinations(means, 2)
    return [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]


def test_each_sample_is_what_it_is_said_to_be():
    design = plant(1.6)
    first, second = design.halves(TOPICS)
    spread = 20 * np.random.default_rng(5).normal(size=(EMOTIONS, WIDTH)).astype(np.float32)
    for (author, *_), values in design.pooled.items():  # each method and half has a layer of its own
        values[first, :, 0 if author == "self" else 1] += spread
        values[second, :, 2 if author == "self" else 3] += spread
    table = compare(design)
    readings = [design.activations(*source, "mean") for source in METHODS.values()]
    chosen = [
        int(np.argmin([np.mean(cosines(reading, first, layer)) for layer in range(LAYERS)])) for reading in readings
    ]
    everything = np.arange(TOPICS)
    samples = {
        "pairs_chosen": [cosines(reading, second, layer) for reading, layer in zip(readings, chosen, strict=True)],
        "pairs_half_depth": [cosines(reading, everything, 1) for reading in readings],
        "layers": [[np.mean(cosines(r, everything, layer)) for layer in range(LAYERS)] for r in readings],
    }
    for sample, (comprehension, generation) in samples.items():
        rows = table.loc[sample, "mean"]
        expected = contrast(generation, comprehension)
        assert rows.loc["mean_comprehension", "value"] == pytest.approx(np.mean(comprehension))
        assert rows.loc["difference", "value"] == pytest.approx(np.mean(generation) - np.mean(comprehension))
        assert rows.loc["cohens_d", "value"] == pytest.approx(expected.d)
        assert rows.loc["hedges_g", "value"] == pytest.approx(expected.g)
        assert rows.loc["rank_biserial", "value"] == pytest.approx(expected.rank_biserial)
        assert rows.loc["mann_whitney_u", ["value", "p"]].tolist() == pytest.approx([expected.u, expected.p])
        assert set(rows["n_generation"]) == set(rows["n_comprehension"]) == {len(generation)}
        assert set(rows["n"]) == {4 if sample == "pairs_chosen" else TOPICS}
    rows = table.loc["pairs_chosen", "mean"]
    assert [rows["layer_comprehension"].iloc[0] - 1, rows["layer_generation"].iloc[0] - 1] == chosen
    assert set(table.loc["pairs_half_depth", "mean"]["layer_generation"]) == {2}
    assert table.loc["layers", "mean"]["layer_generation"].isna().all()


def test_a_planted_advantage_is_found_with_its_sign():
    for gain, sign in ((2.5, -1), (0.2, 1)):
        table = compare(plant(gain))
        for sample in comparison.SAMPLES:
            rows = table.loc[sample, "last"]
            # Exchanging the methods on any topic takes from the difference: both signs of all topics alone reach it.
            assert rows.loc["difference", "p"] == 2 / 2 ** rows.loc["difference", "n"]
            for metric in ("difference", "cohens_d", "hedges_g", "rank_biserial"):
                assert sign * rows.loc[metric, "value"] > 0
                assert rows.loc[metric, "low"] <= rows.loc[metric, "value"] <= rows.loc[metric, "high"]
            assert rows.loc["difference", "high" if sign < 0 else "low"] * sign > 0


def test_methods_that_do_not_differ_are_not_told_apart():
    tables = [compare(plant(1.0, seed)) for seed in range(20)]
    for sample, metric in (("pairs_half_depth", "difference"), ("intraclass_half_depth", "intraclass_difference")):
        ps = np.array([table.loc[(sample, "mean", metric), "p"] for table in tables])
        assert np.mean(ps <= 0.05) <= 0.2
        assert 0.25 < np.mean(ps) < 0.75
    same = compare(plant(1.0, shared=True))
    for sample, metric in (("pairs_half_depth", "difference"), ("intraclass_chosen", "intraclass_difference")):
        row = same.loc[(sample, "mean", metric), ["value", "low", "high", "p"]]
        assert row.tolist() == pytest.approx([0, 0, 0, 1], abs=1e-9)


def test_a_cloud_elsewhere_in_other_units_is_no_better_separated():
    """What the exchange of texts between displaced clouds got wrong, and the raw cosine gets wrong."""
    design, moved = plant(1.0), plant(1.0)
    place = 40 * np.random.default_rng(9).normal(size=(LAYERS, WIDTH))
    for key in moved.pooled:
        if key[:2] == METHODS["generation"]:
            moved.pooled[key] = (8 * (moved.pooled[key] + place)).astype(np.float32)
    before, after = compare(design), compare(moved)
    for sample in intraclass.SAMPLES:
        first, second = (table.loc[sample, "mean"][["value", "low", "high"]].to_numpy() for table in (before, after))
        np.testing.assert_allclose(first, second, atol=1e-3)
    assert after.loc[("pairs_half_depth", "mean", "difference"), "low"] > 0  # the raw cosine is a matter of the cone
    assert before.loc[("pairs_half_depth", "mean", "difference"), "low"] < 0


@pytest.mark.parametrize("sample", intraclass.SAMPLES)
def test_the_intraclass_correlation_is_the_planted_share(sample):
    # Emotions and texts have variance 1 in every dimension: half is the emotions' in comprehension.
    tables = [compare(plant(1.6, seed)).loc[sample, "mean"]["value"] for seed in range(12)]
    found = pd.concat(tables, axis=1).mean(axis=1)
    assert found["intraclass_comprehension"] == pytest.approx(0.5, abs=0.05)
    assert found["intraclass_generation"] == pytest.approx(1.6**2 / (1.6**2 + 1), abs=0.05)
    texts = TOPICS / 2 if sample == "intraclass_chosen" else TOPICS
    assert found["ratio_comprehension"] == pytest.approx(1 + (texts - 1) * found["intraclass_comprehension"], rel=0.02)


def test_an_advantage_by_the_intraclass_correlation_is_found_with_its_sign_at_the_layer_of_the_other_half():
    for gain, sign in ((2.5, 1), (0.2, -1)):
        for sample in intraclass.SAMPLES:
            row = compare(plant(gain)).loc[(sample, "mean", "intraclass_difference")]
            assert sign * row["low"] > 0
            assert sign * row["high"] > 0
            assert row["p"] == (1 / 2**TOPICS if sign > 0 else 1)
            assert row["m"] == 2**TOPICS
    design = plant(1.0)
    first, second = design.halves(TOPICS)
    spread = 20 * np.random.default_rng(5).normal(size=(EMOTIONS, WIDTH)).astype(np.float32)
    for values in design.pooled.values():  # either half alone is told apart at a layer of its own
        values[first, :, 0] += spread
        values[second, :, 3] += spread
    row = compare(design).loc[("intraclass_chosen", "mean", "intraclass_comprehension")]
    assert row["layer_comprehension"] == 1
    assert row["value"] < 0.7  # and read where the other half chose


def test_two_topics_a_half_have_no_interval():
    design = plant(2.0)
    few = Design(
        **{
            **{name: getattr(design, name) for name in design.__dataclass_fields__},
            "topics": design.topics[:4],
            "present": design.present[:4],
            "pooled": {key: values[:4] for key, values in design.pooled.items()},
        }
    )
    table = compare(few)
    row = table.loc[("intraclass_chosen", "mean", "intraclass_difference")]
    assert np.isfinite(row["value"])
    assert row[["low", "high", "p"]].isna().all()
    assert table.loc[("intraclass_half_depth", "mean", "intraclass_difference"), "p"] == 1 / 16


def test_texts_that_are_missing_are_left_out_of_every_sum():
    design = plant(1.6)
    design.present[2, 3] = False
    for values in design.pooled.values():
        values[2, 3] = 0
    table = compare(design)
    reading = design.activations(*METHODS["generation"], "mean")
    rest = np.array([topic for topic in range(TOPICS) if topic != 2])
    means = reading[:, :, 1].mean(axis=0)
    means[3] = reading[rest, 3, 1].mean(axis=0)
    value = table.loc[("pairs_half_depth", "mean", "mean_generation"), "value"]
    assert value == pytest.approx(float(geometry.mean_pairwise_cosine(means)))
    assert np.isfinite(table.loc[("pairs_half_depth", "mean", "difference"), "p"])


def test_an_emotion_without_a_text_on_the_reporting_topics_is_left_out_there():
    design = plant(1.6)
    _, second = design.halves(TOPICS)
    design.present[second, 3] = False
    for values in design.pooled.values():
        values[second, 3] = 0
    table = compare(design)
    rows = table.loc["pairs_chosen", "mean"]
    assert set(rows["n_generation"]) == {(EMOTIONS - 1) * (EMOTIONS - 2) / 2}
    assert np.isfinite(rows.loc["difference", ["value", "low", "high", "p"]].astype(float)).all()
    assert set(table.loc["pairs_half_depth", "mean"]["n_generation"]) == {EMOTIONS * (EMOTIONS - 1) / 2}
    assert np.isfinite(table.loc[("intraclass_chosen", "mean", "intraclass_difference"), "value"])


def test_a_model_that_wrote_nothing_has_no_rows():
    design = plant(1.0)
    design.pooled = {key: values for key, values in design.pooled.items() if key[0] != "self"}
    assert comparison.compare_methods(design, family="gpt2", instruct=False).empty
    assert set(comparison.layer_curves(design)["method"]) == {"comprehension"}
    assert comparison.compare_over_models(pd.DataFrame()).empty


def test_curves_are_the_mean_cosines_of_each_layer():
    design = plant(1.6)
    table = comparison.layer_curves(design).query("method == 'generation' and pooling == 'last'")
    reading = design.activations(*METHODS["generation"], "last")
    expected = [np.mean(cosines(reading, np.arange(TOPICS), layer)) for layer in range(LAYERS)]
    assert table["value"].tolist() == pytest.approx(expected)
    assert table["depth"].tolist() == [0.25, 0.5, 0.75, 1]
    assert ((table["low"] < table["value"]) & (table["value"] < table["high"])).all()
    figure = figures.method_by_layer({"method_by_layer": comparison.layer_curves(design)})
    assert figure.axes[0].lines[1].get_ydata().tolist() == pytest.approx(expected)


# -- over models ------------------------------------------------------------------------------------------------------


def several(pairs):
    """A ``method_comparison`` of models with these (comprehension, generation) means."""
    rows = []
    for number, (comprehension, generation) in enumerate(pairs):
        shared = {
            "model": f"m{number}",
            "family": "llama" if number % 2 else "qwen",
            "kind": "base" if number > 4 else "instruct",
            "sample": "layers",
            "pooling": "last",
        }
        rows += [{**shared, "metric": "mean_comprehension", "value": comprehension}]
        rows += [
            {**shared, "metric": "mean_generation", "value": generation},
            {**shared, "metric": "difference", "value": 9},
        ]
    return pd.DataFrame(rows)


def test_over_models_each_counts_once():
    comprehension = np.array([0.99, 0.97, 0.95, 0.96, 0.98, 0.94, 0.93])
    generation = comprehension - np.array([0.02, 0.03, 0.01, 0.02, 0.05, 0.02, -0.01])
    table = comparison.compare_over_models(several(zip(comprehension, generation, strict=True)))
    rows = table.query("group == 'all'").set_index("metric")
    assert rows.loc["wins", "value"] == 6 / 7
    assert rows.loc["wins", "p"] == pytest.approx(2 * 8 / 2**7)
    expected = contrast(generation, comprehension)
    assert rows.loc["mann_whitney_u", ["value", "p"]].tolist() == [expected.u, expected.p]
    assert rows.loc["cohens_d", "value"] == pytest.approx(expected.d)
    interval = stats.ttest_rel(generation, comprehension).confidence_interval()
    assert rows.loc["difference", ["low", "high"]].tolist() == pytest.approx([interval.low, interval.high])
    assert rows.loc["cohens_d", "low"] < expected.d < rows.loc["cohens_d", "high"]
    assert dict(table[table["metric"] == "wins"].set_index("group")["n"]) == {
        "all": 7,
        "kind: base": 2,
        "kind: instruct": 5,
        "family: llama": 3,
        "family: qwen": 4,
    }
    assert table.query("group == 'kind: base' and metric == 'cohens_d'")["low"].isna().all()


def test_a_model_whose_intraclass_correlation_is_higher_in_generation_is_a_win():
    table = several([(0.1, 0.3), (0.2, 0.1)]).assign(sample="intraclass_chosen")
    table["metric"] = table["metric"].str.replace("mean_", "intraclass_")
    over = comparison.compare_over_models(table).query("group == 'all'").set_index("metric")
    assert over.loc["wins", "value"] == 0.5
    assert over.loc["difference", "value"] == pytest.approx(0.05)


def test_one_model_has_a_win_and_a_difference_and_no_effect_size():
    table = comparison.compare_over_models(several([(0.99, 0.95)])).query("group == 'all'")
    assert set(table["metric"]) == {"wins", "difference"}
    assert table.set_index("metric").loc["difference", "value"] == pytest.approx(-0.04)
