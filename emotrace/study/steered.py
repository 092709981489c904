"""What all steering experiments share: one model, its vectors, one layer, one calibrated strength.

Vectors: comprehension, mean-pooled. Layer: the one that localisation chose on half of the topics. Strength: in units of
the layer's mean residual norm, as multiples of the strength that the calibration found for this model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
# Where nothing could be calibrated, so that the tables still show what happens.
FALLBACK_STRENGTH = 0.2
# Settings with as many prompts of the dose response are full ones.
FULL_PROMPTS = 8


@dataclass
class Steering:
    """What the steering experiments on one model share; ``study.once(prepare)`` makes it.

    Attributes:
        study: the model's study.
        vectors: the vectors that are added, with their calibration.
        layer: where they are added.
        read_layer: where the effect is read (:func:`reading_layer`).
        strength: the calibrated one, in mean residual norms of the layer.
        gaps: emotion → that strength in lengths of the emotion's own vector at the layer.
        tried: ``calibration.csv``: one row a strength tried, ``setting`` ``layer N`` or ``all layers`` (with the same
            vectors), ``value`` the share of surgical texts.
    """

    study: Study
    vectors: EmotionVectors
    layer: int
    read_layer: int
    strength: float
    gaps: dict[str, float]
    tried: pd.DataFrame

    @property
    def model(self) -> Model:
        return self.study.model

    @property
    def classifier(self) -> Classifier:
        return self.study.classifier

    def row(self, **values: Any) -> dict[str, Any]:
        """A table row with the columns that every table has."""
        return self.study.row(POOLING, self.layer, **values)

    def unit(self, purpose: str, compute: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """A unit of work of ``study`` that rests on the layer, the strength and the judge as well."""
        return self.study.unit(
            f"{purpose} layer {self.layer} strength {self.strength:.6g} {self.classifier.name}", compute
        )


def prepare(study: Study) -> Steering:
    """Chooses the layer, calibrates the vectors at it and, for comparison, at all layers at once."""
    model = study.model
    layer = choose_layer(study, POOLING, "nearest_centroid")
    vectors = study.reading.vectors(POOLING)
    settings = {f"layer {layer}": [layer], "all layers": list(range(1, model.n_layers + 1))}
    calibrated = {setting: _calibrated(study, vectors, setting, layers) for setting, layers in settings.items()}
    own = calibration.Calibration(**calibrated[f"layer {layer}"]["calibration"])
    strength = own.strength or FALLBACK_STRENGTH
    norm = residual_norms(model)[layer]
    return Steering(
        study,
        own.onto(vectors),
        layer,
        reading_layer(layer, model.n_layers),
        strength,
        gaps={name: float(strength * norm / np.linalg.norm(vectors[name, layer])) for name in vectors.emotions},
        tried=pd.DataFrame(
            row for setting, result in calibrated.items() for row in _rows(study, layer, setting, result)
        ),
    )


def permuted_vectors(study: Study, pooling: str, count: int) -> EmotionVectors:
    """``permuted-1`` …: the first control of a causal claim (:meth:`~emotrace.readings.Reading.permuted`)."""
    return study.reading.permuted(pooling, count, study.rng("permuted labels", pooling))


def reading_layer(layer: int, n_layers: int) -> int:
    """The layer where the effect of an edit at ``layer`` is read: halfway between it and the last one.

    Late enough to have passed through layers, early enough to be about meaning.
    """
    return min(n_layers, (layer + n_layers + 1) // 2)


def _calibrated(study: Study, vectors: EmotionVectors, setting: str, layers: list[int]) -> dict[str, Any]:
    """``calibration``, the fields of a :class:`~emotrace.judges.calibration.Calibration`, and ``tried``, its rows."""
    seed = study.settings.seed

    def compute() -> list[dict[str, Any]]:
        result, tried = calibration.calibrate(
            study.model,
            vectors,
            layers=layers,
            texts=study.settings.calibration_texts,
            writing=replace(calibration.WRITING, max_new_tokens=study.settings.tokens, seeds=(seed, seed + 1)),
            cache=study.run,
            progress=lambda done: study.progress(f"calibrating, {setting}: strengths tried", done, 4),
        )
        return [{"calibration": vars(result), "tried": tried.to_dict("records")}]

    return study.unit(f"calibration {setting}", compute)[0]


def _rows(study: Study, layer: int, setting: str, result: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of ``calibration.csv`` of one setting; no layer where all are edited."""
    window = result["calibration"]["window"]
    low, high = (np.nan if bound is None else bound for bound in window)
    edited = np.nan if setting == "all layers" else layer
    return [
        study.row(POOLING, edited, setting=setting, **row, window_low=low, window_high=high) for row in result["tried"]
    ]
