"""A ``Steering`` put together by hand: model, vectors, layer and strength, without a reading that they come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from joy_model import WordCounter

from emotrace.models import Model
from emotrace.study.steered import Steering
from emotrace.study.study import Progress, Settings, Study
from emotrace.vectors import EmotionVectors


class Uncached:
    """A run that keeps nothing."""

    def rows(self, key: dict[str, Any], compute: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        return compute()


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
    study = Study(*facts, None, {}, settings or Settings(), run or Uncached(), progress, loaded=model)
    study.classifier = WordCounter()
    return Steering(study, vectors, layer, read_layer or model.n_layers, strength, gaps={}, tried=None)
