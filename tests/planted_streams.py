"""Dose responses and residual streams with known numbers, for what compares models."""

import numpy as np
import pandas as pd

from emotrace.study.across.facts import Facts
from emotrace.study.across.steering import Scale

EMOTIONS = tuple(f"e{number:02d}" for number in range(20))
FACTS = {"a": Facts("llama", "instruct", 100.0), "b": Facts("gemma", "base", 300.0), "c": Facts("llama", "base", 200.0)}


def dose(**of_model: list[float]) -> pd.DataFrame:
    """``projection`` of each emotion at once and twice the calibrated strength."""
    rows = [
        {
            "model": model,
            "arm": "calibrated",
            "layer": 2,
            "relative": relative,
            "strength": 0.1 * relative,
            "emotion": emotion,
            "metric": "projection",
            "value": relative * value,
            "permuted": 0.02,
            "random": 0.01,
        }
        for model, values in of_model.items()
        for relative in (0, 1, 2)
        for emotion, value in (*zip(EMOTIONS, values, strict=False), ("all", 99.0))
    ]
    return pd.DataFrame(rows)


def scale(size: float, cosines=(0.9, 0.8, 0.5, 0.75, 0.0), emotions: int = 3) -> Scale:
    norms = size * np.arange(1, 6, dtype=float)
    gaps = np.outer(np.arange(1, emotions + 1), norms * np.sqrt(1 - np.array(cosines))) / 2
    return Scale(norms, np.array(cosines), EMOTIONS[:emotions], gaps)
