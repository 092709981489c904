"""Every count of a row against a closed form or a naive loop."""

import numpy as np
import pandas as pd
import pytest
from planted_chinese import NAMES
from scipy import stats

from emotrace.study.folder import select
from emotrace.study.languages.readout import Sizes
from emotrace.study.languages.rows import RowBuilder, own_minus_others


def test_own_minus_others_is_the_naive_loop_and_blind_to_how_high_a_lexicon_is_at_large():
    rng = np.random.default_rng(3)
    owner = np.array([0, 0, 1, 2, 2, 2])
    z, weights = rng.normal(size=(5, 6)), np.array([2, 0, 1, 1, 1, 1])  # three emotions and two random directions
    for given in (None, weights):
        count = np.ones(6) if given is None else given
        score = np.array([[np.average(row[owner == e], weights=count[owner == e]) for e in range(3)] for row in z])
        centred = score - score[:3].mean(axis=0)
        found = own_minus_others(z, owner, given)
        for direction in range(5):
            for emotion in range(3):
                others = [centred[direction, other] for other in range(3) if other != emotion]
                assert found[direction, emotion] == pytest.approx(centred[direction, emotion] - np.mean(others))
    raised = z + np.where(owner == 1, 50.0, 0.0)
    np.testing.assert_allclose(own_minus_others(raised, owner), own_minus_others(z, owner), atol=1e-9)


def rows_of(names: list[str], permuted: int) -> RowBuilder:
    sizes = Sizes(permuted=permuted, random=1, bootstrap=200, permutations=199)
    return RowBuilder(lambda **values: values, names, sizes)


def with_noise(array: np.ndarray, value: float = 50.0) -> np.ndarray:
    """The same with a Gaussian direction more, which no test may look at."""
    return np.concatenate([array, np.full((1, array.shape[1]), value)])


def test_ratios_are_of_sums_and_their_p_ranks_them_among_random_directions():
    above = np.array([[9.0, 1.0], [4.0, 0.0], *[[0.0, 1.0]] * 19])
    below = np.array([[10.0, 90.0], [2.0, 2.0], *[[5.0, 5.0]] * 19])
    counts = with_noise(above), with_noise(below, 2.0)
    table = pd.DataFrame(rows_of(["happy", "sad"], 19).ratios("x", *counts)).set_index("emotion")
    assert table.loc["happy", "value"] == pytest.approx(10 / 100)
    assert table.loc["sad", "value"] == pytest.approx(1.0)
    assert table.loc["all", "value"] == pytest.approx(0.55)
    assert table.loc["random", "value"] == pytest.approx(25)
    assert table.loc["permuted", "value"] == table.loc["happy", "null"] == pytest.approx(0.1)
    assert table.loc["excess", "value"] == pytest.approx(0.45)
    assert table.loc["sad", "p"] == pytest.approx(1 / 20)
    assert table.loc["happy", "p"] == pytest.approx(1.0)  # equal to all of them
    assert table.loc["happy", "low"] == pytest.approx(1 / 90)
    assert table.loc["happy", "high"] == pytest.approx(9 / 10)
    flat = pd.DataFrame(rows_of(["happy", "sad"], 19).ratios("x", *[with_noise(below)] * 2)).set_index("emotion")
    assert (flat["value"].drop("excess") == 1).all()
    assert flat.loc["excess", "value"] == 0
    assert flat.loc["all", "p"] == 1


def test_emotions_above_all_random_directions_have_a_small_p_and_swapped_ones_a_large():
    rng = np.random.default_rng(0)
    high, low = rng.uniform(5, 6, size=(8, 3)), rng.uniform(0, 1, size=(8, 3))
    one, rows = np.ones((17, 3)), rows_of(NAMES[:8], 8)

    def found_in(above):
        return pd.DataFrame(rows.ratios("x", with_noise(above), one)).set_index("emotion")

    assert found_in(np.concatenate([high, low])).loc["all", "p"] <= 0.01
    assert found_in(np.concatenate([low, high])).loc["all", "p"] >= 0.99
    alike = np.repeat(np.arange(16.0)[np.array([*range(1, 16, 2), *range(0, 16, 2)])], 3).reshape(16, 3)
    found = found_in(alike).loc["all"]
    assert found["value"] - found["null"] == pytest.approx(1)
    assert 0.2 < found["p"] < 0.6  # a difference that exchanging labels gives as well


def test_texts_missed_by_a_filter_of_english_words():
    def text(emotion, chinese=(), english=(), han=0):
        steps = [[0.2, 0.0, 0.1], [0.4, 0.0, 0.1]]
        counts = {"letters": 10, "han": han, "other_script": 0}
        return {"emotion": emotion, **counts, "chinese": chinese, "english": english, "steps": steps}

    texts = [
        text("happy", ["happy"], han=2),
        text("happy", ["happy"], ["sad"], han=2),
        text("sad", ["happy"], han=2),
        text("sad", [], ["sad"]),
        text("permuted-1"),
        text("permuted-1"),
        text("random-1"),
        text("random-1"),
    ]
    plain = [text("unsteered"), text("unsteered")]
    rows = RowBuilder(
        lambda **v: v, ["happy", "sad"], Sizes(permuted=1, random=1, bootstrap=50, permutations=99, new_tokens=3)
    )
    table = pd.DataFrame(rows.texts(0.3, texts, plain))
    at = select(table, emotion="all").set_index(["metric", "step"])["value"]
    assert at["chinese_own", np.nan] == pytest.approx(2 / 4)
    assert at["english_own", np.nan] == pytest.approx(1 / 4)
    assert at["missed_own", np.nan] == pytest.approx(1 / 4)
    assert at["missed_any", np.nan] == pytest.approx(2 / 4)
    assert at["texts_with_han", np.nan] == pytest.approx(3 / 4)
    assert at["han_letters", np.nan] == pytest.approx(6 / 40)
    assert at["han_mass", np.nan] == pytest.approx(0.3)
    assert at["han_mass_at_step", 0.0] == pytest.approx(0.2)
    assert at["han_mass_at_step", 1.0] == pytest.approx(0.4)
    assert (select(table, metric="missed_own")["n"] == 4).all()
    assert (select(table, emotion="unsteered")["strength"] == 0).all()


def test_the_papers_examples_are_tested_as_one_more_permuted_vector_would_be():
    """By rank 20 controls could not reach p < 0.05 after a correction; and a rise that one in ten has is no rise."""
    rng = np.random.default_rng(5)
    rows, ps = rows_of(NAMES, 20), []
    place = NAMES.index("desperate")
    for _ in range(400):
        z = rng.normal(size=41)
        ps.append(rows._rise("desperate", "找了", z, {})["p"])
    assert 0.02 <= np.mean(np.array(ps) <= 0.05) <= 0.08
    z[place] = z[20:40].mean() + 5
    row = rows._rise("desperate", "找了", z, {})
    assert row["value"] == pytest.approx(5)
    half = stats.t.ppf(0.975, 19) * z[20:40].std(ddof=1) * np.sqrt(1 + 1 / 20)
    assert (row["low"], row["high"]) == (pytest.approx(5 - half), pytest.approx(5 + half))
    assert row["p"] < 0.001
    assert row["n"] == 20
