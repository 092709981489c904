"""Dose sweeps with planted readings: three emotions, permuted-label and Gaussian directions, five prompts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pandas as pd

from emotrace.judges.regimes import EXPLOSIVE, SURGICAL
from emotrace.study.effects.arms import EMOTION, GAUSSIAN, PERMUTED
from emotrace.study.effects.sweep import EMOTION_METRICS, Sweep

EMOTIONS = ("happy", "sad", "calm")
PERMUTEDS = tuple(f"permuted-{number}" for number in range(1, 6))
RANDOMS = ("random-1", "random-2", "random-3")
SOURCES = {**dict.fromkeys(EMOTIONS, EMOTION), **dict.fromkeys(PERMUTEDS, PERMUTED), **dict.fromkeys(RANDOMS, GAUSSIAN)}
UNIT = 0.4
STRENGTHS = (-0.4, -0.2, 0.2, 0.4, 0.8, 1.6)
PROMPTS = ("one", "two", "three", "four", "five")

Reading = Callable[[str, str, float, int], float]
"""(direction added, emotion read, strength, number of the prompt) → a reading."""


def planted(reading: Reading, broken: Callable[[str, float], bool] = lambda source, strength: False) -> Sweep:
    """A sweep in which every metric of emotions reads ``reading``; own vectors within the unit have two seeds."""
    rows = [(prompt, "", "", 0.0, seed) for prompt in PROMPTS for seed in range(2)]
    for name, strength, prompt in product(SOURCES, STRENGTHS, PROMPTS):
        seeds = 2 if SOURCES[name] == EMOTION and abs(strength) <= UNIT else 1
        rows += [(prompt, name, SOURCES[name], strength, seed) for seed in range(seeds)]
    texts = pd.DataFrame(rows, columns=["prompt", "emotion", "source", "strength", "seed"])
    breaks = [broken(row.source, row.strength) for row in texts.itertuples()]
    texts = texts.assign(
        perplexity_ratio=np.where(breaks, 10.0, 1.0),
        regime=np.where(breaks, EXPLOSIVE, SURGICAL),
        distinct_2=1.0,
        longest_loop=0.0,
        real_words=1.0,
    )
    texts["n_tokens"] = texts["prompt"].str.len() + 10 * (texts["source"] == PERMUTED)
    values = np.array(
        [
            [reading(row.emotion, name, row.strength, PROMPTS.index(row.prompt)) for name in EMOTIONS]
            for row in texts.itertuples()
        ]
    )
    return Sweep(texts, {metric: values.copy() for metric in EMOTION_METRICS}, EMOTIONS, UNIT)


def noisy(slope_of: Callable[[str, str], float], spread: float = 0.0) -> Reading:
    """A slope for each direction and emotion, an offset for each prompt, and noise that depends on all four."""

    def reading(direction: str, emotion: str, strength: float, prompt: int) -> float:
        what = [*direction.encode(), *emotion.encode(), int(1000 + 100 * strength), prompt]
        return 3 * prompt + slope_of(direction, emotion) * strength + spread * np.random.default_rng(what).normal()

    return reading


def own_slope(direction: str, emotion: str) -> float:
    return 2.0 if direction == emotion else 0.0
