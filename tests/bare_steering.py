"""A ``Steering`` put together by hand: model, vectors, layer and strength, with a reading of noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from joy_model import WordCounter

from emotrace.instrument import corpus
from emotrace.models import Model
from emotrace.readings import Reading
from emotrace.study.settings import Settings
from emotrace.study.steered import Steering
from emotrace.study.study import Progress, Study
from emotrace.vectors import EmotionVectors


class Uncached:
    """A run that keeps nothing."""

    def rows(self, key: dict[str, Any], compute: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        return compute()


def planted_reading(vectors: EmotionVectors, topics: int = 6) -> Reading:
    """A reading of which the emotions are those of ``vectors``: a text an emotion and topic, much noise between topics.

    Labels permuted within topics leave hardly anything of an emotion: what a text has of its own is small.
    """
    rng, names = np.random.default_rng(0), (*vectors.emotions, corpus.NEUTRAL)
    known = list(corpus.topics().index)[:topics]
    labels = pd.DataFrame([(topic, name, f"{topic} {name}") for topic in known for name in names])
    labels.columns = ["topic", "emotion", "text"]
    shape = len(vectors.layers), vectors.d_model
    own = dict(zip(vectors.emotions, vectors.values, strict=True)) | {corpus.NEUTRAL: np.zeros(shape)}
    pooled = np.stack([0.1 * own[name] + rng.normal(size=shape) for name in labels["emotion"]]).astype(np.float32)
    return Reading(labels, {"mean": pooled}, list(vectors.layers), dict(vectors.provenance))


def bare_steering(
    model: Model,
    vectors: EmotionVectors,
    layer: int,
    strength: float = 1.0,
    *,
    read_layer: int | None = None,
    settings: Settings | None = None,
    run: Any = None,
    progress: Progress = lambda what, done, of: None,
) -> Steering:
    facts = model.name, model.family, model.n_layers, model.instruct
    study = Study(
        *facts, planted_reading(vectors), {}, settings or Settings(), run or Uncached(), progress, loaded=model
    )
    study.classifier = WordCounter()
    return Steering(study, vectors, layer, read_layer or model.n_layers, strength, gaps={}, tried=None)
