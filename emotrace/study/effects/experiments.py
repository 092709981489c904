"""The experiments on what steering does to the text (C8, C9, C10)."""

from __future__ import annotations

from emotrace.study.effects import breaking, claims, figures, measure, success
from emotrace.study.experiment import STEER, Experiment, openings, scenarios

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="calibration",
        requires=openings,
        question="Steering and dose response",
        tables=("calibration", "residual_norms"),
        run=measure.calibration,
        stage=STEER,
        selectable=False,
        claims=claims.calibration_claims,
        claim_ids=("C8.all_layers",),
        notebook="07",
    ),
    Experiment(
        name="dose_response",
        requires=openings,
        question="Steering and dose response",
        tables=("dose_response", "monotonicity", "steering_effects", "steerability"),
        run=measure.dose_response,
        texts=("steered",),
        needs=("calibration",),
        brings=("regimes",),
        stage=STEER,
        claims=claims.dose_claims,
        claim_ids=claims.DOSE_IDS,
        pictures=figures.DOSE,
        notebook="07",
    ),
    Experiment(
        name="regimes",
        requires=openings,
        question="Regimes",
        tables=("regimes", "regime_sensitivity"),
        run=measure.regime_tables,
        needs=("dose_response",),
        stage=STEER,
        claims=breaking.regime_claims,
        claim_ids=breaking.IDS,
        pictures=figures.REGIMES,
        notebook="09",
    ),
    Experiment(
        name="verification",
        requires=scenarios,
        question="External verification",
        tables=("verification", "judge_ceiling", "prompting"),
        run=measure.verify,
        texts=("scenarios", "prompted"),
        needs=("calibration",),
        beside=("regimes",),
        stage=STEER,
        claims=success.verification_claims,
        claim_ids=success.IDS,
        pictures=figures.VERIFICATION,
        notebook="08",
    ),
)
