"""What all steering experiments share: one model, its vectors, one layer, one calibrated strength.

Vectors: comprehension, mean-pooled. Layer: the one that localisation chose on half of the topics. Strength: in units of
the layer's mean residual norm, as multiples of the strength that the calibration found for this model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emotrace.activations import residual_norms
from emotrace.judges import calibration
from emotrace.judges.classifiers import Classifier
from emotrace.study.study import Study, choose_layer

if TYPE_CHECKING:
    from emotrace.models import Model
    from emotrace.vectors import EmotionVectors

POOLING = "mean"
EXPERIMENTS = ("dose_response", "regimes", "verification", "crosslingual")
# Where nothing could be calibrated, so that the tables still show what happens.
FALLBACK_STRENGTH = 0.2
FULL_PROMPTS = 4


@dataclass
class Steering:
    """What the experiments share: one model, its vectors, one layer, one calibrated strength."""

    study: Study
    model: Model
    vectors: EmotionVectors
    classifier: Classifier
    layer: int
    read_layer: int
    strength: float
    gaps: dict[str, float]

    def row(self, **values: Any) -> dict[str, Any]:
        return self.study.row(POOLING, self.layer, **values)

    def unit(self, what: str, compute: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        return self.study.unit(
            f"{what} layer {self.layer} strength {self.strength:.6g} {self.classifier.name}", compute
        )


def prepare(study: Study, model: Model, classifier: Classifier) -> tuple[Steering, pd.DataFrame]:
    """Chooses the layer, calibrates the vectors at it and, for comparison, at all layers at once.

    Returns:
        What the experiments need, and ``calibration.csv``: one row a strength tried, ``setting`` ``layer N`` or ``all
        layers`` (the author's published setting), ``value`` the share of surgical texts.
    """
    layer = choose_layer(study, POOLING, "nearest_centroid")
    vectors = study.reading.vectors(POOLING)
    found: dict[str, dict[str, Any]] = {}
    for setting, layers in ((f"layer {layer}", [layer]), ("all layers", list(range(1, model.n_layers + 1)))):
        found[setting] = _calibrated(study, model, vectors, setting, layers)
    kept = calibration.Calibration(**found[f"layer {layer}"]["calibration"])
    rows = [
        study.row(
            POOLING, layer if setting != "all layers" else np.nan, setting=setting, **row,
            **dict(zip(("window_low", "window_high"), map(_number, result["calibration"]["window"]), strict=True)),
        )
        for setting, result in found.items()
        for row in result["tried"]
    ]  # fmt: skip
    norm = residual_norms(model)[layer]
    strength = kept.strength or FALLBACK_STRENGTH
    gaps = {name: float(strength * norm / np.linalg.norm(vectors[name, layer])) for name in vectors.emotions}
    read = reading_layer(layer, model.n_layers)
    steering = Steering(study, model, kept.onto(vectors), classifier, layer, read, strength, gaps)
    return steering, pd.DataFrame(rows)


def reading_layer(layer: int, n_layers: int) -> int:
    """The layer where the effect of an edit at ``layer`` is read: halfway between it and the last one.

    Late enough to have passed through layers, early enough to be about meaning.
    """
    return min(n_layers, (layer + n_layers + 1) // 2)


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _calibrated(study: Study, model: Model, vectors: EmotionVectors, setting: str, layers: list[int]) -> dict[str, Any]:
    def compute() -> list[dict[str, Any]]:
        result, tried = calibration.calibrate(
            model, vectors, layers=layers, texts=study.settings.calibration_texts, max_new_tokens=study.settings.tokens,
            seed=study.settings.seed, cache=study.run,
            progress=lambda done: study.progress(f"calibrating, {setting}: strengths tried", done, 4),
        )  # fmt: skip
        return [{"calibration": vars(result), "tried": tried.to_dict("records")}]

    return study.unit(f"calibration {setting}", compute)[0]


def framed(steering: Steering, table: pd.DataFrame) -> pd.DataFrame:
    """The columns that every table has, in front; ``relative``: strength in multiples of the calibrated one."""
    front = pd.DataFrame([steering.row()] * len(table), index=table.index)
    if "strength" in table:
        front["relative"] = table["strength"] / steering.strength
    return pd.concat([front, table], axis=1).reset_index(drop=True)
