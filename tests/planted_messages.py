"""Passages, scenarios and graded messages as vectors with a known direction for each emotion."""

import numpy as np
import pandas as pd

from emotrace.instrument import corpus
from emotrace.study.reading.projection import Texts

NAMES, TOPICS, D = corpus.emotion_names(), list(corpus.topics().index), 40
DIRECTIONS = np.random.default_rng(99).normal(size=(len(NAMES), D))


def passages(seed: int = 0, strength: float = 1.5) -> Texts:
    """One passage a topic and emotion: noise, what all share, and ``strength`` × the emotion's direction."""
    labels = [(topic, name) for topic in TOPICS for name in NAMES]
    topics, emotions = (np.array(column) for column in zip(*labels, strict=True))
    features = np.random.default_rng(seed).normal(size=(len(labels), D)) + 5
    return Texts(features + strength * DIRECTIONS[[NAMES.index(name) for name in emotions]], topics, emotions, NAMES)


def doses(
    table: pd.DataFrame, *, own: float = 0.0, number: float = 0.0, other: float = 0.0, noise: float = 0.1, seed: int = 1
) -> np.ndarray:
    """Messages whose ``own`` emotion moves with the dose or with the ``number``, and the ``other`` with the dose.

    Each is so much times the emotion's direction and the level's rank from 0 to 1, with the sign of the scale.
    """
    rng = np.random.default_rng(seed)
    states = noise * rng.normal(size=(len(table), D))
    for at, row in enumerate(table.itertuples()):
        levels = sorted(table[table["scale"] == row.scale]["level"].unique())
        step = row.sign * levels.index(row.level) / (len(levels) - 1)
        dose = row.kind == "dose"
        states[at] += step * (own if dose else number) * DIRECTIONS[NAMES.index(row.emotion)]
        states[at] += step * other * dose * DIRECTIONS[NAMES.index(row.control_emotion)]
    return states
