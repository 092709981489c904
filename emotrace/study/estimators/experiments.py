"""The experiments on how vectors are computed and at what precision."""

from __future__ import annotations

from emotrace.study.estimators import claims, figures, layers, measure, precision, steering
from emotrace.study.experiment import STEER, Experiment, Results, Tables, only_data
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
    Experiment(
        name="estimator_steering",
        question="Estimators and precision",
        requires=only_data("kin words and labels of the judge for its emotions"),
        tables=("estimator_effects",),
        run=lambda study, tables: Results({"estimator_effects": steering.effects_table(study)}),
        needs=("calibration",),
        stage=STEER,
        extra=True,  # writes some texts under every estimator
        claims=claims.steering_claims,
        claim_ids=claims.STEERING_IDS,
        pictures=figures.STEERED,
        notebook="02",
    ),
    Experiment(
        name="layer_strength",
        question="Estimators and precision",
        requires=only_data("kin words of its emotions"),
        tables=("layer_strength", "damage"),
        run=lambda study, tables: Results(
            {"layer_strength": layers.layers_table(study), "damage": layers.damage_table(study)}
        ),
        needs=("calibration",),
        stage=STEER,
        extra=True,  # finds a strength of equal harm at every layer
        claims=claims.layer_claims,
        claim_ids=claims.LAYER_IDS,
        pictures=figures.LAYERS,
        notebook="07",
    ),
)
