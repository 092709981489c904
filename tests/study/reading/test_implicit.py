"""Ranks of implied emotions in features whose truth is known: planted ones are found, others are at chance."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from planted_messages import DIRECTIONS, NAMES, D, passages

from emotrace.instrument import corpus
from emotrace.measures.randomness import generator
from emotrace.study.reading import implicit
from emotrace.study.reading.projection import Texts

TABLE = corpus.implicit_scenarios()
TARGETS = np.array([NAMES.index(name) for name in TABLE["emotion"]])


def ranked(states: np.ndarray, texts: Texts | None = None, permutations: int = 199):
    scenarios, rates = implicit.ranked(TABLE, texts or passages(), states, permutations, 200, partial(generator, 0))
    return pd.DataFrame(scenarios), pd.DataFrame(rates).set_index("metric")


def noise(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(TABLE), D))


def test_implied_emotions_rank_first_whatever_all_scenarios_share():
    shared = 50 * np.random.default_rng(5).normal(size=D)  # the tokens before the reply
    scenarios, rates = ranked(shared + 2 * DIRECTIONS[TARGETS] + 0.3 * noise())
    assert (scenarios["rank"] == 1).all()
    assert list(scenarios["first"]) == list(scenarios["emotion"])
    top = rates.loc["top3"]
    assert (top["value"], top["high"]) == (1, 1)
    assert top["low"] == pytest.approx(0.862, abs=0.001)  # Wilson at 24 of 24
    assert top["chance"] == 0.15
    assert top["p"] == top["shuffled_p"] == 1 / 200
    assert top["null"] == pytest.approx(0.15, abs=0.02)
    assert rates.loc["rank", "value"] == 1
    assert rates.loc["rank", "p"] == 1 / 200
    assert rates.loc["rank", "null"] == pytest.approx(10.5, abs=0.3)


def test_an_emotion_that_is_near_counts_for_its_family_alone():
    """Each scenario holds the emotion that lies nearest in the plane: not its own, but one of the family."""
    norms = corpus.emotions().loc[NAMES]
    points = np.stack([norms["valence"], norms["arousal"]], axis=1)
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    nearest = np.nan_to_num(distances, nan=np.inf).argmin(axis=1)
    has_family = distances[TARGETS, nearest[TARGETS]] <= implicit.NEAR
    scenarios, rates = ranked(2 * DIRECTIONS[nearest[TARGETS]] + 0.1 * noise())
    assert [NAMES.index(name) for name in scenarios["first"]] == list(nearest[TARGETS])
    assert rates.loc["top3_near", "value"] >= has_family.mean() > 0.5
    assert rates.loc["top3_near", "value"] > rates.loc["top3", "value"] + 0.3


def test_scenarios_without_a_feeling_are_at_chance():
    rates = [ranked(noise(seed), permutations=19)[1] for seed in range(60)]
    for metric, tolerance in (("top3", 0.03), ("top3_near", 0.04), ("rank", 0.5)):
        chance = rates[0].loc[metric, "chance"]
        assert np.mean([rate.loc[metric, "value"] for rate in rates]) == pytest.approx(chance, abs=tolerance)
    p = np.array([rate.loc["top3", "p"] for rate in rates])
    assert (p <= 0.05).mean() < 0.15  # 60 tests at 5%
    assert p.mean() > 0.4


def test_passages_without_a_feeling_give_chance_even_where_scenarios_have_one():
    texts = passages(strength=0.0)
    _, rates = ranked(2 * DIRECTIONS[TARGETS] + noise(), texts)
    assert rates.loc["top3", "value"] < 0.4
    assert rates.loc["top3", "p"] > 0.01


def test_the_difference_from_words_is_paired_by_scenario():
    emotions = ["a", "a", "b", "c", "d", "e"]
    own = [{"emotion": name, "hit": hit} for name, hit in zip(emotions, [1, 1, 1, 1, 1, 0], strict=True)]
    words = [{"emotion": name, "hit": hit} for name, hit in zip(emotions, [0, 0, 0, 0, 1, 0], strict=True)]
    row = implicit.over_words(own, words, "top3_over_tfidf", 500, partial(generator, 0))
    assert row["value"] == pytest.approx(4 / 6)
    assert (row["p"], row["m"]) == (pytest.approx(0.5**4), 4)  # four scenarios differ, all one way
    assert row["low"] < 4 / 6 < row["high"]
    assert implicit.over_words(words, own, "x", 50, partial(generator, 0))["p"] == 1
    assert implicit.over_words(own, own, "x", 50, partial(generator, 0))["p"] == 1
