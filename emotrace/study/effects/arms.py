"""The two ways of steering that are put through the same tests: ours, calibrated, and the author's published one.

``calibrated``: mean-pooled vectors at the one layer that localisation chose, at multiples of the strength that the
calibration found for this model. ``published``: the author's, as far as his public report and code say: last-token
vectors, every layer at once, every token, the norm of the activations at hand, strengths 0.005 to 0.08.

Either arm has its own controls, of equal norm: ``permuted``, vectors of the same texts with labels permuted within
topics, and in the calibrated arm ``gaussian``, random directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emotrace.steered_texts import steered_positions
from emotrace.steering import random_like
from emotrace.study.steered import POOLING, Steering, permuted_vectors
from emotrace.tokens import Writing

if TYPE_CHECKING:
    from emotrace.vectors import EmotionVectors

CALIBRATED, PUBLISHED = ARMS = ("calibrated", "published")
EMOTION, PERMUTED, GAUSSIAN = SOURCES = ("emotion", "permuted", "gaussian")
"""Where a direction comes from: the column ``source``."""
PUBLISHED_POOLING = "last"
PUBLISHED_STRENGTH = 0.02
"""Where the author's report on GPT-2 has the feeling flip; the published arm's effects are read there."""


@dataclass(frozen=True)
class Arm:
    """One way of steering a model.

    Attributes:
        name: of ``ARMS``.
        directions: source → the vectors of it that are added; the emotions' own first.
        layers: where.
        strength: the one at which effects are read; ``relative`` strengths are multiples of it.
        strengths: all that are written, without 0.
        positions: see :class:`~emotrace.tokens.Writing`.
        pooling: of the vectors.
        on_the_fly: strengths are in norms of the activations at hand.
    """

    name: str
    directions: dict[str, EmotionVectors]
    layers: list[int]
    strength: float
    strengths: tuple[float, ...]
    positions: str
    pooling: str
    on_the_fly: bool = False

    @property
    def vectors(self) -> EmotionVectors:
        """The emotions' own."""
        return self.directions[EMOTION]

    def writing(self, tokens: int) -> Writing:
        """How its texts are written."""
        return Writing(max_new_tokens=tokens, temperature=0.7, positions=self.positions)


def calibrated(steering: Steering, permuted: int) -> Arm:
    """Our own arm, with so many permuted-label directions."""
    settings, vectors = steering.study.settings, steering.vectors
    return Arm(
        CALIBRATED,
        {
            EMOTION: vectors,
            PERMUTED: permuted_vectors(steering.study, POOLING, permuted),
            GAUSSIAN: random_like(vectors, settings.dose_random, settings.seed),
        },
        [steering.layer],
        steering.strength,
        tuple(dose * steering.strength for dose in settings.doses),
        steered_positions(vectors, Writing()),
        POOLING,
    )


def published(steering: Steering, permuted: int) -> Arm:
    """The author's arm, with so many permuted-label directions; mean-pooled vectors where no last token was read."""
    study = steering.study
    pooling = PUBLISHED_POOLING if PUBLISHED_POOLING in study.reading.pooled else POOLING
    return Arm(
        PUBLISHED,
        {EMOTION: study.reading.vectors(pooling), PERMUTED: permuted_vectors(study, pooling, permuted)},
        list(range(1, steering.model.n_layers + 1)),
        PUBLISHED_STRENGTH,
        study.settings.published_doses,
        "all",
        pooling,
        on_the_fly=True,
    )


def framed(steering: Steering, arm: Arm, table: pd.DataFrame) -> pd.DataFrame:
    """The columns that every table of an arm has, in front; ``relative``: strength in multiples of the arm's own."""
    layer = arm.layers[0] if len(arm.layers) == 1 else np.nan
    row = {**steering.study.row(arm.pooling, layer), "arm": arm.name}
    front = pd.DataFrame([row] * len(table), index=table.index, columns=list(row))
    if "strength" in table and "relative" not in table:
        front["relative"] = table["strength"] / arm.strength
    return pd.concat([front, table], axis=1).reset_index(drop=True)
