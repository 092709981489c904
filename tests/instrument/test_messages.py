"""``implicit.csv`` and ``graded.csv`` hold what ``data/README.md`` promises."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from emotrace.instrument import corpus
from emotrace.study.reading.projection import Projections, Texts, ranks

IMPLICIT, GRADED = corpus.implicit_scenarios(), corpus.graded_prompts()
DOUBLED = {"sad", "calm", "afraid", "enthusiastic"}


@pytest.mark.parametrize("table", [IMPLICIT, GRADED], ids=["implicit", "graded"])
def test_messages_are_plain_short_and_without_kin_words(table):
    assert table["id"].is_unique
    for message in table["prompt"]:
        assert 20 <= len(corpus.words(message)) <= 45, message
        assert message.endswith(".")
        assert not corpus.leaks(message)
        assert re.fullmatch(r"[A-Za-z0-9 ,.'-]+", message), message  # no mark that one feeling alone would have
        assert "  " not in message


def test_every_emotion_is_implied_and_one_of_each_quarter_of_the_plane_twice():
    counts = IMPLICIT["emotion"].value_counts()
    assert set(counts.index) == set(corpus.emotion_names())
    assert set(counts[counts == 2].index) == DOUBLED
    assert len(IMPLICIT) == 24
    norms = corpus.emotions().loc[corpus.emotion_names(), ["valence", "arousal"]]
    sides = {tuple(row) for row in (norms > norms.median()).loc[sorted(DOUBLED)].to_numpy()}
    assert len(sides) == 4


def test_no_template_and_no_run_of_words_from_the_passages():
    def runs(text: str, length: int) -> set[tuple[str, ...]]:
        found = corpus.words(text)
        return set(zip(*(found[start:] for start in range(length)), strict=False))

    seen = [runs(message, 5) for message in IMPLICIT["prompt"]]
    assert not any(seen[one] & seen[other] for one in range(24) for other in range(one))
    openings = [" ".join(corpus.words(message)[:3]) for message in IMPLICIT["prompt"]]
    assert len(set(openings)) == 24
    for passages in corpus.instruments().values():
        of_passages = set().union(*(runs(text, 5) for text in passages["text"]))
        assert not any(of_scenario & of_passages for of_scenario in seen)


def top_three_by_words(table: pd.DataFrame, passages: pd.DataFrame) -> float:
    """The share of messages whose emotion is among the three that TF-IDF of the passages ranks highest."""
    passages = passages[passages["emotion"] != corpus.NEUTRAL]
    vectorizer, names = TfidfVectorizer(sublinear_tf=True), corpus.emotion_names()
    features = vectorizer.fit_transform(passages["text"]).toarray()
    texts = Texts(features, passages["topic"].to_numpy(), passages["emotion"].to_numpy(dtype=str), names)
    scored = Projections(texts, vectorizer.transform(table["prompt"]).toarray()).own()
    return float((ranks(scored, np.array([names.index(name) for name in table["emotion"]])) <= 3).mean())


@pytest.mark.parametrize("instrument", list(corpus.instruments()))
def test_the_words_of_the_scenarios_give_their_emotions_away_little(instrument):
    passages = corpus.passages(instrument=instrument)
    assert top_three_by_words(IMPLICIT, passages) <= 0.42  # chance 0.15
    # The measure does see words: of texts made of the passages' own it finds most.
    own = passages[passages["emotion"] != corpus.NEUTRAL].rename(columns={"text": "prompt"})
    assert top_three_by_words(own, passages) > 0.9


def test_a_scale_changes_one_number_of_one_sentence_at_a_time():
    assert GRADED["scale"].nunique() == 6
    for _, rows in GRADED.groupby("scale"):
        frames = {re.sub(r"\d+", "#", message) for message in rows["prompt"]}
        assert len(frames) == 1
        by_kind = {kind: part.sort_values("level") for kind, part in rows.groupby("kind")}
        assert set(by_kind) == {"dose", "control"}
        assert list(by_kind["dose"]["level"]) == list(by_kind["control"]["level"])
        levels = by_kind["dose"]["level"].to_numpy()
        assert len(set(levels)) == 8
        steps = np.diff(np.log(levels))
        assert levels[-1] >= 100 * levels[0]
        assert steps.max() < 2.2 * steps.min()  # even on a log scale
        numbers = {kind: [re.findall(r"\d+", message) for message in part["prompt"]] for kind, part in by_kind.items()}
        assert all(len(pair) == 2 for pairs in numbers.values() for pair in pairs)
        place = {
            kind: [pair.index(str(level)) for pair, level in zip(numbers[kind], levels, strict=True)]
            for kind in numbers
        }
        assert set(place["dose"]) != set(place["control"])
        for kind, (at,) in ((kind, tuple(set(places))) for kind, places in place.items()):
            fixed = {pair[1 - at] for pair in numbers[kind]}
            assert len(fixed) == 1  # the other number stays
            assert not fixed & {str(level) for level in levels}
            assert levels[2] < int(fixed.pop()) < levels[5]


def test_scales_differ_in_what_a_larger_number_means():
    scales = GRADED.drop_duplicates("scale").set_index("scale")
    assert sorted(scales["sign"]) == [-1, -1, -1, 1, 1, 1]
    assert scales["emotion"].is_unique
    valence = corpus.emotions()["valence"]
    # Whether a larger number is better: three scales each, so that a drift towards either pole favours none.
    better = [(valence[row.emotion] > 5) == (row.sign > 0) for row in scales.itertuples()]
    assert sum(better) == 3
    first = [re.search(r"\d+", row.prompt)[0] == str(row.level) for row in scales.itertuples()]
    assert sum(first) == 3  # the dose stands before the other number in three, after it in three


def test_a_control_emotion_is_the_one_most_nearly_at_a_right_angle_in_the_plane():
    norms = corpus.emotions()
    plane = norms[["valence", "arousal"]] - norms.loc[corpus.NEUTRAL, ["valence", "arousal"]]
    points = plane.loc[corpus.emotion_names()].dropna().astype(float)
    directions = points.div(np.linalg.norm(points, axis=1), axis=0)
    for row in GRADED.drop_duplicates("scale").itertuples():
        cosines = (directions @ directions.loc[row.emotion]).abs()
        assert row.control_emotion == cosines.idxmin()
        assert cosines.min() < 0.2
