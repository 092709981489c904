"""Figures of other emotions than the twenty: they grow with their number and claim no norms that there are none of."""

import json
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from emotrace.instrument import corpus
from emotrace.study.experiment import emotions_in_words
from emotrace.study.separation import figures
from emotrace.vectors import EmotionVectors


def vectors(names) -> EmotionVectors:
    values = np.random.default_rng(0).normal(size=(len(names), 1, 8)).astype(np.float32)
    means = [np.zeros((1, 8), np.float32)] * 3
    return EmotionVectors(tuple(names), (1,), values, *means, provenance={"pooling": "mean"})


@pytest.mark.parametrize("count", [20, 171])
def test_every_name_has_room_and_valence_is_named_where_it_is_known(count):
    names = corpus.emotion_names() if count == 20 else [f"mood {number}" for number in range(count)]
    matrix, plane = (draw(vectors(names), 1) for draw in (figures.cosine_matrix, figures.valence_arousal_plane))
    ax = matrix.axes[0]
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert sorted(shown) == sorted(names)
    height = ax.get_window_extent().height / matrix.dpi / count  # inches a name
    assert height * 72 > ax.get_yticklabels()[0].get_fontsize() * 0.9
    assert ("by valence" in ax.get_title()) == (count == 20)
    assert ("|r| with valence" in plane.axes[0].get_xlabel()) == (count == 20)
    assert "nan" not in plane.axes[0].get_xlabel() + plane.axes[0].get_ylabel()
    assert {text.get_text().strip() for text in plane.axes[0].texts} >= set(names)
    assert (shown == names) == (count == 171)
    plt.close("all")


def test_the_norms_that_an_instrument_brought_order_and_colour_its_emotions():
    names = ("mood a", "mood b", "mood c", "mood d")
    own = json.dumps({name: {"valence": 9 - number, "arousal": 5.0} for number, name in enumerate(names)})
    brought = replace(vectors(names), provenance={"pooling": "mean", "norms": own})
    matrix, plane = (draw(brought, 1) for draw in (figures.cosine_matrix, figures.valence_arousal_plane))
    assert [label.get_text() for label in matrix.axes[0].get_yticklabels()] == list(names[::-1])
    assert "by valence" in matrix.axes[0].get_title()
    assert sorted(plane.axes[0].collections[1].get_array()) == [6, 7, 8, 9]
    plt.close("all")


def test_transfer_is_drawn_with_the_words_of_each_direction():
    front = {"model": "m", "metric": "accuracy", "null": 0.05, "low": np.nan, "high": np.nan, "n": 240}
    rows = []
    for train, test, words in (("a", "b", 0.3), ("b", "a", 0.2)):
        rows.append({**front, "train": train, "test": test, "pooling": "words", "value": words})
        for layer in range(4):
            at = {"pooling": "mean", "layer": layer, "depth": layer / 3, "value": words + layer / 10}
            rows.append({**front, "train": train, "test": test, **at})
    (ax,) = figures.transfer_over_depth({"transfer": pd.DataFrame(rows)}).axes
    lines = {line.get_label(): line for line in ax.get_lines()}
    np.testing.assert_allclose(lines["vectors of a, texts of b"].get_ydata(), [0.3, 0.4, 0.5, 0.6])
    assert ax.get_title("right").startswith("240 texts")
    words = [line for line in ax.get_lines() if line.get_label() == "the same by words (TF-IDF)"]
    assert [line.get_ydata()[0] for line in words] == [0.3, 0.2]
    assert words[0].get_color() == lines["vectors of a, texts of b"].get_color() != words[1].get_color()
    plt.close("all")


def test_the_number_of_emotions_is_the_instruments():
    assert emotions_in_words({"learning_curve": pd.DataFrame({"chance": [1 / 171] * 2})}) == "171 emotions"
    assert emotions_in_words({"separation": pd.DataFrame({"null": [0.3]})}) == "emotions"
