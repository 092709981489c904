"""The experiments on how vectors are computed and at what precision."""

from __future__ import annotations

from emotrace.study.estimators import claims, figures, measure, precision
from emotrace.study.experiment import STEER, Experiment, Results, Tables
from emotrace.study.study import Study


def _precision(study: Study, tables: Tables) -> Results:
    """Nothing on a server, whose weights stay as they are."""
    return Results() if study.model.remote else Results({"precision": precision.precision_table(study)})


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="estimators",
        question="Estimators and precision",
        tables=("estimators",),
        run=lambda study, tables: Results({"estimators": measure.estimators_table(study)}),
        stage=STEER,  # the embeddings of the emotions' names are the model's
        extra=True,
        claims=claims.gain_claims,
        claim_ids=claims.GAIN_IDS,
        pictures=figures.ESTIMATED,
        notebook="02",
    ),
    Experiment(
        name="precision",
        question="Estimators and precision",
        tables=("precision",),
        run=_precision,
        stage=STEER,
        extra=True,  # reads all texts again at every precision
        claims=claims.precision_claims,
        claim_ids=claims.PRECISION_IDS,
        pictures=figures.PRECISION,
        notebook="06",
    ),
)
