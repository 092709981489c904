"""The experiment across languages (C11)."""

from __future__ import annotations

from emotrace.study.experiment import STEER, Experiment, only_data
from emotrace.study.languages import claims, figures, measure

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="crosslingual",
        question="Across languages",
        tables=("crosslingual", "crosslingual_tokens"),
        run=measure.run,
        needs=("calibration",),
        stage=STEER,
        claims=claims.crosslingual_claims,
        claim_ids=claims.CLAIMS,
        pictures=figures.PICTURES,
        requires=only_data("a Chinese lexicon of its emotions"),
        notebook="10",
    ),
)
