"""The experiments on what a model holds of a message before it replies (two claims of a neighbouring project)."""

from __future__ import annotations

from emotrace.study.experiment import STEER, Experiment, only_data
from emotrace.study.reading import claims, figures, measure

QUESTION = "Implied and graded feelings"

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="implicit",
        question=QUESTION,
        tables=("implicit", "implicit_rates"),
        run=lambda study, tables: measure.implicit_scenarios(study),
        stage=STEER,
        per_instrument=True,
        requires=only_data("messages that imply its emotions"),
        claims=claims.implicit_claims,
        claim_ids=tuple(f"neighbour.{name}.{pooling}" for pooling in claims.POOLINGS for name in claims.IMPLICIT),
        pictures=figures.IMPLICIT,
        notebook="02",
    ),
    Experiment(
        name="graded",
        question=QUESTION,
        tables=("graded", "graded_scales"),
        run=lambda study, tables: measure.graded_prompts(study),
        stage=STEER,
        per_instrument=True,
        requires=only_data("messages with a number that grades an emotion"),
        claims=claims.graded_claims,
        claim_ids=tuple(f"neighbour.graded.{pooling}" for pooling in claims.POOLINGS),
        pictures=figures.GRADED,
        notebook="02",
    ),
)
